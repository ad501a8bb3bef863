"""Where a generated program, statement or line ends; pure functions over text.

``cut_turn``, ``cut_line`` and ``cut_statement`` return None while the end is not known, so
that a generation can stop as soon as it is.
"""

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from keyword import iskeyword

from lsp_server.language_lines import C_LANGUAGES, JAVASCRIPT, balance_of, read_lines, scan
from lsp_server.python_lines import Line, LineKind, Place, width_of

_STRING_OR_BRACKET = re.compile(r"""\"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[()\[\]{}]""")
_LONGEST_OVERLAP = 1000
"""Characters after the cursor that a completion can have in common with it."""
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
_SPACED = re.compile(r"(?<=\n)\t*(?: {4})+")
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
    model talks, and in Python where ``truncate`` cuts, to which ``seconds`` goes; in other
    languages at a bracket that it did not open and before two blank lines.
    """
    if language_id != "python":
        return _cut_slashed_turn(generated, indent, language_id)
    width = width_of(indent)
    end = len(generated)
    for line in read_lines(generated, language_id):
        line_width = width_of(line.indent)
        leaves = line.kind is LineKind.CODE and (line_width < width or is_talk(line.content))
        if leaves or (line.kind is LineKind.COMMENT and line_width <= width):
            end = line.start
            break
    program = truncate(generated[:end], indent, seconds=seconds)
    return program if len(program) < len(generated) else None


def cut_line(generated: str) -> str | None:
    """Return the rest of the line."""
    line, newline, _ = generated.partition("\n")
    return line if newline else None


def cut_statement(before: str, generated: str, language_id: str = "python") -> str | None:
    """Return the rest of the statement that begins with ``before``, part of one line.

    A statement that opens a block ends with the block and the clauses that belong to it,
    before two blank lines, and where the model talks.
    """
    if language_id != "python":
        return _cut_slashed_statement(before, generated, language_id)
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
        if not opens_block:
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


def cut_overlap(generated: str, after: str) -> str:
    """Return a line without the brackets and the text that stand after it already."""
    after = after[:_LONGEST_OVERLAP]
    closed_at = _unmatched_bracket(after)
    if closed_at is not None:
        generated, after = generated[: _unmatched_bracket(generated)], after[:closed_at]
    for length in range(min(len(generated), len(after)), 0, -1):
        splits_word = _is_in_word(generated, len(generated) - length) or _is_in_word(
            after, length
        )
        if generated.endswith(after[:length]) and not splits_word:
            kept = generated[:-length]
            again = cut_overlap(kept.rstrip(), after)
            return kept if again == kept.rstrip() else again
    return generated


def cut_repeated_lines(generated: str, after: str, *, starts_line: bool = True) -> str:
    """Return a text without the lines at its end that stand after it already.

    Blank lines do not count, nor does the indentation of a first line that is only the
    rest of one: a ``return`` further in is another statement than the one below.
    """
    lines, ends = [], []
    end = -1
    for line in generated.split("\n"):
        end += len(line) + 1
        if line.strip():
            lines.append(line.rstrip())
            ends.append(end)
    nonblank = (line.rstrip() for line in after.split("\n") if line.strip())
    follows = list(islice(nonblank, len(lines)))
    n_kept = len(lines)

    def stands(kept: list[str], start: int) -> bool:
        ours, theirs = kept[start:], follows[: len(kept) - start]
        if not start and theirs and not starts_line:
            ours, theirs = ([lines[0].lstrip(), *lines[1:]] for lines in (ours, theirs))
        return ours == theirs

    while n_kept:
        starts = (start for start in range(n_kept) if stands(lines[:n_kept], start))
        start = next(starts, n_kept)
        if start == n_kept:
            return generated if n_kept == len(lines) else generated[: ends[n_kept - 1]]
        n_kept = start
    return ""


def is_tabbed(text: str) -> bool:
    """Tell whether a text is indented by tabs rather than by spaces."""
    return text.count("\n\t") > text.count("\n ")


def with_tabs(generated: str) -> str:
    """Return a text with a tab for each four spaces that its lines are indented by."""
    return _SPACED.sub(lambda match: "\t" * len(match.group().replace("    ", "\t")), generated)


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
            # Where a person has begun a line is right.
            is_given = first.start < start and (is_begun or first.indent == line_before)
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
    return header[: _unmatched_bracket(header)] if is_open else ""


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


def _cut_slashed_statement(before: str, generated: str, language_id: str) -> str | None:
    lines = read_lines(before + generated, language_id)
    header = ""
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
        may_end = is_whole and not is_inside
        is_known = line.content.endswith(";") or language_id not in JAVASCRIPT
        if may_end and is_known and not clauses:
            return generated[: last_end - len(before)]
    return None


def _whole_slashed_statements(text: str, language_id: str) -> str:
    end = n_open = 0
    for line in read_lines(text, language_id):
        content = line.content
        if not content:
            continue
        n_open += 0 if _is_directive(content, language_id) else balance_of(content)
        if n_open < 0:
            break
        if n_open == 0 and _is_whole(content, language_id):
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


def _unmatched_bracket(line: str) -> int | None:
    """Return where the first bracket is closed that is not opened on the line."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(line):
        if match.group() in "([{":
            depth += 1
        elif match.group() in ")]}":
            if depth == 0:
                return match.start()
            depth -= 1
    return None


def _is_in_word(text: str, offset: int) -> bool:
    return re.fullmatch(r"\w\w", text[max(0, offset - 1) : offset + 1]) is not None
