"""One task at a time, the newest of each key; events and deadlines, no sleeping."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
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


def test_stop_all_tells_when_everything_has_ended(scheduler: Scheduler) -> None:
    """Once all that runs and waits is stopped, nothing holds what the tasks held."""
    scheduler.stop_all().result(DEADLINE_S)
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    _, second_result = submitted(scheduler, "b")
    later = idle(scheduler)
    scheduler.stop_all().result(DEADLINE_S)
    assert first_result.result(0) == "stopped"
    assert second_result.result(0) == "stopped"
    scheduler.submit("c", threading.Event(), lambda: None).result(DEADLINE_S)
    assert not later.started.is_set()
    scheduler.close()
    scheduler.stop_all().result(DEADLINE_S)


class IdleTask(Task):
    """The same, for when there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.said = ""

    def run(self, stop: threading.Event) -> None:
        """Run until something happens."""
        self.stop = stop
        self.said = self()
        self.over.set()


def idle(scheduler: Scheduler) -> IdleTask:
    """Submit a new idle task."""
    task = IdleTask()
    scheduler.submit_idle(task.run)
    return task


def test_idle_work_waits_for_all_requests(scheduler: Scheduler) -> None:
    """What nobody asked for never stands before what somebody waits for."""
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    second, second_result = submitted(scheduler, "b")
    later = idle(scheduler)
    first.release.set()
    assert first_result.result(DEADLINE_S) == "done"
    assert second.started.wait(DEADLINE_S)
    assert not later.started.is_set()
    second.release.set()
    assert second_result.result(DEADLINE_S) == "done"
    assert later.started.wait(DEADLINE_S)


def test_idle_work_ends_when_a_request_comes(scheduler: Scheduler) -> None:
    """A request never waits for idle work, whichever document it is for."""
    task = idle(scheduler)
    assert task.started.wait(DEADLINE_S)
    assert not task.stop.is_set()
    request, result = submitted(scheduler, "a")
    request.release.set()
    assert result.result(DEADLINE_S) == "done"
    assert task.said == "stopped"
    assert not request.stop.is_set()


def test_idle_work_that_has_not_begun_gives_way_to_a_request(scheduler: Scheduler) -> None:
    """What was meant for the time before a request is not done after it."""
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    never = idle(scheduler)
    second, second_result = submitted(scheduler, "a")
    second.release.set()
    assert first_result.result(DEADLINE_S) == "stopped"
    assert second_result.result(DEADLINE_S) == "done"
    # The thread takes what there is in order, so this one would come after it.
    last = idle(scheduler)
    assert last.started.wait(DEADLINE_S)
    assert not never.started.is_set()


def test_the_newest_idle_work_takes_the_place_of_the_last(scheduler: Scheduler) -> None:
    """Of what is worth doing ahead only the newest counts, begun or not."""
    first = idle(scheduler)
    assert first.started.wait(DEADLINE_S)
    second, third = idle(scheduler), idle(scheduler)
    assert third.started.wait(DEADLINE_S)
    assert first.said == "stopped"
    assert not second.started.is_set()
    assert not third.stop.is_set()


def test_stop_idle_ends_idle_work_alone(scheduler: Scheduler) -> None:
    """A model that goes takes its idle work with it, and no request."""
    task = idle(scheduler)
    assert task.started.wait(DEADLINE_S)
    scheduler.stop_idle()
    assert task.over.wait(DEADLINE_S)
    assert task.said == "stopped"
    request, result = submitted(scheduler, "a")
    assert request.started.wait(DEADLINE_S)
    never = idle(scheduler)
    scheduler.stop_idle()
    assert not request.stop.is_set()
    request.release.set()
    assert result.result(DEADLINE_S) == "done"
    last = idle(scheduler)
    assert last.started.wait(DEADLINE_S)
    assert not never.started.is_set()


def test_stopping_a_key_leaves_idle_work(scheduler: Scheduler) -> None:
    """An edit of one document is no reason to end what is done for another."""
    task = idle(scheduler)
    assert task.started.wait(DEADLINE_S)
    scheduler.stop("a")
    assert not task.stop.is_set()


def test_idle_work_that_fails_hurts_nobody(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged by its kind alone, and both requests and idle work go on."""
    began = threading.Event()

    def fail(_stop: threading.Event) -> None:
        began.set()
        raise ValueError("secret")

    scheduler.submit_idle(fail)
    assert began.wait(DEADLINE_S)
    assert scheduler.submit("a", threading.Event(), lambda: 7).result(DEADLINE_S) == 7
    assert idle(scheduler).started.wait(DEADLINE_S)
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_close_ends_idle_work_and_takes_no_more() -> None:
    """At the end idle work stops, and new work is dropped without a word."""
    scheduler = Scheduler()
    task = idle(scheduler)
    assert task.started.wait(DEADLINE_S)
    scheduler.close()
    late = idle(scheduler)
    scheduler.wait(DEADLINE_S)
    assert task.said == "stopped"
    assert not late.started.is_set()


def test_idle_work_that_waits_when_it_is_closed_never_runs() -> None:
    """The last request is not followed by work that nobody can profit from."""
    scheduler = Scheduler()
    first, result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    waiting = idle(scheduler)
    scheduler.close()
    scheduler.wait(DEADLINE_S)
    assert result.result(DEADLINE_S) == "stopped"
    assert not waiting.started.is_set()


def patient(scheduler: Scheduler) -> IdleTask:
    """Submit a new task that gives way to idle work."""
    task = IdleTask()
    scheduler.submit_patient(task.run)
    return task


def test_patient_work_waits_for_idle_work(scheduler: Scheduler) -> None:
    """It is done when there is nothing else to do, and it does not end what there is."""
    first = idle(scheduler)
    assert first.started.wait(DEADLINE_S)
    task = patient(scheduler)
    assert not first.stop.is_set()
    assert not task.started.is_set()
    first.release.set()
    assert task.started.wait(DEADLINE_S)
    assert first.said == "done"


@pytest.mark.parametrize("is_idle", [True, False])
def test_patient_work_gives_way_and_is_begun_again(scheduler: Scheduler, is_idle: bool) -> None:
    """Neither a request nor idle work waits for it, and it is still done after them."""
    task = patient(scheduler)
    assert task.started.wait(DEADLINE_S)
    task.started.clear()
    other = idle(scheduler) if is_idle else submitted(scheduler, "a")[0]
    assert other.started.wait(DEADLINE_S)
    assert task.said == "stopped"
    other.release.set()
    assert task.started.wait(DEADLINE_S)
    task.over.clear()
    task.release.set()
    assert task.over.wait(DEADLINE_S)
    assert task.said == "done"


def test_patient_work_that_is_done_is_not_begun_again(scheduler: Scheduler) -> None:
    """Once it has ended by itself, a request has nothing to bring back."""
    task = patient(scheduler)
    task.release.set()
    assert task.over.wait(DEADLINE_S)
    scheduler.submit("a", threading.Event(), lambda: None).result(DEADLINE_S)
    task.started.clear()
    last = patient(scheduler)
    assert last.started.wait(DEADLINE_S)
    assert not task.started.is_set()


def test_the_newest_patient_work_takes_the_place_of_the_last(scheduler: Scheduler) -> None:
    """What was wanted of an older text is not gone on with."""
    first = patient(scheduler)
    assert first.started.wait(DEADLINE_S)
    second = patient(scheduler)
    assert second.started.wait(DEADLINE_S)
    assert first.said == "stopped"


@pytest.mark.parametrize("end", [Scheduler.stop_idle, Scheduler.stop_all, Scheduler.close])
def test_patient_work_ends_for_good(
    scheduler: Scheduler, end: Callable[[Scheduler], object]
) -> None:
    """A model that goes takes it along, and it is not begun again."""
    task = patient(scheduler)
    assert task.started.wait(DEADLINE_S)
    task.started.clear()
    end(scheduler)
    assert task.over.wait(DEADLINE_S)
    last = patient(scheduler)
    assert end is Scheduler.close or last.started.wait(DEADLINE_S)
    assert task.said == "stopped"
    assert not task.started.is_set()


def test_wait_joins_the_thread() -> None:
    """Once it returns nothing of the model's runs any more; without a thread, at once."""
    Scheduler().wait(DEADLINE_S)
    scheduler = Scheduler()
    first, result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    scheduler.close()
    scheduler.wait(DEADLINE_S)
    assert result.done()
    assert result.result() == "stopped"


def test_a_future_that_is_cancelled_before_its_turn_never_runs(scheduler: Scheduler) -> None:
    """Who gave up while waiting costs the model nothing, and nobody behind it."""
    first, first_result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    second, second_result = submitted(scheduler, "b")
    third, third_result = submitted(scheduler, "c")
    assert second_result.cancel()
    first.release.set()
    third.release.set()
    assert first_result.result(DEADLINE_S) == "done"
    assert third_result.result(DEADLINE_S) == "done"
    assert not second.started.is_set()


def test_what_does_not_end_is_left_to_itself(scheduler: Scheduler) -> None:
    """A call that never returns costs its own answer and those that wait, not the thread."""
    started, gate, returned = threading.Event(), threading.Event(), threading.Event()

    def hang() -> str:
        started.set()
        assert gate.wait(DEADLINE_S)
        returned.set()
        return "too late"

    stop = threading.Event()
    hanging = scheduler.submit("a", stop, hang)
    assert started.wait(DEADLINE_S)
    waiting, waiting_result = submitted(scheduler, "b")
    never = idle(scheduler)
    assert scheduler.running is stop
    scheduler.abandon(TimeoutError("it hangs"))
    with pytest.raises(TimeoutError, match="it hangs"):
        hanging.result(DEADLINE_S)
    with pytest.raises(CancelledError):
        waiting_result.result(DEADLINE_S)
    assert stop.is_set()
    assert not scheduler.is_busy
    after, after_result = submitted(scheduler, "a")
    assert after.started.wait(DEADLINE_S)
    assert scheduler.running is after.stop
    gate.set()
    assert returned.wait(DEADLINE_S)
    after.release.set()
    assert after_result.result(DEADLINE_S) == "done"
    assert isinstance(hanging.exception(), TimeoutError)
    # The thread that was left takes nothing more, so what comes is done once, in order.
    test_tasks_run_one_at_a_time_in_order(scheduler)
    assert not waiting.started.is_set()
    assert not never.started.is_set()


def test_idle_work_that_does_not_end_is_left_to_itself(scheduler: Scheduler) -> None:
    """What nobody asked for must not hold the thread of those who ask either."""
    started, gate = threading.Event(), threading.Event()

    def hang(_stop: threading.Event) -> None:
        started.set()
        assert gate.wait(DEADLINE_S)

    scheduler.submit_idle(hang)
    assert started.wait(DEADLINE_S)
    waiting, result = submitted(scheduler, "a")
    assert scheduler.running is not None
    assert scheduler.running.is_set()
    scheduler.abandon(TimeoutError("it hangs"))
    assert result.cancelled()
    assert scheduler.submit("a", threading.Event(), lambda: 7).result(DEADLINE_S) == 7
    gate.set()
    assert not waiting.started.is_set()


class Held:
    """Stands for a model that a task holds."""


def is_let_go(reference: "weakref.ref[Held]") -> bool:
    """Wait until nobody holds it."""
    waiting = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        gc.collect()
        if reference() is None:
            return True
        waiting.wait(0.01)
    return False


def _run(scheduler: Scheduler, held: Held) -> None:
    scheduler.submit("a", threading.Event(), partial(id, held)).result(DEADLINE_S)


def _run_failing(scheduler: Scheduler, held: Held) -> None:
    with pytest.raises(TypeError):
        scheduler.submit("a", threading.Event(), partial(len, held)).result(DEADLINE_S)  # type: ignore[arg-type]


def _run_idle(scheduler: Scheduler, held: Held) -> None:
    over = threading.Event()
    scheduler.submit_idle(partial(lambda _held, _stop: over.set(), held))
    assert over.wait(DEADLINE_S)


def _stop_idle(scheduler: Scheduler, held: Held) -> None:
    first, result = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    scheduler.submit_idle(partial(lambda _held, _stop: None, held))
    scheduler.stop_idle()
    first.release.set()
    assert result.result(DEADLINE_S) == "done"


def _close(scheduler: Scheduler, held: Held) -> None:
    first, _ = submitted(scheduler, "a")
    assert first.started.wait(DEADLINE_S)
    waiting = scheduler.submit("b", threading.Event(), partial(id, held))
    scheduler.close()
    assert waiting.cancelled()


@pytest.mark.parametrize(
    "use", [_run, _run_failing, _run_idle, _stop_idle, _close], ids=lambda use: use.__name__
)
def test_what_a_task_holds_is_let_go_when_it_ended(
    use: Callable[[Scheduler, Held], None], scheduler: Scheduler
) -> None:
    """A model that nobody wants any more leaves the memory, though the thread stays."""
    held = Held()
    reference = weakref.ref(held)
    use(scheduler, held)
    del held
    assert is_let_go(reference)
