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
from lsp_server.confidence import is_worth_showing
from lsp_server.documents import Document
from lsp_server.model_host import ModelHost
from lsp_server.pending_checks import Checker, PendingChecks
from lsp_server.plan import Rule, Snapshot, unix, window_of
from lsp_server.positions import split_lines
from lsp_server.repair import kept_text, rank
from lsp_server.settings import Settings
from lsp_server.syntax import find_syntax_problem
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Fault, Verdict, VerdictKind

_OFF_MARK = re.compile(r"(?:#|//|/\*|--|;)\s*codegen:\s*off\b")
_N_MARK_LINES = 5
_FIRST_LINE = re.compile(r"\s*[^\r\n]*")
"""With the blank lines before it."""
_CHECK_SHARE = 0.2
"""Of an automatic request's time, what is left to the check where the model needs it all."""
_UNSURE = "its confidence is below what the setting suggest asks for"
INVOKED_S = 30.0
"""Who asks explicitly waits for the whole text, but for no longer than this."""
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

    def say_nothing(self, uri: str, reason: str) -> None:
        """Take a request that has no answer, for a reason that holds no text."""
        self.outdate(uri)
        self._reasons[uri] = reason

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
        if reason := switched_off(request.snapshot, self._keeper.settings):
            self._reasons[uri] = reason
            return []
        self._outdated[uri] = outdated = asyncio.Event()
        answers = await self._answers(request, outdated)
        hides = not request.is_invoked and self._keeper.settings.flagged == "hide"
        broken = await self._broken(answers) if hides else []
        if outdated.is_set():
            return []
        del self._outdated[uri]
        log.info("shown: %s", ",".join(map(_verdict_of, answers)) or "nothing")
        shown = [
            answer
            for answer in _distinct(sorted(answers, key=_rank))
            if not (hides and (_is_flagged(answer) or answer in broken))
        ]
        if answers and not shown and (stays := self._shown_before(request.snapshot)):
            # A whole that is flagged takes nothing away of the part that was not.
            shown = [stays]
        if answers:
            self._reasons[uri] = "" if shown else _fault_of(answers[0], is_broken=bool(broken))
        if self._keeper.settings.lines == "single" and not request.is_invoked:
            # The others are known, and come one by one.
            return [_first_line_of(answer) for answer in shown]
        return shown

    async def _answers(self, request: Request, outdated: asyncio.Event) -> list[Answer]:
        """Return checked answers: one that is known, or what the model writes."""
        snapshot, is_invoked = request.snapshot, request.is_invoked
        completion = Completion()
        settings = self._keeper.settings
        known = None if is_invoked else self._known(snapshot)
        if known is None:
            completion = await self._ask_model(request, outdated)
            _log_completion(completion, is_invoked)
            if not outdated.is_set():
                self._reasons[snapshot.uri] = completion.silence
        found = [known] if known else _unchecked(completion, request)
        is_hidden = not all(map(self._is_worth_showing, found))
        if is_hidden and not outdated.is_set():
            self._reasons[snapshot.uri] = _UNSURE
        if known is not None and (is_hidden or known.verdict is not None):
            is_or_not = "hidden" if is_hidden else "known"
            log.info("automatic, %s rule=%s", is_or_not, name_of(known.candidate.rule))
            return [] if is_hidden else [known]
        n_models = self._keeper.host.n_models
        if not is_hidden:
            found = await self._checked(found, request, outdated)
        answers = [] if is_hidden else found
        if self._keeper.settings != settings or self._keeper.host.n_models != n_models:
            # What is to come would be answered otherwise.
            return answers
        # What is hidden too: whoever types along it is not to be shown the rest.
        for answer in reversed(found):
            self._keeper.host.answers.remember(answer)
        shown = [answer for answer in answers if not _is_flagged(answer)]
        is_followed = shown and not is_invoked and not outdated.is_set()
        self._keeper.host.go_on(
            completion, shown[0] if is_followed else None, self._keeper.settings
        )
        return answers

    async def _broken(self, answers: list[Answer]) -> list[Answer]:
        """Return the Python answers whose check is late and that leave code that is broken."""
        if not self._keeper.settings.checks.get(Fault.SYNTAX, True):
            return []
        return [
            answer
            for answer in answers
            if answer.verdict is None
            and answer.snapshot.language_id == "python"
            and await asyncio.to_thread(_is_broken, answer)
        ]

    def _known(self, snapshot: Snapshot) -> Answer | None:
        """Return an answer that is known: what was shown stays, whatever came after it."""
        answers = self._keeper.host.answers
        return answers.find(snapshot, self._is_worth_showing) or answers.find(snapshot)

    def _shown_before(self, snapshot: Snapshot) -> Answer | None:
        """Return an answer that the check found no fault with, whatever is known since."""

        def is_shown(answer: Answer) -> bool:
            is_checked = answer.verdict is not None and not _is_flagged(answer)
            return is_checked and self._is_worth_showing(answer)

        return self._keeper.host.answers.find(snapshot, is_shown)

    def _is_worth_showing(self, answer: Answer) -> bool:
        model = self._keeper.host.model
        name, level = model.name if model else "", self._keeper.settings.suggest
        return answer.is_asked_for or is_worth_showing(answer.candidate, name, level)

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
                deadline_s=(
                    INVOKED_S if request.is_invoked else (deadline_ms - check_ms) / 1e3
                ),
            )
        # An engine that fails must cost one answer and not the server.
        except Exception as error:  # noqa: BLE001
            log.error("the model failed: %s", type(error).__name__)
            return Completion(silence="the model failed")
        return completion

    async def _checked(
        self, answers: list[Answer], request: Request, outdated: asyncio.Event
    ) -> list[Answer]:
        """Return the answers with the verdicts that are there by the deadline."""
        snapshot, deadline_s = request.snapshot, self._keeper.settings.check_deadline_ms / 1e3
        if not request.is_invoked:
            whole_s = self._keeper.settings.deadline_ms / 1e3
            left_s = request.started + whole_s - time.monotonic()
            deadline_s = min(deadline_s, max(left_s, _CHECK_SHARE * whole_s))
        if not deadline_s or snapshot.language_id != "python" or not answers:
            return [replace(answer, verdict=UNCHECKED) for answer in answers]
        requests = [
            replace(
                self._keeper.check_request(snapshot, answer.candidate.insert_text),
                cut=Cut.OUTER if answer.candidate.rule is Rule.TURN else Cut.ANYWHERE,
            )
            for answer in answers
        ]
        verdicts = await self._checks.verdicts(requests, deadline_s, outdated)
        return [
            replace(answer, candidate=_repaired(answer.candidate, verdict), verdict=verdict)
            for answer, verdict in zip(answers, verdicts, strict=True)
        ]


def _is_broken(answer: Answer) -> bool:
    text, offset = window_of(answer.snapshot)
    insert_text = unix(answer.candidate.insert_text)
    return find_syntax_problem(text, offset, insert_text) is not None


def _repaired(candidate: Candidate, verdict: Verdict | None) -> Candidate:
    return replace(candidate, insert_text=kept_text(candidate.insert_text, verdict))


def _rank(answer: Answer) -> tuple[int, float]:
    return rank(answer.verdict, answer.candidate.mean_log_probability)


def _distinct(answers: list[Answer]) -> list[Answer]:
    """Return the answers without those that add nothing to one before them."""
    texts = [answer.candidate.insert_text for answer in answers]
    return [answer for index, answer in enumerate(answers) if texts[index] not in texts[:index]]


def switched_off(snapshot: Snapshot, settings: Settings) -> str:
    """Return which switch keeps a document from being completed, if one does."""
    if not settings.languages.get(snapshot.language_id, True):
        return f"the setting languages turns {snapshot.language_id} off"
    first_lines = split_lines(snapshot.text[:_BUFFER_CHARACTERS])[:_N_MARK_LINES]
    if any(_OFF_MARK.search(line) for line in first_lines):
        return "a comment at the top of the file says codegen: off"
    return ""


def _unchecked(completion: Completion, request: Request) -> list[Answer]:
    return [
        Answer(request.snapshot, candidate, None, is_asked_for=request.is_invoked)
        for candidate in completion.candidates
    ]


def _first_line_of(answer: Answer) -> Answer:
    first = _FIRST_LINE.match(answer.candidate.insert_text)
    text = first.group() if first else ""
    return replace(answer, candidate=replace(answer.candidate, insert_text=text))


def _verdict_of(answer: Answer) -> str:
    return (answer.verdict or UNCHECKED).verdict.value


def _is_flagged(answer: Answer) -> bool:
    return _verdict_of(answer) == VerdictKind.FLAGGED.value


def _fault_of(answer: Answer, *, is_broken: bool) -> str:
    """Return why an answer is hidden; the codes of problems hold no text."""
    if is_broken:
        return "it is not whole Python, and the check is late"
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
