"""One task at a time, the newest of each key; events and deadlines, no sleeping."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from lsp_server.scheduler import Scheduler

DEADLINE_S = 30.0


class Task:
    """A task that runs until it is stopped or released, and says which."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> str:
        """Run until something happens."""
        self.started.set()
        for _ in range(int(DEADLINE_S / 0.01)):
            if self.stop.is_set():
                return "stopped"
            if self.release.wait(0.01):
                return "done"
        return "timed out"


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """Yield a scheduler that is closed in the end."""
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


def submitted(scheduler: Scheduler, key: str) -> tuple[Task, "Future[str]"]:
    """Submit a new task."""
    task = Task()
    return task, scheduler.submit(key, task.stop, task)


def test_the_newest_of_a_key_stops_those_before_it(scheduler: Scheduler) -> None:
    """Who types on never waits for what was asked before."""
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    second, second_result = submitted(scheduler, "a")
    third, third_result = submitted(scheduler, "a")
    third.release.set()
    assert first_result.result(DEADLINE_S) == "stopped"
    assert second_result.result(DEADLINE_S) == "stopped"
    assert third_result.result(DEADLINE_S) == "done"
    assert not third.stop.is_set()
    assert second.stop.is_set()


def test_other_keys_wait_and_are_not_stopped(scheduler: Scheduler) -> None:
    """Documents do not disturb each other, and only one task runs."""
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    second, second_result = submitted(scheduler, "b")
    second.release.set()
    assert not second.started.is_set()
    first.release.set()
    assert first_result.result(DEADLINE_S) == "done"
    assert second_result.result(DEADLINE_S) == "done"


def test_tasks_run_one_at_a_time_in_order(scheduler: Scheduler) -> None:
    """The model is never entered twice at once."""
    running = threading.Lock()
    order: list[int] = []

    def task(number: int) -> None:
        assert running.acquire(blocking=False)
        order.append(number)
        running.release()

    futures = [
        scheduler.submit(str(number), threading.Event(), partial(task, number))
        for number in range(20)
    ]
    for future in futures:
        future.result(DEADLINE_S)
    assert order == list(range(20))


def test_stop_ends_the_task_of_one_key(scheduler: Scheduler) -> None:
    """A document that changes or closes stops its own task and no other."""
    first, result = submitted(scheduler, "a")
    scheduler.stop("b")
    assert not first.stop.is_set()
    scheduler.stop("a")
    assert result.result(DEADLINE_S) == "stopped"


def test_a_task_that_ended_is_forgotten(scheduler: Scheduler) -> None:
    """Nobody sets the event of a task that is over."""
    first, result = submitted(scheduler, "a")
    first.release.set()
    result.result(DEADLINE_S)
    # The thread forgets a task before it takes the next.
    scheduler.submit("b", threading.Event(), lambda: None).result(DEADLINE_S)
    scheduler.stop("a")
    assert not first.stop.is_set()


def test_a_task_that_fails_leaves_the_thread_to_the_next(scheduler: Scheduler) -> None:
    """An error is its own caller's."""
    failing = scheduler.submit("a", threading.Event(), lambda: 1 // 0)
    after = scheduler.submit("a", threading.Event(), lambda: 7)
    with pytest.raises(ZeroDivisionError):
        failing.result(DEADLINE_S)
    assert after.result(DEADLINE_S) == 7


def test_close_stops_all_and_takes_no_more() -> None:
    """At the end nothing runs on, what waits never starts, and nothing new is taken."""
    scheduler = Scheduler()
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    second, second_result = submitted(scheduler, "b")
    scheduler.close()
    assert first_result.result(DEADLINE_S) == "stopped"
    with pytest.raises(CancelledError):
        second_result.result(DEADLINE_S)
    assert not second.started.is_set()
    with pytest.raises(RuntimeError):
        submitted(scheduler, "c")
