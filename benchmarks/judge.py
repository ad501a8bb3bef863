"""What is wrong with a text that was inserted at a place: pure.

It judges by parso's tokens and parso's errors, and uses nothing of what the server
does to get it right.
"""

import re
from collections.abc import Iterator
from keyword import iskeyword

import parso
from parso.python.token import PythonTokenTypes
from parso.python.tokenize import PythonToken, tokenize
from parso.utils import parse_version_string

from benchmarks.places import Place

INDENTATION, SUFFIX, LINE_ENDS = FAULTS = (
    "wrong indentation",
    "duplicated suffix",
    "other line ends",
)
_OPENERS, _CLOSERS = "([{", ")]}"
_JOINING = {"and", "as", "async", "else", "for", "if", "import", "in", "is", "not", "or"}
"""Words that may stand between two operands."""
_OPERANDS = {"None", "True", "False", "pass", "break", "continue"}
"""Keywords that are operands, or statements by themselves."""
_NEEDS_BLOCK = "expected an indented block"
_UNEXPECTED = "unexpected indent"
_GRAMMAR = parso.load_grammar()
_VERSION = parse_version_string()
_NO_CODE = (
    PythonTokenTypes.INDENT,
    PythonTokenTypes.DEDENT,
    PythonTokenTypes.ERROR_DEDENT,
    PythonTokenTypes.ENDMARKER,
)


def find_faults(place: Place, answer: str) -> dict[str, str]:
    """Return each kind of fault of an answer that is not empty, with what tells it."""
    faults = {}
    if place.line_end == "\n" and "\r" in answer:
        faults[LINE_ENDS] = "a carriage return"
    elif place.line_end == "\r\n" and re.search(r"(?<!\r)\n|\r(?!\n)", answer):
        faults[LINE_ENDS] = "a lone line feed or carriage return"
    answer = answer.replace("\r\n", "\n").rstrip()
    # What stood there is right, whatever it looks like.
    if not place.expected.startswith(answer):
        if problem := _wrong_indentation(place, answer):
            faults[INDENTATION] = problem
        if problem := _duplicated(place, answer):
            faults[SUFFIX] = problem
    return faults


def _wrong_indentation(place: Place, answer: str) -> str:
    before = place.before[len(place.before) - place.n_before :]
    after = place.after[: place.n_after]
    first, n_lines = before.count("\n"), answer.count("\n")
    rest_of_line = after.partition("\n")[0].strip()
    # The line of the code that comes next, as it is after the insertion.
    next_line = first + n_lines
    if not rest_of_line:
        blank = re.match(r"\s*\n", after)
        next_line += blank.group().count("\n") if blank else 0
    known = {
        line + n_lines if line > first or (line == first and rest_of_line) else line
        for line in _indentation_errors(before + after)
    }
    whole = before + answer + after
    for line, problem in _indentation_errors(whole).items():
        if line in known or not first <= line <= next_line:
            continue
        # The colon of such a header was not inserted.
        if problem.endswith(_NEEDS_BLOCK) and line == next_line and rest_of_line:
            continue
        return problem
    lines = whole.split("\n")
    text = place.before + place.after
    wrong = " " if text.count("\n\t") > text.count("\n ") else "\t"
    for line in _statement_lines(whole):
        if first < line <= first + n_lines:
            indent = re.match(r"[ \t]*", lines[line])
            if indent and wrong in indent.group():
                return f"indented by {indent.group()!r}"
    return ""


def _indentation_errors(text: str) -> dict[int, str]:
    """Return parso's errors of indentation by line, from 0.

    A block below a header that is no Python, such as an ``else`` without its ``if``, is none.
    """
    lines = text.split("\n")
    errors = {}
    for issue in _GRAMMAR.iter_errors(_GRAMMAR.parse(text)):
        line = issue.start_pos[0] - 1
        codes = (above.partition("#")[0].rstrip() for above in reversed(lines[:line]))
        has_header = next(filter(None, codes), "").endswith(":")
        is_block = issue.message.endswith(_UNEXPECTED) and has_header
        if issue.message.startswith(("IndentationError", "TabError")) and not is_block:
            errors[line] = issue.message
    return errors


def _statement_lines(text: str) -> set[int]:
    """Return the lines, from 0, on which statements begin, as far as the text is Python."""
    found = set()
    is_first = True
    for token in _tokens(text):
        if token.type is PythonTokenTypes.NEWLINE:
            is_first = True
        elif is_first and token.type not in _NO_CODE:
            found.add(token.start_pos[0] - 1)
            is_first = False
    return found


def _tokens(text: str) -> Iterator[PythonToken]:
    yield from tokenize(text, version_info=_VERSION)


def _duplicated(place: Place, answer: str) -> str:
    rest, _, below = place.after.partition("\n")
    rest = rest.strip()
    last = answer.rpartition("\n")[2]
    before = place.before[len(place.before) - place.n_before :]
    after = place.after[: place.n_after]
    n_missing = _n_unmatched(before + after)
    if rest:
        closed_at = _first_unmatched(rest)
        # Where nothing opened that bracket yet, the answer has to.
        is_closed = closed_at is not None and not n_missing
        follows = rest[:closed_at].rstrip() if is_closed else rest
        for length in range(len(follows), 0, -1):
            if last.endswith(follows[:length]) and _is_whole(last, follows, length):
                return f"{follows[:length]!r} stands after it"
        if problem := _collision(last, rest):
            return problem
    if _first_unmatched(answer) is not None:
        n_surplus = _n_unmatched(before + answer + after) - n_missing
        if n_surplus > 0:
            next_character = (rest or below.lstrip())[:1]
            return f"a bracket is closed before {next_character!r} that nothing opened"
    if not rest:
        ours = [line.rstrip() for line in answer.split("\n") if line.strip()]
        line_before = place.before.rpartition("\n")[2]
        if not line_before.strip():
            ours[0] = line_before + ours[0] if not answer.startswith("\n") else ours[0]
        theirs = [line.rstrip() for line in below.split("\n") if line.strip()]
        for n in range(1, len(ours) + 1):
            if ours[-n:] == theirs[:n]:
                return f"the line {ours[-n]!r} stands below"
    return ""


def _collision(last: str, rest: str) -> str:
    """Return how an answer's last line and the rest of that line get in each other's way."""
    first = re.match(r"\w+", rest)
    if first and re.search(r"[\w)\]}]$", last):
        end = re.split(r"\W", last)[-1]
        # ``x if a`` may stand before ``else b``, and ``x if`` before ``a else b``.
        is_joined = first[0] in _JOINING and not _has_word(last, first[0])
        takes_more = iskeyword(end) and end not in _OPERANDS and not _has_word(rest, end)
        if not (is_joined or takes_more):
            return f"{rest[:1]!r} follows what needs an operator between"
    tokens = [token for token in _tokens(last) if token.type is PythonTokenTypes.ENDMARKER]
    if any("#" in token.prefix for token in tokens):
        return "a comment hides the rest of the line"
    return ""


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def _is_whole(last: str, follows: str, length: int) -> bool:
    """Tell whether what is equal is cut out of no word."""
    cuts = ((last, len(last) - length), (follows, length))
    return not any(re.fullmatch(r"\w\w", text[max(0, at - 1) : at + 1]) for text, at in cuts)


def _brackets(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the brackets of code, and where they are: line, from 1, and column."""
    for token in _tokens(text):
        is_mark = token.type in (PythonTokenTypes.OP, PythonTokenTypes.ERRORTOKEN)
        if is_mark and token.string and token.string in _OPENERS + _CLOSERS:
            yield token.string, token.start_pos


def _first_unmatched(text: str) -> int | None:
    """Return where a text closes a bracket for the first time that it has not opened."""
    n_open = 0
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    for mark, (line, column) in _brackets(text):
        n_open += 1 if mark in _OPENERS else -1
        if n_open < 0:
            return starts[line - 1] + column
    return None


def _n_unmatched(text: str) -> int:
    """Return how many brackets a text closes that it has not opened."""
    n_open = n_unmatched = 0
    for mark, _ in _brackets(text):
        n_open += 1 if mark in _OPENERS else -1
        if n_open < 0:
            n_unmatched += 1
            n_open = 0
    return n_unmatched
