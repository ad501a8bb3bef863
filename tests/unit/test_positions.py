"""Positions in the three encodings against a reference that encodes each character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.errors import DocumentError
from lsp_server.positions import (
    Encoding,
    Position,
    line_of,
    n_code_units,
    offset_at,
    position_at,
)

ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-16", "utf-32")
UNIT_BYTES = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
# What ends lines in Python but not in LSP, and what is longer than one code unit.
ALPHABET = "ab \t\n\r\f\v\x1c\x85\u2028\u2029é\u0301中😀𝄞\ud800"

texts = st.text(st.sampled_from(ALPHABET), max_size=30)
encodings = st.sampled_from(ENCODINGS)


def units(text: str, encoding: Encoding) -> int:
    """Return the length by really encoding the text."""
    codec = encoding if encoding == "utf-8" else f"{encoding}-le"
    return len(text.encode(codec, "surrogatepass")) // UNIT_BYTES[encoding]


def reference_position(text: str, offset: int, encoding: Encoding) -> Position:
    """Return the position by walking over the text."""
    line, start = 0, 0
    for index in range(offset):
        ends_line = text[index] == "\n" or (
            text[index] == "\r" and text[index : index + 2] != "\r\n"
        )
        if ends_line:
            line, start = line + 1, index + 1
    return Position(line, units(text[start:offset], encoding))


def is_inside_line_end(text: str, offset: int) -> bool:
    """Tell whether an offset is between CR and LF, where no position is."""
    return text[max(0, offset - 1) : offset + 1] == "\r\n"


@given(text=texts, encoding=encodings, data=st.data())
def test_position_at_agrees_with_the_reference(
    text: str, encoding: Encoding, data: st.DataObject
) -> None:
    """Lines end at LF, CR LF and CR only, and characters count code units."""
    offset = data.draw(st.integers(0, len(text)))
    assert position_at(text, offset, encoding) == reference_position(text, offset, encoding)


@given(text=texts, encoding=encodings)
def test_offset_at_inverts_position_at(text: str, encoding: Encoding) -> None:
    """Every offset outside a line end comes back from its position."""
    for offset in range(len(text) + 1):
        if not is_inside_line_end(text, offset):
            assert offset_at(text, position_at(text, offset, encoding), encoding) == offset


@given(text=texts, encoding=encodings, line=st.integers(0, 8), character=st.integers(0, 40))
def test_offset_at_is_the_last_place_not_past_the_position(
    text: str, encoding: Encoding, line: int, character: int
) -> None:
    """Any character of a line that exists stands for a place on that line."""
    on_line = [
        offset
        for offset in range(len(text) + 1)
        if reference_position(text, offset, encoding).line == line
        and not is_inside_line_end(text, offset)
    ]
    if not on_line:
        with pytest.raises(DocumentError, match=f"no line {line}"):
            offset_at(text, Position(line, character), encoding)
        return
    expected = [
        offset
        for offset in on_line
        if reference_position(text, offset, encoding).character <= character
    ]
    assert offset_at(text, Position(line, character), encoding) == expected[-1]


@pytest.mark.parametrize(
    ("text", "position", "encoding", "expected"),
    [
        ("", (0, 0), "utf-16", 0),
        ("", (0, 9), "utf-16", 0),
        ("ab\ncd", (0, 99), "utf-16", 2),
        ("ab\r\ncd", (0, 99), "utf-16", 2),
        ("ab\r\ncd", (1, 1), "utf-16", 5),
        ("ab\rcd", (1, 0), "utf-16", 3),
        ("a\n", (1, 0), "utf-16", 2),
        ("a😀b", (0, 1), "utf-16", 1),
        ("a😀b", (0, 2), "utf-16", 1),
        ("a😀b", (0, 3), "utf-16", 2),
        ("a😀b", (0, 2), "utf-32", 2),
        ("a😀b", (0, 4), "utf-8", 1),
        ("a😀b", (0, 5), "utf-8", 2),
        ("aéb", (0, 2), "utf-8", 1),
        ("e\u0301x", (0, 1), "utf-16", 1),
        ("a\fb\vc\u2028d\x85e", (0, 9), "utf-16", 9),
    ],
)
def test_offset_at_table(
    text: str, position: tuple[int, int], encoding: Encoding, expected: int
) -> None:
    """Hand-written places: line ends, clamping, and the inside of a code point."""
    assert offset_at(text, Position(*position), encoding) == expected


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (1, 0), (3, 0)])
def test_offset_at_refuses_what_is_no_place(position: tuple[int, int]) -> None:
    """A negative number or a line past the end is an error and no guess."""
    with pytest.raises(DocumentError):
        offset_at("one line", Position(*position))


@given(text=texts, encoding=encodings)
def test_n_code_units_is_the_encoded_length(text: str, encoding: Encoding) -> None:
    """The length of a text is what its encoding makes of it."""
    assert n_code_units(text, encoding) == units(text, encoding)


@given(text=texts, data=st.data())
def test_line_of_gives_the_line_without_its_end(text: str, data: st.DataObject) -> None:
    """The line of an offset starts at character 0 and has no line end in it."""
    offset = data.draw(st.integers(0, len(text)))
    if is_inside_line_end(text, offset):
        return
    start, end = line_of(text, offset)
    position = position_at(text, offset, "utf-32")
    assert position_at(text, start, "utf-32") == (position.line, 0)
    assert start <= offset <= end
    assert not set(text[start:end]) & set("\r\n")
    assert text[end : end + 1] in ("", "\r", "\n")
