"""What each line of a text is, in every language whose turns are read; pure.

Python has a scanner of its own. For the others pygments tells comments, strings and code
apart, one line at a time: what goes on over lines is known here, so that a string that
was never closed ends with its line, and a keystroke has one line to read.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lsp_server import python_lines
from lsp_server.positions import LINE_END
from lsp_server.python_lines import Line, LineKind, Place, Scan

if TYPE_CHECKING:
    from pygments.lexer import RegexLexer

C_LANGUAGES = ("c", "cpp")
JAVASCRIPT = ("javascript", "javascriptreact", "typescript", "typescriptreact")
_LEXERS = {"c": "c", "cpp": "cpp", "go": "go", "java": "java"} | dict.fromkeys(
    JAVASCRIPT, "javascript"
)
_NEEDS_LEXER = re.compile(r"[\"'`/]")
_LONGEST_LINE = 1000
"""Characters; some of the lexers take time with the square of a line's length."""
_SPACES = " \t\f"
_BRACKET = re.compile(r"[()\[\]{};]")
_OPENERS = {")": "(", "]": "[", "}": "{"}
# A brace behind one of these begins data, and any other a block.
_DATA_BRACE = re.compile(r"(?:[(\[=,?]|\breturn)\s*$")
_CLOSED_STRINGS = re.compile(r"""(?:\w*(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))+""")
_RAW_STRING = re.compile(r'R"([^\\()\s]{0,16})\(')
_TEMPLATE_END = re.compile(r"(?:\\.|[^\\`])*`", re.DOTALL)
_COMMENT, _TEXT_BLOCK, _TICK = "*/", '"""', "`"


class _Code(NamedTuple):
    """What a line holds."""

    indent: str
    content: str
    """Its code, with spaces for comments and quotes for strings."""
    brackets: tuple[tuple[str, bool], ...]
    """The brackets and semicolons of the code, and whether data begins there."""
    closer: str
    """What ends the comment or string that goes on in the next line, if one does."""
    place: Place
    """What its end stands in."""


class _Bracket(NamedTuple):
    mark: str
    is_data: bool
    """Whether lines inside it belong to a statement, and are none themselves."""
    n_line: int
    n_data: int
    """How many hold data, of it and those around it."""


def is_read(language_id: str) -> bool:
    """Tell whether the comments, strings and blocks of a language are read."""
    return language_id == "python" or language_id in _LEXERS


def read_lines(text: str, language_id: str) -> list[Line]:
    """Return all lines, the last one too where it is empty."""
    return scan(text, language_id).lines


def scan(text: str, language_id: str) -> Scan:
    """Scan a text of a language that ``is_read`` from its beginning; any text has a scan.

    In other languages than Python strings are blank in a line's ``content``, the lines of
    a comment have the indentation of its first, and braces of blocks do not count as open
    brackets. A bracket that is open at the end of a statement or of a block was never
    closed.
    """
    if language_id == "python":
        return python_lines.scan(text)
    lexer = _LEXERS[language_id]
    has_directives = language_id in C_LANGUAGES
    lines: list[Line] = []
    outside: list[int] = []
    brackets: list[_Bracket] = []
    closer, comment_indent, joins = "", None, False
    start = 0
    place = Place.CODE
    ends = [match.span() for match in LINE_END.finditer(text)]
    for number, (line_end, next_start) in enumerate([*ends, (len(text), len(text))]):
        raw = text[start:line_end]
        came_from = closer
        if not (closer or joins or _n_data(brackets)):
            outside.append(start)
        code = _after(raw, closer, lexer) if closer else _code(raw, lexer)
        indent, content, marks, closer, place = code
        is_directive = has_directives and (joins or content.startswith("#"))
        is_inside = bool(brackets) and brackets[-1].is_data
        kind = LineKind.CODE
        if came_from == _COMMENT and comment_indent is not None and not content:
            kind, indent = LineKind.COMMENT, comment_indent
        elif came_from or joins or is_inside or (is_directive and brackets):
            kind = LineKind.INSIDE
        elif not content:
            kind = LineKind.COMMENT if raw.strip(_SPACES) else LineKind.BLANK
        if not came_from:
            comment_indent = indent if kind is LineKind.COMMENT else None
        lines.append(Line(start, line_end, indent, kind, content))
        joins = is_directive and content.endswith("\\")
        if not is_directive:
            for mark, is_data in marks:
                _count(brackets, mark, is_data, number)
        start = next_start
    n_data = 0
    while n_data < len(brackets) and brackets[-1 - n_data].is_data:
        n_data += 1
    open_brackets = "".join(bracket.mark for bracket in brackets[len(brackets) - n_data :])
    return Scan(lines, place, open_brackets, outside)


def balance_of(content: str) -> int:
    """Return how many brackets more a line's content opens than it closes."""
    return sum((mark in "([{") - (mark in ")]}") for mark in _BRACKET.findall(content))


def _count(brackets: list[_Bracket], mark: str, is_data: bool, n_line: int) -> None:
    if mark in "([{":
        brackets.append(_Bracket(mark, is_data, n_line, _n_data(brackets) + is_data))
    elif mark == ";":
        while brackets and brackets[-1].is_data and brackets[-1].n_line < n_line:
            brackets.pop()
    elif mark == "}":
        while brackets and brackets.pop().mark != "{":
            pass
    elif brackets and brackets[-1].mark == _OPENERS[mark]:
        brackets.pop()


def _n_data(brackets: list[_Bracket]) -> int:
    return brackets[-1].n_data if brackets else 0


def _begins_data(code: str, bracket: re.Match[str]) -> bool:
    if bracket.group() != "{":
        return bracket.group() in "(["
    return _DATA_BRACE.search(code, max(0, bracket.start() - 40), bracket.start()) is not None


def _held(line: str, code: str, closer: str, place: Place) -> _Code:
    return _Code(
        line[: len(line) - len(line.lstrip(_SPACES))],
        code.strip(_SPACES),
        tuple((found.group(), _begins_data(code, found)) for found in _BRACKET.finditer(code)),
        closer,
        place,
    )


def _after(line: str, closer: str, lexer: str) -> _Code:
    """Return what a line holds that begins in a comment or a string."""
    if closer == _TICK and lexer == "javascript":
        match = _TEMPLATE_END.match(line)
        end = match.end() if match else -1
    else:
        found = line.find(closer)
        end = found + len(closer) if found >= 0 else -1
    blank = " " if closer == _COMMENT else '"'
    if end < 0:
        place = Place.COMMENT if closer == _COMMENT else Place.STRING
        return _held(line, blank * len(line), closer, place)
    rest = _code(line[end:], lexer)
    indent = line[: len(line) - len(line.lstrip(_SPACES))]
    string = "" if closer == _COMMENT else '"'
    return rest._replace(indent=indent, content=string + rest.content)


@lru_cache(maxsize=1 << 14)
def _code(line: str, lexer: str) -> _Code:
    """Return what a line holds that begins in code."""
    if not _NEEDS_LEXER.search(line):
        return _held(line, line, "", Place.CODE)
    from pygments.token import Comment, Error, String

    parts: list[str] = []
    length = min(len(line), _LONGEST_LINE)
    closer, place = "", Place.CODE
    n_ticks = 0
    string_start, last_string_end = 0, -1
    for start, kind, value in _lexer(lexer).get_tokens_unprocessed(line[:length] + "\n"):
        value = value[: length - start]
        if not value:
            continue
        is_string = kind in String and kind not in String.Regex
        if is_string and start != last_string_end:
            string_start = start
        if line.startswith("/*", start) and not is_string:
            if kind not in Comment.Multiline or len(value) < 4 or not value.endswith("*/"):
                closer, place = _COMMENT, Place.COMMENT
                parts.append(" " * (length - start))
                break
            parts.append(" " * len(value))
        elif kind in Comment and value.startswith("/"):
            parts.append(" " * len(value))
            is_trailing = start + len(value) == length
            place = Place.COMMENT if is_trailing else Place.CODE
        elif is_string or kind in String.Regex:
            opener = _multiline_opener(line, start, lexer) if start == string_start else ""
            if opener and opener not in line[start + 3 : length]:
                closer, place = opener, Place.STRING
                parts.append('"' * (length - start))
                break
            n_ticks += kind in String.Backtick and value == _TICK
            parts.append('"' * len(value))
            last_string_end = start + len(value) if is_string else -1
        elif kind in Error and value[0] in "\"'`":
            closer, place = _TICK if value[0] == _TICK else "", Place.STRING
            parts.append('"' * (length - start))
            break
        else:
            parts.append(value)
    else:
        if n_ticks % 2:
            closer, place = _TICK, Place.STRING
        elif last_string_end == length and not n_ticks:
            string = line[string_start:length]
            is_closed = _CLOSED_STRINGS.fullmatch(string) or _RAW_STRING.match(string)
            place = Place.CODE if is_closed else Place.STRING
    code = "".join(parts)
    # Of a longer line nothing more is known but that it goes on.
    fill = " " if place is Place.COMMENT else '"'
    return _held(line, code + fill * (len(line) - len(code)), closer, place)


def _multiline_opener(line: str, start: int, lexer: str) -> str:
    """Return what ends the string that starts there, if it is one of several lines."""
    if lexer == "java" and line.startswith(_TEXT_BLOCK, start):
        return _TEXT_BLOCK
    if lexer == "cpp":
        raw = _RAW_STRING.match(line, start - 1 if line[start] == '"' and start else start)
        return f'){raw[1]}"' if raw else ""
    return ""


@lru_cache
def _lexer(name: str) -> "RegexLexer":
    # Loading it takes longer than an editor should wait for ``initialize``.
    from pygments.lexers import get_lexer_by_name

    lexer: RegexLexer = get_lexer_by_name(name)
    return lexer
