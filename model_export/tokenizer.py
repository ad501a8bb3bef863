"""Makes the ``tokenizer.json`` of an exported folder; the only module with tokenizers.

A vocabulary is never guessed: the NL models lack the whitespace tokens that the others
have, and a wrong guess would tokenize wrongly without a sign.

An added token that is special stands for no text. A server never finds one in a user's
text and a model never writes one; runs of whitespace are added tokens that are text.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from model_export.codegen25_vocabulary import read_codegen25_vocabulary
from model_export.errors import TokenizerError

_END_OF_TEXT = "<|endoftext|>"
_END_TOKENS = (_END_OF_TEXT, "<|im_end|>", "<eom>", "</s>", "<|eot_id|>")
_INFILL_TOKENS = ("<mask_1>", "<sep>", "<eom>")
_PROBE = (
    'def f(a):\r\n\t\treturn  ["\u00e9", \'e\u0301\', "\U0001f389"]   # A b\n\n\n'
    " \t \n        X\u00a0\u2028\ufb01 1.0 <|endoftext|> y \t\r \n"
)
"""Text that must come back exactly."""
# The ranges of characters that a vocabulary may be without, by the byte that only they
# begin with, as GPT-2 writes it: controls, and planes where next to nothing is assigned.
_RARE_CHARACTERS = {
    **{chr(0x100 + char): (char, char) for char in range(0x20) if chr(char) not in "\t\n\r"},
    "\xf1": (0x40000, 0x7FFFF),
    "\xf2": (0x80000, 0xBFFFF),
    "\xf3": (0xC0000, 0xFFFFF),
    "\xf4": (0x100000, 0x10FFFF),
}
_NEVER_IN_UTF8 = {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
# llama.cpp's names (src/llama-vocab.cpp), and whether each digit stands alone.
_GGUF_PRE_TOKENIZERS = {
    "gpt-2": False,
    "smollm": True,
    "starcoder": True,
    "refact": True,
    "codeshell": True,
}
# The kinds of tokens in a GGUF (llama.cpp, include/llama.h).
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class TokenizerTables:
    """A vocabulary as a GGUF holds it, under ``tokenizer.ggml``; merges are "left right"."""

    tokens: list[str]
    merges: list[str]
    pre_tokenizer: str
    token_types: list[int]


def read_tokenizer(folder: Path, *, model_type: str = "codegen") -> Tokenizer:
    """Return the tokenizer of a checkpoint folder.

    It is ``tokenizer.json`` where there is one. Else CodeGen's is built from ``vocab.json``,
    ``merges.txt`` and ``added_tokens.json`` as GPT-2's byte-level BPE, and CodeGen 2.5's,
    which ``tokenizer_config.json`` names, from the copy of GPT-2's merges in this package.

    Raises:
        TokenizerError: none is complete, or a file does not hold what it should.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            tokenizer = _mark_special(Tokenizer.from_file(str(path)))
        except (KeyboardInterrupt, SystemExit):
            raise
        # A panic of the library is no Exception.
        except BaseException as error:  # noqa: BLE001
            raise TokenizerError(f"{path} is no tokenizer: {_first_line(error)}") from None
    elif _tokenizer_class(folder) == "CodeGen25Tokenizer":
        tokenizer = _build_codegen25()
    elif model_type == "codegen":
        tokenizer = _build(folder)
    else:
        raise TokenizerError(
            f"{folder} does not say how it tokenizes: it has no tokenizer.json; copy it "
            "from the model's repository"
        )
    # Padding and truncation belong to batches, and would change the ids of a prompt.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # It would add tokens and move offsets; what a byte-level tokenizer needs is neither.
    if tokenizer.post_processor is not None:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _made_exact(tokenizer, f"the tokenizer of {folder}")


def tokenizer_of_tables(tables: TokenizerTables) -> Tokenizer:
    """Return the tokenizer of a GGUF, which must be a byte-level BPE.

    Its control tokens become special; the tokens that a user defined are found in a text
    before anything else and are text.

    Raises:
        TokenizerError: the tables do not agree, or say what is not supported.
    """
    if tables.pre_tokenizer not in _GGUF_PRE_TOKENIZERS:
        raise TokenizerError(
            f"the GGUF splits text as {tables.pre_tokenizer!r}; supported are "
            f"{', '.join(_GGUF_PRE_TOKENIZERS)}"
        )
    if not tables.tokens or not tables.merges:
        raise TokenizerError("the GGUF has no tokens or no merges in tokenizer.ggml")
    if len(tables.token_types) != len(tables.tokens):
        raise TokenizerError(
            f"the GGUF has {len(tables.tokens)} tokens and the types of "
            f"{len(tables.token_types)}"
        )
    known = {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED}
    for token, kind in zip(tables.tokens, tables.token_types, strict=True):
        if kind not in known:
            raise TokenizerError(
                f"the GGUF's token {token!r} is of type {kind}, which byte-level BPE lacks"
            )
    token, count = Counter(tables.tokens).most_common(1)[0]
    if count > 1:
        raise TokenizerError(f"the GGUF has the token {token!r} {count} times")
    merges = [tuple(merge.split(" ")) for merge in tables.merges]
    ids = {token: token_id for token_id, token in enumerate(tables.tokens)}
    tokenizer = _byte_level(ids, merges, "the GGUF's merges")
    if _GGUF_PRE_TOKENIZERS[tables.pre_tokenizer]:
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind != _USER_DEFINED)
            for token, kind in zip(tables.tokens, tables.token_types, strict=True)
            if kind != _NORMAL
        ]
    )
    return _made_exact(tokenizer, "the GGUF's tokenizer")


def can_infill(tokenizer: Tokenizer) -> bool:
    """Tell whether the vocabulary has CodeGen 2's infill tokens."""
    return all(tokenizer.token_to_id(token) is not None for token in _INFILL_TOKENS)


def special_token_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids, sorted, of the added tokens that stand for no text."""
    added = tokenizer.get_added_tokens_decoder()
    return sorted(token_id for token_id, token in added.items() if token.special)


def end_token_ids(tokenizer: Tokenizer, eos_token_id: int) -> list[int]:
    """Return the ids, sorted, of the tokens that end a text."""
    added = tokenizer.get_added_tokens_decoder()
    ends = {token_id for token_id, token in added.items() if token.content in _END_TOKENS}
    return sorted(ends | {eos_token_id})


def _made_exact(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """Return a tokenizer that loses no character; those it has no bytes for are U+FFFD.

    SmolLM2 lacks six control characters, which the library would drop without a sign.
    """
    flaw = _flaw(tokenizer)
    if flaw:
        raise TokenizerError(f"{name} cannot be served: {flaw}")
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    lacking = [chars for byte, chars in _RARE_CHARACTERS.items() if byte not in vocabulary]
    if lacking:
        ranges = "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in lacking)
        tokenizer.normalizer = normalizers.Replace(Regex(f"[{ranges}]"), "\ufffd")
    return tokenizer


def _flaw(tokenizer: Tokenizer) -> str | None:
    """Return why a tokenizer is no exact byte-level BPE, or None where it is one."""
    data = json.loads(tokenizer.to_str())
    model, before = data["model"], data["pre_tokenizer"] or {}
    parts = before.get("pretokenizers") or [before]
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
    if not _splits_exactly(parts):
        names = ", ".join(str(part.get("type")) for part in parts)
        return f"it splits text as {names} and not into words of bytes as GPT-2 does"
    if parts[-1].get("add_prefix_space"):
        return "it adds a space before the text"
    if not alphabet - _RARE_CHARACTERS.keys() - _NEVER_IN_UTF8 <= model["vocab"].keys():
        return "it lacks tokens for some bytes"
    if any(set(token) - alphabet for token in model["vocab"].keys() - added):
        return "it has tokens that stand for no bytes"
    if any(token["lstrip"] or token["rstrip"] for token in data["added_tokens"]):
        return "its added tokens swallow the whitespace beside them"
    tokens = tokenizer.encode(_PROBE, add_special_tokens=False).tokens
    if decoders.ByteLevel().decode(tokens) != _PROBE:
        return "text does not come back exactly"
    return None


def _splits_exactly(parts: list[dict[str, Any]]) -> bool:
    """Tell whether pre-tokenizers keep all text and end in words of GPT-2's bytes."""
    *others, last = parts
    splits = [part for part in others if part["type"] == "Split"]
    return (
        all(part["type"] in ("Digits", "Split") for part in others)
        and all(part["behavior"] == "Isolated" for part in splits)
        and last.get("type") == "ByteLevel"
        and (bool(splits) or last.get("use_regex", True))
    )


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
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  As above.
        raise TokenizerError(f"{folder / 'merges.txt'}: {_first_line(error)}") from None
    tokenizer = _byte_level(vocabulary, merges, str(folder / "merges.txt"))
    if _END_OF_TEXT in vocabulary:
        tokenizer.add_special_tokens([AddedToken(_END_OF_TEXT, special=True)])
    in_order = sorted(added.items(), key=lambda item: item[1])
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=not _is_whitespace(token))
            for token, _ in in_order
        ]
    )
    for token, token_id in in_order:
        if tokenizer.token_to_id(token) != token_id:
            raise TokenizerError(
                f"{folder / 'added_tokens.json'}: the id {token_id} of {token!r} does "
                "not follow on the ids before it"
            )
    return tokenizer


def _build_codegen25() -> Tokenizer:
    parts = read_codegen25_vocabulary()
    tokenizer = _byte_level(parts.vocabulary, parts.merges, "GPT-2's merges")
    special_tokens = [_END_OF_TEXT, *parts.special_tokens]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special_tokens])
    return tokenizer


def _byte_level(
    vocabulary: dict[str, int], merges: Sequence[tuple[str, ...]], name: str
) -> Tokenizer:
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  As above.
        raise TokenizerError(f"{name}: {_first_line(error)}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _mark_special(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with all added tokens special that are no whitespace."""
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["special"] or not _is_whitespace(token["content"])
    return Tokenizer.from_str(json.dumps(data))


def _is_whitespace(token: str) -> bool:
    return not token.strip(" \t\r\n")


def _tokenizer_class(folder: Path) -> str | None:
    """Return the name of the class that tokenizer_config.json asks for, if it is there."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
    return value.get("tokenizer_class") if isinstance(value, dict) else None


def _read_ids(path: Path) -> dict[str, int]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(v, int) for v in value.values()):
        raise TokenizerError(f"{path} is no table of tokens and ids")
    return value
