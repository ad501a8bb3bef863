"""The tokenizer of a GGUF's own tables: split as llama.cpp splits, whole or refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.tokenizer import Tokenizer
from model_export.errors import TokenizerError
from model_export.tokenizer import (
    TokenizerTables,
    end_token_ids,
    special_token_ids,
    tokenizer_of_tables,
)
from tests.checkpoints import EMBEDDED

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
ADDED = {
    "<|endoftext|>": CONTROL,
    "<|im_end|>": CONTROL,
    "[PAD]": UNUSED,
    "<unk>": UNKNOWN,
    "<a b>": USER_DEFINED,
}


def make_tables() -> TokenizerTables:
    """Return the embedded vocabulary as a GGUF has it, with tokens of each type after it."""
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    return TokenizerTables(
        tokens=[*sorted(vocabulary, key=vocabulary.__getitem__), *ADDED],
        merges=[" ".join(merge) for merge in data["model"]["merges"]],
        pre_tokenizer="smollm",
        token_types=[NORMAL] * len(vocabulary) + list(ADDED.values()),
    )


TABLES = make_tables()
N_NORMAL = TABLES.token_types.count(NORMAL)
NUMBERS = "123²Ⅷ٣"
texts = st.lists(
    st.sampled_from([*NUMBERS, " ", "  ", "x", "def", "\n", "\t", "é", "'s", "🎉"]), max_size=20
).map("".join)


@pytest.fixture(scope="module")
def built() -> tokenizers.Tokenizer:
    """Return the tokenizer of the tables."""
    return tokenizer_of_tables(TABLES)


@pytest.fixture(scope="module")
def served(built: tokenizers.Tokenizer) -> Tokenizer:
    """Return the server's tokenizer of what an export writes."""
    return Tokenizer(tokenizers.Tokenizer.from_str(built.to_str()))


@pytest.fixture(scope="module")
def plain() -> tokenizers.Tokenizer:
    """Return the same vocabulary with GPT-2's way to split and no added tokens."""
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    return tokenizers.Tokenizer.from_str(json.dumps(data | {"added_tokens": []}))


@given(text=texts)
def test_each_digit_stands_alone(
    text: str, built: tokenizers.Tokenizer, plain: tokenizers.Tokenizer
) -> None:
    """SmolLM's text is split at numbers before GPT-2's rule, which so meets the pieces only."""
    pieces = re.split(f"([{NUMBERS}])", text)

    assert built.encode(text).ids == [i for piece in pieces for i in plain.encode(piece).ids]


@given(text=texts)
def test_a_server_gets_exact_text_and_spans(text: str, served: Tokenizer) -> None:
    """Digits that are pre-tokens of their own keep spans and text exact."""
    encoded = served.encode(text)

    assert served.decode(encoded.token_ids) == text
    for word in set(encoded.pre_tokens):
        places = [i for i, number in enumerate(encoded.pre_tokens) if number == word]
        start, end = encoded.spans[places[0]][0], encoded.spans[places[-1]][1]
        assert served.decode([encoded.token_ids[i] for i in places]) == text[start:end]


def test_tokens_keep_their_ids_and_types(built: tokenizers.Tokenizer) -> None:
    """Control tokens are never generated, and what a user defined is text."""
    assert [built.token_to_id(token) for token in TABLES.tokens] == list(
        range(len(TABLES.tokens))
    )
    assert special_token_ids(built) == [N_NORMAL + i for i in range(4)]
    assert end_token_ids(built, 7) == [7, N_NORMAL, N_NORMAL + 1]
    assert built.encode("x<a b>y").ids[1] == N_NORMAL + 4


def without_byte(byte: str) -> TokenizerTables:
    """Return the tables with another token in a byte's place."""
    tokens = ["another" if token == byte else token for token in TABLES.tokens]
    merges = [merge for merge in TABLES.merges if byte not in merge]
    return replace(TABLES, tokens=tokens, merges=merges)


@pytest.mark.parametrize(
    ("byte", "char"), [("\u0104", "\x04"), ("\xf1", "\U00050000"), ("\xf4", "\U0010ffff")]
)
def test_rare_characters_without_a_token_are_replaced(byte: str, char: str) -> None:
    """SmolLM2 lacks such bytes; the library would drop the character and break its span."""
    served = Tokenizer(tokenizer_of_tables(without_byte(byte)))
    encoded = served.encode(f"a{char}b\x05")

    assert served.decode(encoded.token_ids) == "a\ufffdb\x05"
    assert encoded.spans[0] == (0, 1)
    assert encoded.spans[-2:] == [(2, 3), (3, 4)]


REFUSED: dict[str, tuple[Callable[[], TokenizerTables], str]] = {
    "another way to split": (
        lambda: replace(TABLES, pre_tokenizer="llama-bpe"),
        "splits text as 'llama-bpe'; supported are gpt-2, smollm",
    ),
    "no tokens": (lambda: replace(TABLES, tokens=[], token_types=[]), "no tokens or no merges"),
    "no merges": (lambda: replace(TABLES, merges=[]), "no tokens or no merges"),
    "too few types": (
        lambda: replace(TABLES, token_types=TABLES.token_types[1:]),
        r"has 6110 tokens and the types of 6109",
    ),
    "a token twice": (
        lambda: replace(TABLES, tokens=[*TABLES.tokens[:-1], "<unk>"]),
        "has the token '<unk>' 2 times",
    ),
    "a byte token": (
        lambda: replace(TABLES, token_types=[BYTE, *TABLES.token_types[1:]]),
        "token '!' is of type 6",
    ),
    "a merge of no token": (lambda: replace(TABLES, merges=["日 本"]), "the GGUF's merges: "),
    "a merge into no token": (
        lambda: replace(TABLES, merges=[*TABLES.merges, "z é"]),
        "the GGUF's merges: ",
    ),
    "a merge of one": (lambda: replace(TABLES, merges=["x"]), "the GGUF's merges: "),
    "a merge of three": (lambda: replace(TABLES, merges=["a b c"]), "the GGUF's merges: "),
    "a token of no bytes": (
        lambda: replace(TABLES, token_types=[NORMAL] * len(TABLES.tokens)),
        "tokens that stand for no bytes",
    ),
    "no letter a": (lambda: without_byte("a"), "lacks tokens for some bytes"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_tables_that_do_not_agree_are_refused(
    make: Callable[[], TokenizerTables], reason: str
) -> None:
    """A damaged table would tokenize wrongly without a sign."""
    with pytest.raises(TokenizerError, match=reason) as caught:
        tokenizer_of_tables(make())

    assert len(str(caught.value).splitlines()) == 1


def test_gpt2s_text_is_split_by_its_rule_only(plain: tokenizers.Tokenizer) -> None:
    """A model that was trained without the split at numbers gets none."""
    tokenizer = tokenizer_of_tables(replace(TABLES, pre_tokenizer="gpt-2"))
    text = Path(json.__file__).read_text(encoding="utf-8") + "x  1"

    assert tokenizer.encode(text).ids == plain.encode(text).ids
    assert tokenizer_of_tables(TABLES).encode(text).ids != plain.encode(text).ids
