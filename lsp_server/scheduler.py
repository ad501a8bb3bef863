"""One thread for the model; the newest request of each document wins. Knows no model.

Idle work, such as reading a file before anybody asks, runs when there is no request, and
ends the moment one comes. Patient work gives way to both, and is begun again after them.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")

_Request = tuple[Future[Any], threading.Event, Callable[[], Any]]

log = logging.getLogger(__name__)


class Scheduler:
    """Runs tasks one at a time, off the event loop.

    A task gets an event that is set when it is no longer wanted; it looks at it often and
    then returns soon, with whatever it likes.
    """

    def __init__(self) -> None:
        """Start the thread with the first task."""
        self._changed = threading.Condition()
        self._requests: deque[_Request] = deque()
        self._stops: dict[str, threading.Event] = {}
        self._idle: Callable[[threading.Event], object] | None = None
        self._idle_stop = threading.Event()
        self._patient: Callable[[threading.Event], object] | None = None
        self._patient_stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._running: threading.Event | None = None
        self._answering: Future[Any] | None = None
        """What the request that runs is waited for with."""
        self._is_closed = False

    @property
    def running(self) -> threading.Event | None:
        """The event that ends what runs now, each task's own; None where nothing runs."""
        return self._running

    @property
    def is_busy(self) -> bool:
        """Whether something runs, or a request waits."""
        with self._changed:
            return self._running is not None or bool(self._requests)

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
            self._requests.append((future, stop, task))
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

    def submit_patient(self, task: Callable[[threading.Event], object]) -> None:
        """Run a task when there is not even idle work; it takes the place of the last one.

        It is called with the event that ends it, and again once what ended it is done.
        What it raises ends it alone.
        """
        with self._changed:
            if not self._is_closed:
                self._patient_stop.set()
                self._patient = task
                self._wake()

    def stop(self, key: str) -> None:
        """Stop the request of a key, if there is one."""
        with self._changed:
            self._stop(key)

    def stop_idle(self) -> None:
        """End idle and patient work, done or not."""
        with self._changed:
            self._end_idle()
            self._patient = None

    def stop_all(self) -> "Future[None]":
        """Stop what runs and what waits; the future is done once all of it has ended."""
        ended: Future[None] = Future()
        with self._changed:
            self._stop_all()
            if self._thread is None or self._is_closed:
                ended.set_result(None)
            else:
                self._requests.append((ended, threading.Event(), lambda: None))
                self._wake()
        return ended

    def abandon(self, error: Exception) -> None:
        """Leave what runs to itself, because it does not end; a new thread takes the next.

        Whoever waits for it gets the error, and what it may still return is thrown away.
        What waited is cancelled.
        """
        with self._changed:
            self._stop_all()
            waiting = [future for future, _, _ in self._requests]
            self._requests.clear()
            answering = self._answering
            self._thread = self._running = self._answering = None
        if answering is not None:
            with suppress(InvalidStateError):  # It ended just now.
                answering.set_exception(error)
        for future in waiting:
            future.cancel()

    def close(self) -> None:
        """Stop everything and take no more."""
        with self._changed:
            self._is_closed = True
            self._stop_all()
            waiting = [future for future, _, _ in self._requests]
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
            while not (self._requests or self._idle or self._patient or self._is_closed):
                self._changed.wait()
            if self._is_closed or self._is_abandoned():
                return False
            if self._requests:
                future, stop, request = self._requests.popleft()
                self._answering = future
                work = partial(_settle, future, request)
            elif self._idle is not None:
                stop = self._idle_stop = threading.Event()
                work = partial(_try, self._idle, stop)
                self._idle = None
            else:
                assert self._patient is not None  # noqa: S101  It was just waited for.
                stop = self._patient_stop = threading.Event()
                work = partial(self._try_patient, self._patient, stop)
            self._running = stop
        work()
        with self._changed:
            if self._is_abandoned():
                return False
            self._running = self._answering = None
        return True

    def _is_abandoned(self) -> bool:
        return self._thread is not threading.current_thread()

    def _try_patient(
        self, task: Callable[[threading.Event], object], stop: threading.Event
    ) -> None:
        _try(task, stop)
        with self._changed:
            if self._patient is task and not stop.is_set():
                self._patient = None

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
        self._patient = None

    def _end_idle(self) -> None:
        self._idle = None
        self._idle_stop.set()
        self._patient_stop.set()

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
        with suppress(InvalidStateError):  # It was abandoned.
            # Its traceback would hold what the task held.
            future.set_exception(error.with_traceback(None))
    else:
        with suppress(InvalidStateError):
            future.set_result(result)


def _try(idle: Callable[[threading.Event], object], stop: threading.Event) -> None:
    try:
        idle(stop)
    # Nobody waits for it; a request that meets the same error tells it.
    except Exception as error:  # noqa: BLE001
        log.warning("idle work failed: %s", type(error).__name__)
