"""Runs programs in threads while the model writes the next ones, each program once.

How a program ended goes into the record, from the thread that asked, so that a run that
was broken off runs only what it had not. It knows nothing of what is measured.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from model_eval.records import Record, SavedRun
from model_eval.sandbox import Outcome, Sandbox


def digest(program: str) -> str:
    """Return the name of a program in a record."""
    return hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def outcomes(record: Record | SavedRun) -> dict[str, Outcome]:
    """Return how the recorded programs ended, by their names."""
    return {
        line["program"]: Outcome(line["error"], line["printed"])
        for line in record.lines
        if "program" in line
    }


class Executions:
    """The programs of one run."""

    def __init__(self, sandbox: Sandbox, record: Record, *, keeps_print: bool) -> None:
        """Run nothing yet; ``keeps_print`` is that of ``Sandbox.run``."""
        self._sandbox = sandbox
        self._record = record
        self._keeps_print = keeps_print
        self._known = set(outcomes(record))
        self._running: dict[str, Future[Outcome]] = {}
        # The model has its own threads, and is what takes long.
        self._threads = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2))

    def __enter__(self) -> Self:
        """Be used until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what has not begun."""
        self._threads.shutdown(cancel_futures=True)

    def want(self, program: str) -> None:
        """Run a program that was not run before; and record those that have ended."""
        name = digest(program)
        if name not in self._known:
            self._known.add(name)
            self._running[name] = self._threads.submit(
                self._sandbox.run, program, keeps_print=self._keeps_print
            )
        self._keep()

    def finish(self, progress: Callable[[int, int], None]) -> None:
        """Wait for all."""
        total = len(self._running)
        while self._running:
            wait(self._running.values(), return_when="FIRST_COMPLETED")
            self._keep()
            progress(total - len(self._running), total)

    def _keep(self) -> None:
        for name, future in list(self._running.items()):
            if future.done():
                outcome = future.result()
                self._record.add(
                    {"program": name, "error": outcome.error, "printed": outcome.printed}
                )
                del self._running[name]
