"""Where a generated program, statement or line ends; pure functions over text.

``cut_turn``, ``cut_line`` and ``cut_statement`` return None while the end is not known, so
that a generation can stop as soon as it is.
"""

import re
from itertools import pairwise
from keyword import iskeyword

from lsp_server.language_lines import C_LANGUAGES, JAVASCRIPT, balance_of, read_lines, scan
from lsp_server.python_lines import Line, LineKind, Place, width_of

_CLAUSES = ("elif", "else", "except", "finally", "case")
_SLASHED_CLAUSES = {
    "if": ("else",),
    "else": ("else",),
    "try": ("catch", "finally"),
    "catch": ("catch", "finally"),
    "do": ("while",),
}
"""What may follow the block of a statement on a line of its own; in Go nothing does."""
_LABEL = re.compile(r"(?:(?:case|default|public|private|protected)\b.*|\w+):$")
_UNFINISHED = re.compile(r"(?:(?<!\+)\+|(?<!-)-|[*/%&|^<>=!~,.?(\[{]|:)$")
_BRACELESS = re.compile(r"(?:\W*else|(?:\W*else )?(?:if|for|while)\b.*\)|@[\w.]+(?:\(.*\))?)$")
_GOES_ON = re.compile(r"[.?:&|]")
_END_MARK = re.compile(r"<\|endoftext\|>|\n\n\n")
_FENCE = "```"
_LIST_MARK = re.compile(r"^(?:[*-]|\d+\.) ")
_FIRST_WORDS = re.compile(r"[A-Z]\w*(?:(?<=\w\w\w)'s)?(?: \w+)+")


def truncate(completion: str, indent: str = "", *, seconds: bool = True) -> str:
    """Cut a completion where CodeGen's authors cut a turn.

    In this order: before the second line that starts with ``print``, the second with
    ``def``, and the first comment line, end-of-text mark, docstring quote or run of two
    blank lines (salesforce/CodeGen, codegen1/benchmark/mtpb_sample.py, ``truncate``).
    With ``indent``, lines are looked at behind it. Without ``seconds`` a second ``print`` or
    ``def`` stays, as a program of several steps needs it.
    """
    line = "^" + re.escape(indent)
    for keyword in ("print", "def") if seconds else ():
        matches = list(re.finditer(line + keyword, completion, re.MULTILINE))
        if len(matches) > 1:
            completion = completion[: matches[1].start()]
    mark = rf"{line}#|<\|endoftext\|>|{line}'''|{line}\"\"\"|\n\n\n"
    end = re.search(mark, completion, re.MULTILINE)
    return completion[: end.start()] if end else completion


def cut_turn(
    generated: str, indent: str, language_id: str = "python", *, seconds: bool = True
) -> str | None:
    """Return the program of a turn whose comment is indented by ``indent``.

    It ends where the code leaves that indentation, at the next comment of it, where the
    model talks, and in Python where ``truncate`` cuts, to which ``seconds`` goes, but for
    lines inside strings and brackets, which the published function cuts too; in other
    languages at a bracket that it did not open and before two blank lines.
    """
    if language_id != "python":
        return _cut_slashed_turn(generated, indent, language_id)
    width = width_of(indent)
    end = len(generated)
    marked = generated
    for line in read_lines(generated, language_id):
        if line.kind is LineKind.INSIDE:
            # With the newline before it, so that it is no line and begins with no mark.
            start = line.start - 1
            marked = marked[:start] + "x" * (line.end - start) + marked[line.end :]
        line_width = width_of(line.indent)
        leaves = line.kind is LineKind.CODE and (line_width < width or is_talk(line.content))
        if leaves or (line.kind is LineKind.COMMENT and line_width <= width):
            end = line.start
            break
    length = len(truncate(marked[:end], indent, seconds=seconds))
    return generated[:length] if length < len(generated) else None


def cut_line(generated: str) -> str | None:
    """Return the rest of the line."""
    line, newline, _ = generated.partition("\n")
    return line if newline else None


def cut_statement(
    before: str, generated: str, language_id: str = "python", *, below: Line | None = None
) -> str | None:
    """Return the rest of the statement that begins with ``before``, part of one line.

    A statement that opens a block ends with the block and the clauses that belong to it,
    before two blank lines, and where the model talks. Where ``below``, the next line of
    code, is that block already, it ends before it.
    """
    if language_id != "python":
        return _cut_slashed_statement(before, generated, language_id, below)
    lines = read_lines(before + generated, language_id)
    codes = [i for i, line in enumerate(lines) if line.kind is LineKind.CODE]
    if not codes:
        return None
    header = lines[codes[0]]
    if is_talk(header.content):
        return generated[: max(0, header.start - len(before))]
    # The first and the last line of the logical line that was read last.
    first = last = header
    opens_block = False
    n_blank = 0
    for line in lines[codes[0] + 1 :]:
        if line.kind is LineKind.INSIDE:
            last, n_blank = line, 0
            continue
        if first is header:
            opens_block = last.content.endswith(":") or header.content.startswith("@")
        if not opens_block or (first is header and _is_block_of(header, below)):
            return generated[: last.end - len(before)]
        if line.kind is LineKind.BLANK:
            n_blank += line is not lines[-1]
            if n_blank == 2:
                return generated[: last.end - len(before)]
            continue
        if line is lines[-1] and _may_become_clause(line):
            return None
        if not _belongs_to(header, first, line) or is_talk(line.content):
            return generated[: last.end - len(before)]
        first = last = line
        n_blank = 0
    return None


def is_talk(line: str) -> bool:
    """Tell whether a line of code is what instruct models say after or in place of it.

    It is a Markdown fence or a sentence, perhaps in a list. No Python line begins with
    either: of two words in a row one is a keyword, or the first one is in lower case.
    """
    if line.startswith(_FENCE):
        return True
    match = _FIRST_WORDS.match(_LIST_MARK.sub("", line))
    if match is None:
        return False
    words = match.group().split(" ")
    if match.end() == len(match.string):
        # The last word may be unfinished yet, and become a keyword.
        words.pop()
    return any(not iskeyword(word) and not iskeyword(next_) for word, next_ in pairwise(words))


def whole_statements(generated: str, language_id: str = "python") -> str:
    """Return an unfinished text up to the last line that can stand as the last one."""
    text = generated[: generated.rfind("\n") + 1]
    if language_id != "python":
        return _whole_slashed_statements(text, language_id)
    while text.strip():
        found = scan(text, language_id)
        codes = [line for line in found.lines if line.kind is LineKind.CODE]
        if not codes:
            return text
        last_content = [line.content for line in found.lines if line.content][-1]
        is_open = found.n_open_brackets or found.place is Place.STRING
        tried = _unguarded(codes)
        if tried is not None:
            text = text[: tried.start]
        elif is_open or last_content.endswith((":", "\\")) or codes[-1].content.startswith("@"):
            text = text[: codes[-1].start]
        else:
            return text
    return ""


def _unguarded(codes: list[Line]) -> Line | None:
    """Return the first ``try`` that no ``except`` or ``finally`` follows yet."""
    tries: list[Line] = []
    for line in codes:
        word, width = _first_word(line), width_of(line.indent)
        tries = [other for other in tries if width_of(other.indent) <= width]
        if word == "try":
            tries.append(line)
        elif word in ("except", "finally"):
            # The first line's indentation may have been typed, so it need not be the same.
            tries = tries[:-1]
    return tries[0] if tries else None


def _cut_slashed_turn(generated: str, indent: str, language_id: str) -> str | None:
    width = width_of(indent)
    mark = _END_MARK.search(generated)
    end = mark.start() if mark else len(generated)
    n_open = 0
    for line in read_lines(generated[:end], language_id):
        content = line.content
        if line.kind is not LineKind.INSIDE:
            start = generated[line.start : line.end].lstrip()
            line_width = width_of(line.indent)
            is_comment = start.startswith(("//", "/*"))
            leaves = line.kind is LineKind.CODE and line_width < width
            if leaves or (is_comment and line_width <= width) or start.startswith(_FENCE):
                end = line.start
                break
        closes_first = n_open == 0 and content.startswith((")", "]", "}"))
        n_open += 0 if _is_directive(content, language_id) else balance_of(content)
        is_whole_line = generated[line.end : line.end + 1] in ("\n", "\r")
        if closes_first or (is_whole_line and n_open < 0):
            end = line.start
            break
    return generated[:end] if end < len(generated) else None


def _cut_slashed_statement(
    before: str, generated: str, language_id: str, below: Line | None
) -> str | None:
    lines = read_lines(before + generated, language_id)
    header = ""
    has_block = False
    clauses: tuple[str, ...] = ()
    n_open = n_blank = 0
    last_end = 0
    may_end = False
    for index, line in enumerate(lines):
        content, is_last = line.content, line is lines[-1]
        if not content:
            n_blank += line.kind is LineKind.BLANK and not is_last
            if header and n_open <= 0 and (n_blank == 2 or (may_end and n_blank)):
                return generated[: max(0, last_end - len(before))]
            continue
        n_blank = 0
        is_fence = (before + generated)[line.start : line.end].lstrip().startswith(_FENCE)
        is_closed = n_open <= 0 and content[0] in ")]}" and (header or not before.strip())
        if is_fence or is_closed:
            return generated[: max(0, (last_end if header else line.start) - len(before))]
        if may_end:
            # A slash may become a comment.
            if is_last and any(word.startswith(content) for word in (*clauses, "/")):
                return None
            if not _goes_on(content, clauses, language_id):
                return generated[: last_end - len(before)]
        if is_last:
            return None
        if not header:
            header = content
            has_block = _is_block_of(line, below)
            word = re.search(r"\w+", header)
            if word and language_id != "go":
                clauses = _SLASHED_CLAUSES.get(word.group(), ())
            # What the statement's own line closes was opened before it.
            content = content.lstrip(")]};, ")
        if _is_directive(header, language_id):
            is_whole = not content.endswith("\\")
        else:
            n_open += balance_of(content)
            is_whole = n_open <= 0 and _is_whole(line.content, language_id)
        last_end = line.end
        next_line = lines[index + 1]
        is_inside = next_line.kind is LineKind.INSIDE and not _is_directive(
            next_line.content, language_id
        )
        if has_block and not is_inside:
            return generated[: max(0, last_end - len(before))]
        may_end = is_whole and not is_inside
        is_known = line.content.endswith(";") or language_id not in JAVASCRIPT
        if may_end and is_known and not clauses:
            return generated[: last_end - len(before)]
    return None


def _whole_slashed_statements(text: str, language_id: str) -> str:
    end = n_open = 0
    is_first = True
    for line, next_line in pairwise(read_lines(text, language_id)):
        content = line.content
        if not content:
            continue
        if is_first:
            # What it closes first was opened before it.
            content, is_first = content.lstrip(")]};, "), False
        n_open += 0 if _is_directive(content, language_id) else balance_of(content)
        if n_open < 0:
            break
        goes_on = next_line.kind is LineKind.INSIDE and not _is_directive(
            next_line.content, language_id
        )
        if n_open == 0 and not goes_on and _is_whole(line.content, language_id):
            end = min(line.end + 1, len(text))
    return text[:end]


def _is_whole(content: str, language_id: str) -> bool:
    """Tell whether a line with balanced brackets can be the last one of a statement."""
    if content.endswith((";", "}")) or _LABEL.match(content):
        return True
    if _is_directive(content, language_id):
        return not content.endswith("\\")
    if language_id == "go":
        return not _UNFINISHED.search(content)
    return language_id in JAVASCRIPT and not (
        _UNFINISHED.search(content) or _BRACELESS.match(content)
    )


def _is_directive(content: str, language_id: str) -> bool:
    return language_id in C_LANGUAGES and content.startswith("#")


def _goes_on(content: str, clauses: tuple[str, ...], language_id: str) -> bool:
    """Tell whether a line goes on with the statement that could end before it."""
    word = re.match(r"\w+", content)
    if word and word.group() in clauses:
        return True
    return language_id in JAVASCRIPT and _GOES_ON.match(content) is not None


def _is_block_of(header: Line, below: Line | None) -> bool:
    """Tell whether the line below is deeper than a header, or opens its block."""
    return below is not None and (
        below.content.startswith("{") or width_of(below.indent) > width_of(header.indent)
    )


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
