"""Makes the ``tokenizer.json`` of an exported folder; the only module with tokenizers.

A vocabulary is never guessed: the NL models lack the whitespace tokens that the others
have, and a wrong guess would tokenize wrongly without a sign.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from model_export.errors import TokenizerError

_END_OF_TEXT = "<|endoftext|>"
_INFILL_TOKENS = ("<mask_1>", "<sep>", "<eom>")


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder.

    It is ``tokenizer.json`` where there is one, else it is built from ``vocab.json``,
    ``merges.txt`` and ``added_tokens.json`` as GPT-2's byte-level BPE.

    Raises:
        TokenizerError: neither is complete, or a file does not hold what it should.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001  The library's are bare.
            raise TokenizerError(f"{path} is no tokenizer: {error}") from None
    else:
        tokenizer = _build(folder)
    # Padding and truncation belong to batches, and would change the ids of a prompt.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def can_infill(tokenizer: Tokenizer) -> bool:
    """Tell whether the vocabulary has CodeGen 2's infill tokens."""
    return all(tokenizer.token_to_id(token) is not None for token in _INFILL_TOKENS)


def _build(folder: Path) -> Tokenizer:
    needed = ["vocab.json", "merges.txt", "added_tokens.json"]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise TokenizerError(
            f"{folder} does not say how it tokenizes: it has no tokenizer.json, and "
            f"{', '.join(missing)} is missing. Copy them from the model's repository; "
            "if its vocabulary is plain GPT-2's, put {} into added_tokens.json"
        )
    vocabulary = _read_ids(folder / "vocab.json")
    added = _read_ids(folder / "added_tokens.json")
    try:
        _, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # noqa: BLE001  The library's are bare.
        raise TokenizerError(f"{folder / 'merges.txt'}: {error}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if _END_OF_TEXT in vocabulary:
        tokenizer.add_special_tokens([AddedToken(_END_OF_TEXT, special=True)])
    for token, token_id in sorted(added.items(), key=lambda item: item[1]):
        is_special = token == _END_OF_TEXT
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=is_special)])
        if tokenizer.token_to_id(token) != token_id:
            raise TokenizerError(
                f"{folder / 'added_tokens.json'}: the id {token_id} of {token!r} does "
                "not follow on the ids before it"
            )
    return tokenizer


def _read_ids(path: Path) -> dict[str, int]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(v, int) for v in value.values()):
        raise TokenizerError(f"{path} is no table of tokens and ids")
    return value
