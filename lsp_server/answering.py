"""Answers one request at a time for each document: what is known, or what is written now.

A newer request, or an edit, takes the place of an older one. It knows neither LSP nor how
an answer is shown.
"""

import asyncio
import logging
import re
import time
from dataclasses import dataclass, replace
from typing import Protocol

from lsp_server.answers import Answer
from lsp_server.completion import SUPERSEDED, Candidate, Completion
from lsp_server.documents import Document
from lsp_server.model_host import ModelHost
from lsp_server.pending_checks import Checker, PendingChecks
from lsp_server.plan import Rule, Snapshot
from lsp_server.positions import split_lines
from lsp_server.repair import kept_text, rank
from lsp_server.settings import Settings
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Verdict, VerdictKind

_OFF_MARK = re.compile(r"(?:#|//|/\*|--|;)\s*codegen:\s*off\b")
_N_MARK_LINES = 5
_CHECK_SHARE = 0.2
"""Of an automatic request's time, what is left to the check where the model needs it all."""
_N_BUFFERS = 4
_BUFFER_CHARACTERS = 1 << 14
"""So much of so many other documents is looked at for what may be repeated."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What was asked, and when by the monotonic clock."""

    snapshot: Snapshot
    is_invoked: bool
    started: float


class AnswerKeeper(Protocol):
    """What answering needs of ``lsp_server.server.CompletionServer``."""

    documents: dict[str, Document]
    host: ModelHost
    settings: Settings

    def wake(self) -> None:
        """Load the model again where it was let go."""

    def check_request(self, snapshot: Snapshot, insert_text: str) -> CheckRequest:
        """Return what is to be checked of a candidate."""

    def tell_model_failed(self, error: Exception) -> None:
        """Hear of an engine that raised."""

    def tell_model_answered(self) -> None:
        """Hear of an engine that did not."""


class Answering:
    """The requests that are being answered, and why the last answers were empty."""

    def __init__(self, keeper: AnswerKeeper, checker: Checker) -> None:
        """Start nothing."""
        self._keeper = keeper
        self._checks = PendingChecks(checker)
        self._outdated: dict[str, asyncio.Event] = {}
        self._reasons: dict[str, str] = {}
        """Why the last answer of a document was empty."""

    def outdate(self, uri: str) -> None:
        """End what is being answered for a document: something newer took its place."""
        if outdated := self._outdated.pop(uri, None):
            outdated.set()
            self._reasons[uri] = SUPERSEDED

    def forget(self, uri: str) -> None:
        """Forget a document that was closed."""
        self.outdate(uri)
        self._reasons.pop(uri, None)

    def why_empty(self, uri: str) -> str | None:
        """Return why the last answer of a document was empty, None if nothing was asked."""
        return self._reasons.get(uri)

    async def answer(self, request: Request) -> list[Answer]:
        """Return what is to be shown, nothing where something newer took its place."""
        uri = request.snapshot.uri
        self._keeper.wake()
        self.outdate(uri)
        if request.is_invoked or not self._keeper.host.is_writing_along(request.snapshot):
            self._keeper.host.stop(uri)
        if reason := self._switched_off(request.snapshot):
            self._reasons[uri] = reason
            return []
        self._outdated[uri] = outdated = asyncio.Event()
        answers = await self._answers(request, outdated)
        if outdated.is_set():
            return []
        del self._outdated[uri]
        log.info("shown: %s", ",".join(map(_verdict_of, answers)) or "nothing")
        hides_flagged = not request.is_invoked and self._keeper.settings.flagged == "hide"
        shown = [
            answer
            for answer in _distinct(sorted(answers, key=_rank))
            if not (hides_flagged and _is_flagged(answer))
        ]
        if answers:
            self._reasons[uri] = "" if shown else _fault_of(answers[0])
        return shown

    def _switched_off(self, snapshot: Snapshot) -> str:
        """Return which switch keeps a document from being completed, if one does."""
        if not self._keeper.settings.languages.get(snapshot.language_id, True):
            return f"the setting languages turns {snapshot.language_id} off"
        first_lines = split_lines(snapshot.text[:_BUFFER_CHARACTERS])[:_N_MARK_LINES]
        if any(_OFF_MARK.search(line) for line in first_lines):
            return "a comment at the top of the file says codegen: off"
        return ""

    async def _answers(self, request: Request, outdated: asyncio.Event) -> list[Answer]:
        """Return checked answers: one that is known, or what the model writes."""
        snapshot, is_invoked = request.snapshot, request.is_invoked
        completion = Completion()
        settings = self._keeper.settings
        known = None if is_invoked else self._keeper.host.answers.find(snapshot)
        if known is not None and known.verdict is not None:
            log.info("automatic, known rule=%s", name_of(known.candidate.rule))
            return [known]
        if known is None:
            completion = await self._ask_model(request, outdated)
            _log_completion(completion, is_invoked)
            if not outdated.is_set():
                self._reasons[snapshot.uri] = completion.silence
        n_models = self._keeper.host.n_models
        candidates = (known.candidate,) if known else completion.candidates
        answers = await self._checked(candidates, request, outdated)
        if self._keeper.settings != settings or self._keeper.host.n_models != n_models:
            # What is to come would be answered otherwise.
            return answers
        for answer in reversed(answers):
            self._keeper.host.answers.remember(answer)
        shown = [answer for answer in answers if not _is_flagged(answer)]
        is_followed = shown and not is_invoked and not outdated.is_set()
        self._keeper.host.go_on(
            completion, shown[0] if is_followed else None, self._keeper.settings
        )
        return answers

    async def _ask_model(self, request: Request, outdated: asyncio.Event) -> Completion:
        snapshot, settings = request.snapshot, self._keeper.settings
        others = [d.text for uri, d in self._keeper.documents.items() if uri != snapshot.uri]
        deadline_ms = settings.deadline_ms
        check_ms = min(settings.check_deadline_ms, _CHECK_SHARE * deadline_ms)
        try:
            completion = await self._keeper.host.complete(
                snapshot,
                settings,
                outdated,
                n_candidates=settings.candidates if request.is_invoked else 1,
                buffers=[text[:_BUFFER_CHARACTERS] for text in reversed(others[-_N_BUFFERS:])],
                deadline_s=None if request.is_invoked else (deadline_ms - check_ms) / 1e3,
            )
        # An engine that fails must cost one answer and not the server.
        except Exception as error:  # noqa: BLE001
            log.error("the model failed: %s", type(error).__name__)
            self._keeper.tell_model_failed(error)
            return Completion(silence="the model failed")
        if completion.candidates:
            self._keeper.tell_model_answered()
        return completion

    async def _checked(
        self,
        candidates: tuple[Candidate, ...],
        request: Request,
        outdated: asyncio.Event,
    ) -> list[Answer]:
        """Return the candidates with the verdicts that are there by the deadline."""
        snapshot, deadline_s = request.snapshot, self._keeper.settings.check_deadline_ms / 1e3
        if not request.is_invoked:
            whole_s = self._keeper.settings.deadline_ms / 1e3
            left_s = request.started + whole_s - time.monotonic()
            deadline_s = min(deadline_s, max(left_s, _CHECK_SHARE * whole_s))
        if not deadline_s or snapshot.language_id != "python" or not candidates:
            return [Answer(snapshot, candidate, UNCHECKED) for candidate in candidates]
        requests = [
            replace(
                self._keeper.check_request(snapshot, candidate.insert_text),
                cut=Cut.OUTER if candidate.rule is Rule.TURN else Cut.ANYWHERE,
            )
            for candidate in candidates
        ]
        verdicts = await self._checks.verdicts(requests, deadline_s, outdated)
        return [
            Answer(snapshot, _repaired(candidate, verdict), verdict)
            for candidate, verdict in zip(candidates, verdicts, strict=True)
        ]


def _repaired(candidate: Candidate, verdict: Verdict | None) -> Candidate:
    return replace(candidate, insert_text=kept_text(candidate.insert_text, verdict))


def _rank(answer: Answer) -> tuple[int, float]:
    return rank(answer.verdict, answer.candidate.mean_log_probability)


def _distinct(answers: list[Answer]) -> list[Answer]:
    """Return the answers without those that add nothing to one before them."""
    texts = [answer.candidate.insert_text for answer in answers]
    return [answer for index, answer in enumerate(answers) if texts[index] not in texts[:index]]


def _verdict_of(answer: Answer) -> str:
    return (answer.verdict or UNCHECKED).verdict.value


def _is_flagged(answer: Answer) -> bool:
    return _verdict_of(answer) == VerdictKind.FLAGGED.value


def _fault_of(answer: Answer) -> str:
    """Return why an answer is hidden; the codes of problems hold no text."""
    problems = answer.verdict.problems if answer.verdict else ()
    codes = sorted({problem.code for problem in problems})
    return f"the check found fault with it ({', '.join(codes) or 'no code'})"


def name_of(rule: Rule | None) -> str:
    """Return a rule's name for logs and statistics."""
    return rule.value if rule else "none"


def _log_completion(completion: Completion, is_invoked: bool) -> None:
    log.info(
        "%s rule=%s candidates=%d prompt=%d reused=%d generated=%d first_ms=%.0f "
        "total_ms=%.0f%s%s%s",
        "invoked" if is_invoked else "automatic",
        name_of(completion.rule),
        len(completion.candidates),
        completion.prompt_tokens,
        completion.reused_tokens,
        completion.generated_tokens,
        completion.first_token_ms,
        completion.total_ms,
        "" if completion.is_whole else " unfinished",
        f" unread={len(completion.unread)}" if completion.unread else "",
        f" silence={completion.silence!r}" if completion.silence else "",
    )
