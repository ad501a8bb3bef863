"""Edits against a reference that finds its places line by line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.documents import Document, Edit
from lsp_server.positions import Encoding, Position

ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-16", "utf-32")
texts = st.text(st.sampled_from("ab \n\r\f\u2028é😀"), max_size=20) | st.sampled_from(
    ["x = '😀'\r\ny = 1\r\n", "a\fb\nc\n"]
)
positions = st.builds(Position, st.integers(0, 5), st.integers(0, 12))
ranges = st.tuples(positions, positions).map(sorted)
edits = st.one_of(
    st.builds(lambda text, ends: Edit(text, ends[0], ends[1]), texts, ranges),
    st.builds(Edit, texts),
)


def reference_offset(text: str, position: Position, encoding: Encoding) -> int:
    """Return the offset by walking over the lines."""
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r|\Z)", text)
    if text and not re.search(r"[\r\n]\Z", text):
        lines.pop()  # The pattern also matches nothing after the last line.
    if position.line >= len(lines):
        return len(text)
    offset = sum(map(len, lines[: position.line]))
    codec, size = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2)}.get(
        encoding, ("utf-32-le", 4)
    )
    used = 0
    for character in lines[position.line].rstrip("\r\n"):
        used += len(character.encode(codec)) // size
        if used > position.character:
            break
        offset += 1
    return offset


def edited(text: str, *changes: Edit, encoding: Encoding = "utf-16") -> str:
    """Return a document's text after the changes."""
    return Document.opened("file:///a.py", "python", 1, text).edited(2, changes, encoding).text


@given(
    text=texts,
    changes=st.lists(edits, max_size=6),
    encoding=st.sampled_from(ENCODINGS),
)
def test_edits_agree_with_the_reference(
    text: str, changes: list[Edit], encoding: Encoding
) -> None:
    """The document stays equal to the client's after any sequence of edits."""
    expected = text
    for edit in changes:
        if edit.start is None or edit.end is None:
            expected = edit.text
        else:
            start = reference_offset(expected, edit.start, encoding)
            end = reference_offset(expected, edit.end, encoding)
            expected = expected[:start] + edit.text + expected[end:]
    assert edited(text, *changes, encoding=encoding) == expected


@pytest.mark.parametrize(
    ("text", "start", "end", "new", "expected"),
    [
        ("ab\ncd\n", (1, 0), (1, 2), "x", "ab\nx\n"),
        ("a\fb\ncd\n", (1, 0), (1, 1), "", "a\fb\nd\n"),
        ("😀 = 1\n", (0, 2), (0, 3), "", "😀= 1\n"),
        ("a\r\nb", (0, 1), (1, 0), "", "ab"),
        ("ab", (0, 1), (99, 0), "!", "a!"),
        ("ab", (7, 0), (99, 0), "!", "ab!"),
        ("abcdef", (0, 4), (0, 2), "X", "abcdXef"),
    ],
    ids=["line", "form feed", "emoji", "crlf", "past the end", "all past", "reversed"],
)
def test_edit_table(
    text: str, start: tuple[int, int], end: tuple[int, int], new: str, expected: str
) -> None:
    """Hand-written edits, with ends past the text and in the wrong order."""
    assert edited(text, Edit(new, Position(*start), Position(*end))) == expected


def test_an_edit_without_a_range_is_the_whole_document() -> None:
    """A full change replaces the text, and edits after it count from the new one."""
    inserted = Edit("!", Position(0, 3), Position(0, 3))
    assert edited("anything", Edit("new"), inserted) == "new!"


def test_an_edit_makes_a_new_version_and_leaves_the_old_one() -> None:
    """Whoever holds a document while it is edited keeps what it had."""
    old = Document.opened("file:///a.py", "python", 1, "a")
    new = old.edited(7, [Edit("b")], "utf-16")
    assert (old.version, old.text) == (1, "a")
    assert (new.uri, new.language_id, new.version, new.text) == (
        "file:///a.py",
        "python",
        7,
        "b",
    )
