"""A notebook's cells as one Python text, and the way back from it; no LSP types.

Markdown cells become comments, so that each is the prompt of the code cell below it. What
only IPython understands becomes ``pass``. A cell's line is one line of the whole text, and
where it is not masked its characters are the same.
"""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from lsp_server.documents import Document
from lsp_server.errors import DocumentError
from lsp_server.python_lines import LineKind, Place, scan
from lsp_server.turns import Turn

_MASK = "pass"
# Headings, tags and rows of marks, which in a comment would be rulers and sections.
_DECORATION = re.compile(r"^(?:\s|#|</?\w[^>]*>)+|([-=#*~_+/\\|])\1{3,}")
# What only IPython understands: ``%time f()``, ``x = !ls``, ``f?`` and the like.
_MAGIC = re.compile(
    r"""^(?:[ \t]*+[%!?,;/]
    | [^=!%\#'"(\n]++=[ \t]*+[%!](?!=)
    | [^\#'"\n?]++\?\??[ \t]*$)""",
    re.VERBOSE | re.MULTILINE,
)
_ASSIGNED = re.compile(r"(?P<target>[^=!%#'\"(]+=[ \t]*)[%!]")
_LONGEST_READ = 1 << 15
"""Characters; in a longer cell strings and brackets are not looked for, so that work has a
bound, and what looks like a magic is one."""
_CELL_MAGIC = re.compile(r"\s*%%(?P<name>\w*)")
_PYTHON_CELL_MAGICS = (
    *("capture", "debug", "ipytest", "prun", "pypy", "python", "python3", "time", "timeit"),
)


@dataclass(frozen=True)
class Cell:
    """One version of a cell."""

    document: Document
    is_markup: bool

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """The cell's lines without their ends."""
        return tuple(line.rstrip("\r\n") for line in self.document.lines)

    @cached_property
    def is_python(self) -> bool:
        """Whether it is a program, and none of another language."""
        magic = _CELL_MAGIC.match("\n".join(self.contents))
        return (
            not self.is_markup
            and self.document.language_id == "python"
            and (magic is None or magic["name"] in _PYTHON_CELL_MAGICS)
        )

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines that stand for the cell's: one for each, or one for another language."""
        text = "\n".join(self.contents)
        if self.is_markup:
            return tuple(map(_comment, text.rstrip().split("\n")))
        return tuple(_masked(text)) if self.is_python else (_MASK,)

    @cached_property
    def is_whole(self) -> bool:
        """Whether what follows the cell begins anew; no string or bracket is open."""
        end = scan("\n".join(self.lines))
        return end.place is not Place.STRING and not end.n_open_brackets


@dataclass(frozen=True)
class CellEdit:
    """New text for a part of a cell; offsets are code points into its document."""

    document: Document
    start: int
    end: int
    new_text: str


class _Piece(NamedTuple):
    """Where a cell's lines stand in the whole text."""

    cell: Cell
    lines: tuple[str, ...]
    start: int
    end: int

    def has_line(self, line: int) -> bool:
        """Tell whether a line of the cell stands there as it is."""
        is_shown = self.cell.is_python and self.lines is self.cell.lines
        return is_shown and self.lines[line] == self.cell.contents[line]


@dataclass(frozen=True)
class Joined:
    """All cells as one text; offsets are code points."""

    text: str
    line_end: str
    pieces: tuple[_Piece, ...]

    def line(self, uri: str, line: int) -> int:
        """Return the line of the text that stands for a cell's line, or its last one.

        Raises:
            DocumentError: there is no such cell.
        """
        piece = self._piece(uri)
        n_before = self.text.count(self.line_end, 0, piece.start)
        return n_before + min(line, len(piece.lines) - 1)

    def offset(self, uri: str, offset: int) -> int:
        """Return the offset in the text of an offset in a cell.

        Raises:
            DocumentError: there is no such cell, or what is there is masked.
        """
        piece = self._piece(uri)
        starts = list(accumulate(map(len, piece.cell.document.lines[:-1]), initial=0))
        line = bisect_right(starts, offset) - 1
        if not piece.has_line(line):
            raise DocumentError("only Python is completed in a notebook")
        column = min(offset - starts[line], len(piece.lines[line]))
        return self._line_start(piece, line) + column

    def cell_offset(self, offset: int) -> tuple[Document, int] | None:
        """Return the cell of an offset and the offset in it, None where none is the same."""
        for piece in self.pieces:
            if piece.start <= offset <= piece.end:
                line = self.text.count(self.line_end, piece.start, offset)
                if not piece.has_line(line):
                    return None
                column = offset - self._line_start(piece, line)
                before = sum(map(len, piece.cell.document.lines[:line]))
                return piece.cell.document, before + column
        return None

    def cell_line(self, offset: int) -> tuple[int, int]:
        """Return the number of the cell that an offset is in, and its line there, from 1."""
        starts = [piece.start for piece in self.pieces]
        number = max(1, bisect_right(starts, offset))
        return number, 1 + self.text.count(self.line_end, starts[number - 1], offset)

    def waiting(self, turn: Turn) -> Turn:
        """Return a turn, without what comes after an empty cell that waits for a program."""
        below = next((p for p in self.pieces if p.start == turn.prompt_end), None)
        if below is None or not below.cell.is_python or "".join(below.lines).strip():
            return turn
        return replace(turn, end=below.end, has_program=False)

    def edit(self, start: int, end: int, program: str) -> CellEdit | None:
        """Return what writes a turn's program, None where that is in no one code cell.

        ``start`` is where the line after the turn's prompt starts, and ``end`` where its
        program may at most reach.
        """
        cell_end = max((p.end for p in self.pieces if p.end < start), default=0)
        first = self.cell_offset(start)
        if first is None and start == cell_end + len(self.line_end):
            # The line below a prompt that ends its cell is in no cell yet.
            start, first = cell_end, self.cell_offset(cell_end)
        if first is None:
            return None
        document, offset = first
        piece = self._piece(document.uri)
        last = self.cell_offset(min(end, piece.end))
        if last is None or self.text[piece.end : end].strip():
            return None
        old = "".join(document.text[offset : last[1]].split())
        if old != "".join(self.text[start : min(end, piece.end)].split()):
            # There are magics in it, which would be lost.
            return None
        if start and not self.text.endswith(self.line_end, 0, start):
            program = self.line_end + program
        if self.text[end : piece.end].strip():
            program += 2 * self.line_end
        line_end = "\r\n" if "\r\n" in document.text else "\n"
        program = program.replace(self.line_end, line_end)
        return CellEdit(document, offset, last[1], program)

    def _piece(self, uri: str) -> _Piece:
        for piece in self.pieces:
            if piece.cell.document.uri == uri:
                return piece
        raise DocumentError("the notebook has no such cell")

    def _line_start(self, piece: _Piece, line: int) -> int:
        n_before = sum(map(len, piece.lines[:line])) + line * len(self.line_end)
        return piece.start + n_before


@dataclass(frozen=True)
class Notebook:
    """One version of a notebook; the last edit of a cell is a version too."""

    uri: str
    cells: tuple[Cell, ...] = ()
    n_edits: int = 0

    def cell(self, uri: str) -> Cell | None:
        """Return the cell of a document."""
        return next((cell for cell in self.cells if cell.document.uri == uri), None)

    def with_cells(self, cells: Iterable[Cell]) -> "Notebook":
        """Return the notebook with other cells, or the same in another order."""
        return Notebook(self.uri, tuple(cells), self.n_edits + 1)

    def with_document(self, document: Document) -> "Notebook":
        """Return the notebook with the newest version of a cell's document."""
        return self.with_cells(
            replace(cell, document=document) if cell.document.uri == document.uri else cell
            for cell in self.cells
        )

    def joined(self, uri: str = "") -> Joined:
        """Return the cells as one text, to be completed in a cell or in none.

        Other cells that are not whole are masked, because they would reach into the next.
        """
        here = self.cell(uri)
        line_end = "\n"
        if here and "\r\n" in here.document.text:
            line_end = "\r\n"
        parts: list[str] = []
        pieces: list[_Piece] = []
        start = 0
        for index, cell in enumerate(self.cells):
            if index:
                above = _between(self.cells[index - 1], cell, line_end)
                parts.append(above)
                start += len(above)
            lines = cell.lines if cell is here or cell.is_whole else (_MASK,)
            text = line_end.join(lines)
            pieces.append(_Piece(cell, lines, start, start + len(text)))
            parts.append(text)
            start += len(text)
        return Joined("".join(parts), line_end, tuple(pieces))


def _between(above: Cell, below: Cell, line_end: str) -> str:
    """Return what stands between two cells: a blank line, but not below a prompt."""
    if not above.is_markup:
        return 2 * line_end
    return f"{line_end}#{line_end}" if below.is_markup else line_end


def _comment(line: str) -> str:
    """Return a line of Markdown as one of a comment that nothing divides."""
    words = _DECORATION.sub("", line).strip()
    return f"# {words}" if any(map(str.isalnum, words)) else "#"


def _masked(text: str) -> list[str]:
    """Return the lines of a code cell without what is no Python."""
    lines = text.split("\n")
    magics: deque[int] = deque()
    number = start = 0
    for match in _MAGIC.finditer(text):
        number += text.count("\n", start, match.start())
        start = match.start()
        magics.append(number)
    first = 0
    while _seek_magic(lines, first, magics, is_read=len(text) <= _LONGEST_READ):
        found = magics.popleft()
        line = lines[found]
        assigned = _ASSIGNED.match(line)
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        lines[found] = f"{assigned['target']}None" if assigned else indent + _MASK
        first = found + 1
        while line.endswith("\\") and first < len(lines):
            line, lines[first] = lines[first], ""
            first += 1
    return lines


def _seek_magic(lines: list[str], first: int, magics: deque[int], *, is_read: bool) -> bool:
    """Drop the magics before the first that no string or bracket goes over.

    What stands before the line ``first`` is whole; returns whether there is such a magic.
    """
    while magics and magics[0] < first:
        magics.popleft()
    if not magics or not is_read:
        return bool(magics)
    # Reading twice as much each time reads no line more often than a few times.
    n_read = magics[0] - first + 1
    while True:
        kinds = [line.kind for line in scan("\n".join(lines[first : first + n_read])).lines]
        while magics and magics[0] < first + len(kinds):
            if kinds[magics[0] - first] is not LineKind.INSIDE:
                return True
            magics.popleft()
        if not magics:
            return False
        n_read *= 2
