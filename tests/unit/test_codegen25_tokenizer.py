"""CodeGen 2.5's tokenizer: tiktoken's ids without tiktoken and without the Hub's code."""

import hashlib
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from lsp_server.tokenizer import Tokenizer
from model_export.errors import TokenizerError
from model_export.tokenizer import (
    can_infill,
    end_token_ids,
    read_tokenizer,
    special_token_ids,
)

GPT2 = files("model_export") / "gpt2"
CONFIG = '{"tokenizer_class": "CodeGen25Tokenizer"}'

whitespace_rich = st.lists(
    st.one_of(
        st.builds(
            lambda char, n: char * n, st.sampled_from(" \t\n\r\x0b\u00a0"), st.integers(1, 70)
        ),
        st.sampled_from([" ", "\t", "\n", "\r\n", "def", " return", "x", "'s", "12", "=="]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    max_size=15,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    """Return what is made of a folder as on the Hub, which has no vocabulary."""
    folder = tmp_path_factory.mktemp("codegen25")
    (folder / "tokenizer_config.json").write_text(CONFIG, encoding="utf-8")
    return read_tokenizer(folder, model_type="llama")


@pytest.fixture(scope="module")
def served(tokenizer: tokenizers.Tokenizer) -> Tokenizer:
    """Return the server's tokenizer of what an export writes."""
    return Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.to_str()))


@pytest.fixture(scope="module")
def tiktoken_ids() -> Callable[[str], list[int]]:
    """Return tiktoken's way to ids, with the runs in its table as the published program has."""
    lines = (GPT2 / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    tokens = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(x.replace(" ", "") for x in lines),
    ]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    ranks |= {"\u0120" * n: 50288 - n for n in range(2, 32)}
    ranks |= {"\u0109" * n: 50296 - n for n in range(2, 10)}
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def merge(word: str) -> list[str]:
        parts = list(word)
        while True:
            pairs = [a + b for a, b in pairwise(parts)]
            best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 30), default="")
            if best not in ranks:
                return parts
            place = pairs.index(best)
            parts[place : place + 2] = [best]

    return lambda text: [
        ranks[part] for word, _ in words.pre_tokenize_str(text) for part in merge(word)
    ]


def test_the_merges_are_gpt2s() -> None:
    """The package holds the file that CodeGen 2.5 was trained with, and its notice."""
    merges = (GPT2 / "vocab.bpe").read_bytes()
    expected = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

    assert hashlib.sha256(merges).hexdigest() == expected
    assert "Copyright (c) 2019 OpenAI" in (GPT2 / "LICENSE").read_text(encoding="utf-8")


@given(text=whitespace_rich)
def test_the_ids_are_those_of_tiktoken(
    text: str, served: Tokenizer, tiktoken_ids: Callable[[str], list[int]]
) -> None:
    """Runs of whitespace are merged as tiktoken merges them, wherever they stand."""
    assert served.encode(text).token_ids == tiktoken_ids(text)


RECORDED = {
    "int add(int a, int b) { return a + b; }\nπ": (
        "600 751 7 600 257 11 493 275 8 1391 1441 257 1343 275 26 1782 198 46582"
    ),
    "<fim_prefix>abc<fim_suffix>xyz<fim_middle>": "50295 39305 50297 5431 89 50296",
    "prefix<mask_1>suffix<|endoftext|><sep><mask_1>": "40290 51199 37333 844 50256 50317 51199",
}


@pytest.mark.parametrize(("text", "ids"), RECORDED.items())
def test_the_ids_are_those_that_others_recorded(
    text: str, ids: str, tokenizer: tokenizers.Tokenizer
) -> None:
    """What the published program gave, as another project's tests state it, is given."""
    assert tokenizer.encode(text).ids == [int(token_id) for token_id in ids.split()]


def test_a_space_stays_with_the_word_after_it(tokenizer: tokenizers.Tokenizer) -> None:
    """Indentation is split as in training: CodeGen 1 takes all spaces, CodeGen 2.5 does not."""
    assert tokenizer.encode("    return").ids == [50285, 1441]


def test_all_ids_of_the_model_have_a_token(tokenizer: tokenizers.Tokenizer) -> None:
    """The vocabulary fills CodeGen 2.5's 51200 rows, and what is no text is special."""
    assert sorted(tokenizer.get_vocab().values()) == list(range(51200))
    assert special_token_ids(tokenizer) == [50256, *range(50295, 51200)]
    assert end_token_ids(tokenizer, 50256) == [50256, 50318]
    assert can_infill(tokenizer)


@given(text=whitespace_rich)
def test_any_text_comes_back_exactly(text: str, served: Tokenizer) -> None:
    """A server's text survives, and each word's tokens stand for its span."""
    encoded = served.encode(text)

    assert served.decode(encoded.token_ids) == text
    for word in set(encoded.pre_tokens):
        places = [i for i, number in enumerate(encoded.pre_tokens) if number == word]
        start, end = encoded.spans[places[0]][0], encoded.spans[places[-1]][1]
        assert served.decode([encoded.token_ids[i] for i in places]) == text[start:end]


def test_a_tokenizer_json_stands_before_what_is_built(tmp_path: Path) -> None:
    """Whoever put a tokenizer.json beside the class's name is believed."""
    (tmp_path / "tokenizer_config.json").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")

    with pytest.raises(TokenizerError, match=r"tokenizer\.json is no tokenizer"):
        read_tokenizer(tmp_path, model_type="llama")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", r"tokenizer_config\.json cannot be read"),
        ("[]", r"has no tokenizer\.json; copy it"),
        ('{"tokenizer_class": "LlamaTokenizer"}', r"has no tokenizer\.json; copy it"),
    ],
)
def test_no_other_class_is_guessed_at(config: str, reason: str, tmp_path: Path) -> None:
    """GPT-2's merges are CodeGen 2.5's only."""
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")

    with pytest.raises(TokenizerError, match=reason) as caught:
        read_tokenizer(tmp_path, model_type="llama")

    assert len(str(caught.value).splitlines()) == 1
