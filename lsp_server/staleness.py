"""Which programs that we wrote are stale: pure, and remembers hashes only.

A program is stale that we wrote, that nobody edited since, and that uses names bound by a
turn that has changed. A text that stands twice may be a person's copy, so it is nobody's.
"""

import ast
import hashlib
import textwrap
import threading
import warnings
from collections import Counter
from dataclasses import dataclass

from lsp_server.turns import Turn, read_turns, turn_at

_N_REMEMBERED = 256
_SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
# The parts of a node that run before its others.
_FIRST = {"generators": 0, "iter": 1, "value": 2}


@dataclass(frozen=True)
class _Seen:
    """A turn as it was."""

    turn: bytes
    bound: frozenset[bytes]
    """The names that its program binds."""
    used: frozenset[bytes]
    """Those that it uses."""


class WrittenPrograms:
    """The programs that we wrote into one document; the oldest are forgotten."""

    def __init__(self) -> None:
        """Remember none."""
        self._before: dict[bytes, tuple[_Seen, ...]] = {}
        self._last: dict[bytes, _Seen] = {}
        """The turns that were there last, so that a key costs what it changes."""
        self._lock = threading.Lock()

    def remember(self, text: str, start: int, language_id: str = "python") -> None:
        """Remember that we wrote the program of the turn that starts at an offset."""
        now = self._read(text, language_id)
        with self._lock:
            # A copy, because another thread may be asking what is stale.
            before = dict(self._before)
            for turn, seen in now.items():
                if turn.start == start:
                    before.pop(seen.turn, None)
                    before[seen.turn] = tuple(_above(now, turn))
            while len(before) > _N_REMEMBERED:
                del before[next(iter(before))]
            self._before = before

    def accept(self, then: str, offset: int, text: str, language_id: str = "python") -> None:
        """Remember a program that we offered at an offset and that a person accepted.

        It is ours where the turn had no program then, or one of ours that this goes on.
        """
        turn = turn_at(read_turns(then, language_id), offset)
        if turn and (not turn.has_program or _hash_of(then, turn) in self._before):
            self.remember(text, turn.start, language_id)

    def stale(self, text: str, language_id: str = "python") -> tuple[list[Turn], list[Turn]]:
        """Return the turns with stale programs, and those that are as old but not ours.

        The latter are a person's, or edited by one: they are told of and left alone.
        """
        before = self._before
        if not before:
            return [], []
        now = self._read(text, language_id)
        n_times = Counter(seen.turn for seen in now.values())
        ours = {t for t, seen in now.items() if seen.turn in before and n_times[seen.turn] == 1}
        stale, changed = [], set()
        for turn in (turn for turn in now if turn in ours):
            # What came, and what went.
            differing = set(_above(now, turn)).symmetric_difference(before[now[turn].turn])
            changed |= differing
            if any(seen.bound & now[turn].used for seen in differing):
                stale.append(turn)
        others = [
            turn
            for turn, own in now.items()
            if turn not in ours
            and any(seen.bound & own.used for seen in changed if seen.turn != own.turn)
        ]
        return stale, others

    def _read(self, text: str, language_id: str) -> dict[Turn, _Seen]:
        """Return the turns of a text as they are now, in order."""
        last, now = self._last, {}
        for turn in read_turns(text, language_id):
            key = _hash_of(text, turn)
            now[turn] = last.get(key) or _Seen(key, *_names(_program(text, turn)))
        self._last = {seen.turn: seen for seen in now.values()}
        return now


def _above(now: dict[Turn, _Seen], turn: Turn) -> list[_Seen]:
    # A turn that this one is part of changes with it.
    return [seen for other, seen in now.items() if other.end <= turn.start]


def _program(text: str, turn: Turn) -> str:
    return text[turn.prompt_end : turn.end].rstrip()


def _hash_of(text: str, turn: Turn) -> bytes:
    return _digest(text[turn.start : turn.prompt_end].rstrip() + "\n" + _program(text, turn))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _names(program: str) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the hashes of the names that a program binds and of those that it uses."""
    names = _Names()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names.read(ast.parse(textwrap.dedent(program.lstrip("\r\n"))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(), frozenset()
    return frozenset(map(_digest, names.scopes[0])), frozenset(map(_digest, names.used))


class _Names:
    """The names of a program, read in the order in which it runs.

    What a function, a class or a comprehension binds is its own. An attribute is a name
    with a dot before it, whatever it is an attribute of.
    """

    def __init__(self) -> None:
        self.scopes: list[set[str]] = [set()]
        """What each scope that is open binds, the program's own first."""
        self.used: set[str] = set()
        """What is used without being bound before."""

    def read(self, node: ast.AST) -> None:
        """Add the names of a node and of all in it."""
        # Of functions, classes, imports, errors and patterns.
        name = getattr(node, "asname", None) or getattr(node, "name", None)
        if isinstance(node, ast.arg):
            name = node.arg
        if isinstance(name, str):
            self.scopes[-1].add(name.partition(".")[0])
        if isinstance(node, ast.AugAssign):
            self._take(node.target, is_use=True)
        if isinstance(node, _SCOPES):
            self.scopes.append(set())
        for field in sorted(node._fields, key=lambda field: _FIRST.get(field, len(_FIRST))):
            value = getattr(node, field, None)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.read(child)
        if isinstance(node, _SCOPES):
            own = self.scopes.pop()
            if isinstance(node, ast.ClassDef):
                self.scopes[0] |= {f".{name}" for name in own}
        self._take(node, is_use=isinstance(getattr(node, "ctx", None), ast.Load))

    def _take(self, node: ast.AST, *, is_use: bool) -> None:
        if isinstance(node, ast.Name):
            name, scope = node.id, self.scopes[-1]
        elif isinstance(node, ast.Attribute):
            # It outlives the scope.
            name, scope = f".{node.attr}", self.scopes[0]
        else:
            return
        if not is_use:
            scope.add(name)
        elif not any(name in scope for scope in self.scopes):
            self.used.add(name)
