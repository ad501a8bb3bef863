"""The tokenizer of an exported folder: transformers' ids, exact texts, nothing guessed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import CodeGenTokenizer, CodeGenTokenizerFast

from lsp_server.errors import ModelLoadError
from lsp_server.tokenizer import Tokenizer
from model_export.errors import TokenizerError
from model_export.tokenizer import (
    can_infill,
    end_token_ids,
    read_tokenizer,
    special_token_ids,
)
from tests.checkpoints import EMBEDDED

END_OF_TEXT = "<|endoftext|>"

TEXTS = [
    "",
    "def f(x):\n    return x + 1\n",
    "class A:\n\n        def f(self) -> None:\n                pass",
    "if a:\n\tif b:\n\t\t\t\treturn\n",
    " ".join("x" * 40) + " " * 70 + "y" + "\t" * 12,
    " a  b   c    d     ",
    "\n\n\n   \n\t \n",
    "a\r\nb\rc\u2028d\x85e\x00f\ufeff",
    "héllo wörld, 日本語のテキスト 🎉👩‍👩‍👧 \U0010ffff",
    "e\u0301 is not \u00e9",
    f"{END_OF_TEXT}a {END_OF_TEXT} b<|endoftext",
    "it's we'll I'M 12345 0x1F 1e-5 __init__ !=>=",
]

# Whitespace and the end of text are what added tokens are made of.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
codelike = st.lists(
    st.one_of(
        st.sampled_from([" ", "\t", "\n", "\r\n", END_OF_TEXT, "def", "x", "'s", "\u00a0"]),
        texts,
    ),
    max_size=30,
).map("".join)


def write_parts(folder: Path) -> Path:
    """Write the embedded vocabulary as Salesforce's repositories have theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    vocabulary = data["model"]["vocab"] | {END_OF_TEXT: added.pop(END_OF_TEXT)}
    merges = ["#version: 0.2", *map(" ".join, data["model"]["merges"])]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the three files."""
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def built(parts: Path) -> tokenizers.Tokenizer:
    """Return our tokenizer of the three files."""
    return read_tokenizer(parts)


@pytest.fixture(scope="module")
def references(parts: Path) -> dict[str, Callable[[str], list[int]]]:
    """Return who else knows the ids: transformers' two classes and tokenizer.json."""
    slow = CodeGenTokenizer.from_pretrained(parts)
    fast = CodeGenTokenizerFast.from_pretrained(parts)
    single = read_tokenizer(EMBEDDED)
    return {
        "slow": lambda text: list(slow(text)["input_ids"]),
        "fast": lambda text: list(fast(text)["input_ids"]),
        "tokenizer.json": lambda text: list(single.encode(text).ids),
    }


@pytest.fixture(scope="module")
def served(built: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return the server's tokenizer of what an export writes."""
    path = tmp_path_factory.mktemp("exported") / "tokenizer.json"
    built.save(str(path))
    return Tokenizer.from_file(path)


@pytest.mark.reference
@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_are_those_of_transformers(
    text: str,
    built: tokenizers.Tokenizer,
    references: dict[str, Callable[[str], list[int]]],
) -> None:
    """A model sees the ids that it was trained on, whichever files say so."""
    ids = built.encode(text).ids

    assert {name: encode(text) for name, encode in references.items()} == dict.fromkeys(
        references, ids
    )


@pytest.mark.reference
@given(text=codelike)
def test_the_ids_of_any_text_are_those_of_transformers(
    text: str,
    built: tokenizers.Tokenizer,
    references: dict[str, Callable[[str], list[int]]],
) -> None:
    """No mixture of whitespace, words and symbols is tokenized in another way."""
    ids = built.encode(text).ids

    assert {name: encode(text) for name, encode in references.items()} == dict.fromkeys(
        references, ids
    )


@given(text=codelike)
def test_any_text_comes_back_exactly(text: str, served: Tokenizer) -> None:
    """Tokenizing loses nothing, so what stands in a buffer stays what it is."""
    assert served.decode(served.encode(text).token_ids) == text


@given(text=st.text(max_size=20))
def test_lone_surrogates_become_replacement_characters(text: str, served: Tokenizer) -> None:
    """Half of a character, which an editor may send, is no error."""
    expected = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)

    assert served.decode(served.encode(text).token_ids) == expected


@pytest.mark.parametrize("text", [" " * 31, " " * 2, "\t" * 9, "\t" * 2])
def test_runs_of_whitespace_are_one_token(text: str, built: tokenizers.Tokenizer) -> None:
    """CodeGen's whitespace tokens work, without which indented code costs far more."""
    assert len(built.encode(text).ids) == 1


def test_a_plain_gpt2_vocabulary_needs_an_empty_table(tmp_path: Path) -> None:
    """The NL models have no whitespace tokens; an empty table says so."""
    folder = write_parts(tmp_path)
    (folder / "added_tokens.json").write_text("{}")

    tokenizer = read_tokenizer(folder)

    assert len(tokenizer.encode(" " * 31).ids) > 1
    assert tokenizer.get_vocab_size(with_added_tokens=True) == 6106


def test_the_end_of_text_stays_special_when_it_is_added_twice(tmp_path: Path) -> None:
    """A table of added tokens that repeats the end of text changes nothing."""
    folder = write_parts(tmp_path)
    path = folder / "added_tokens.json"
    added = json.loads(path.read_text())
    expected = read_tokenizer(folder).to_str()
    path.write_text(json.dumps({END_OF_TEXT: 6105} | added))

    assert read_tokenizer(folder).to_str() == expected


INFILL = ["<|python|>", "<sep>", "<eom>", "<mask_2>", "<mask_1>"]


def write_codegen2(folder: Path) -> Path:
    """Write the three files with tokens after the whitespace, as CodeGen 2's have them."""
    change_added(lambda added: added.update({t: 6144 + i for i, t in enumerate(INFILL)}))(
        write_parts(folder)
    )
    return folder


def write_unmarked(folder: Path) -> Path:
    """Write the same as one tokenizer.json that says of no token that it is special."""
    data = json.loads(read_tokenizer(write_codegen2(folder)).to_str())
    for token in data["added_tokens"]:
        token |= {"special": False, "normalized": True}
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


@pytest.mark.parametrize("write_folder", [write_codegen2, write_unmarked])
def test_tokens_that_stand_for_no_text_are_special(
    write_folder: Callable[[Path], Path], tmp_path: Path
) -> None:
    """CodeGen 2's tokens are never generated, whichever files say them; whitespace is."""
    tokenizer = read_tokenizer(write_folder(tmp_path))

    assert can_infill(tokenizer)
    assert special_token_ids(tokenizer) == [6105, *range(6144, 6149)]
    assert end_token_ids(tokenizer, 2) == [2, 6105, 6146]


@pytest.fixture(scope="module", params=[write_codegen2, write_unmarked])
def served_codegen2(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """Return the server's tokenizer of a CodeGen 2 vocabulary."""
    return Tokenizer(read_tokenizer(request.param(tmp_path_factory.mktemp("codegen2"))))


@given(
    text=st.lists(st.sampled_from([*INFILL, END_OF_TEXT, " ", "  ", "\t", "é"])).map("".join)
)
def test_a_special_token_in_a_text_is_text(text: str, served_codegen2: Tokenizer) -> None:
    """A file that speaks of <mask_1> holds eight characters, each in its place."""
    encoded = served_codegen2.encode(text)

    assert not {6105, *range(6144, 6149)} & set(encoded.token_ids)
    assert served_codegen2.decode(encoded.token_ids) == text
    for token_id, (start, end) in zip(encoded.token_ids, encoded.spans, strict=True):
        token = served_codegen2.decode([token_id])
        assert token == text[start:end] or text[start:end] == "é"


def test_padding_and_truncation_are_switched_off(tmp_path: Path) -> None:
    """A tokenizer.json that was saved from a training script does not cut prompts."""
    tokenizer = tokenizers.Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    expected = tokenizer.encode("a b c d").ids
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    assert read_tokenizer(tmp_path).encode("a b c d").ids == expected


def change_added(change: Callable[[dict[str, int]], Any]) -> Callable[[Path], None]:
    """Return what changes the table of added tokens."""

    def apply(folder: Path) -> None:
        path = folder / "added_tokens.json"
        added = json.loads(path.read_text(encoding="utf-8"))
        change(added)
        path.write_text(json.dumps(added), encoding="utf-8")

    return apply


def write(name: str, text: str) -> Callable[[Path], None]:
    """Return what replaces a file."""

    def apply(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return apply


def without(*names: str) -> Callable[[Path], None]:
    """Return what removes files."""

    def apply(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return apply


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no merges": (without("merges.txt"), "and merges.txt is missing"),
    "no vocabulary": (without("vocab.json"), "and vocab.json is missing"),
    "no added tokens": (
        without("added_tokens.json"),
        r"added_tokens.json is missing.*plain GPT-2's, put {} into added_tokens.json",
    ),
    "nothing": (
        without("vocab.json", "merges.txt", "added_tokens.json"),
        "vocab.json, merges.txt, added_tokens.json is missing",
    ),
    "a gap in the ids": (
        change_added(lambda added: added.pop(" " * 5)),
        r"added_tokens.json: the id 6133 of '    ' does not follow",
    ),
    "ids too high": (
        change_added(lambda added: added.update({"<x>": 9999})),
        "the id 9999 of '<x>' does not follow",
    ),
    "an id that is taken": (
        change_added(lambda added: added.update({"<x>": 7})),
        "the id 7 of '<x>' does not follow",
    ),
    "ids that are no numbers": (
        change_added(lambda added: added.update({"<x>": "6144"})),  # type: ignore[dict-item]
        "added_tokens.json is no table",
    ),
    "added tokens are no JSON": (write("added_tokens.json", "{"), "added_tokens.json cannot"),
    "vocabulary is no JSON": (write("vocab.json", "{"), "vocab.json cannot be read"),
    "vocabulary is a list": (write("vocab.json", "[]"), "vocab.json is no table"),
    "merges of other tokens": (write("merges.txt", "#version: 0.2\n日 本\n"), "merges.txt"),
    "merges are no pairs": (write("merges.txt", "one two three\n"), "merges.txt"),
    "a broken tokenizer.json": (
        write("tokenizer.json", "{}"),
        "tokenizer.json is no tokenizer",
    ),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_vocabulary_that_is_not_whole_is_refused(
    change: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    """A wrong vocabulary would tokenize wrongly without a sign, so none is guessed."""
    folder = write_parts(tmp_path)
    change(folder)

    with pytest.raises(TokenizerError, match=reason) as caught:
        read_tokenizer(folder)

    assert len(str(caught.value).splitlines()) == 1


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
DIGITS = {"type": "Digits", "individual_digits": True}
WORDS = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return the change to several pre-tokenizers."""
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(parts)}}


UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "a normalizer that panics": ({"normalizer": PRECOMPILED}, "tokenizer"),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, "changes the text"),
    "NFKD": ({"normalizer": {"type": "NFKD"}}, "changes the text"),
    "a prefix space": ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "space"),
    "whitespace": ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text as Whitespace"),
    "no words": (
        {"pre_tokenizer": BYTE_LEVEL | {"use_regex": False}},
        "splits text as ByteLevel",
    ),
    "no words but digits": (
        sequence(DIGITS, BYTE_LEVEL | {"use_regex": False}),
        "splits text as Digits, ByteLevel",
    ),
    "spaces removed": (
        sequence(WORDS | {"behavior": "Removed"}, BYTE_LEVEL),
        "splits text as Split, ByteLevel",
    ),
    "bytes before the last": (sequence(BYTE_LEVEL, DIGITS), "splits text as ByteLevel, Digits"),
    "a sequence in a sequence": (
        sequence(sequence(DIGITS)["pre_tokenizer"], BYTE_LEVEL),
        "splits text as Sequence, ByteLevel",
    ),
    "a sequence of none": (sequence(), "splits text as Sequence"),
    "a late prefix space": (sequence(DIGITS, BYTE_LEVEL | {"add_prefix_space": True}), "space"),
    "no pre-tokenizer": ({"pre_tokenizer": None}, "splits text as None"),
    "words": (
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
        "WordLevel",
    ),
    "no vocabulary": ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "lacks tokens"),
}


@pytest.mark.parametrize(("changes", "reason"), UNLIKE.values(), ids=UNLIKE)
def test_a_tokenizer_of_another_kind_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """A tokenizer that does not give text back exactly is refused, even one that panics."""
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data | changes), encoding="utf-8")

    with pytest.raises(TokenizerError, match=reason) as caught:
        read_tokenizer(tmp_path)

    assert len(str(caught.value).splitlines()) == 1


EXACT = {
    "digits": sequence(DIGITS, BYTE_LEVEL),
    "words": sequence(WORDS, BYTE_LEVEL | {"use_regex": False}),
    "digits, words and GPT-2": sequence(DIGITS, WORDS | {"invert": True}, BYTE_LEVEL),
}


@pytest.fixture(scope="module", params=EXACT.values(), ids=list(EXACT))
def split_otherwise(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """Return the server's tokenizer of a vocabulary with other exact pre-tokenizers."""
    folder = tmp_path_factory.mktemp("split")
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(data | request.param), encoding="utf-8")
    return Tokenizer(read_tokenizer(folder))


@given(text=codelike)
def test_other_ways_to_split_are_as_exact(text: str, split_otherwise: Tokenizer) -> None:
    """A tokenizer that splits elsewhere still loses nothing, and its words are spans."""
    encoded = split_otherwise.encode(text)

    assert split_otherwise.decode(encoded.token_ids) == text
    for word in set(encoded.pre_tokens):
        places = [i for i, number in enumerate(encoded.pre_tokens) if number == word]
        start, end = encoded.spans[places[0]][0], encoded.spans[places[-1]][1]
        assert split_otherwise.decode([encoded.token_ids[i] for i in places]) == text[start:end]


@pytest.mark.parametrize("part", [{"dropout": 0.5}, {"end_of_word_suffix": "</w>"}])
def test_a_model_that_is_not_exact_is_refused(part: dict[str, Any], tmp_path: Path) -> None:
    """Dropout gives other ids each time, and marks of word ends are no bytes."""
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"] |= part | {"merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(TokenizerError, match="its model"):
        read_tokenizer(tmp_path)


def test_no_tokens_are_put_around_a_text(tmp_path: Path) -> None:
    """A template for training neither reaches the exported folder nor is applied there."""
    tokenizer = tokenizers.Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    expected = tokenizer.encode("a b").ids
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 6105)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))

    assert read_tokenizer(tmp_path).encode("a b").ids == expected
    assert Tokenizer.from_file(path).encode("a b").token_ids == expected


def test_a_tokenizer_that_panics_does_not_end_the_server(tmp_path: Path) -> None:
    """A panic of the library, which is no Exception, is an error of the model."""
    data = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data | {"normalizer": PRECOMPILED}), encoding="utf-8")

    with pytest.raises(ModelLoadError, match="no byte-level tokenizer") as caught:
        Tokenizer.from_file(path)

    assert len(str(caught.value).splitlines()) == 1
