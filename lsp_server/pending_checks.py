"""The checks that are being done for the text that is asked about; knows no LSP."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from lsp_server.known_names import NamesRequest
from lsp_server.verdict import CheckRequest, Verdict


class Checker(Protocol):
    """What the server needs of ``lsp_server.check_worker.CheckWorker``."""

    def submit(self, request: CheckRequest) -> Any:
        """Return a concurrent future of a Verdict."""

    def known_names(self, request: NamesRequest) -> Any:
        """Return a concurrent future of KnownNames or None."""

    def load_imports(self, request: NamesRequest) -> None:
        """Read the modules that a file imports while nothing else is asked."""

    def warm_up(self) -> None:
        """Get ready for the first request."""

    def close(self) -> None:
        """End what was started."""


class PendingChecks:
    """Asks a checker, once for each text that would result.

    Whoever types along a suggestion asks about the same text again and again. A check of
    any other text would only delay these.
    """

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._running: dict[tuple[str | None, str], asyncio.Future[Verdict]] = {}

    async def verdicts(
        self, requests: Sequence[CheckRequest], deadline_s: float, outdated: asyncio.Event
    ) -> list[Verdict | None]:
        """Return the verdicts that are there by the deadline, or when outdated.

        There is at least one request.
        """
        futures = self._futures(requests)
        checked = asyncio.ensure_future(asyncio.wait(futures, timeout=deadline_s))
        superseded = asyncio.ensure_future(outdated.wait())
        try:
            await asyncio.wait({checked, superseded}, return_when=asyncio.FIRST_COMPLETED)
            # What was not checked in time is checked when it is shown again.
            return [future.result() if future.done() else None for future in futures]
        finally:
            superseded.cancel()
            checked.cancel()

    def _futures(self, requests: Sequence[CheckRequest]) -> list[asyncio.Future[Verdict]]:
        running, self._running = self._running, {}
        for request in requests:
            text, offset = request.text, request.offset
            key = (request.path, text[:offset] + request.insert_text + text[offset:])
            check = running.pop(key, None)
            if check is None or check.cancelled():
                check = asyncio.wrap_future(self._checker.submit(request))
            self._running[key] = check
        for check in running.values():
            check.cancel()
        return list(self._running.values())
