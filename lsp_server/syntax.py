"""Whether a Python buffer parses no worse with a completion in it; knows no analyser.

It asks Python's own parser about the statement at the margin that the cursor is in: what is
broken elsewhere says nothing, and the parser, which lets no other thread run, is done soon.
Where the check is late, this is all that is known by the deadline.
"""

import ast
from dataclasses import replace

from lsp_server.check_buffer import CheckedBuffer, is_incomplete, parse
from lsp_server.language_lines import read_lines
from lsp_server.positions import line_of, position_at
from lsp_server.python_lines import LineKind
from lsp_server.turns import read
from lsp_server.verdict import CheckRequest, Problem

_LONGEST = 1 << 14
"""Characters of a statement; parsing as many takes some milliseconds."""
_GOES_ON = ("elif", "else", "except", "finally", ")", "]", "}")


def find_syntax_problem(
    text: str, offset: int, insert_text: str, *, longest: int = _LONGEST
) -> Problem | None:
    """Return the syntax error that a completion brings into the statement that it is in.

    What cannot be judged, or stands in a statement of more characters, is no problem.
    """
    line_start, _ = line_of(text, offset)
    line = text[line_start:offset] + insert_text
    start = _statement_start(text, line_start, line)
    end = offset + _statement_end(line, text[offset : offset + longest])
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
        if not isinstance(error, SyntaxError) or is_incomplete(error):
            return None
        if not buffer.reaches_new_text(error):
            # What is broken is perhaps another statement, above this one.
            is_own = start < line_start and line[:1].strip() and not line.startswith(_GOES_ON)
            rest = text[line_start:end], offset - line_start, insert_text
            problem = find_syntax_problem(*rest, longest=longest) if is_own else None
            return _further_down(problem, text, line_start)
    return _further_down(buffer.syntax_problem(error), text, start)


def _further_down(problem: Problem | None, text: str, start: int) -> Problem | None:
    """Return where a problem is in a text, of a part of it that starts there."""
    line = position_at(text, start)[0]
    return problem and replace(problem, line=problem.line + line)


def _statement_start(text: str, line_start: int, line: str) -> int:
    """Return where the statement at the margin starts that a line is in, or begins."""
    reading = read(text)
    start = reading.statement_start_before(line_start + 1)
    while start:
        before = reading.statement_start_before(start)
        goes_on = (line if start == line_start else text[start:]).startswith(_GOES_ON)
        if not goes_on and not text.startswith("@", before):
            break
        start = before
    return start


def _statement_end(line: str, after: str) -> int:
    """Return where the next statement at the margin starts in what follows the cursor."""
    *_, last = line.rstrip().splitlines() or [""]
    for following in read_lines(after, "python")[1:]:
        if following.kind is not LineKind.CODE or following.indent:
            continue
        # A decorator goes on with what it stands above.
        if not following.content.startswith(_GOES_ON) and not last.startswith("@"):
            return following.start
        last = following.content
    return len(after)
