"""Places in a Python file where a completion may be asked for, and what stood there: pure.

A part of the file is taken away, as if it were not written yet, or nothing is, and the
cursor is put where an editor would have it. The same file also comes with tabs for
indentation and with CR LF at its lines' ends.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

AS_IT_IS, TABS, CRLF = STYLES = ("as it is", "tabs", "CR LF")
_STYLE_SHARES = (0.6, 0.2, 0.2)
_MOST_LINES = 12
"""Of what is taken away."""
_OPENED_SHARE = 0.25
"""Of the places, those where nothing is taken away."""
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_LEADING_SPACES = re.compile(r"^(?: {4})+", re.MULTILINE)
_WORDS = (tokenize.NAME, tokenize.NUMBER, tokenize.OP)


@dataclass(frozen=True)
class Place:
    """A cursor in a file; all texts have newlines only, whatever the file has."""

    file: str
    kind: str
    style: str
    before: str
    expected: str
    """What stood at the cursor; nothing where nothing was taken away."""
    after: str
    indent: str
    """That of the statement at the cursor."""
    n_before: int
    """Characters before the cursor that what stands there depends on: from the beginning of
    a statement at the margin on."""
    n_after: int
    """The same after the cursor."""

    @property
    def line_end(self) -> str:
        """What ends the lines of the file."""
        return "\r\n" if self.style == CRLF else "\n"

    @property
    def text(self) -> str:
        """The file as the editor has it."""
        return (self.before + self.after).replace("\n", self.line_end)

    @property
    def offset(self) -> int:
        """Where the cursor is in ``text``."""
        return len(self.before.replace("\n", self.line_end))

    def n_accepted(self, answer: str) -> int:
        """Return how many of an answer's first characters stood there, blanks aside."""
        pairs = zip(answer.replace("\r\n", "\n"), self.expected, strict=False)
        n_equal = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        return len("".join(self.expected[:n_equal][: len(answer)].split()))


@dataclass(frozen=True)
class _Statement:
    start: int
    """Where its first line starts, decorators included."""
    end: int
    """Where the line after its last one starts."""
    indent: str


class _Source:
    """A file that was read."""

    def __init__(self, name: str, text: str, style: str) -> None:
        """Read it; raises SyntaxError where it is no Python."""
        self.name = name
        self.style = style
        self.text = text
        tree = ast.parse(text)
        self._starts = [0]
        for line in text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.blocks = [
            [s for s in map(self._statement, block) if s is not None]
            for node in ast.walk(tree)
            for name in ("body", "orelse", "finalbody")
            if isinstance(block := getattr(node, name, None), list)
        ]
        self.margin = [s for s in map(self._statement, tree.body) if s is not None]
        self.tokens: dict[int, list[tuple[int, int, tokenize.TokenInfo]]] = {}
        """Where each token starts and ends, by where its line starts."""
        self.comments: set[int] = set()
        """Where lines start that hold nothing else."""
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            line_start = self._starts[token.start[0] - 1]
            if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
                self.comments.add(line_start)
            elif token.type in (*_WORDS, tokenize.STRING) and token.start[0] == token.end[0]:
                span = (line_start + token.start[1], line_start + token.end[1])
                self.tokens.setdefault(line_start, []).append((*span, token))

    def line_end(self, offset: int) -> int:
        """Return where the line of an offset ends."""
        return self.text.index("\n", offset)

    def place(
        self, kind: str, before: str, expected: str, after: str, indent: str, end: int
    ) -> Place:
        """Return a place; ``end`` is where the text goes on as it was."""
        line_start = before.rfind("\n") + 1
        first = max((s.start for s in self.margin if s.end <= line_start), default=0)
        last = min((s.end for s in self.margin if s.start >= end), default=len(self.text))
        return Place(
            file=self.name,
            kind=kind,
            style=self.style,
            before=before,
            expected=expected,
            after=after,
            indent=indent,
            n_before=len(before) - first,
            n_after=len(after) - (len(self.text) - last),
        )

    def _statement(self, node: object) -> _Statement | None:
        """Return where a statement stands that has its lines to itself."""
        if not isinstance(node, ast.stmt):
            return None
        decorators = getattr(node, "decorator_list", [])
        start = self._starts[min([node.lineno, *(d.lineno for d in decorators)]) - 1]
        end = self._starts[node.end_lineno or node.lineno]
        line = self.text[start : self.line_end(start)]
        content = line.lstrip(" \t")
        lines = self.text[start:end].encode().splitlines()
        is_alone = not lines[-1][node.end_col_offset :].split(b"#")[0].strip()
        is_first = not decorators and len(line) - len(content) != node.col_offset
        if not is_alone or is_first or content.startswith("elif"):
            return None
        return _Statement(start, end, line[: len(line) - len(content)])


def find_places(
    name: str, text: str, n_places: int, rng: np.random.Generator
) -> Iterator[Place]:
    """Yield places of all kinds, chosen by chance.

    Raises:
        SyntaxError: it is no Python.
    """
    sources: dict[str, _Source] = {}
    finders = list(_FINDERS.items())
    for _ in range(n_places):
        style = str(rng.choice(STYLES, p=_STYLE_SHARES))
        if style not in sources:
            sources[style] = _Source(name, _with_tabs(text) if style == TABS else text, style)
        kind, find = finders[rng.integers(len(finders))]
        if (place := find(sources[style], kind, rng)) is not None:
            yield place


def _with_tabs(text: str) -> str:
    """Return a text indented by tabs; what is in strings of several lines too."""
    return _LEADING_SPACES.sub(lambda match: "\t" * (len(match.group()) // 4), text)


def _below_a_comment(source: _Source, kind: str, rng: np.random.Generator) -> Place | None:
    """Take away the program of a comment."""
    text = source.text
    found = []
    for block in source.blocks:
        for index, statement in enumerate(block):
            above = text.rfind("\n", 0, max(0, statement.start - 1)) + 1
            comment = text[above : statement.start]
            if above in source.comments and comment.startswith(statement.indent + "#"):
                program = [statement]
                for following in block[index + 1 :]:
                    if following.start == program[-1].end:
                        program.append(following)
                found.append((statement, program[-1].end))
    found = [(one, end) for one, end in found if _is_short(text[one.start : end])]
    if not found:
        return None
    statement, end = found[rng.integers(len(found))]
    typed = statement.indent if rng.random() < 0.7 else ""
    start = statement.start + len(typed)
    after = "\n" + text[end:]
    return source.place(
        kind, text[:start], text[start:end].rstrip(), after, statement.indent, end
    )


def _on_an_empty_line(source: _Source, kind: str, rng: np.random.Generator) -> Place | None:
    """Take away a statement, or open a line above it."""
    text = source.text
    statement = _any_statement(source, rng)
    if statement is None:
        return None
    typed = statement.indent if rng.random() < 0.8 else ""
    start = statement.start + len(typed)
    if rng.random() < _OPENED_SHARE:
        after = "\n" + text[statement.start :]
        before = text[: statement.start] + typed
        return source.place(kind, before, "", after, statement.indent, statement.start)
    after = "\n" + text[statement.end :]
    expected = text[start : statement.end].rstrip()
    return source.place(kind, text[:start], expected, after, statement.indent, statement.end)


def _at_the_end_of_a_line(source: _Source, kind: str, rng: np.random.Generator) -> Place | None:
    """Take away the rest of a line, of its statement, or nothing."""
    text = source.text
    statement = _any_statement(source, rng)
    tokens = source.tokens.get(statement.start, []) if statement else []
    if statement is None or not tokens:
        return None
    line_end = source.line_end(statement.start)
    if rng.random() < _OPENED_SHARE:
        start = end = tokens[-1][1]
        if text[start:line_end].strip():
            return None
    else:
        start = _before_or_after(tokens, rng)
        end = line_end if rng.random() < 0.5 else statement.end - 1
    expected = text[start:end].rstrip()
    return source.place(kind, text[:start], expected, text[end:], statement.indent, end)


def _in_the_middle_of_a_line(
    source: _Source, kind: str, rng: np.random.Generator
) -> Place | None:
    """Take away a part of a line, or nothing."""
    text = source.text
    statement = _any_statement(source, rng)
    tokens = source.tokens.get(statement.start, []) if statement else []
    if statement is None or len(tokens) < 3:
        return None
    start = _before_or_after(tokens[:-1], rng)
    ends = [first for first, _, _ in tokens if first >= start]
    end = start if rng.random() < _OPENED_SHARE else ends[rng.integers(len(ends))]
    expected, after = text[start:end], text[end:]
    return source.place(kind, text[:start], expected, after, statement.indent, end)


def _between_brackets(source: _Source, kind: str, rng: np.random.Generator) -> Place | None:
    """Take away what a pair of brackets or quotes holds, which the editor has closed.

    What came after the pair on its line is there, or not yet; then what is open on the line
    has been closed too.
    """
    text = source.text
    statement = _any_statement(source, rng)
    tokens = source.tokens.get(statement.start, []) if statement else []
    pairs: list[tuple[int, int, str]] = []
    opened: list[tuple[int, str]] = []
    for start, end, token in tokens:
        closers = "".join(_CLOSERS[mark] for _, mark in reversed(opened))
        if token.type == tokenize.STRING and token.string[0] in "\"'" and end - start > 2:
            if not token.string.startswith(('"""', "'''")):
                pairs.append((start + 1, end - 1, token.string[0] + closers))
        elif token.string in _CLOSERS:
            opened.append((end, token.string))
        elif token.string in _CLOSERS.values() and opened:
            pairs.append((opened.pop()[0], start, closers))
    if statement is None or not pairs:
        return None
    start, end, closers = pairs[rng.integers(len(pairs))]
    expected = text[start:end]
    if rng.random() < 0.5:
        return source.place(kind, text[:start], expected, text[end:], statement.indent, end)
    line_end = source.line_end(end)
    after = closers + text[line_end:]
    return source.place(kind, text[:start], expected, after, statement.indent, line_end)


def _any_statement(source: _Source, rng: np.random.Generator) -> _Statement | None:
    """Return a statement that is short enough, if there is one."""
    statements = [s for block in source.blocks for s in block]
    short = [s for s in statements if _is_short(source.text[s.start : s.end])]
    return short[rng.integers(len(short))] if short else None


def _is_short(text: str) -> bool:
    return text.count("\n") <= _MOST_LINES


def _before_or_after(
    tokens: list[tuple[int, int, tokenize.TokenInfo]], rng: np.random.Generator
) -> int:
    """Return where a token starts or ends; never within the indentation."""
    index = int(rng.integers(len(tokens)))
    start, end, _ = tokens[index]
    return start if index and rng.random() < 0.5 else end


_Finder = Callable[[_Source, str, np.random.Generator], Place | None]
_FINDERS: dict[str, _Finder] = {
    "below a comment": _below_a_comment,
    "on an empty line": _on_an_empty_line,
    "at the end of a line": _at_the_end_of_a_line,
    "in the middle of a line": _in_the_middle_of_a_line,
    "between brackets or quotes": _between_brackets,
}
KINDS = tuple(_FINDERS)
