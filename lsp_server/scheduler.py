"""One thread for the model; the newest task of each document wins. Knows no model."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Scheduler:
    """Runs tasks one at a time, off the event loop.

    A task gets an event that is set when a newer one of the same key arrives; it looks at
    it often and then returns soon, with whatever it likes.
    """

    def __init__(self) -> None:
        """Start the thread with the first task."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._running: dict[str, threading.Event] = {}

    def submit(
        self, key: str, stop: threading.Event, task: Callable[[], Result]
    ) -> "Future[Result]":
        """Queue a task that ends soon once ``stop`` is set, and stop those before it."""
        with self._lock:
            self._stop(key)
            self._running[key] = stop
            future = self._executor.submit(task)
        future.add_done_callback(lambda _: self._forget(key, stop))
        return future

    def stop(self, key: str) -> None:
        """Stop the task of a key, if there is one."""
        with self._lock:
            self._stop(key)

    def close(self) -> None:
        """Stop all tasks and take no more."""
        with self._lock:
            for event in self._running.values():
                event.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _stop(self, key: str) -> None:
        if event := self._running.get(key):
            event.set()

    def _forget(self, key: str, stop: threading.Event) -> None:
        with self._lock:
            if self._running.get(key) is stop:
                del self._running[key]
