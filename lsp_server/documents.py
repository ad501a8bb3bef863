"""The open documents' texts, kept equal to the client's by its edits; no LSP types.

It replaces pygls' own store, which splits lines at form feeds and other characters
that LSP does not, and so puts later edits into the wrong place.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lsp_server.errors import DocumentError
from lsp_server.positions import Encoding, Position, offset_at


@dataclass(frozen=True)
class Edit:
    """New text for a range, or for the whole document where there is none."""

    text: str
    start: Position | None = None
    end: Position | None = None


@dataclass(frozen=True)
class Document:
    """One version of an open document."""

    uri: str
    language_id: str
    version: int
    text: str

    def edited(self, version: int, edits: Iterable[Edit], encoding: Encoding) -> "Document":
        """Return the document after the edits, each made on the result of the last."""
        text = self.text
        for edit in edits:
            if edit.start is None or edit.end is None:
                text = edit.text
            else:
                start = _clamped_offset(text, edit.start, encoding)
                end = _clamped_offset(text, edit.end, encoding)
                text = text[:start] + edit.text + text[max(start, end) :]
        return replace(self, version=version, text=text)


def _clamped_offset(text: str, position: Position, encoding: Encoding) -> int:
    # Clients say "to the end" with a line past the last one, so that is no error.
    try:
        return offset_at(text, position, encoding)
    except DocumentError:
        return len(text)
