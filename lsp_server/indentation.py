"""Whether the lines of a text are indented as those around it; pure."""

import re
from collections.abc import Iterator

from lsp_server.language_lines import read_lines, scan
from lsp_server.overlap import unmatched_bracket
from lsp_server.python_lines import Line, LineKind, width_of

_SPACED = re.compile(r"^\t*(?: {4})+", re.MULTILINE)


def is_tabbed(text: str) -> bool:
    """Tell whether a text is indented by tabs rather than by spaces."""
    return text.count("\n\t") > text.count("\n ")


def with_tabs(generated: str, *, starts_line: bool = True) -> str:
    """Return a text with a tab for each four spaces that its lines are indented by."""
    end = 0 if starts_line else generated.find("\n") + 1 or len(generated)
    return generated[:end] + _SPACED.sub(_tabs, generated[end:])


def _tabs(match: re.Match[str]) -> str:
    return match.group().replace("    ", "\t")


def cut_misplaced(
    before: str, generated: str, after: str, *, tabbed: bool = False, top: int = 0
) -> str:
    """Return a Python text up to where all is indented right, and what comes after it too.

    A line has the indentation of a block that is open, or a deeper one below a line that
    opens a block. A header that would be left without its block loses its colon where it
    was begun before the cursor, and goes where it was not. A bracket that is closed below
    stays open. Nobody looks above ``top``, where a statement without indentation starts.
    """
    wrong = " " if tabbed else "\t"
    before = before[top:]
    start, end = len(before), len(before) + len(generated)
    line_before = before.rpartition("\n")[2]
    # The indentations of the blocks that are open, and whether another must be opened.
    blocks: list[str] = [""]
    opens = False
    ends: list[tuple[int, list[str], bool]] = []
    following: str | None = None
    is_right, is_begun = True, False
    for first, last in _logical_lines(before + generated + after):
        if first.start >= end and (first.start > end or not generated):
            following = first.indent
            break
        if last.end > start:
            if not ends:
                is_begun = before[first.start :].strip() != ""
                ends.append((start, blocks, opens))
            # Where a person has begun a line is right, but not for a block that it leaves.
            leaves = opens and width_of(first.indent) <= width_of(blocks[-1])
            is_blank = first.indent == line_before and not leaves
            is_given = first.start < start and (is_begun or is_blank)
            fits = _fits(first.indent, blocks, opens) and wrong not in first.indent
            is_right = is_right and (is_given or fits)
        width = width_of(first.indent)
        blocks = [*(block for block in blocks if width_of(block) < width), first.indent]
        opens = last.content.endswith(":")
        if ends and is_right:
            ends.append((min(last.end, end), blocks, opens))
    if not ends:
        return generated
    _, blocks, opens = ends[0]
    if is_begun:
        blocks, opens = ends[1][1], before.rstrip().endswith(":")
    # What comes next was inside the brackets that are open at the cursor.
    is_open = is_begun and scan(before, "python").n_open_brackets > 0
    fitted_before = is_open or (following is not None and _fits(following, blocks, opens))
    for cut, blocks, opens in reversed(ends[1:]):
        if following is None:
            fits = not opens
        else:
            fits = _fits(following, blocks, opens) or not (opens or fitted_before)
        if fits:
            is_whole = is_right and cut == ends[-1][0]
            return generated if is_whole else generated[: cut - start]
    if not is_begun:
        return ""
    cut, blocks, opens = ends[1]
    header = generated[: cut - start].rstrip()
    if opens and (following is None or following in blocks or not fitted_before):
        return header.removesuffix(":")
    return header[: unmatched_bracket(header)] if is_open else ""


def _logical_lines(text: str) -> Iterator[tuple[Line, Line]]:
    """Yield the first and the last line of each statement's header or whole."""
    first = last = None
    for line in read_lines(text, "python"):
        if line.kind is LineKind.CODE:
            if first and last:
                yield first, last
            first = last = line
        elif line.kind is LineKind.INSIDE:
            last = line
    if first and last:
        yield first, last


def _fits(indent: str, blocks: list[str], opens: bool) -> bool:
    """Tell whether a line can have an indentation."""
    if opens:
        return indent.startswith(blocks[-1]) and width_of(indent) > width_of(blocks[-1])
    return indent in blocks
