"""Holes in a project's Python files: where something is taken away, and what it was; pure.

A hole is the rest of a line, of a statement, or a function's whole body. It begins between
two tokens, where a person could stop typing: at the beginning of a statement or behind a
space or a mark, never in or right after a word, a string or a comment. Imports, bare strings
and lines with a comment at the end are left alone.
"""

import ast
import hashlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from model_eval.offsets import Offsets

LINE, STATEMENT, BODY = KINDS = ("line", "statement", "body")
_MOST_LINES = {STATEMENT: 12, BODY: 25}
_WORDS = (tokenize.NAME, tokenize.NUMBER, tokenize.OP, tokenize.STRING)
# Python 3.12 reads what is inside an f-string as tokens, 3.11 reads one string.
_OPENS_STRING = getattr(tokenize, "FSTRING_START", -1)
_CLOSES_STRING = getattr(tokenize, "FSTRING_END", -1)
_WORD = re.compile(r"\w")
_SKIPPED = (ast.Import, ast.ImportFrom, ast.Pass)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_Header = ast.If | ast.While | ast.For | ast.AsyncFor | ast.With | ast.AsyncWith


@dataclass(frozen=True)
class Hole:
    """A part of a file that is taken away; offsets are code points."""

    file: str
    kind: str
    start: int
    """Where the cursor is."""
    end: int
    stub: str
    """What does nothing and would stand there: ``pass``, on a line of its own."""

    @property
    def name(self) -> str:
        """What tells it from all other holes of a project."""
        return f"{self.file}:{self.start}-{self.end}"

    def cut(self, text: str) -> str:
        """Return what was taken away."""
        return text[self.start : self.end]

    def filled(self, text: str, answer: str) -> str:
        """Return the file with something else in its place."""
        return text[: self.start] + answer + text[self.end :]


def choose_holes(texts: Mapping[str, str], per_kind: int, seed: int) -> list[Hole]:
    """Return so many holes of each kind, by hashes of the seed and the place alone.

    What is taken away after the same line, in the same way, is taken away once.
    """
    chosen: list[Hole] = []
    found = [hole for file, text in texts.items() for hole in find_holes(file, text, seed)]
    for kind in KINDS:
        unlike: dict[tuple[str, str], Hole] = {}
        own = (hole for hole in found if hole.kind == kind)
        for hole in sorted(own, key=lambda hole: _hash(seed, hole.name)):
            text = texts[hole.file]
            line = text[text.rfind("\n", 0, hole.start) + 1 : hole.start]
            unlike.setdefault((line.strip(), hole.cut(text).strip()), hole)
        chosen += list(unlike.values())[:per_kind]
    return chosen


def find_holes(file: str, text: str, seed: int) -> Iterator[Hole]:
    """Yield at most one hole of each kind of each statement; none where it is no Python."""
    tree = _parsed(text)
    if tree is None:
        return
    try:
        source = _Source(file, text, seed)
    except (tokenize.TokenError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and source.is_alone(node):
            yield from source.holes(node)


def _parsed(text: str) -> ast.Module | None:
    # A lone carriage return ends a line for some of Python's readers and not for others.
    if "\r" in text.replace("\r\n", ""):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Source:
    def __init__(self, file: str, text: str, seed: int) -> None:
        self._file = file
        self._text = text
        self._seed = seed
        self._offsets = Offsets(text)
        self._tokens: dict[int, list[tuple[int, str]]] = {}
        """Where tokens start, and what they are, by line; none inside strings."""
        depth = 0
        for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
            if not depth and token.type in (*_WORDS, _OPENS_STRING):
                start = self._offsets.at(*token.start)
                self._tokens.setdefault(token.start[0], []).append((start, token.string))
            depth += (token.type == _OPENS_STRING) - (token.type == _CLOSES_STRING)

    def is_alone(self, node: ast.stmt) -> bool:
        """Tell whether a statement has its lines to itself, with no comment after it."""
        start, end = self._offsets.start(node), self._offsets.end(node)
        before = self._text[self._text.rfind("\n", 0, start) + 1 : start]
        return start > 0 and not before.strip() and not self._rest_of_line(end).strip()

    def holes(self, node: ast.stmt) -> Iterator[Hole]:
        """Yield the holes of one statement."""
        if isinstance(node, _SKIPPED) or _is_bare(node):
            return
        if isinstance(node, _Definition):
            if not isinstance(node, ast.ClassDef):
                yield from self._body(node)
            return
        start, end = self._offsets.start(node), self._offsets.end(node)
        line_end = start + len(self._rest_of_line(start).rstrip())
        if end <= line_end or (isinstance(node, _Header) and self._text[line_end - 1] == ":"):
            yield from self._one_of(
                LINE, self._boundaries(node.lineno, start, line_end), line_end
            )
        n_lines = 1 + (node.end_lineno or node.lineno) - node.lineno
        if n_lines <= _MOST_LINES[STATEMENT] and not self._text.startswith("elif", start):
            inside = self._boundaries(node.lineno, start, end) if n_lines > 1 else []
            yield from self._one_of(STATEMENT, [start, *inside], end)

    def _rest_of_line(self, start: int) -> str:
        end = self._text.find("\n", start)
        return self._text[start:] if end < 0 else self._text[start:end]

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Hole]:
        body = node.body[1:] if _is_bare(node.body[0]) else node.body
        if not body or all(isinstance(s, _SKIPPED) or _is_bare(s) for s in body):
            return
        first, end = self._offsets.line_start(body[0]), self._offsets.end(body[-1])
        n_lines = 1 + self._text.count("\n", first, end)
        line = self._text[first : self._offsets.start(body[0])]
        indent = line[: len(line) - len(line.lstrip())]
        above = self._text[:first].rstrip("\r\n")
        if body[0].lineno == node.lineno or n_lines > _MOST_LINES[BODY]:
            return
        if len(body) < len(node.body):
            # The docstring states what is to be written.
            yield Hole(self._file, BODY, first + len(indent), end, "pass")
        elif above.endswith(":"):
            yield Hole(self._file, BODY, len(above), end, f"\n{indent}pass")

    def _boundaries(self, line: int, start: int, end: int) -> list[int]:
        """Return where what is left up to ``end`` may begin, behind the line's first token."""
        return [
            token_start
            for token_start, _ in self._tokens.get(line, [])
            if start < token_start < end
            and not _WORD.match(self._text[token_start - 1])
            and _WORD.search(self._text, token_start, end)
        ]

    def _one_of(self, kind: str, starts: list[int], end: int) -> Iterator[Hole]:
        if starts:
            index = _hash(self._seed, f"{self._file}:{starts[0]}") % len(starts)
            yield Hole(self._file, kind, starts[index], end, "pass")


def _is_bare(node: ast.stmt) -> bool:
    """Tell whether a statement is a docstring, another bare constant, or ``...``."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4])
