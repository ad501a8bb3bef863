"""The turns of a text: comments that state a step, and the code that follows.

In Python the docstring of a function or a class states one too; that of a class can be all
of it.

Pure, and read anew from each text: a buffer is the whole state of its conversation.
A Python text is read in blocks, and those that were read lately are not read again, so
that a key costs what is read of its own block. The idea is CodeGen's multi-turn prompt
(Nijkamp et al., 2022, section 4).
"""

import ast
import re
import textwrap
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from lsp_server.language_lines import is_read, scan
from lsp_server.positions import LINE_END
from lsp_server.python_lines import Line, LineKind, width_of

_TOOL_MARK = re.compile(
    r"#+\s*(?:type:|(?i:noqa)\b|nosec\b|pragma\b|pylint:|pyright:|mypy:|ruff:|flake8:|isort:"
    r"|fmt:|yapf:|black:|noinspection\b|cython:|distutils:|-\*-|vim?:|NOLINT|sourcery\b"
    r"|pyre-|autopep8:|doctest:|c(?:ode)?spell:|codegen:\s*off\b)"
)
_CODING = re.compile(r"#.*?coding[:=]\s*[-\w.]+")  # PEP 263
_CODING_LINES = 2
_SECTION_MARK = re.compile(r"#+\s*(?:%%|region\b|endregion\b|In\s?\[[\d ]*\]:|<\w+>|///)")
_SCRIPT_METADATA = re.compile(r"#\s*///\s*\w+\s*$")  # PEP 723
_LICENCE = re.compile(
    r"copyright|SPDX-|all rights reserved|licen[cs]ed\b|licen[cs]e:"
    r"|\b(?:under|see|MIT|BSD|Apache|Public) (?:the )?(?:\S+ )?licen[cs]e\b",
    re.IGNORECASE,
)
_RULER_MARKS = "-=#*~_+/\\|"
_SHORTEST_RULER = 4
_ONLY_WORDS = re.compile(r"[A-Za-z\s]+")
# Of a row of marks only the first, so that the row is seen to be a ruler.
_MARK = re.compile(r"#(?:#{0,3}(?!#))?!?:? ?")
_SLASHED_MARK = re.compile(r"(?://(?:/(?!/))?|/\*(?:\*(?!\*))?|\*(?![*/]))!? ?")
_SLASHED_TOOL_MARK = re.compile(
    r"(?://+|/?\*+)[ \t]*(?:eslint(?:-|\b)|jshint\b|jslint\b|tslint:|globals?[ ]|prettier-"
    r"|istanbul\b|[cv]8 ignore\b|@ts-|@flow\b|@jsx\b|@formatter:|sourceMappingURL|#[ ]source"
    r"|NOLINT|NOSONAR|clang-(?:format|tidy)|cppcheck-|IWYU\b|CHECKSTYLE|noinspection\b"
    r"|nolint\b|lint:|-\*-|vim?:|\+build\b|#nosec\b|c(?:ode)?spell:|codegen:\s*off\b)"
    r"|//(?:go:|line |export |/ *<reference)"
)
_SLASHED_SECTION_MARK = re.compile(
    r"(?://+|/?\*+)[ \t]*(?:%%|#?(?:end)?region\b|MARK:|#pragma mark)"
)
_STATEMENT_END = re.compile(r"[;{}]$|^\s*(?:await |return )?[\w.$]+\(.*\)$")
_DOC_TAG = re.compile(r"\{@[^}]*\}|^\s*@.*")
_LONGEST_PROMPT = 1 << 14
"""Characters; a longer comment states no step, and parsing it would take long."""
_BLOCK_END = re.compile(
    r"\n\r?\n(?=(?!elif\b|else\b|except\b|finally\b)\S|[ \t]+(?:async |class |def |@))"
)
"""What comes next is neither a docstring nor a clause, nor goes on with a comment."""
_SHORT_BLOCK, _LONG_BLOCK = 1 << 12, 1 << 16
"""Characters; of long blocks few are kept, and none that are longer, to save memory."""
_N_SHORT_BLOCKS, _N_LONG_BLOCKS = 1 << 12, 1 << 6
_N_READINGS = 4
"""Of whole texts: one that was just typed is asked about by several."""
# What goes on with a statement above it; a comment before it is none of its own.
_CLAUSE = re.compile(r"(?:elif|else|except|finally)\b|case\b.*:$")
_SLASHED_CLAUSE = re.compile(r"(?:\}\s*)?(?:else|catch|finally)\b|(?:case\b.*|default\s*):")
_TRY_CLAUSE = re.compile(r"\s*(?:except|finally)\b")
_IF_CLAUSE = re.compile(r"\s*(?:elif|else)\b")
_IMPORT = re.compile(r"from \w+ import \w+(?: as \w+)?|import \w+ as \w+")
_DOCUMENTED = ("def ", "class ", "async def ")
_DOCSTRING = re.compile(
    r"""[rRuU]?(?P<quote>\"{3}|'{3}|"|')(?P<words>(?:[^\\'"]++|\\.|(?!(?P=quote))['"])*+)(?P=quote)""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Turn:
    """One turn; offsets are code points into the text it was read from."""

    start: int
    """Where the first line of the comment or docstring starts."""
    prompt_end: int
    """Where the line after it starts, or the text ends."""
    end: int
    """Where the program may at most reach."""
    indent: str
    prompt: str
    """The comment without its marks, or the docstring's text, lines joined by newlines."""
    prompt_spans: tuple[tuple[int, int], ...]
    """Where the prompt's own words lie, line by line."""
    has_program: bool
    is_of_class: bool = False
    """Whether it is the docstring of a class, which is whole without more."""

    @property
    def wants_program(self) -> bool:
        """Tell whether a program is missing."""
        return not (self.has_program or self.is_of_class)


class _Role(Enum):
    """What a line, or a run of comment lines, is to the turns around it."""

    PROMPT = "prompt"
    SECTION = "section"
    """A mark that divides the file, and so ends the turns before it."""
    PROGRAM = "program"
    """Code, and comments that speak to tools or hold code."""


class _Run(NamedTuple):
    role: _Role
    lines: list[Line]
    spans: tuple[tuple[int, int], ...] = ()
    """Where the words of a prompt lie."""
    is_of_class: bool = False


class _Stretch(NamedTuple):
    """A run, and the program after it that changes nothing about any turn."""

    role: _Role
    is_code: bool
    width: int
    start: int
    turn: Turn | None
    """What it begins, without the program; offsets are into the block."""


class _Block(NamedTuple):
    """A part of a text that no string, bracket, comment or docstring leaves."""

    stretches: tuple[_Stretch, ...]
    line_starts: tuple[int, ...]
    """Of the lines that begin in no string or bracket."""
    statement_starts: tuple[int, ...]
    """Of those that hold code and have no indentation."""
    is_closed: bool
    """Whether nothing that it opens goes on after it."""
    is_header: bool
    """Whether no code stands before what follows it."""


@dataclass
class _Draft:
    turn: Turn
    base: int
    width: int
    end: int
    has_program: bool = False


@dataclass(frozen=True)
class Reading:
    """What there is to know of a text."""

    turns: tuple[Turn, ...]
    """In the order of their prompts."""
    _blocks: Sequence[tuple[int, _Block]] = ()

    def line_start_before(self, offset: int) -> int:
        """Return where a line starts before an offset that begins in no string or bracket.

        Whoever scans from there finds what a scan from the beginning does.
        """
        return self._last_before(offset, lambda block: block.line_starts)

    def statement_start_before(self, offset: int) -> int:
        """Return where the last statement without indentation starts before an offset.

        Of the blocks that are open at the offset, none is opened above it.
        """
        return self._last_before(offset, lambda block: block.statement_starts)

    def _last_before(self, offset: int, starts_of: Callable[[_Block], tuple[int, ...]]) -> int:
        index = bisect_left(self._blocks, offset, key=lambda block: block[0])
        for base, block in reversed(self._blocks[:index]):
            starts = starts_of(block)
            if n_before := bisect_left(starts, offset - base):
                return base + starts[n_before - 1]
        return 0


@lru_cache(maxsize=_N_READINGS)
def read(text: str, language_id: str = "python") -> Reading:
    """Read a text; that of a language that nobody reads has no turns."""
    if not is_read(language_id):
        return Reading(())
    is_python = language_id == "python"
    blocks = _python_blocks(text) if is_python else [(0, _slashed_block(text, language_id))]
    drafts: list[_Draft] = []
    # The turns whose scope is still open; each is indented more than the one before.
    open_drafts: list[_Draft] = []
    for base, block in blocks:
        for stretch in block.stretches:
            while open_drafts and _closes(stretch, open_drafts[-1]):
                open_drafts.pop().end = base + stretch.start
            if open_drafts:
                # Those before it have one since it was opened.
                open_drafts[-1].has_program = True
            if stretch.turn is not None:
                draft = _Draft(stretch.turn, base, stretch.width, len(text))
                drafts.append(draft)
                open_drafts.append(draft)
    return Reading(tuple(map(_turn, drafts)), blocks)


def read_turns(text: str, language_id: str = "python") -> tuple[Turn, ...]:
    """Return the turns of a text in the order of their prompts."""
    return read(text, language_id).turns


def turn_at(turns: tuple[Turn, ...], offset: int) -> Turn | None:
    """Return the innermost turn whose program the offset lies in."""
    inside = [turn for turn in turns if turn.prompt_end <= offset <= turn.end]
    return inside[-1] if inside else None


def _closes(stretch: _Stretch, draft: _Draft) -> bool:
    if stretch.role is _Role.PROGRAM:
        return stretch.is_code and stretch.width < draft.width
    return stretch.width <= draft.width


def _python_blocks(text: str) -> list[tuple[int, _Block]]:
    """Return the blocks of a text and where they start."""
    blocks = []
    ends = [*(match.end() for match in _BLOCK_END.finditer(text)), len(text)]
    start = index = 0
    at_top = True
    while start < len(text):
        n_joined = 1
        while True:
            last = min(index + n_joined, len(ends)) - 1
            end = ends[last]
            block = _python_block(text[start:end], start == 0, at_top)
            if block.is_closed or end == len(text):
                break
            # So that what is never closed takes twice the time, and no more.
            n_joined *= 2
        blocks.append((start, block))
        at_top = at_top and block.is_header
        start, index = end, last + 1
    return blocks


def _python_block(text: str, is_first: bool, at_top: bool) -> _Block:
    if len(text) <= _SHORT_BLOCK:
        return _short_block(text, is_first, at_top)
    read_block = _long_block if len(text) <= _LONG_BLOCK else _read_block
    return read_block(text, is_first, at_top)


def _read_block(text: str, is_first: bool, at_top: bool) -> _Block:
    lines, _, _, outside = scan(text, "python")
    n_above = 0 if is_first else _CODING_LINES
    return _Block(
        _stretches(text, _python_runs(text, lines, n_above, at_top)),
        tuple(outside),
        tuple(line.start for line in lines if line.kind is LineKind.CODE and not line.indent),
        lines[-1].kind is not LineKind.INSIDE,
        all(line.kind in (LineKind.COMMENT, LineKind.BLANK) for line in lines),
    )


_short_block = lru_cache(maxsize=_N_SHORT_BLOCKS)(_read_block)
_long_block = lru_cache(maxsize=_N_LONG_BLOCKS)(_read_block)


def _slashed_block(text: str, language_id: str) -> _Block:
    """Return the whole text as one block, because its lines depend on all before them."""
    lines, _, _, outside = scan(text, language_id)
    stretches = _stretches(text, _slashed_runs(text, lines))
    return _Block(stretches, tuple(outside), (), is_closed=True, is_header=False)


def _stretches(text: str, runs: Iterator[_Run]) -> tuple[_Stretch, ...]:
    stretches: list[_Stretch] = []
    for run in runs:
        first, is_program = run.lines[0], run.role is _Role.PROGRAM
        is_code = first.kind is LineKind.CODE
        width = width_of(first.indent)
        if is_program and stretches and stretches[-1].role is _Role.PROGRAM:
            last = stretches[-1]
            if not is_code or (last.is_code and last.width <= width):
                continue
        turn = None
        if run.role is _Role.PROMPT:
            end = _next_start(text, run.lines[-1])
            prompt = "\n".join(text[start:end] for start, end in run.spans)
            turn = Turn(
                first.start, end, end, first.indent, prompt, run.spans, False, run.is_of_class
            )
        stretches.append(_Stretch(run.role, is_code, width, first.start, turn))
    return tuple(stretches)


def _python_runs(text: str, lines: list[Line], n_above: int, at_top: bool) -> Iterator[_Run]:
    """Yield every line that is not blank, lines that belong together as one run."""
    index = 0
    while index < len(lines):
        line = lines[index]
        if line.kind is not LineKind.COMMENT:
            if line.kind is not LineKind.BLANK:
                at_top = False
                yield _Run(_Role.PROGRAM, [line])
            index += 1
            if line.kind is LineKind.CODE and line.content.startswith(_DOCUMENTED):
                while index < len(lines) and lines[index].kind is LineKind.INSIDE:
                    yield _Run(_Role.PROGRAM, [lines[index]])
                    index += 1
                docstring = _docstring(text, lines, line, index)
                if docstring:
                    yield docstring
                    index = lines.index(docstring.lines[-1], index) + 1
            continue
        role = _line_role(text, line, n_above + index)
        run = [line]
        index += 1
        is_metadata = _SCRIPT_METADATA.match(_comment(text, line)) is not None
        while index < len(lines) and _is_adjacent(line, lines[index]):
            joins = _line_role(text, lines[index], n_above + index) is role is _Role.PROMPT
            if not (joins or is_metadata):
                break
            run.append(lines[index])
            index += 1
            if is_metadata and _comment(text, run[-1]).strip("# \t") == "///":
                break
        if role is _Role.PROMPT:
            role = _run_role("\n".join(_words(text, line) for line in run), at_top)
        if role is _Role.PROMPT and _is_above(_CLAUSE, lines, index, run[0]):
            role = _Role.PROGRAM
        yield _Run(role, run, tuple(_span(text, line) for line in run))


def _docstring(text: str, lines: list[Line], header: Line, index: int) -> _Run | None:
    """Return the docstring of the function or class whose body begins at a line.

    One that a comment follows in the same body is none: there the comments are the steps.
    """
    if not lines[index - 1].content.endswith(":"):
        return None
    width = width_of(header.indent)
    index = _next_nonblank(lines, index)
    if (
        index == len(lines)
        or lines[index].kind is not LineKind.CODE
        or width_of(lines[index].indent) <= width
    ):
        return None
    run = [lines[index]]
    while index + len(run) < len(lines) and lines[index + len(run)].kind is LineKind.INSIDE:
        run.append(lines[index + len(run)])
    start = run[0].start + len(run[0].indent)
    match = _DOCSTRING.match(text, start, run[-1].end)
    if match is None or not match["words"].strip():
        return None
    rest = text[match.end() : run[-1].end].lstrip()
    index = _next_nonblank(lines, index + len(run))
    is_followed_by_comment = (
        index < len(lines)
        and lines[index].kind is LineKind.COMMENT
        and width_of(lines[index].indent) > width
    )
    if is_followed_by_comment or (rest and not rest.startswith("#")):
        return None
    spans = []
    for line in run:
        first = max(line.start, match.start("words"))
        own = text[first : min(line.end, match.end("words"))]
        first += len(own) - len(own.lstrip())
        spans.append((first, first + len(own.strip())))
    is_of_class = header.content.startswith("class ")
    return _Run(_Role.PROMPT, run, _without_empty_ends(spans), is_of_class)


def _next_nonblank(lines: list[Line], index: int) -> int:
    while index < len(lines) and lines[index].kind is LineKind.BLANK:
        index += 1
    return index


def _is_above(clause: re.Pattern[str], lines: list[Line], index: int, comment: Line) -> bool:
    """Tell whether the next line from an index on is a clause, indented as a comment above."""
    index = _next_nonblank(lines, index)
    if index == len(lines) or lines[index].kind is not LineKind.CODE:
        return False
    is_as_deep = width_of(lines[index].indent) == width_of(comment.indent)
    return is_as_deep and clause.match(lines[index].content) is not None


def begins_clause(text: str, *, is_python: bool) -> bool:
    """Tell whether a text goes on with the statement above it."""
    line = text.lstrip().partition("\n")[0].rstrip()
    return (_CLAUSE if is_python else _SLASHED_CLAUSE).match(line) is not None


def _slashed_runs(text: str, lines: list[Line]) -> Iterator[_Run]:
    """Yield the same of a language whose comments begin with slashes."""
    at_top = True
    index = 0
    while index < len(lines):
        line = lines[index]
        if line.kind is not LineKind.COMMENT:
            if line.kind is not LineKind.BLANK:
                at_top = False
                yield _Run(_Role.PROGRAM, [line])
            index += 1
            continue
        run: list[Line] = []
        role = _slashed_line_role(text, line)
        while index < len(lines) and _is_adjacent(line, lines[index]):
            if _slashed_line_role(text, lines[index]) is not role:
                break
            run.append(lines[index])
            index += 1
        spans = [_slashed_span(text, line) for line in run]
        if role is _Role.PROMPT:
            words = "\n".join(text[start:end] for start, end in spans)
            role = _run_role(words, at_top, is_python=False)
        if role is _Role.PROMPT and _is_above(_SLASHED_CLAUSE, lines, index, run[0]):
            role = _Role.PROGRAM
        yield _Run(role, run, _without_empty_ends(spans))


def _slashed_line_role(text: str, line: Line) -> _Role:
    comment = text[line.start : line.end].lstrip(" \t\f")
    if _SLASHED_TOOL_MARK.match(comment):
        return _Role.PROGRAM
    return _Role.SECTION if _SLASHED_SECTION_MARK.match(comment) else _Role.PROMPT


def _slashed_span(text: str, line: Line) -> tuple[int, int]:
    """Return where the words of a comment's line lie."""
    comment = text[line.start : line.end]
    start = len(comment) - len(comment.lstrip(" \t\f"))
    mark = _SLASHED_MARK.match(comment, start)
    first = mark.end() if mark else start
    end = len(comment.rstrip())
    if comment[first:end].endswith("*/"):
        end -= 2
    end = first + len(comment[first:end].rstrip())
    return line.start + first, line.start + end


def _without_empty_ends(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    while spans and spans[0][0] == spans[0][1]:
        spans = spans[1:]
    while spans and spans[-1][0] == spans[-1][1]:
        spans = spans[:-1]
    return tuple(spans)


def _is_adjacent(line: Line, other: Line) -> bool:
    return other.kind is LineKind.COMMENT and other.indent == line.indent


def _line_role(text: str, line: Line, index: int) -> _Role:
    comment = _comment(text, line)
    if index == 0 and comment.startswith("#!"):
        return _Role.PROGRAM
    if index < _CODING_LINES and _CODING.match(comment):
        return _Role.PROGRAM
    if _TOOL_MARK.match(comment):
        return _Role.PROGRAM
    return _Role.SECTION if _SECTION_MARK.match(comment) else _Role.PROMPT


@lru_cache(maxsize=4096)
def _run_role(words: str, at_top: bool, is_python: bool = True) -> _Role:
    if any(map(_is_ruler, words.split("\n"))):
        return _Role.SECTION
    if len(words) > _LONGEST_PROMPT or not any(map(str.isalnum, words)):
        return _Role.PROGRAM
    if _is_code(words) if is_python else _is_slashed_code(words):
        return _Role.PROGRAM
    if at_top and _LICENCE.search(words):
        return _Role.PROGRAM
    return _Role.PROMPT


def _is_ruler(line: str) -> bool:
    """Tell whether a line begins or ends with a row of one mark."""
    line = line.strip()
    return any(
        len(row) == _SHORTEST_RULER and row[0] in _RULER_MARKS and row == row[0] * len(row)
        for row in (line[:_SHORTEST_RULER], line[-_SHORTEST_RULER:])
    )


def _is_code(words: str) -> bool:
    """Tell whether a comment is code that was commented out.

    Much prose parses too (``return result``, ``Note: this``), so it has to hold more than
    words, and a statement has to do something.
    """
    source = textwrap.dedent(words)
    if _IMPORT.fullmatch(source.strip()):
        return True
    if _ONLY_WORDS.fullmatch(source):
        return False
    if source.rstrip().endswith(":"):
        source += "\n  pass" if "\n" not in source.rstrip() else ""
    if _IF_CLAUSE.match(source):
        source = "if x:\n  pass\n" + source
    elif _TRY_CLAUSE.match(source):
        source = "try:\n  pass\n" + source
    try:
        with warnings.catch_warnings():
            # What Python has to say about escapes in a comment is nobody's concern.
            warnings.simplefilter("ignore")
            statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(map(_does_something, statements))


def _is_slashed_code(words: str) -> bool:
    """Tell the same of languages that nobody parses here: how their lines end shows it."""
    lines = (_DOC_TAG.sub("", line).rstrip() for line in words.split("\n"))
    return any(_STATEMENT_END.search(line) for line in lines)


def _does_something(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call | ast.Await | ast.Yield)
    return not isinstance(statement, ast.AnnAssign) or statement.value is not None


def _turn(draft: _Draft) -> Turn:
    turn, base = draft.turn, draft.base
    return Turn(
        start=base + turn.start,
        prompt_end=base + turn.prompt_end,
        end=draft.end,
        indent=turn.indent,
        prompt=turn.prompt,
        prompt_spans=tuple((base + start, base + end) for start, end in turn.prompt_spans),
        has_program=draft.has_program,
        is_of_class=turn.is_of_class,
    )


def _comment(text: str, line: Line) -> str:
    return text[line.start + len(line.indent) : line.end]


def _words(text: str, line: Line) -> str:
    return _MARK.sub("", _comment(text, line), count=1)


def _span(text: str, line: Line) -> tuple[int, int]:
    end = line.start + len(text[line.start : line.end].rstrip())
    return end - len(_words(text, line).rstrip()), end


def _next_start(text: str, line: Line) -> int:
    end = LINE_END.match(text, line.end)
    return end.end() if end else line.end
