"""Which programs that we wrote are stale: pure, and remembers hashes only.

A program is stale that we wrote, that nobody edited since, and that uses names bound by a
turn that has changed. A text that stands twice may be a person's copy, so it is nobody's.
"""

import ast
import hashlib
import textwrap
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lsp_server.turns import Turn, read_turns

_N_REMEMBERED = 256


@dataclass(frozen=True)
class _Seen:
    """A turn as it was."""

    turn: bytes
    bound: frozenset[bytes]
    """The names that its program binds."""


class WrittenPrograms:
    """The programs that we wrote into one document; the oldest are forgotten."""

    def __init__(self) -> None:
        """Remember none."""
        self._before: dict[bytes, tuple[_Seen, ...]] = {}

    def remember(self, text: str, start: int, language_id: str = "python") -> None:
        """Remember that we wrote the program of the turn that starts at an offset."""
        turns = read_turns(text, language_id)
        for turn in turns:
            if turn.start == start:
                key = _hash_of(text, turn)
                self._before.pop(key, None)
                self._before[key] = tuple(_seen(text, other) for other in _above(turns, turn))
        while len(self._before) > _N_REMEMBERED:
            del self._before[next(iter(self._before))]

    def stale(self, text: str, language_id: str = "python") -> tuple[list[Turn], list[Turn]]:
        """Return the turns with stale programs, and those that are as old but not ours.

        The latter are a person's, or edited by one: they are told of and left alone.
        """
        if not self._before:
            return [], []
        turns = read_turns(text, language_id)
        hashes = {turn: _hash_of(text, turn) for turn in turns}
        n_times = Counter(hashes.values())
        ours = {t for t in turns if hashes[t] in self._before and n_times[hashes[t]] == 1}
        used = {turn: _names(_program(text, turn))[1] for turn in turns}
        stale, changed = [], set()
        for turn in (turn for turn in turns if turn in ours):
            now = {_seen(text, other) for other in _above(turns, turn)}
            # What came, and what went.
            differing = now.symmetric_difference(self._before[hashes[turn]])
            changed |= differing
            if any(seen.bound & used[turn] for seen in differing):
                stale.append(turn)
        others = [
            turn
            for turn in turns
            if turn not in ours
            and any(s.bound & used[turn] for s in changed if s.turn != hashes[turn])
        ]
        return stale, others


def _above(turns: Sequence[Turn], turn: Turn) -> list[Turn]:
    # A turn that this one is part of changes with it.
    return [other for other in turns if other.end <= turn.start]


def _seen(text: str, turn: Turn) -> _Seen:
    return _Seen(_hash_of(text, turn), _names(_program(text, turn))[0])


def _program(text: str, turn: Turn) -> str:
    return text[turn.prompt_end : turn.end].rstrip()


def _hash_of(text: str, turn: Turn) -> bytes:
    return _digest(text[turn.start : turn.prompt_end].rstrip() + "\n" + _program(text, turn))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _names(program: str) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the hashes of the names that a program binds and of those that it uses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(textwrap.dedent(program.lstrip("\r\n")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(), frozenset()
    bound: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
    return frozenset(map(_digest, bound)), frozenset(map(_digest, used))
