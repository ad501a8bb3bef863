"""Makes the ``tokenizer.json`` of an exported folder; the only module with tokenizers.

A vocabulary is never guessed: the NL models lack the whitespace tokens that the others
have, and a wrong guess would tokenize wrongly without a sign.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from model_export.errors import TokenizerError

_END_OF_TEXT = "<|endoftext|>"
_INFILL_TOKENS = ("<mask_1>", "<sep>", "<eom>")
_PROBE = (
    'def f(a):\r\n\t\treturn  ["\u00e9", \'e\u0301\', "\U0001f389"]   # A b\n\n\n'
    " \t \n        X\u00a0\u2028\ufb01 1.0\x00 <|endoftext|> y \t\r \n"
)
"""Text that must come back exactly."""


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
        except (KeyboardInterrupt, SystemExit):
            raise
        # A panic of the library is no Exception.
        except BaseException as error:  # noqa: BLE001
            raise TokenizerError(f"{path} is no tokenizer: {_first_line(error)}") from None
    else:
        tokenizer = _build(folder)
    # Padding and truncation belong to batches, and would change the ids of a prompt.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # It would add tokens and move offsets; what a byte-level tokenizer needs is neither.
    if tokenizer.post_processor is not None:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    flaw = _flaw(tokenizer)
    if flaw:
        raise TokenizerError(f"the tokenizer of {folder} is not CodeGen's kind: {flaw}")
    return tokenizer


def can_infill(tokenizer: Tokenizer) -> bool:
    """Tell whether the vocabulary has CodeGen 2's infill tokens."""
    return all(tokenizer.token_to_id(token) is not None for token in _INFILL_TOKENS)


def _flaw(tokenizer: Tokenizer) -> str | None:
    """Return why a tokenizer is no exact byte-level BPE, or None where it is one."""
    data = json.loads(tokenizer.to_str())
    model, before = data["model"], data["pre_tokenizer"] or {}
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    added = {token["content"] for token in data["added_tokens"]}
    if model["type"] != "BPE" or model.get("byte_fallback"):
        return f"its model is {model['type']} and not byte-level BPE"
    if model.get("dropout"):
        return "its model drops merges at random"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "its model marks the parts of words"
    if data["normalizer"] is not None:
        return f"it changes the text ({data['normalizer'].get('type')})"
    if before.get("type") != "ByteLevel" or not before.get("use_regex", True):
        return f"it splits text as {before.get('type')} and not as GPT-2's ByteLevel"
    if before.get("add_prefix_space"):
        return "it adds a space before the text"
    if not alphabet <= model["vocab"].keys():
        return "it lacks tokens for some bytes"
    if any(set(token) - alphabet for token in model["vocab"].keys() - added):
        return "it has tokens that stand for no bytes"
    if any(token["lstrip"] or token["rstrip"] for token in data["added_tokens"]):
        return "its added tokens swallow the whitespace beside them"
    tokens = tokenizer.encode(_PROBE, add_special_tokens=False).tokens
    if decoders.ByteLevel().decode(tokens) != _PROBE:
        return "text does not come back exactly"
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


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
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  As above.
        raise TokenizerError(f"{folder / 'merges.txt'}: {_first_line(error)}") from None
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
