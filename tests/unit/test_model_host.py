"""One model at hand: loaded, run, used while nobody asks, let go; with engines that recite."""

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lsp_server.answers import Answer
from lsp_server.completion import Candidate, Completion, Model
from lsp_server.errors import ModelLoadError
from lsp_server.model_host import ModelHost, Progress
from lsp_server.plan import Snapshot
from lsp_server.settings import Settings
from lsp_server.verdict import UNCHECKED
from tests.fakes import ByteTokenizer, ScriptedEngine

DEADLINE_S = 30.0
SNAPSHOT = Snapshot("a = 1\nb = ", 10, "python", "file:///a.py")
OTHER = Snapshot("c = ", 4, "python", "file:///b.py")
ANSWER = Answer(SNAPSHOT, Candidate("2", -0.5), UNCHECKED)


class Loader:
    """Loads fakes, each when the test lets it; keeps none of them."""

    def __init__(self) -> None:
        self.script = "2\n"
        self.started: list[str] = []
        self._gates: dict[str, threading.Event] = {}

    def gate(self, name: str) -> threading.Event:
        """Return the event that the loading of a model waits for."""
        return self._gates.setdefault(name, threading.Event())

    def __call__(self, settings: Settings, report: Progress) -> Model:
        """Load a model that is named by the settings; a name with ``bad`` fails."""
        name = settings.model or ""
        self.started.append(name)
        if name in self._gates:
            assert self._gates[name].wait(DEADLINE_S)
        report(1, 1)
        if "bad" in name:
            raise ModelLoadError(f"{name} is broken")
        return Model(name, ScriptedEngine(self.script), ByteTokenizer())


def at_hand(host: ModelHost) -> Model:
    """Return the model, which is there."""
    assert host.model is not None
    return host.model


@pytest.fixture(autouse=True)
def _plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsp_server.model_host.is_on_battery", lambda: False)


@pytest.fixture
def loader() -> Loader:
    """Return a loader that waits for nothing yet."""
    return Loader()


@pytest.fixture
def host(loader: Loader) -> Iterator[ModelHost]:
    """Yield a host that is closed in the end."""
    host = ModelHost(loader)
    yield host
    host.close()
    host.scheduler.wait(DEADLINE_S)


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.002)


def loading(host: ModelHost, name: str) -> "asyncio.Task[Model | None]":
    """Begin to load a model."""
    return asyncio.create_task(host.load(Settings(model=name), lambda _done, _total: None))


async def loaded(host: ModelHost, name: str = "model") -> ScriptedEngine:
    """Load a model and return its engine."""
    model = await loading(host, name)
    assert model is not None
    assert isinstance(model.engine, ScriptedEngine)
    return model.engine


def asking(
    host: ModelHost, snapshot: Snapshot = SNAPSHOT, buffers: tuple[str, ...] = ()
) -> "asyncio.Task[Completion]":
    """Begin to ask the model that is at hand."""
    assert host.model is not None
    return asyncio.create_task(
        host.run(host.model, snapshot, Settings(), n_candidates=1, buffers=buffers)
    )


def texts(completion: Completion) -> list[str]:
    """Return what was suggested."""
    return [candidate.insert_text for candidate in completion.candidates]


def name_of(model: Model | None) -> str | None:
    """Return a model's name."""
    return model.name if model else None


async def test_a_model_that_is_loaded_is_at_hand(host: ModelHost) -> None:
    """Nothing is there before it was loaded, and then it answers."""
    outdated = asyncio.Event()
    assert await host.model_at_hand(outdated) is None
    await loaded(host)
    assert name_of(await host.model_at_hand(outdated)) == "model"
    assert texts(await asking(host)) == ["2"]


@pytest.mark.parametrize("first_done", ["older", "newer"])
@pytest.mark.parametrize("older", ["older", "bad older"])
async def test_the_newer_load_wins(
    first_done: str, older: str, host: ModelHost, loader: Loader
) -> None:
    """Whichever is done first, the model is that of the newer call, and the older is mute."""
    gates = {"older": loader.gate(older), "newer": loader.gate("newer")}
    before = loading(host, older)
    await until(lambda: loader.started)
    after = loading(host, "newer")
    await until(lambda: len(loader.started) == 2)
    waiting = asyncio.create_task(host.model_at_hand(asyncio.Event()))
    gates.pop(first_done).set()
    assert name_of(await {"older": before, "newer": after}[first_done]) == (
        "newer" if first_done == "newer" else None
    )
    gates.popitem()[1].set()
    assert await before is None
    assert name_of(await after) == "newer"
    assert name_of(host.model) == "newer"
    assert name_of(await waiting) == "newer"


async def test_a_failed_load_leaves_waiting_requests_with_nothing(
    host: ModelHost, loader: Loader
) -> None:
    """Who waits for a model that cannot be loaded is told so at once, and a next one works."""
    gate = loader.gate("bad")
    load = loading(host, "bad")
    await until(lambda: loader.started)
    waiting = asyncio.create_task(host.model_at_hand(asyncio.Event()))
    gate.set()
    with pytest.raises(ModelLoadError, match="bad is broken"):
        await load
    assert await waiting is None
    assert await host.model_at_hand(asyncio.Event()) is None
    await loaded(host)
    assert host.model is not None


async def test_a_failed_load_leaves_no_older_model(host: ModelHost) -> None:
    """Nobody gets answers from a model that the settings do not name any more."""
    await loaded(host)
    with pytest.raises(ModelLoadError):
        await loading(host, "bad")
    assert host.model is None


async def test_a_cancelled_load_leaves_waiting_requests_with_nothing(
    host: ModelHost, loader: Loader
) -> None:
    """A server that ends while it loads keeps nobody waiting."""
    gate = loader.gate("model")
    load = loading(host, "model")
    await until(lambda: loader.started)
    waiting = asyncio.create_task(host.model_at_hand(asyncio.Event()))
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert await waiting is None
    gate.set()


async def test_a_request_waits_while_the_model_is_loaded(
    host: ModelHost, loader: Loader
) -> None:
    """What is asked too early is answered as soon as there is a model."""
    gate = loader.gate("model")
    load = loading(host, "model")
    await until(lambda: loader.started)
    waiting = asyncio.create_task(host.model_at_hand(asyncio.Event()))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    assert await waiting is await load


async def test_a_request_that_is_outdated_waits_no_longer(
    host: ModelHost, loader: Loader
) -> None:
    """A newer request or an edit ends the waiting, without a model."""
    gate = loader.gate("model")
    load = loading(host, "model")
    await until(lambda: loader.started)
    outdated = asyncio.Event()
    waiting = asyncio.create_task(host.model_at_hand(outdated))
    await asyncio.sleep(0)
    outdated.set()
    assert await waiting is None
    assert not load.done()
    gate.set()
    await load


async def test_a_new_model_knows_no_answers_of_the_old_one(host: ModelHost) -> None:
    """What another model wrote is not shown as this one's."""
    await loaded(host)
    host.answers.remember(ANSWER)
    load = loading(host, "newer")
    await load
    assert host.answers.find(SNAPSHOT) is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute be very short."""
    monkeypatch.setattr("lsp_server.model_host._MINUTE_S", 0.001)


def is_gone(reference: "weakref.ref[Any]") -> bool:
    """Tell whether nobody holds it."""
    gc.collect()
    return reference() is None


@pytest.mark.usefixtures("quick")
async def test_an_idle_model_leaves_the_memory(host: ModelHost) -> None:
    """After so long without typing nothing of the model is held, whatever it did before."""
    engine = weakref.ref(await loaded(host))
    model = weakref.ref(host.model)
    assert texts(await asking(host)) == ["2"]
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    await until(lambda: host._ahead)
    host.read_ahead(OTHER, Settings())
    async with asyncio.timeout(DEADLINE_S):
        await host.sleep_when_idle(1)
    assert host.is_asleep
    assert host.model is None
    await until(lambda: is_gone(model))
    await until(lambda: is_gone(engine))


@pytest.mark.usefixtures("quick")
async def test_a_model_that_failed_is_let_go_too(host: ModelHost) -> None:
    """What an error holds is no reason to keep a model."""
    engine = await loaded(host)
    engine.error = RuntimeError("broken")
    reference = weakref.ref(engine)
    with pytest.raises(RuntimeError, match="broken"):
        await asking(host)
    del engine
    async with asyncio.timeout(DEADLINE_S):
        await host.sleep_when_idle(1)
    await until(lambda: is_gone(reference))


@pytest.mark.usefixtures("quick")
async def test_a_newer_model_takes_the_place_of_the_old_one_in_the_memory(
    host: ModelHost, loader: Loader
) -> None:
    """The old one is gone before the new one is loaded, because two may not fit."""
    engine = weakref.ref(await loaded(host))
    gate = loader.gate("newer")
    load = loading(host, "newer")
    await until(lambda: "newer" in loader.started)
    await until(lambda: is_gone(engine))
    gate.set()
    await load


@pytest.mark.usefixtures("quick")
async def test_zero_minutes_mean_never(host: ModelHost) -> None:
    """Who wants the model to stay has it for as long as the server lives."""
    await loaded(host)
    await host.sleep_when_idle(0)
    assert host.model is not None
    assert not host.is_asleep


async def test_typing_puts_off_the_sleep(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time counts from the last use, be it a keystroke or a request."""
    now = 1000.0
    slept: list[float] = []
    monkeypatch.setattr("lsp_server.model_host.time", SimpleNamespace(monotonic=lambda: now))
    await loaded(host)

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        assert host.model is not None
        now += seconds
        if len(slept) == 1:
            now -= 100
            host.is_in_use()
            now += 100
        elif len(slept) == 2:
            assert await host.model_at_hand(asyncio.Event())

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", sleep)
        await host.sleep_when_idle(15)
    assert slept == [900, 800, 900]
    assert host.is_asleep


async def a_few_turns() -> None:
    """Let the event loop do what it can do at once."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_model_is_not_put_to_sleep_while_it_is_loaded(
    host: ModelHost, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that takes longer than the idle time gives a model that is awake."""
    await loaded(host)
    gate = loader.gate("newer")
    load = loading(host, "newer")
    await until(lambda: "newer" in loader.started)
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.model_host._MINUTE_S", 0.0)
        falling_asleep = asyncio.create_task(host.sleep_when_idle(1))
        await a_few_turns()
    gate.set()
    assert await load is host.model
    assert not host.is_asleep
    falling_asleep.cancel()


async def test_where_no_model_is_loaded_none_falls_asleep(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that failed is not said to be unloaded, and not loaded at the next keystroke."""
    await loaded(host)
    with pytest.raises(ModelLoadError):
        await loading(host, "bad")
    monkeypatch.setattr("lsp_server.model_host._MINUTE_S", 0.0)
    falling_asleep = asyncio.create_task(host.sleep_when_idle(1))
    await a_few_turns()
    assert not host.is_asleep
    falling_asleep.cancel()


async def test_reading_ahead_reads_what_a_request_needs(host: ModelHost) -> None:
    """The first request in a file finds all of its prompt in the cache but one token."""
    engine = await loaded(host)
    host.read_ahead(SNAPSHOT, Settings())
    await until(lambda: engine.prefill_ms(engine._cached) == 0 and engine._cached)
    completion = await asking(host)
    assert completion.reused_tokens == completion.prompt_tokens - 1
    assert completion.prompt_tokens > 1


async def test_without_a_model_there_is_nothing_to_do_ahead(host: ModelHost) -> None:
    """Documents that are opened while no model is there do no harm."""
    host.read_ahead(SNAPSHOT, Settings())


async def test_what_there_was_no_time_for_is_read_next(host: ModelHost) -> None:
    """The whole prompt is read before anything is written ahead."""
    engine = await loaded(host)
    unread = tuple(b"a = 1\nb =")
    host.go_on(at_hand(host), Completion(unread=unread), ANSWER, Settings())
    await until(lambda: engine.prefill_ms(unread) == 0)
    assert engine.calls == []
    assert host.answers.find(ANSWER.accepted) is None


async def test_what_comes_after_an_answer_is_written_ahead(
    host: ModelHost, loader: Loader
) -> None:
    """Once it is accepted, the next suggestion is known, and nobody checked it yet."""
    loader.script = " + 3\n"
    engine = await loaded(host)
    host.answers.remember(ANSWER)
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    await until(lambda: host.answers.find(ANSWER.accepted))
    found = host.answers.find(ANSWER.accepted)
    assert found is not None
    assert found.verdict is None
    assert found.candidate.insert_text == "+ 3"
    assert engine.calls[-1].prompt == "a = 1\nb ="
    n_calls = len(engine.calls)
    # What is written already is not written again.
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    over = threading.Event()
    host.scheduler.submit("x", threading.Event(), over.set)
    assert await asyncio.to_thread(over.wait, DEADLINE_S)
    assert len(engine.calls) == n_calls


async def test_nothing_is_done_ahead_on_battery(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that nobody may want does not drain a battery, and requests are answered."""
    asked = threading.Event()

    def is_on_battery() -> bool:
        asked.set()
        return True

    monkeypatch.setattr("lsp_server.model_host.is_on_battery", is_on_battery)
    engine = await loaded(host)
    host.read_ahead(SNAPSHOT, Settings())
    assert await asyncio.to_thread(asked.wait, DEADLINE_S)
    asked.clear()
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    assert await asyncio.to_thread(asked.wait, DEADLINE_S)
    assert texts(await asking(host)) == ["2"]
    assert len(engine.calls) == 1
    assert engine.reused_tokens == 0
    assert host.answers.find(ANSWER.accepted) is None


async def test_a_request_ends_what_is_done_ahead(host: ModelHost) -> None:
    """Nobody waits for work that was not asked for, and none of its half is an answer."""
    engine = await loaded(host)
    engine.gate.clear()
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    assert await asyncio.to_thread(engine.is_waiting.wait, DEADLINE_S)
    pending = asking(host, OTHER)
    await until(lambda: len(engine.calls) == 2)
    engine.gate.set()
    assert texts(await pending) == ["2"]
    assert host.answers.find(ANSWER.accepted) is None


async def test_a_new_model_ends_what_the_old_one_does_ahead(
    host: ModelHost, loader: Loader
) -> None:
    """What the old model would have written is not remembered as the new one's."""
    engine = await loaded(host)
    engine.gate.clear()
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    assert await asyncio.to_thread(engine.is_waiting.wait, DEADLINE_S)
    await loading(host, "newer")
    engine.gate.set()
    over = threading.Event()
    host.scheduler.submit("x", threading.Event(), over.set)
    assert await asyncio.to_thread(over.wait, DEADLINE_S)
    assert engine.n_generated == 0
    assert host.answers.find(ANSWER.accepted) is None


async def test_a_cancelled_request_ends_its_task(host: ModelHost) -> None:
    """A client that takes its request back has the model stop, and the next one served."""
    engine = await loaded(host)
    engine.gate.clear()
    pending = asking(host)
    await until(engine.is_waiting.is_set)
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    after = asking(host, OTHER)
    await until(lambda: len(engine.calls) == 2)
    assert engine.n_generated == 0
    engine.gate.set()
    assert texts(await after) == ["2"]


async def test_a_cancelled_request_that_waits_never_reaches_the_model(host: ModelHost) -> None:
    """Who gives up in the queue costs nothing."""
    engine = await loaded(host)
    engine.gate.clear()
    first, waiting = asking(host), asking(host, OTHER)
    await until(engine.is_waiting.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    engine.gate.set()
    assert texts(await first) == ["2"]
    await asking(host)
    assert [call.prompt[:1] for call in engine.calls] == ["a", "a"]


async def test_guesses_come_from_what_was_suggested_and_from_other_buffers(
    host: ModelHost, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written ahead, even in part, comes first, then the last answer, then buffers."""
    nearby: list[list[str]] = []

    def spy(_model: Model, _snapshot: Snapshot, **options: Any) -> Completion:
        nearby.append(list(options["nearby"]))
        is_ahead = options["budget_ms"] == math.inf
        return Completion(written="half of it") if is_ahead else Completion()

    monkeypatch.setattr("lsp_server.model_host.complete", spy)
    await loaded(host)
    await asking(host, buffers=("buffer",))
    host.answers.remember(ANSWER)
    host.go_on(at_hand(host), Completion(), ANSWER, Settings())
    await until(lambda: host._ahead)
    await asking(host, buffers=("buffer",))
    last = "a = 1\nb = 2"
    assert nearby == [["buffer"], [last], [last + "half of it", last, "buffer"]]
    await asking(host, OTHER)
    assert last not in nearby[-1]
    await loaded(host, "newer")
    await asking(host)
    assert nearby[-1] == []


async def test_a_closed_host_takes_no_requests(host: ModelHost) -> None:
    """After the end nothing hangs: a request fails at once and idle work is dropped."""
    await loaded(host)
    host.close()
    host.read_ahead(SNAPSHOT, Settings())
    with pytest.raises(RuntimeError, match="closed"):
        await asking(host)
