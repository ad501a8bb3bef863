"""One thread for the model; the newest request of each document wins. Knows no model.

Idle work, such as reading a file before anybody asks, runs when there is no request, and
ends the moment one comes.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Scheduler:
    """Runs tasks one at a time, off the event loop.

    A task gets an event that is set when it is no longer wanted; it looks at it often and
    then returns soon, with whatever it likes.
    """

    def __init__(self) -> None:
        """Start the thread with the first task."""
        self._changed = threading.Condition()
        self._requests: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stops: dict[str, threading.Event] = {}
        self._idle: Callable[[threading.Event], object] | None = None
        self._idle_stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(
        self, key: str, stop: threading.Event, task: Callable[[], Result]
    ) -> "Future[Result]":
        """Queue a request that ends soon once ``stop`` is set, and stop those before it.

        Raises:
            RuntimeError: the scheduler is closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the scheduler is closed")
            self._stop(key)
            self._stops[key] = stop
            self._end_idle()
            self._requests.append((future, task))
            self._wake()
        future.add_done_callback(lambda _: self._forget(key, stop))
        return future

    def submit_idle(self, task: Callable[[threading.Event], object]) -> None:
        """Run a task when there is nothing else to do; it takes the place of the last one.

        It is called with the event that ends it. What it raises ends it alone.
        """
        with self._changed:
            if not self._is_closed:
                self._end_idle()
                self._idle = task
                self._wake()

    def stop(self, key: str) -> None:
        """Stop the request of a key, if there is one."""
        with self._changed:
            self._stop(key)

    def stop_idle(self) -> None:
        """End idle work, done or not."""
        with self._changed:
            self._end_idle()

    def stop_all(self) -> "Future[None]":
        """Stop what runs and what waits; the future is done once all of it has ended."""
        ended: Future[None] = Future()
        with self._changed:
            self._stop_all()
            if self._thread is None or self._is_closed:
                ended.set_result(None)
            else:
                self._requests.append((ended, lambda: None))
                self._wake()
        return ended

    def close(self) -> None:
        """Stop everything and take no more."""
        with self._changed:
            self._is_closed = True
            self._stop_all()
            waiting = [future for future, _ in self._requests]
            self._requests.clear()
            self._changed.notify_all()
        for future in waiting:
            future.cancel()

    def wait(self, deadline_s: float) -> None:
        """Wait until what was running when it was closed has ended."""
        if self._thread is not None:
            self._thread.join(deadline_s)

    def _run(self) -> None:
        # What a task holds, such as a model, must not outlive it here.
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        with self._changed:
            while not (self._requests or self._idle or self._is_closed):
                self._changed.wait()
            if self._is_closed:
                return False
            if self._requests:
                future, request = self._requests.popleft()
                work = partial(_settle, future, request)
            else:
                assert self._idle is not None  # noqa: S101  It was just waited for.
                stop = self._idle_stop = threading.Event()
                work = partial(_try, self._idle, stop)
                self._idle = None
        work()
        return True

    def _wake(self) -> None:
        if self._thread is None:
            # A daemon, so that a model that hangs does not keep the server alive.
            self._thread = threading.Thread(target=self._run, daemon=True, name="model")
            self._thread.start()
        self._changed.notify_all()

    def _stop(self, key: str) -> None:
        if event := self._stops.get(key):
            event.set()

    def _stop_all(self) -> None:
        for stop in self._stops.values():
            stop.set()
        self._end_idle()

    def _end_idle(self) -> None:
        self._idle = None
        self._idle_stop.set()

    def _forget(self, key: str, stop: threading.Event) -> None:
        with self._changed:
            if self._stops.get(key) is stop:
                del self._stops[key]


def _settle(future: "Future[Any]", request: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = request()
    except BaseException as error:  # noqa: BLE001  Whoever waits for the future gets it.
        future.set_exception(error)
    else:
        future.set_result(result)


def _try(idle: Callable[[threading.Event], object], stop: threading.Event) -> None:
    try:
        idle(stop)
    # Nobody waits for it; a request that meets the same error tells it.
    except Exception as error:  # noqa: BLE001
        log.warning("idle work failed: %s", type(error).__name__)
