"""What the place of the cursor calls for: a turn's program, a statement, the rest of a line.

Pure; it looks at a window around the cursor, so that its work has a bound.
"""

import re
from dataclasses import dataclass, field, replace
from enum import Enum

from lsp_server.indentation import is_tabbed
from lsp_server.language_lines import C_LANGUAGES, is_read, read_lines, scan
from lsp_server.overlap import closes_any, open_brackets
from lsp_server.packing import OpenFile, imported
from lsp_server.positions import line_of
from lsp_server.python_lines import Line, LineKind, Place, width_of
from lsp_server.turns import Turn, read, turn_at

_BEFORE_WINDOW = 1 << 18
_AFTER_WINDOW = 1 << 16
_WINDOW_STEP = 1 << 16
"""Characters around the cursor that are looked at, so that work has a bound; the window
moves in steps, because a prompt that starts elsewhere has nothing in the cache."""
_BELOW_CHARACTERS = 2048
"""So much of what follows the cursor is looked at for where the next line of code begins."""
_LONGEST_LINE = 1000
"""Characters; in a longer line only the rest of it is completed."""
_NO_CODE = b"\r\n`"
# Instruct models like to begin with a Markdown fence.
_INDENTATION = b" \t\f"
# A program that begins with a string would be cut to nothing by ``truncate``.
_NO_PYTHON_PROGRAM = b"\"'*-"


@dataclass(frozen=True)
class Snapshot:
    """A buffer as it was when somebody asked; ``offset`` is the cursor."""

    text: str
    offset: int
    language_id: str = "python"
    uri: str = ""
    open_files: tuple[OpenFile, ...] = field(default=(), compare=False)
    """What the text may import from, where that is to be read too."""


class Rule(Enum):
    """What a completion is at a place."""

    TURN = "turn"
    """The whole program of the comment above, which has none."""
    STATEMENT = "statement"
    """The statement at the cursor, with its block if it opens one."""
    LINE = "line"
    """The rest of the line."""


@dataclass(frozen=True)
class Plan:
    """What to write at the cursor, and from which text on."""

    rule: Rule
    before: str
    """The text that the model goes on from, newlines as ``\\n``."""
    turns: tuple[Turn, ...]
    """Those of the text around the cursor."""
    line_before: str
    line_after: str
    text_after: str
    heal: bool
    language_id: str = ""
    """Empty where comments, strings and blocks are not read."""
    statement_start: int = 0
    """Where the last statement without indentation starts in the text before."""
    indent: str = ""
    """The indentation that a turn's program must have."""
    open_brackets: str | None = None
    """Those that are open at the cursor, the outermost first; None among words."""
    is_tabbed: bool = False
    """Whether the file is indented by tabs."""
    begun: str = ""
    """What stands before the cursor of the statement, or of the one whose block is missing."""
    below: Line | None = None
    """The next line of code."""
    above: str = ""
    """What the text imports from open files."""
    not_first: bytes = b""
    """Bytes that the free part of the completion must not begin with."""

    @property
    def is_python(self) -> bool:
        """Tell whether the text is Python."""
        return self.language_id == "python"


def plan_completion(snapshot: Snapshot, *, in_comments: bool = False) -> Plan | str:
    """Return what to complete at the cursor, or why nothing.

    With ``in_comments`` the rest of a line is completed in comments and strings too.
    """
    text, offset = window_of(snapshot)
    if not text.strip():
        return "the file is empty"
    line_start, line_end = line_of(text, offset)
    line_before, line_after = text[line_start:offset], text[offset:line_end]
    plan = Plan(
        rule=Rule.LINE,
        before=text[:offset],
        turns=(),
        line_before=line_before,
        line_after=line_after,
        text_after=text[offset:],
        heal=bool(line_before),
    )
    if re.search(r"\w$", line_before) and re.match(r"\w", line_after):
        return "the cursor is inside a word"
    language_id = snapshot.language_id
    if not is_read(language_id):
        return replace(plan, open_brackets=open_brackets(line_before, language_id))
    reading = read(text, language_id)
    here_start = reading.line_start_before(line_start)
    here = scan(text[here_start:offset], language_id)
    if here.place is not Place.CODE and not in_comments:
        return f"the cursor is in a {here.place.value}"
    plan = replace(plan, turns=reading.turns)
    if here.place is not Place.CODE:
        # Words are no code, so that nothing is cut for looking like words.
        return plan
    statement_start = reading.statement_start_before(line_start)
    plan = replace(
        plan,
        language_id=language_id,
        statement_start=statement_start,
        open_brackets=here.open_brackets,
        is_tabbed=is_tabbed(text),
    )
    if plan.is_python and snapshot.open_files:
        above = imported(plan.before, snapshot.uri, snapshot.open_files)
        plan = replace(plan, above=above)
    # Brackets that are closed below are filled a line at a time.
    is_filled = closes_any(here.open_brackets, plan.text_after, language_id)
    if line_after.strip() or is_filled or len(line_before) > _LONGEST_LINE:
        return plan
    no_code = _NO_CODE if language_id in C_LANGUAGES else b"#" + _NO_CODE
    if not plan.is_python:
        # What begins with a slash is a comment.
        no_code += b"/"
    turn = turn_at(reading.turns, offset)
    is_blank = not line_before.strip()
    if (
        turn
        and is_blank
        and _is_claimed(turn, text, line_start, line_before)
        and _has_none_yet(turn, text, line_start, line_end)
    ):
        indent = turn.indent if turn.indent.startswith(line_before) else line_before
        return replace(
            plan,
            rule=Rule.TURN,
            before=text[: turn.prompt_end],
            statement_start=reading.statement_start_before(turn.prompt_end),
            heal=False,
            indent=indent,
            not_first=_INDENTATION + no_code + (_NO_PYTHON_PROGRAM if plan.is_python else b""),
        )
    not_first = b""
    if is_blank:
        not_first = _INDENTATION + no_code if line_before else no_code
    lines_below = read_lines(plan.text_after[:_BELOW_CHARACTERS], language_id)[1:]
    below = next((line for line in lines_below if line.content), None)
    begun_at = _begun_at(here.lines, below, is_python=plan.is_python)
    return replace(
        plan,
        rule=Rule.STATEMENT,
        not_first=not_first,
        begun=text[here_start + begun_at : offset],
        below=below,
    )


def _begun_at(lines: list[Line], below: Line | None, *, is_python: bool) -> int:
    """Return where the statement starts that the last of the lines belongs to.

    To a header without code yet belongs the line below it, whose block is missing.
    """
    last = lines[-1]
    codes = [line for line in lines if line.kind is LineKind.CODE]
    if last.kind is LineKind.INSIDE and codes:
        return codes[-1].start
    if not (is_python and last.kind is LineKind.BLANK and codes):
        return last.start
    header, ends = codes[-1], [line.content for line in lines if line.content][-1]
    width = width_of(header.indent)
    has_code = below is not None and width_of(below.indent) > width
    is_its_line = not last.indent or width_of(last.indent) > width
    return header.start if ends.endswith(":") and is_its_line and not has_code else last.start


def _is_claimed(turn: Turn, text: str, line_start: int, line_before: str) -> bool:
    """Tell whether a blank line is the turn's by its indentation.

    A line that is indented less than the comment begins something else. An empty line is
    not indented yet; it is the comment's where it is near, and a class with a docstring is
    whole.
    """
    if line_before:
        return line_before.startswith(turn.indent)
    n_between = text.count("\n", turn.prompt_end, line_start)
    return not turn.indent or n_between <= (0 if turn.is_of_class else 1)


def _has_none_yet(turn: Turn, text: str, line_start: int, line_end: int) -> bool:
    """Tell whether a turn has no program, seen from a blank line in it.

    A line that was opened directly below a comment, with a blank line before the code
    that follows, waits for a program: that code is an older step's. Without a blank line
    between the code is the comment's.
    """
    if not turn.has_program:
        return True
    _, next_end = line_of(text, min(line_end + 1, len(text)))
    return line_start == turn.prompt_end and not text[line_end:next_end].strip()


def window_of(snapshot: Snapshot) -> tuple[str, int]:
    """Return the text around the cursor, with Unix line ends, and the cursor in it."""
    start = max(0, snapshot.offset - _BEFORE_WINDOW)
    start -= start % _WINDOW_STEP
    if start > 0:
        newline = snapshot.text.find("\n", start, snapshot.offset)
        start = newline + 1 if newline >= 0 else start
    before = unix(snapshot.text[start : snapshot.offset])
    after = unix(snapshot.text[snapshot.offset : snapshot.offset + _AFTER_WINDOW])
    return before + after, len(before)


def unix(text: str) -> str:
    """Return the text with its lines ended by newlines only."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
