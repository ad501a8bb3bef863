"""Whether a Python buffer parses no worse with a completion in it; knows no analyser.

It asks Python's own parser about the statement at the margin that the cursor is in: what is
broken elsewhere says nothing, and the parser, which lets no other thread run, is done soon.
Where the check is late, this is all that is known by the deadline.
"""

import ast
from dataclasses import replace

from lsp_server.check_buffer import CheckedBuffer, parse
from lsp_server.language_lines import read_lines
from lsp_server.positions import position_at
from lsp_server.python_lines import LineKind
from lsp_server.turns import read
from lsp_server.verdict import CheckRequest, Problem

_LONGEST = 1 << 14
"""Characters of a statement; parsing as many takes some milliseconds."""
_GOES_ON = ("elif", "else", "except", "finally", ")", "]", "}")


def find_syntax_problem(
    text: str, offset: int, insert_text: str, *, longest: int = _LONGEST
) -> Problem | None:
    """Return what of code that parsed does not with a completion, or why that begins no code.

    What cannot be judged, or stands in a statement of more characters, is no problem.
    """
    reading = read(text)
    start = reading.statement_start_before(text.rfind("\n", 0, offset) + 2)
    while start and text.startswith(_GOES_ON, start):
        start = reading.statement_start_before(start)
    end = offset + _statement_end(text[offset : offset + longest])
    if end - start > longest:
        return None
    request = CheckRequest(text[start:end], offset - start, insert_text)
    buffer = CheckedBuffer(request)
    error = parse(buffer.text)
    if not isinstance(error, SyntaxError):
        return None
    if not isinstance(parse(request.text), ast.Module):
        # The code after the cursor is often still to be written, that before it is not.
        error = parse(buffer.text[: buffer.end] + "\n", may_go_on=True)
        if not isinstance(error, SyntaxError) or not buffer.reaches_new_text(error):
            return None
    problem = buffer.syntax_problem(error)
    return replace(problem, line=problem.line + position_at(text, start)[0])


def _statement_end(after: str) -> int:
    """Return where the next statement at the margin starts in what follows the cursor."""
    starts = (
        line.start
        for line in read_lines(after, "python")[1:]
        if line.kind is LineKind.CODE
        and not line.indent
        and not line.content.startswith(_GOES_ON)
    )
    return next(starts, len(after))
