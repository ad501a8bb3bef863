"""What each line of a Python text is, however broken the code; pure.

It is a scanner for comments, strings and brackets, not a parser: a parser gives up on
code that is being written, and that is the only code there is here.
"""

import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from lsp_server.positions import LINE_END

# Whatever can change what a later character means, behind all that cannot. Running over
# the latter here is several times faster than searching.
_SPECIAL = re.compile(
    r"""[^\r\n\#"'()\[\]{}\\]*
    (?:
      (?P<newline>\r\n|\n|\r)
    | (?P<comment>\#[^\r\n]*)
    | (?P<string>(?!\"{3}|'{3})(?:"(?:\\[^\r\n]|[^"\\\r\n])*"|'(?:\\[^\r\n]|[^'\\\r\n])*'))
    | (?P<quote>\"{3}|'{3}|["'])
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<join>\\(?:\r\n|\n|\r))
    | (?P<other>\\)
    )""",
    re.VERBOSE,
)
_STRING_ENDS = {
    quote: re.compile(rf"(?:\\(?:\r\n|.|\Z)|[^\\\r\n{quote}])*(?P<close>{quote})?", re.DOTALL)
    for quote in ('"', "'")
} | {
    quote: re.compile(rf"(?:\\.|[^\\])*?(?:(?P<close>{quote})|\\?\Z)", re.DOTALL)
    for quote in ('"""', "'''")
}
# No expression goes on with these on a line of its own, so a bracket that is open
# before them was never closed. What comes after a word must be there already, because
# ``return`` may yet become ``return_type=``.
_STATEMENT = re.compile(
    r"[ \t]*(?:(?:async[ \t]+def|assert|break|class|continue|def|del|except|finally"
    r"|from[ \t]+\S+[ \t]+import|global|import|nonlocal|pass|raise|return|try|while|with)"
    r"(?=\W)|@(?=\w))"
)
# Below a blank line these do not go on with an expression either, at the margin.
_MARGIN = re.compile(
    r"#|(?:if|elif|else|for|async[ \t]+(?:for|with))(?=\W)"
    r"|[^\W\d][\w.]*(?:[ \t]*:[^=\r\n]*)?[ \t]+(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=[ \t]"
)
_TAB_WIDTH = 8


class LineKind(Enum):
    """What a line is by its first character that is no space."""

    BLANK = "blank"
    COMMENT = "comment"
    CODE = "code"
    INSIDE = "inside"
    """It begins inside a string, a bracket or after a backslash."""


class Place(Enum):
    """What the end of a text stands in."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"


class Line(NamedTuple):
    """One line; offsets are code points, ``end`` is before the line's end mark."""

    start: int
    end: int
    indent: str
    kind: LineKind
    content: str
    """The line without indentation, trailing comment and trailing spaces."""


class Scan(NamedTuple):
    """All lines of a text, the last one too where it is empty, and where it ends."""

    lines: list[Line]
    place: Place
    open_brackets: str
    """Those that are open at the end, the outermost first."""
    outside: list[int]
    """Where lines start that begin in none of all these; a scan from there ends as this one."""

    @property
    def n_open_brackets(self) -> int:
        """How many brackets are open at the end."""
        return len(self.open_brackets)


@lru_cache
def width_of(indent: str) -> int:
    """Return the columns of an indentation, tabs going to multiples of eight."""
    return len(indent.replace("\f", "").expandtabs(_TAB_WIDTH))


def scan(text: str) -> Scan:
    """Scan a Python text from its beginning; any text has a scan."""
    lines: list[Line] = []
    place = Place.CODE
    open_brackets: list[str] = []
    position = line_start = 0
    starts_inside = False
    while match := _SPECIAL.match(text, position):
        kind = str(match.lastgroup)
        start, position = match.span(kind)
        if kind == "newline" or kind == "join":
            end_at = start + 1 if kind == "join" else start
            lines.append(_line(text, line_start, end_at, end_at, starts_inside))
            line_start = position
            if open_brackets and _ends_brackets(text, position, lines[-1]):
                open_brackets.clear()
            starts_inside = kind == "join" or bool(open_brackets)
        elif kind == "open":
            open_brackets.append(match[kind])
        elif kind == "close":
            if open_brackets:
                open_brackets.pop()
        elif kind == "comment":
            if position == len(text):
                lines.append(_line(text, line_start, position, start, starts_inside))
                return Scan(lines, Place.COMMENT, "".join(open_brackets), _outside(lines))
            end = LINE_END.match(text, position)
            lines.append(_line(text, line_start, position, start, starts_inside))
            line_start = position = end.end() if end else position
            if open_brackets and _ends_brackets(text, position, lines[-1]):
                open_brackets.clear()
            starts_inside = bool(open_brackets)
        elif kind == "quote":
            end = _STRING_ENDS[match[kind]].match(text, position)
            string_start, position = position, end.end() if end else len(text)
            if position == len(text) and not (end and end["close"]):
                place = Place.STRING
            for newline in LINE_END.finditer(text, string_start, position):
                newline_at = newline.start()
                lines.append(_line(text, line_start, newline_at, newline_at, starts_inside))
                line_start, starts_inside = newline.end(), True
    lines.append(_line(text, line_start, len(text), len(text), starts_inside))
    return Scan(lines, place, "".join(open_brackets), _outside(lines))


def _ends_brackets(text: str, position: int, above: Line) -> bool:
    """Tell whether the line that starts there shows that open brackets were never closed."""
    if _STATEMENT.match(text, position):
        return True
    is_below_blank = not text[above.start : above.end].strip()
    return is_below_blank and _MARGIN.match(text, position) is not None


def _outside(lines: list[Line]) -> list[int]:
    return [line.start for line in lines if line.kind is not LineKind.INSIDE]


def _line(text: str, start: int, end: int, code_end: int, starts_inside: bool) -> Line:
    content = text[start:code_end].strip(" \t\f")
    indent = text[start:end]
    indent = indent[: len(indent) - len(indent.lstrip(" \t\f"))]
    if starts_inside:
        kind = LineKind.INSIDE
    elif content:
        kind = LineKind.CODE
    else:
        kind = LineKind.COMMENT if code_end < end else LineKind.BLANK
    return Line(start, end, indent, kind, content)
