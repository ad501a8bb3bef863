"""Between LSP positions and code-point offsets; pure, knows no document.

LSP splits lines at LF, CR LF and CR only (LSP 3.18, "Text Documents"), unlike
``str.splitlines``. Characters are code units of the negotiated encoding.
"""

import re
from bisect import bisect_right
from itertools import accumulate, islice
from typing import Literal, NamedTuple

from lsp_server.errors import DocumentError

Encoding = Literal["utf-8", "utf-16", "utf-32"]

LINE_END = re.compile(r"\r\n|\n|\r")


class Position(NamedTuple):
    """A zero-based line and a character in code units."""

    line: int
    character: int


def offset_at(text: str, position: Position, encoding: Encoding = "utf-16") -> int:
    """Return the offset of a position; a character past the line's end is the end.

    A character inside a code point stands for that code point's start.

    Raises:
        DocumentError: the text has no such line, or a number is negative.
    """
    line, character = position
    if line < 0 or character < 0:
        raise DocumentError(f"position {line}:{character} is negative")
    start = _line_start(text, line)
    if start is None:
        raise DocumentError(f"the text has no line {line}")
    return start + offset_in_line(_line_at(text, start), character, encoding)


def offset_in_line(line: str, character: int, encoding: Encoding) -> int:
    """Return the offset of a character in a line without its end."""
    if encoding == "utf-32" or line.isascii():
        return min(character, len(line))
    ends = list(accumulate(_n_units(code_point, encoding) for code_point in line))
    return bisect_right(ends, character)


def split_lines(text: str) -> list[str]:
    """Return the lines with their ends; the last one is there even where it is empty."""
    starts = [0, *(match.end() for match in LINE_END.finditer(text))]
    return [
        text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
    ]


def position_at(text: str, offset: int, encoding: Encoding = "utf-16") -> Position:
    """Return the position of an offset, which must lie in the text."""
    line, start = 0, 0
    for match in LINE_END.finditer(text, 0, offset):
        # A lone "\r" before the offset may be half of a "\r\n" that ends after it.
        if match.end() == offset and text[offset - 1 : offset + 1] == "\r\n":
            break
        line, start = line + 1, match.end()
    return Position(line, n_code_units(text[start:offset], encoding))


def n_code_units(text: str, encoding: Encoding = "utf-16") -> int:
    """Return the length of a text in code units."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    if encoding == "utf-16":
        return len(text.encode("utf-16-le", "surrogatepass")) // 2
    return len(text.encode("utf-8", "surrogatepass"))


def line_of(text: str, offset: int) -> tuple[int, int]:
    """Return the offsets where the line of ``offset`` starts and where its text ends."""
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    return start, start + len(_line_at(text, start))


def _line_start(text: str, line: int) -> int | None:
    if line == 0:
        return 0
    match = next(islice(LINE_END.finditer(text), line - 1, None), None)
    return match.end() if match else None


def _line_at(text: str, start: int) -> str:
    end = LINE_END.search(text, start)
    return text[start : end.start() if end else len(text)]


def _n_units(code_point: str, encoding: Encoding) -> int:
    # Lone surrogates can arrive through JSON, so they are let through here.
    if encoding == "utf-16":
        return 2 if code_point > "\uffff" else 1
    return len(code_point.encode("utf-8", "surrogatepass"))
