"""The open documents' texts, kept equal to the client's by its edits; no LSP types.

It replaces pygls' own store, which splits lines at form feeds and other characters
that LSP does not, and so puts later edits into the wrong place.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lsp_server.errors import DocumentError
from lsp_server.positions import Encoding, Position, offset_in_line, split_lines


@dataclass(frozen=True)
class Edit:
    """New text for a range, or for the whole document where there is none."""

    text: str
    start: Position | None = None
    end: Position | None = None


@dataclass(frozen=True)
class Document:
    """One version of an open document, as lines, so that an edit costs only its own."""

    uri: str
    language_id: str
    version: int
    lines: tuple[str, ...]
    """With their ends; the last one has none."""

    @classmethod
    def opened(cls, uri: str, language_id: str, version: int, text: str) -> "Document":
        """Return a document with this text."""
        return cls(uri, language_id, version, tuple(split_lines(text)))

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.lines)

    def edited(self, version: int, edits: Iterable[Edit], encoding: Encoding) -> "Document":
        """Return the document after the edits, each made on the result of the last."""
        lines = list(self.lines)
        for edit in edits:
            if edit.start is None or edit.end is None:
                lines = split_lines(edit.text)
            else:
                _replace(lines, edit.text, edit.start, edit.end, encoding)
        return Document(self.uri, self.language_id, version, tuple(lines))

    def offset(self, position: Position, encoding: Encoding) -> int:
        """Return the offset of a position; a character past the line's end is the end.

        Raises:
            DocumentError: there is no such line, or a number is negative.
        """
        line, character = position
        if not 0 <= line < len(self.lines) or character < 0:
            raise DocumentError(f"the document has no position {line}:{character}")
        column = offset_in_line(self.lines[line].rstrip("\r\n"), character, encoding)
        return sum(map(len, self.lines[:line])) + column


def _replace(
    lines: list[str], text: str, start: Position, end: Position, encoding: Encoding
) -> None:
    """Replace a range of lines in place; a reversed range is empty, at its start."""
    first, first_column = _clamped(lines, start, encoding)
    last, last_column = _clamped(lines, end, encoding)
    if (last, last_column) < (first, first_column):
        last, last_column = first, first_column
    # A lone CR at the end of the line before, or of this text, may become half of a CR LF.
    before = max(0, first - 1)
    after = min(len(lines), last + 2)
    head = "".join(lines[before:first]) + lines[first][:first_column]
    tail = lines[last][last_column:] + "".join(lines[last + 1 : after])
    replaced = split_lines(head + text + tail)
    # What ends with a line's end is followed by the next line, not by an empty one.
    if after < len(lines):
        replaced.pop()
    lines[before:after] = replaced


def _clamped(lines: list[str], position: Position, encoding: Encoding) -> tuple[int, int]:
    # Clients say "to the end" with a line past the last one, so that is no error.
    if position.line >= len(lines):
        return len(lines) - 1, len(lines[-1])
    line = lines[max(0, position.line)].rstrip("\r\n")
    return max(0, position.line), offset_in_line(line, max(0, position.character), encoding)
