"""Answers that are there before they are asked for: pure, knows no model.

Typing along a suggestion, deleting back to where it was given, or accepting one whose
continuation is written already, leads to a text for which the answer is known.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from lsp_server.completion import Candidate
from lsp_server.plan import Snapshot
from lsp_server.verdict import Verdict

_N_ANSWERS = 32


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
        """Return what remains to be inserted; nothing where this is for another text."""
        inserted = self.candidate.insert_text
        n_typed = snapshot.offset - self.snapshot.offset
        return inserted[n_typed:] if goes_along(self.snapshot, inserted, snapshot) else ""


def goes_along(then: Snapshot, inserted: str, now: Snapshot) -> bool:
    """Tell whether now is then, with a beginning of the inserted text typed, or all of it."""
    n_typed = now.offset - then.offset
    return (
        0 <= n_typed <= len(inserted)
        and len(now.text) == len(then.text) + n_typed
        and (now.uri, now.language_id) == (then.uri, then.language_id)
        and now.text.startswith(inserted[:n_typed], then.offset)
        and now.text[: then.offset] == then.text[: then.offset]
        and now.text[now.offset :] == then.text[then.offset :]
    )


class Answers:
    """The newest answers."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque(maxlen=_N_ANSWERS)

    def remember(self, answer: Answer) -> None:
        """Keep an answer; the oldest goes."""
        self._answers.append(answer)

    def clear(self) -> None:
        """Forget all, because another model or setting would answer otherwise."""
        self._answers.clear()

    def find(
        self, snapshot: Snapshot, is_wanted: Callable[[Answer], bool] = lambda _: True
    ) -> Answer | None:
        """Return what is left of an answer whose beginning has been typed since."""
        for answer in reversed(tuple(self._answers)):
            rest = answer.rest(snapshot)
            if rest.strip() and is_wanted(answer):
                candidate = replace(answer.candidate, insert_text=rest)
                return replace(answer, snapshot=snapshot, candidate=candidate)
        return None

    def latest(self, uri: str) -> Answer | None:
        """Return the newest answer for a document."""
        return next((a for a in reversed(tuple(self._answers)) if a.snapshot.uri == uri), None)
