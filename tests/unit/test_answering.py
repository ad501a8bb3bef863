"""What is shown of what is known and what is written; with a check that knows some faults."""

import time
from concurrent.futures import Future
from dataclasses import replace

from lsp_server.answering import Answering, Request
from lsp_server.documents import Document
from lsp_server.known_names import KnownNames, NamesRequest
from lsp_server.model_host import ModelHost
from lsp_server.plan import Snapshot
from lsp_server.settings import Settings
from lsp_server.verdict import CheckRequest, Problem, Verdict, VerdictKind
from tests.hosting import DEADLINE_S, Source, asking, loaded, until

TURN = Snapshot("# Do it.\n", 9, "python", "file:///a.py")


class Checker:
    """Flags every text that names the fault, at once."""

    def submit(self, request: CheckRequest) -> "Future[Verdict]":
        """Return a verdict that is there."""
        future: Future[Verdict] = Future()
        problem = Problem(0, 0, "undefined-name", "undefined name 'fault'")
        flagged = Verdict(VerdictKind.FLAGGED, (problem,))
        is_flagged = "fault" in request.insert_text
        future.set_result(flagged if is_flagged else Verdict(VerdictKind.OK))
        return future

    def known_names(self, request: NamesRequest) -> "Future[KnownNames | None]":
        """Know none."""
        raise NotImplementedError

    def load_imports(self, request: NamesRequest) -> None:
        """Do nothing."""

    def warm_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Keeper:
    """What answering needs of the server."""

    def __init__(self, host: ModelHost) -> None:
        self.documents: dict[str, Document] = {}
        self.host = host
        self.settings = Settings(check_deadline_ms=int(1e3 * DEADLINE_S), deadline_ms=50)

    def wake(self) -> None:
        """Do nothing."""

    def check_request(self, snapshot: Snapshot, insert_text: str) -> CheckRequest:
        """Return what is to be checked."""
        return CheckRequest(snapshot.text, snapshot.offset, insert_text)


async def shown(answering: Answering, snapshot: Snapshot = TURN) -> list[str]:
    """Return what is shown to a user who types."""
    request = Request(snapshot, is_invoked=False, started=time.monotonic())
    return [answer.candidate.insert_text for answer in await answering.answer(request)]


async def test_a_part_that_was_shown_stays_where_the_whole_is_flagged(
    host: ModelHost, source: Source
) -> None:
    """What the check found no fault with does not vanish for what was written after it."""
    source.script = "a = 1\nb = fault\n# Next.\n"
    engine = await loaded(host)
    engine.hold_after = len("a = 1\n")
    await asking(host, TURN, deadline_s=0.0)
    await until(engine.is_waiting.is_set)
    answering = Answering(Keeper(host), Checker())
    assert await shown(answering) == ["a = 1"]
    engine.gate.set()
    await until(lambda: any("fault" in a.candidate.insert_text for a in host.answers._answers))
    # The whole is checked at the first request, and known to be flagged at the second.
    assert await shown(answering) == ["a = 1"]
    assert await shown(answering) == ["a = 1"]
    assert answering.why_empty(TURN.uri) == ""
    accepted = replace(TURN, text=TURN.text + "a = 1", offset=TURN.offset + len("a = 1"))
    assert await shown(answering, accepted) == []
    assert "undefined-name" in (answering.why_empty(TURN.uri) or "")


class LateChecker(Checker):
    """Has no verdict yet."""

    def submit(self, request: CheckRequest) -> "Future[Verdict]":
        """Return a verdict that never comes."""
        return Future()


async def test_what_does_not_parse_is_not_shown_for_a_late_check(
    host: ModelHost, source: Source
) -> None:
    """Where the check is late or cold, Python's own parser is asked."""
    source.script = "1 1\n"
    await loaded(host)
    keeper = Keeper(host)
    keeper.settings = replace(keeper.settings, check_deadline_ms=1, deadline_ms=10_000)
    answering = Answering(keeper, LateChecker())
    place = replace(TURN, text="y = ", offset=4)
    assert await shown(answering, place) == []
    assert "not whole Python" in (answering.why_empty(TURN.uri) or "")
    keeper.settings = replace(
        keeper.settings, checks={**keeper.settings.checks, "syntax": False}
    )
    assert await shown(answering, place) == ["1 1"]
