"""Where a generated program, statement or line ends; pure functions over text.

Each ``cut_*`` returns None while the end is not known, so that a generation can stop as
soon as it is.
"""

import re

from lsp_server.python_lines import Line, LineKind, Place, read_lines, scan, width_of

_CLAUSES = ("elif", "else", "except", "finally", "case")


def truncate(completion: str, indent: str = "") -> str:
    """Cut a completion where CodeGen's authors cut a turn.

    In this order: before the second line that starts with ``print``, the second with
    ``def``, and the first comment line, end-of-text mark, docstring quote or run of two
    blank lines (salesforce/CodeGen, codegen1/benchmark/mtpb_sample.py, ``truncate``).
    With ``indent``, lines are looked at behind it.
    """
    line = "^" + re.escape(indent)
    for keyword in ("print", "def"):
        matches = list(re.finditer(line + keyword, completion, re.MULTILINE))
        if len(matches) > 1:
            completion = completion[: matches[1].start()]
    mark = rf"{line}#|<\|endoftext\|>|{line}'''|{line}\"\"\"|\n\n\n"
    end = re.search(mark, completion, re.MULTILINE)
    return completion[: end.start()] if end else completion


def cut_turn(generated: str, indent: str) -> str | None:
    """Return the program of a turn whose comment is indented by ``indent``.

    It ends where the code leaves that indentation, at the next comment of it, or where
    ``truncate`` cuts.
    """
    width = width_of(indent)
    end = len(generated)
    for line in read_lines(generated):
        line_width = width_of(line.indent)
        leaves = line.kind is LineKind.CODE and line_width < width
        if leaves or (line.kind is LineKind.COMMENT and line_width <= width):
            end = line.start
            break
    program = truncate(generated[:end], indent)
    return program if len(program) < len(generated) else None


def cut_line(generated: str) -> str | None:
    """Return the rest of the line."""
    line, newline, _ = generated.partition("\n")
    return line if newline else None


def cut_statement(before: str, generated: str) -> str | None:
    """Return the rest of the statement that begins with ``before``, part of one line.

    A statement that opens a block ends with the block and the clauses that belong to it.
    """
    lines = read_lines(before + generated)
    codes = [i for i, line in enumerate(lines) if line.kind is LineKind.CODE]
    if not codes:
        return None
    header = lines[codes[0]]
    # The first and the last line of the logical line that was read last.
    first = last = header
    opens_block = False
    for line in lines[codes[0] + 1 :]:
        if line.kind is LineKind.INSIDE:
            last = line
            continue
        if first is header:
            opens_block = last.content.endswith(":") or header.content.startswith("@")
        if not opens_block:
            return generated[: last.end - len(before)]
        if line.kind is LineKind.BLANK:
            continue
        if line is lines[-1] and _may_become_clause(line):
            return None
        if not _belongs_to(header, first, line):
            return generated[: last.end - len(before)]
        first = last = line
    double_blank = (before + generated).find("\n\n\n", header.start)
    if double_blank >= 0:
        return generated[: double_blank - len(before)]
    return None


def cut_repetition(generated: str) -> str | None:
    """Return the text up to a line that stands three times in a row, kept once.

    Small models fall into such loops and never leave them.
    """
    lines = generated.split("\n")
    for index in range(len(lines) - 3):
        line = lines[index]
        if line.strip() and line == lines[index + 1] == lines[index + 2]:
            return "\n".join(lines[: index + 1])
    return None


def whole_statements(generated: str) -> str:
    """Return an unfinished text up to the last line that can stand as the last one."""
    text = generated[: generated.rfind("\n") + 1]
    while text.strip():
        found = scan(text)
        last = [line for line in found.lines if line.kind is LineKind.CODE][-1:]
        is_open = found.n_open_brackets or found.place is Place.STRING
        if not last or not (is_open or found.lines[-2].content.endswith((":", "\\"))):
            return text
        text = text[: last[0].start]
    return ""


def _belongs_to(header: Line, latest: Line, line: Line) -> bool:
    width, header_width = width_of(line.indent), width_of(header.indent)
    if width != header_width:
        return width > header_width
    if latest.content.startswith("@"):
        return line.kind is LineKind.CODE
    return line.kind is LineKind.CODE and _first_word(line) in _CLAUSES


def _may_become_clause(line: Line) -> bool:
    return any(
        clause.startswith(line.content) and clause != line.content for clause in _CLAUSES
    )


def _first_word(line: Line) -> str:
    match = re.match(r"\w+", line.content)
    return match.group() if match else ""
