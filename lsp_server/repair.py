"""Cuts a flagged completion at a statement before its first problem, and ranks completions.

Pure: whoever asks checks again what is left. A missing import is not added, because an
inline completion has no place for it.
"""

from collections.abc import Iterator

from lsp_server.positions import Position, offset_at
from lsp_server.python_lines import LineKind, scan, width_of
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Problem, Verdict, VerdictKind

_ORDER = (VerdictKind.OK, VerdictKind.REPAIRED, VerdictKind.UNCHECKED, VerdictKind.FLAGGED)


def beginnings(request: CheckRequest, problem: Problem) -> Iterator[int]:
    """Yield how much of the inserted text stands before the problem's statement, and less.

    Each is a number of characters with whole statements, with code among them. A statement
    that is begun with a header alone is among them: it does not hold when it is checked.
    """
    if request.cut is Cut.NEVER:
        return
    offset, inserted = request.offset, request.insert_text
    text = request.text[:offset] + inserted
    whole = text + request.text[offset:]
    problem_at = offset_at(whole, Position(problem.line, problem.character))
    lines = [line for line in scan(text).lines if line.end > offset]
    code = [line for line in lines if line.kind is LineKind.CODE]
    if not code:
        return
    for line in reversed(code):
        if not offset < line.start <= problem_at:
            continue
        if request.cut is Cut.OUTER and width_of(line.indent) > width_of(code[0].indent):
            continue
        n_kept = len(inserted[: line.start - offset].rstrip())
        kept = [other for other in code if other.start < line.start]
        if any(text[max(other.start, offset) : other.end].strip() for other in kept):
            yield _with_line_end(inserted, n_kept)


def _with_line_end(inserted: str, n_kept: int) -> int:
    """Return how much to keep, with the line's end where the whole text has one too."""
    if not inserted.endswith(("\n", "\r")):
        return n_kept
    return n_kept + (2 if inserted.startswith("\r\n", n_kept) else 1)


def kept_text(insert_text: str, verdict: Verdict | None) -> str:
    """Return what of a text is left of it by its verdict."""
    return insert_text if verdict is None else insert_text[: verdict.n_kept]


def rank(verdict: Verdict | None, mean_log_probability: float) -> tuple[int, float]:
    """Return what sorts completions, the best first; None is a late check's."""
    return _ORDER.index((verdict or UNCHECKED).verdict), -mean_log_probability
