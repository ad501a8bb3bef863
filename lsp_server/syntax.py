"""Whether a Python buffer parses no worse with a completion in it; knows no analyser.

It asks Python's own parser about the statement at the margin that the cursor is in, so that
its work has a bound: the parser lets no other thread run. Where the check is late, this is
what is known by the deadline.
"""

import ast

from lsp_server.check_buffer import CheckedBuffer, parse
from lsp_server.language_lines import read_lines
from lsp_server.plan import Snapshot, unix, window_of
from lsp_server.python_lines import LineKind
from lsp_server.turns import read
from lsp_server.verdict import CheckRequest

_LONGEST = 1 << 14
"""Characters; parsing as many takes some milliseconds."""
_GOES_ON = ("elif", "else", "except", "finally", ")", "]", "}")


def parses_no_worse(snapshot: Snapshot, insert_text: str) -> bool:
    """Return False where the code parsed before, or the completion can begin no code.

    What cannot be judged is no worse.
    """
    text, offset = window_of(snapshot)
    reading = read(text)
    start = reading.statement_start_before(text.rfind("\n", 0, offset) + 2)
    while start and text.startswith(_GOES_ON, start):
        start = reading.statement_start_before(start)
    end = offset + _statement_end(text[offset : offset + _LONGEST])
    if end - start > _LONGEST:
        return True
    request = CheckRequest(text[start:end], offset - start, unix(insert_text))
    buffer = CheckedBuffer(request)
    if not isinstance(parse(buffer.text), SyntaxError):
        return True
    if isinstance(parse(request.text), ast.Module):
        return False
    # The code after the cursor is often still to be written, that before it is not.
    head = parse(buffer.text[: buffer.end] + "\n", may_go_on=True)
    return not (isinstance(head, SyntaxError) and buffer.reaches_new_text(head))


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
