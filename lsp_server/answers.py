"""Answers that are there before they are asked for: pure, knows no model.

Typing along a suggestion, deleting back to where it was given, or accepting one whose
continuation is written already, leads to a text for which the answer is known. That an
editor closes a bracket when it is typed changes nothing: the answer ends before that.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

from lsp_server.completion import Candidate
from lsp_server.plan import Snapshot
from lsp_server.verdict import Verdict

_N_ANSWERS = 32
_MOST_CLOSERS = 200
"""Characters, with line ends and indentation, that an editor adds behind the cursor."""
_QUOTES = "\"'`"
_CLOSERS = {"(": ")", "[": "]", "{": "}"} | {quote: quote for quote in _QUOTES}
# One that is escaped is none.
_MARK = re.compile(r"(?<!\\)[()\[\]{}\"'`]")


@dataclass(frozen=True)
class Answer:
    """What a snapshot was answered; the verdict is None where nobody checked yet."""

    snapshot: Snapshot
    candidate: Candidate
    verdict: Verdict | None
    is_asked_for: bool = False
    """Whether it was asked for explicitly, so that it is shown however unsure it is."""

    @property
    def accepted(self) -> Snapshot:
        """The snapshot after the candidate is accepted."""
        text, offset = self.snapshot.text, self.snapshot.offset
        inserted = self.candidate.insert_text
        return replace(
            self.snapshot,
            text=text[:offset] + inserted + text[offset:],
            offset=offset + len(inserted),
        )

    def rest(self, snapshot: Snapshot) -> str:
        """Return what remains to be inserted; nothing where this is for another text.

        It ends before a bracket or quote that the editor closed when it was opened: what
        comes after that is the rest once the cursor is behind it.
        """
        inserted = self.candidate.insert_text
        n_typed = snapshot.offset - self.snapshot.offset
        closed = _closed_by_editor(self.snapshot, inserted, snapshot)
        if closed is None:
            return ""
        end = closed[0].closed_at if closed else None
        rest = inserted[n_typed:end]
        line_start = snapshot.text[snapshot.offset : snapshot.offset + 1] in ("\n", "\r")
        return rest.rstrip() if closed and line_start else rest


def goes_along(then: Snapshot, inserted: str, now: Snapshot) -> bool:
    """Tell whether now is then, with a beginning of the inserted text typed, or all of it.

    Brackets and quotes that were typed may be closed after the cursor, as editors do.
    """
    return _closed_by_editor(then, inserted, now) is not None


@dataclass(frozen=True)
class _Pair:
    """A bracket or quote of a text that is open at some place, and what closes it."""

    closer: str
    closed_at: int | None
    """Where that is in the text, if it is."""


def _closed_by_editor(then: Snapshot, inserted: str, now: Snapshot) -> list[_Pair] | None:
    """Return which pairs that were typed are closed behind the cursor, the innermost first.

    None is returned where now is not then with a beginning of the inserted text typed.
    """
    n_typed = now.offset - then.offset
    n_closers = len(now.text) - len(then.text) - n_typed
    if not (
        0 <= n_typed <= len(inserted)
        and 0 <= n_closers <= _MOST_CLOSERS
        and (now.uri, now.language_id) == (then.uri, then.language_id)
        and now.text.startswith(inserted[:n_typed], then.offset)
        and now.text[: then.offset] == then.text[: then.offset]
        and now.text[now.offset + n_closers :] == then.text[then.offset :]
    ):
        return None
    added = "".join(now.text[now.offset : now.offset + n_closers].split())
    if n_closers and not added:
        return None
    closed = []
    pairs = iter(_open_pairs(inserted, n_typed) if added else ())
    for mark in added:
        pair = next((pair for pair in pairs if pair.closer == mark), None)
        if pair is None:
            return None
        closed.append(pair)
    return closed


def _open_pairs(text: str, offset: int) -> list[_Pair]:
    """Return the pairs of a text that are open at an offset, the innermost first."""
    open_marks: list[tuple[int, str]] = []
    closed_at: dict[int, int] = {}
    for match in _MARK.finditer(text):
        mark, start = match.group(), match.start()
        is_in_string = bool(open_marks) and open_marks[-1][1] in _QUOTES
        if open_marks and mark == open_marks[-1][1]:
            closed_at[open_marks.pop()[0]] = start
        elif mark in _CLOSERS and not is_in_string:
            open_marks.append((start, _CLOSERS[mark]))
    spans = [*closed_at.items(), *((start, len(text)) for start, _ in open_marks)]
    return [
        _Pair(_CLOSERS[text[start]], end if end < len(text) else None)
        for start, end in sorted(spans, reverse=True)
        if start < offset <= end
    ]


class Answers:
    """The answers that were given or found last; the model's thread looks for some too."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._answers: list[Answer] = []
        """In the order in which they were written."""
        self._last_uses: list[int] = []
        """When each was written or found, by a count of all that."""
        self._n_uses = 0

    def remember(self, answer: Answer) -> None:
        """Keep an answer; the one that nobody has found for longest goes."""
        with self._lock:
            self._answers.append(answer)
            self._last_uses.append(self._next_use())
            if len(self._answers) > _N_ANSWERS:
                index = self._last_uses.index(min(self._last_uses))
                del self._answers[index], self._last_uses[index]

    def clear(self) -> None:
        """Forget all, because another model or setting would answer otherwise."""
        with self._lock:
            self._answers.clear()
            self._last_uses.clear()

    def find(
        self, snapshot: Snapshot, is_wanted: Callable[[Answer], bool] = lambda _: True
    ) -> Answer | None:
        """Return what is left of an answer whose beginning has been typed since."""
        with self._lock:
            for index in reversed(range(len(self._answers))):
                answer = self._answers[index]
                rest = answer.rest(snapshot)
                if rest.strip() and is_wanted(answer):
                    self._last_uses[index] = self._next_use()
                    candidate = replace(answer.candidate, insert_text=rest)
                    return replace(answer, snapshot=snapshot, candidate=candidate)
        return None

    def latest(self, uri: str) -> Answer | None:
        """Return the newest answer for a document."""
        with self._lock:
            newest_first = reversed(self._answers)
            return next((a for a in newest_first if a.snapshot.uri == uri), None)

    def _next_use(self) -> int:
        self._n_uses += 1
        return self._n_uses
