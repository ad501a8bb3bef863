"""What of a text stands after the cursor already; pure."""

import re
from collections.abc import Iterator
from itertools import islice, takewhile
from keyword import kwlist

_STRING = (
    r"""\"{3}(?s:.*?)\"{3}|'{3}(?s:.*?)'{3}"""
    r"""|"(?:\\(?s:.)|[^"\\\n])*+"|'(?:\\(?s:.)|[^'\\\n])*+'"""
)
_MARK = r"(?P<mark>[()\[\]{}])"
_PYTHON_PART = re.compile(rf"{_STRING}|(?P<comment>#[^\n]*)|{_MARK}|(?P<unclosed>[\"'])")
_SLASHED_PART = re.compile(
    rf"{_STRING}|`[^`]*`|(?P<comment>//[^\n]*|/\*(?s:.*?)(?:\*/|\Z))|{_MARK}"
)
_OPERAND_END = re.compile(r"[\w)\]}\"']$")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_JOINING_ONCE = frozenset({"as", "async", "else", "for", "if", "import"})
_JOINING = _JOINING_ONCE | {"and", "in", "is", "not", "or"}
"""Words between two operands, and those of them that seldom come twice."""
_TAKING = frozenset(kwlist) - {"None", "True", "False", "pass", "break", "continue"}
"""Words that an operand or a name may follow."""
_LONGEST_OVERLAP = 1000
"""Characters after the cursor that a completion can have in common with it."""
_LONGEST_REST = 1 << 13
"""Characters after the cursor in which open brackets may be closed."""


def cut_overlap(
    generated: str, after: str, open_brackets: str = "", language_id: str = "python"
) -> str:
    """Return a line without what stands after it already: brackets, text, a comment.

    Of the brackets that are open before it, the outermost first, those stay open that the
    text after it closes. Where its last word would run into the next one, it ends before
    it has that one too, or is nothing.
    """
    n_left = _n_left_open(open_brackets, after, language_id)
    line = after[:_LONGEST_OVERLAP].partition("\n")[0].rstrip()
    generated = _cut_closers(generated, open_brackets, n_left, language_id)
    if line:
        # A comment would hide what follows.
        generated = generated[: _comment_start(generated, language_id)].rstrip()
    code = line[: _comment_start(line, language_id)]
    if language_id == "python" and _has_unclosed_string(generated, line):
        return ""
    if n_left > 0:
        # What closes what it has to open is the end of ours too.
        kept = cut_words(generated, code)
        generated = kept if re.search(r"\w", generated[len(kept) :]) else generated
    code = code[: unmatched_bracket(code, language_id)].strip()
    generated = cut_words(generated, code)
    ours = generated.rstrip()
    theirs = generated[len(ours) :] + line
    if _OPERAND_END.search(ours) and _is_operand(theirs, ours, language_id):
        # No code has two operands in a row, so this is what ours would be the beginning of.
        generated = ours[: max(0, _last_whole(ours, code, language_id))]
    return generated


def _has_unclosed_string(generated: str, line: str) -> bool:
    parts = _parts(generated + line, "python")
    return any(part["unclosed"] and part.start() < len(generated) for part in parts)


def _is_operand(line: str, generated: str, language_id: str) -> bool:
    """Tell whether what follows begins with a word that cannot go on with what is written."""
    if language_id != "python":
        # Elsewhere a type stands before a name.
        return re.match(r"\w", line) is not None
    word = re.match(r"(\s*)(\w+)", line)
    if word is None:
        return False
    if word[1] and word[2] in _JOINING:
        return word[2] in _JOINING_ONCE and word[2] in re.findall(r"\w+", generated)
    last = re.split(r"\W", generated)[-1]
    return last not in _TAKING or last in re.findall(r"\w+", line)


def cut_surplus_closers(generated: str, open_brackets: str, language_id: str) -> str:
    """Return a text up to the first closer of a bracket that is not open.

    Where another kind is open, the line that it stands on goes as well.
    """
    are_open = list(open_brackets)
    for part in _marks(generated, language_id):
        if part["mark"] in _CLOSERS:
            are_open.append(part["mark"])
        elif not are_open:
            return generated[: part.start()].rstrip()
        elif part["mark"] != _CLOSERS[are_open.pop()]:
            return generated[: generated.rfind("\n", 0, part.start()) + 1].rstrip()
    return generated


def cut_unclosed_string(begun: str, generated: str) -> str:
    """Return Python code up to the line whose string has no end, after ``begun``.

    Where ``begun`` may stand in a string itself, nothing is known of those after it.
    """
    for part in _parts(begun + generated, "python"):
        if part["unclosed"]:
            start = part.start() - len(begun)
            return generated if start < 0 else generated[: generated.rfind("\n", 0, start) + 1]
    return generated


def cut_words(generated: str, after: str) -> str:
    """Return a line without the end that the text after it begins with; no word is split."""
    after = after[:_LONGEST_OVERLAP].strip()
    for length in range(min(len(generated), len(after)), 0, -1):
        splits_word = _is_in_word(generated, len(generated) - length) or _is_in_word(
            after, length
        )
        if generated.endswith(after[:length]) and not splits_word:
            kept = generated[:-length]
            again = cut_words(kept.rstrip(), after)
            return kept if again == kept.rstrip() else again
    return generated


def closes_any(open_brackets: str, after: str, language_id: str) -> bool:
    """Tell whether a text closes a bracket that is open before it."""
    n_left = _n_left_open(open_brackets, after, language_id)
    return open_brackets != "" and n_left > -len(open_brackets)


def _n_left_open(open_brackets: str, after: str, language_id: str) -> int:
    """Return how many brackets a completion must leave open, negative: may close at most.

    The text after it closes the outermost ones that are open before it, and perhaps more.
    """
    closers = [mark for mark, _ in _unmatched_closers(after[:_LONGEST_REST], language_id)]
    n_closed = 0
    for n in range(1, min(len(open_brackets), len(closers)) + 1):
        expected = [_CLOSERS[mark] for mark in reversed(open_brackets[:n])]
        if closers[:n] == expected:
            n_closed = n
    if n_closed == 0:
        # A completion may have to open what is closed before those that are open already.
        expected = [_CLOSERS[mark] for mark in reversed(open_brackets)]
        for n in range(1, len(closers) - len(expected) + 1 if expected else 0):
            # A brace may be a block's.
            if closers[n : n + len(expected)] == expected and "}" not in closers[:n]:
                return n
    if n_closed < len(open_brackets):
        return n_closed - len(open_brackets)
    # A brace may be a block's.
    return len(list(takewhile(lambda mark: mark != "}", closers[n_closed:])))


def _cut_closers(generated: str, open_brackets: str, n_left: int, language_id: str) -> str:
    """Return a text without the closers that leave fewer brackets open than they must.

    A closer of another kind than the bracket that is open closes nothing.
    """
    depth, cut, last = 0, None, None
    for part in _marks(generated, language_id):
        is_opener = part["mark"] in _CLOSERS
        depth += 1 if is_opener else -1
        last = last if is_opener else part.start()
        closes_none = depth < 0 and (
            depth < min(n_left, 0) or part["mark"] != _CLOSERS[open_brackets[depth]]
        )
        if closes_none:
            return generated[: part.start() if cut is None else cut]
        if depth == n_left - 1 and not is_opener:
            # Of several it is the last that may leave the bracket open.
            cut = part.start()
    # Where it never opened as many, one more stays open than it wanted.
    return generated[: last if cut is None else cut] if depth < n_left else generated


def _unmatched_closers(text: str, language_id: str) -> Iterator[tuple[str, int]]:
    """Yield the brackets that a text closes and has not opened, and where they are."""
    depth = 0
    for part in _marks(text, language_id):
        depth += 1 if part["mark"] in _CLOSERS else -1
        if depth < 0:
            yield part["mark"], part.start()
            depth = 0


def unmatched_bracket(text: str, language_id: str = "python") -> int | None:
    """Return where the first bracket is closed that is not opened in the text."""
    return next((start for _, start in _unmatched_closers(text, language_id)), None)


def open_brackets(line: str, language_id: str) -> str:
    """Return the brackets that a line leaves open, the outermost first."""
    found = ""
    for part in _marks(line[-_LONGEST_OVERLAP:], language_id):
        found = found + part["mark"] if part["mark"] in _CLOSERS else found[:-1]
    return found


def _parts(text: str, language_id: str) -> Iterator[re.Match[str]]:
    """Yield the strings, comments and brackets of a text that begins in code."""
    part = _PYTHON_PART if language_id == "python" else _SLASHED_PART
    return part.finditer(text)


def _marks(text: str, language_id: str) -> Iterator[re.Match[str]]:
    return (part for part in _parts(text, language_id) if part["mark"])


def _comment_start(text: str, language_id: str) -> int:
    """Return where the first comment of a text starts, or the text ends."""
    starts = (part.start() for part in _parts(text, language_id) if part["comment"])
    return next(starts, len(text))


def _last_whole(text: str, part: str, language_id: str) -> int:
    """Return where a part stands in a text for the last time, not in a string, or -1."""
    strings = [found.span() for found in _parts(text, language_id) if not found.lastgroup]
    start = text.rfind(part)
    while start >= 0:
        is_inside = any(first < start < end for first, end in strings)
        splits_word = _is_in_word(text, start) or _is_in_word(text, start + len(part))
        if not (is_inside or splits_word):
            return start
        start = text.rfind(part, 0, start + len(part) - 1)
    return -1


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


def _is_in_word(text: str, offset: int) -> bool:
    return re.fullmatch(r"\w\w", text[max(0, offset - 1) : offset + 1]) is not None
