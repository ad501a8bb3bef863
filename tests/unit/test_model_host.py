"""One model at hand: loaded, run, used while nobody asks, let go; with engines that recite."""

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lsp_server.answers import Answer
from lsp_server.completion import UNFINISHED, Candidate, Completion, Model
from lsp_server.errors import ModelLoadError
from lsp_server.model_host import ModelHost, Progress
from lsp_server.plan import Snapshot
from lsp_server.settings import Settings
from lsp_server.verdict import UNCHECKED
from tests.fakes import ByteTokenizer, ScriptedEngine

DEADLINE_S = 30.0
EMBEDDED = "embedded"
SNAPSHOT = Snapshot("a = 1\nb = ", 10, "python", "file:///a.py")
OTHER = Snapshot("c = ", 4, "python", "file:///b.py")
ANSWER = Answer(SNAPSHOT, Candidate("2", -0.5), UNCHECKED)


class Source:
    """Prepares and opens fakes, each when the test lets it; keeps none of them.

    A name with ``unexportable`` or ``broken`` fails.
    """

    def __init__(self) -> None:
        self.script = "2\n"
        self.prepared: list[str] = []
        self.opened: list[str] = []
        self.ended: list[str] = []
        self.has_room_for: Callable[[Path | None], bool] = lambda _folder: True
        self._gates: dict[str, threading.Event] = {}

    def gate(self, step: str) -> threading.Event:
        """Return the event that ``prepare NAME`` or ``open NAME`` waits for."""
        return self._gates.setdefault(step, threading.Event())

    def prepare(self, settings: Settings, progress: Progress) -> Path:
        """Return a folder that is named for the model."""
        name = settings.model or EMBEDDED
        self.prepared.append(name)
        gate = self._gates.get(f"prepare {name}")
        try:
            assert gate is None or gate.wait(DEADLINE_S)
            progress(1, 1)
        finally:
            self.ended.append(name)
        if "unexportable" in name:
            raise ModelLoadError(f"{name} is no checkpoint")
        return Path(name)

    def open(self, folder: Path, _settings: Settings) -> Model:
        """Return a model with the folder's name."""
        self.opened.append(folder.name)
        gate = self._gates.get(f"open {folder.name}")
        assert gate is None or gate.wait(DEADLINE_S)
        if "broken" in folder.name:
            raise ModelLoadError(f"{folder.name} is broken")
        return Model(folder.name, ScriptedEngine(self.script), ByteTokenizer())

    def has_room(self, folder: Path | None) -> bool:
        """Tell what the test says."""
        return self.has_room_for(folder)


@pytest.fixture(autouse=True)
def _plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsp_server.model_host.is_on_battery", lambda: False)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsp_server.model_host._PATIENCE_S", 10 * DEADLINE_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, _patient: None) -> None:
    """Let every load be one that takes long."""
    monkeypatch.setattr("lsp_server.model_host._PATIENCE_S", 0.0)


@pytest.fixture
def source() -> Source:
    """Return a source that waits for nothing yet."""
    return Source()


@pytest.fixture
def host(source: Source) -> Iterator[ModelHost]:
    """Yield a host that is closed in the end."""
    host = ModelHost(source)
    yield host
    host.close()
    host.wait(DEADLINE_S)


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.002)


def loading(
    host: ModelHost, name: str, tell_meanwhile: Callable[[], None] = lambda: None
) -> "asyncio.Task[bool]":
    """Begin to load a model."""
    return asyncio.create_task(
        host.load(Settings(model=name), lambda _done, _total: None, tell_meanwhile)
    )


async def loaded(host: ModelHost, name: str = "model") -> ScriptedEngine:
    """Load a model and return its engine."""
    assert await loading(host, name)
    return engine_of(host)


def engine_of(host: ModelHost) -> ScriptedEngine:
    """Return the engine of the model, which is there."""
    assert host.model is not None
    assert isinstance(host.model.engine, ScriptedEngine)
    return host.model.engine


def asking(
    host: ModelHost,
    snapshot: Snapshot = SNAPSHOT,
    buffers: tuple[str, ...] = (),
    outdated: asyncio.Event | None = None,
    deadline_s: float | None = None,
) -> "asyncio.Task[Completion]":
    """Begin to ask the model."""
    outdated = outdated or asyncio.Event()
    return asyncio.create_task(
        host.complete(
            snapshot,
            Settings(),
            outdated,
            n_candidates=1,
            buffers=buffers,
            deadline_s=deadline_s,
        )
    )


def texts(completion: Completion) -> list[str]:
    """Return what was suggested."""
    return [candidate.insert_text for candidate in completion.candidates]


def name_of(host: ModelHost) -> str | None:
    """Return the name of the model that answers."""
    return host.model.name if host.model else None


async def test_a_model_that_is_loaded_answers(host: ModelHost) -> None:
    """Nothing is there before it was loaded, and then it answers."""
    assert texts(await asking(host)) == []
    await loaded(host)
    assert name_of(host) == "model"
    assert texts(await asking(host)) == ["2"]


@pytest.mark.parametrize("first_done", ["older", "newer"])
@pytest.mark.parametrize(
    ("step", "older"),
    [
        ("prepare", "older"),
        ("prepare", "older unexportable"),
        ("open", "older"),
        ("open", "older broken"),
    ],
)
async def test_the_newer_load_wins(
    first_done: str, older: str, step: str, host: ModelHost, source: Source
) -> None:
    """Whichever is done first, the model is that of the newer call, and the older is mute."""
    gates = {"older": source.gate(f"{step} {older}"), "newer": source.gate(f"{step} newer")}
    begun = source.prepared if step == "prepare" else source.opened
    before = loading(host, older)
    await until(lambda: older in begun)
    after = loading(host, "newer")
    await until(lambda: "newer" in begun)
    waiting = asking(host)
    gates.pop(first_done).set()
    assert await {"older": before, "newer": after}[first_done] is (first_done == "newer")
    gates.popitem()[1].set()
    assert not await before
    assert await after
    assert name_of(host) == "newer"
    assert texts(await waiting) == ["2"]


@pytest.mark.parametrize("name", ["unexportable", "broken"])
async def test_what_cannot_be_loaded_leaves_the_embedded_model(
    name: str, host: ModelHost
) -> None:
    """Who waits for a model that cannot be had is answered by the embedded one."""
    load = loading(host, name)
    waiting = asking(host)
    with pytest.raises(ModelLoadError, match=name):
        await load
    assert name_of(host) == EMBEDDED
    assert texts(await waiting) == ["2"]
    await loaded(host)
    assert name_of(host) == "model"


@pytest.mark.parametrize("name", ["unexportable", "broken"])
async def test_what_cannot_be_loaded_leaves_the_older_model(name: str, host: ModelHost) -> None:
    """A model that works is not given up for one that does not."""
    engine = await loaded(host)
    host.answers.remember(ANSWER)
    with pytest.raises(ModelLoadError, match=name):
        await loading(host, name)
    assert engine_of(host) is engine
    assert host.answers.find(SNAPSHOT)
    assert texts(await asking(host)) == ["2"]


async def test_where_nothing_can_be_loaded_nobody_waits(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any model each request is answered at once, with nothing."""

    def fail(*_arguments: Any) -> Any:
        raise ModelLoadError("broken")

    monkeypatch.setattr(source, "open", fail)
    load = loading(host, "model")
    waiting = asking(host)
    with pytest.raises(ModelLoadError):
        await load
    assert texts(await waiting) == []
    assert texts(await asking(host)) == []


async def test_a_cancelled_load_leaves_waiting_requests_with_nothing(
    host: ModelHost, source: Source
) -> None:
    """A server that ends while it loads keeps nobody waiting."""
    gate = source.gate("open model")
    load = loading(host, "model")
    await until(lambda: source.opened)
    waiting = asking(host)
    await a_few_turns()
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert texts(await waiting) == []
    gate.set()


@pytest.mark.parametrize("step", ["prepare", "open"])
async def test_a_request_waits_while_the_model_is_loaded(
    step: str, host: ModelHost, source: Source
) -> None:
    """What is asked too early is answered as soon as there is a model, and by it alone."""
    gate = source.gate(f"{step} newer")
    old = await loaded(host)
    load = loading(host, "newer")
    await until(lambda: "newer" in (source.prepared if step == "prepare" else source.opened))
    waiting = asking(host)
    await a_few_turns()
    assert not waiting.done()
    gate.set()
    assert await load
    assert texts(await waiting) == ["2"]
    assert old.calls == []
    assert EMBEDDED not in source.opened


async def test_a_request_that_is_outdated_waits_no_longer(
    host: ModelHost, source: Source
) -> None:
    """A newer request or an edit ends the waiting, without a model."""
    gate = source.gate("open model")
    load = loading(host, "model")
    await until(lambda: source.opened)
    outdated = asyncio.Event()
    waiting = asking(host, outdated=outdated)
    await a_few_turns()
    outdated.set()
    assert texts(await waiting) == []
    assert not load.done()
    gate.set()
    await load


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", ["prepare", "open"])
async def test_the_embedded_model_answers_while_another_takes_long(
    step: str, host: ModelHost, source: Source
) -> None:
    """Nobody waits for minutes: what is embedded answers until the other can."""
    gate = source.gate(f"{step} model")
    told: list[str | None] = []
    load = loading(host, "model", lambda: told.append(name_of(host)))
    assert texts(await asking(host)) == ["2"]
    assert name_of(host) == EMBEDDED
    assert told == [EMBEDDED]
    host.answers.remember(ANSWER)
    embedded = weakref.ref(engine_of(host))
    gate.set()
    assert await load
    assert name_of(host) == "model"
    assert host.answers.find(SNAPSHOT) is None
    await until(lambda: is_gone(embedded))


@pytest.mark.parametrize("step", ["prepare", "open"])
async def test_the_older_model_answers_while_another_takes_long(
    step: str, host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has a model keeps it until the other can answer, and none comes between."""
    old = await loaded(host)
    monkeypatch.setattr("lsp_server.model_host._PATIENCE_S", 0.0)
    gate = source.gate(f"{step} newer")
    told: list[str | None] = []
    load = loading(host, "newer", lambda: told.append(name_of(host)))
    assert texts(await asking(host)) == ["2"]
    assert len(old.calls) == 1
    assert told == ["model"]
    gate.set()
    assert await load
    assert name_of(host) == "newer"
    assert EMBEDDED not in source.opened


@pytest.mark.usefixtures("impatient")
async def test_an_older_model_leaves_the_room_that_an_export_needs(
    host: ModelHost, source: Source
) -> None:
    """Where memory is short the small embedded model takes the older one's place."""
    old = weakref.ref(await loaded(host))
    source.has_room_for = lambda folder: folder is not None
    gate = source.gate("prepare newer")
    load = loading(host, "newer")
    assert texts(await asking(host)) == ["2"]
    assert name_of(host) == EMBEDDED
    await until(lambda: is_gone(old))
    gate.set()
    assert await load


@pytest.mark.usefixtures("impatient")
async def test_the_embedded_model_answers_where_there_is_no_room_for_two(
    host: ModelHost, source: Source
) -> None:
    """The older model goes, the small one comes, and it stays until the newer is there."""
    await loaded(host)
    source.has_room_for = lambda _folder: False
    gate = source.gate("open newer")
    load = loading(host, "newer")
    await until(lambda: "newer" in source.opened)
    assert texts(await asking(host)) == ["2"]
    assert name_of(host) == EMBEDDED
    gate.set()
    assert await load
    assert name_of(host) == "newer"


@pytest.mark.usefixtures("impatient")
async def test_the_embedded_model_need_not_make_room(host: ModelHost, source: Source) -> None:
    """Letting it go would win little and cost answers."""
    source.has_room_for = lambda _folder: False
    export, opening = source.gate("prepare model"), source.gate("open model")
    load = loading(host, "model")
    assert texts(await asking(host)) == ["2"]
    embedded = engine_of(host)
    export.set()
    await until(lambda: "model" in source.opened)
    assert texts(await asking(host)) == ["2"]
    assert engine_of(host) is embedded
    opening.set()
    assert await load


@pytest.mark.usefixtures("impatient")
async def test_a_model_that_is_there_first_makes_the_embedded_one_needless(
    host: ModelHost, source: Source
) -> None:
    """A model that is there is not replaced by one that was to stand in for it."""
    embedded, gate = source.gate("open embedded"), source.gate("prepare model")
    load = loading(host, "model")
    await until(lambda: EMBEDDED in source.opened)
    gate.set()
    assert await load
    embedded.set()
    assert texts(await asking(host)) == ["2"]
    assert name_of(host) == "model"


@pytest.mark.usefixtures("impatient")
async def test_nothing_stands_in_for_the_embedded_model(
    host: ModelHost, source: Source
) -> None:
    """Where it is slow itself it is waited for, and loaded once."""
    gate = source.gate("open embedded")
    load = loading(host, "")
    await until(lambda: source.opened)
    waiting = asking(host)
    await a_few_turns()
    gate.set()
    assert await load
    assert texts(await waiting) == ["2"]
    assert source.opened == [EMBEDDED]


@pytest.mark.usefixtures("impatient")
async def test_without_the_embedded_model_requests_wait(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot stand in is no reason to answer nothing, or to give the other up."""
    monkeypatch.setattr(f"{__name__}.EMBEDDED", "broken")
    gate = source.gate("prepare model")
    load = loading(host, "model")
    await until(lambda: source.opened == ["broken"])
    waiting = asking(host)
    await a_few_turns()
    assert not waiting.done()
    gate.set()
    assert await load
    assert texts(await waiting) == ["2"]


async def test_a_newer_load_ends_an_export(host: ModelHost, source: Source) -> None:
    """Nobody's processor and memory are spent on a model that is not wanted any more."""
    gate = source.gate("prepare unexportable")
    before = loading(host, "unexportable")
    await until(lambda: source.prepared)
    assert await loading(host, "newer")
    assert not await before
    assert source.ended == ["newer"]
    gate.set()
    await until(lambda: "unexportable" in source.ended)
    assert source.opened == ["newer"]


async def test_the_end_of_the_server_ends_an_export(host: ModelHost, source: Source) -> None:
    """What is exported when the editor closes leaves nothing half-written, and no error."""
    gate = source.gate("prepare model")
    load = loading(host, "model")
    await until(lambda: source.prepared)
    waiting = asking(host)
    await a_few_turns()
    host.close()
    assert not await load
    assert texts(await waiting) == []
    gate.set()
    host.wait(DEADLINE_S)
    assert source.ended == ["model"]
    assert source.opened == []


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
    host.go_on(Completion(), ANSWER, Settings())
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
async def test_where_memory_is_short_the_old_model_leaves_it_first(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is gone before the new one is opened, even if it is being asked."""
    engine = await loaded(host)
    engine.gate.clear()
    pending = asking(host)
    await until(engine.is_waiting.is_set)
    old = weakref.ref(engine)
    del engine
    was_gone: list[bool] = []
    rooms: list[Path | None] = []

    def has_room(folder: Path | None) -> bool:
        rooms.append(folder)
        return False

    def open_newer(folder: Path, settings: Settings) -> Model:
        was_gone.append(old() is None)
        return Source.open(source, folder, settings)

    source.has_room_for = has_room
    monkeypatch.setattr(source, "open", open_newer)
    assert await loading(host, "newer")
    assert rooms == [Path("newer")]
    assert was_gone == [True]
    assert texts(await pending) == ["2"]
    assert engine_of(host).calls


async def test_where_there_is_room_the_old_model_stays_until_the_new_one_is_there(
    host: ModelHost, source: Source
) -> None:
    """It is let go once nothing can go wrong any more."""
    old = weakref.ref(await loaded(host))
    gate = source.gate("open newer")
    load = loading(host, "newer")
    await until(lambda: "newer" in source.opened)
    assert not is_gone(old)
    gate.set()
    assert await load
    await until(lambda: is_gone(old))


async def test_a_model_that_hangs_is_not_waited_for(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that does not stop may keep its memory, not another from being loaded."""
    monkeypatch.setattr("lsp_server.model_host._STOPPING_S", 0.0)
    is_stuck, gate = threading.Event(), threading.Event()

    def hang(*_arguments: Any, **_options: Any) -> Completion:
        is_stuck.set()
        assert gate.wait(DEADLINE_S)
        return Completion()

    await loaded(host)
    source.has_room_for = lambda _folder: False
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.model_host.complete", hang)
        pending = asking(host)
        await until(is_stuck.is_set)
    assert await loading(host, "newer")
    gate.set()
    assert texts(await pending) == ["2"]


async def test_a_request_goes_on_with_the_model_that_takes_the_others_place(
    host: ModelHost,
) -> None:
    """The old model stops, and whoever asked it gets the new one's answer."""
    old = await loaded(host)
    old.gate.clear()
    pending, queued = asking(host), asking(host, OTHER)
    await until(old.is_waiting.is_set)
    await loaded(host, "newer")
    assert texts(await pending) == ["2"]
    assert texts(await queued) == ["2"]
    assert old.n_generated == 0
    assert len(engine_of(host).calls) == 2


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
            host.is_in_use()

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", sleep)
        await host.sleep_when_idle(15)
    assert slept == [900, 800, 900]
    assert host.is_asleep


async def a_few_turns() -> None:
    """Let the event loop do what it can do at once."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("impatient")
async def test_no_model_is_put_to_sleep_while_another_is_exported(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keystroke that would wake it would begin the export anew."""
    await loaded(host)
    gate = source.gate("prepare newer")
    load = loading(host, "newer")
    assert texts(await asking(host)) == ["2"]
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.model_host._MINUTE_S", 0.0)
        await host.sleep_when_idle(1)
    assert name_of(host) == "model"
    assert not host.is_asleep
    gate.set()
    assert await load


async def test_a_model_is_not_put_to_sleep_while_it_is_loaded(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that takes longer than the idle time gives a model that is awake."""
    await loaded(host)
    gate = source.gate("open newer")
    load = loading(host, "newer")
    await until(lambda: "newer" in source.opened)
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.model_host._MINUTE_S", 0.0)
        falling_asleep = asyncio.create_task(host.sleep_when_idle(1))
        await a_few_turns()
    gate.set()
    assert await load
    assert name_of(host) == "newer"
    assert not host.is_asleep
    falling_asleep.cancel()


async def test_where_no_model_is_loaded_none_falls_asleep(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that failed is not said to be unloaded, and not loaded at the next keystroke."""
    monkeypatch.setattr(f"{__name__}.EMBEDDED", "broken")
    with pytest.raises(ModelLoadError):
        await loading(host, "broken")
    monkeypatch.setattr("lsp_server.model_host._MINUTE_S", 0.0)
    await host.sleep_when_idle(1)
    assert not host.is_asleep


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
    host.go_on(Completion(unread=unread), ANSWER, Settings())
    await until(lambda: engine.prefill_ms(unread) == 0)
    assert engine.calls == []
    assert host.answers.find(ANSWER.accepted) is None


async def test_what_comes_after_an_answer_is_written_ahead(
    host: ModelHost, source: Source
) -> None:
    """Once it is accepted, the next suggestion is known, and nobody checked it yet."""
    source.script = " + 3\n"
    engine = await loaded(host)
    host.answers.remember(ANSWER)
    host.go_on(Completion(), ANSWER, Settings())
    await until(lambda: host.answers.find(ANSWER.accepted))
    found = host.answers.find(ANSWER.accepted)
    assert found is not None
    assert found.verdict is None
    assert found.candidate.insert_text == "+ 3"
    assert engine.calls[-1].prompt == "a = 1\nb ="
    n_calls = len(engine.calls)
    # What is written already is not written again.
    host.go_on(Completion(), ANSWER, Settings())
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
    host.go_on(Completion(), ANSWER, Settings())
    assert await asyncio.to_thread(asked.wait, DEADLINE_S)
    assert texts(await asking(host)) == ["2"]
    assert len(engine.calls) == 1
    assert engine.reused_tokens == 0
    assert host.answers.find(ANSWER.accepted) is None


async def test_a_request_ends_what_is_done_ahead(host: ModelHost) -> None:
    """Nobody waits for work that was not asked for, and none of its half is an answer."""
    engine = await loaded(host)
    engine.gate.clear()
    host.go_on(Completion(), ANSWER, Settings())
    assert await asyncio.to_thread(engine.is_waiting.wait, DEADLINE_S)
    pending = asking(host, OTHER)
    await until(lambda: len(engine.calls) == 2)
    engine.gate.set()
    assert texts(await pending) == ["2"]
    assert host.answers.find(ANSWER.accepted) is None


async def test_a_new_model_ends_what_the_old_one_does_ahead(
    host: ModelHost, source: Source
) -> None:
    """What the old model would have written is not remembered as the new one's."""
    engine = await loaded(host)
    engine.gate.clear()
    host.go_on(Completion(), ANSWER, Settings())
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
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
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
    host.go_on(Completion(), ANSWER, Settings())
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
    """After the end nothing hangs: a request gets nothing and idle work is dropped."""
    await loaded(host)
    host.close()
    host.read_ahead(SNAPSHOT, Settings())
    assert texts(await asking(host)) == []


TURN = Snapshot("# Do it.\n", 9, "python", "file:///a.py")
PROGRAM = "a = 1\nb = 2\n# Next.\n"


def typed(text: str, then: Snapshot = TURN) -> Snapshot:
    """Return the snapshot after a text was typed at the cursor."""
    return replace(
        then,
        text=then.text[: then.offset] + text + then.text[then.offset :],
        offset=then.offset + len(text),
    )


async def late(
    host: ModelHost, source: Source, program: str = PROGRAM
) -> tuple[ScriptedEngine, Completion]:
    """Return the answer to a request whose deadline came in the middle of the program."""
    source.script = program
    engine = await loaded(host)
    engine.hold_after = len("a = 1\n")
    # It is over at once, and what it began goes on.
    await asking(host, TURN, deadline_s=0.0)
    await until(engine.is_waiting.is_set)
    return engine, await asking(host, TURN, deadline_s=0.0)


async def test_the_deadline_is_answered_with_whole_lines(
    host: ModelHost, source: Source
) -> None:
    """What stands by then is the answer, and the model is not asked to stop."""
    engine, completion = await late(host, source)
    assert texts(completion) == ["a = 1"]
    assert not completion.is_whole
    assert host.late == TURN
    assert not engine.gate.is_set()
    engine.gate.set()
    await until(lambda: host.answers.find(typed("a = 1")))


async def test_the_rest_is_known_once_it_is_written(host: ModelHost, source: Source) -> None:
    """After the lines are accepted, what was written since needs no other call."""
    engine, _ = await late(host, source)
    engine.gate.set()
    await until(lambda: host.answers.find(TURN))
    known = host.answers.find(typed("a = 1"))
    assert known is not None
    assert (known.candidate.insert_text, known.verdict) == ("\nb = 2", None)


@pytest.mark.parametrize("accepted", ["", "a", "a = 1"])
async def test_a_request_that_goes_along_gets_the_rest(
    accepted: str, host: ModelHost, source: Source
) -> None:
    """Whoever accepts or types what stands waits for the same writing, not for another."""
    engine, _ = await late(host, source)
    n_calls = len(engine.calls)
    assert host.is_writing_along(typed(accepted))
    pending = asking(host, typed(accepted), deadline_s=DEADLINE_S)
    await a_few_turns()
    engine.gate.set()
    assert texts(await pending) == ["a = 1\nb = 2"[len(accepted) :]]
    assert len(engine.calls) == n_calls


async def test_a_request_that_goes_along_has_a_deadline_too(
    host: ModelHost, source: Source
) -> None:
    """Tab after Tab gets what stands since the last one, and nothing where that is nothing."""
    engine, _ = await late(host, source)
    again = await asking(host, typed("a"), deadline_s=0.0)
    assert texts(again) == [" = 1"]
    nothing = await asking(host, typed("a = 1"), deadline_s=0.0)
    assert (texts(nothing), nothing.silence) == ([], UNFINISHED)
    assert host.late == TURN
    assert not engine.gate.is_set()


@pytest.mark.parametrize(
    "snapshot",
    [typed("b"), typed("a = 1\nc"), replace(TURN, text="# Do it!\n"), OTHER],
    ids=["another letter", "more than is written", "another prompt", "another document"],
)
async def test_another_text_ends_what_goes_on(
    snapshot: Snapshot, host: ModelHost, source: Source
) -> None:
    """A request for anything else has the model at once."""
    engine, _ = await late(host, source)
    n_calls = len(engine.calls)
    assert not host.is_writing_along(snapshot)
    pending = asking(host, snapshot, deadline_s=DEADLINE_S)
    await until(lambda: len(engine.calls) > n_calls)
    engine.gate.set()
    assert texts(await pending)
    assert host.late is None or host.late != TURN
    assert not any(a.snapshot == TURN for a in host.answers._answers)


async def test_what_ends_with_what_was_accepted_is_followed_by_something_new(
    host: ModelHost, source: Source
) -> None:
    """A text that is complete as accepted has no rest, so the next one is begun."""
    engine, _ = await late(host, source, "a = 1\n# Next.\n")
    engine.script = " + 2\n"
    pending = asking(host, typed("a = 1"), deadline_s=DEADLINE_S)
    await a_few_turns()
    assert not pending.done()
    engine.gate.set()
    assert texts(await pending) == ["+ 2"]


async def test_an_explicit_request_has_no_deadline(host: ModelHost, source: Source) -> None:
    """Who asks explicitly gets the whole text, written for that request."""
    engine, _ = await late(host, source)
    n_calls = len(engine.calls)
    pending = asking(host, TURN)
    await until(lambda: len(engine.calls) > n_calls)
    engine.gate.set()
    assert texts(await pending) == ["a = 1\nb = 2"]


@pytest.mark.parametrize("forget", ["settings", "model", "document"])
async def test_what_is_wanted_no_more_is_not_kept(
    forget: str, host: ModelHost, source: Source
) -> None:
    """Other settings, another model or an edit elsewhere leave nothing of the old answer."""
    engine, _ = await late(host, source)
    if forget == "settings":
        host.forget_answers()
    elif forget == "model":
        await loading(host, "newer")
    else:
        host.stop(TURN.uri)
    assert not host.is_writing_along(TURN)
    engine.gate.set()
    over = threading.Event()
    host.scheduler.submit("x", threading.Event(), over.set)
    assert await asyncio.to_thread(over.wait, DEADLINE_S)
    assert host.answers.find(TURN) is None


async def test_cancelling_the_second_request_leaves_the_first_ones_rest(
    host: ModelHost, source: Source
) -> None:
    """An editor cancels what it asked before each key; what goes on is still wanted."""
    engine, _ = await late(host, source)
    pending = asking(host, typed("a"), deadline_s=DEADLINE_S)
    await a_few_turns()
    pending.cancel()
    await asyncio.wait({pending})
    assert host.is_writing_along(typed("a"))
    engine.gate.set()
    await until(lambda: host.answers.find(typed("a = 1")))


async def test_a_long_prompt_is_read_after_a_late_answer(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there was no time for is read next, late or not."""
    read: list[tuple[int, ...]] = []
    gate = threading.Event()

    def write(*_arguments: Any, **_options: Any) -> Completion:
        assert gate.wait(DEADLINE_S)
        return Completion(unread=(1, 2, 3))

    engine = await loaded(host)
    monkeypatch.setattr("lsp_server.model_host.complete", write)
    monkeypatch.setattr(engine, "prefill", lambda ids, _stop: read.append(tuple(ids)))
    assert texts(await asking(host, TURN, deadline_s=0.0)) == []
    gate.set()
    await until(lambda: read == [(1, 2, 3)])


async def test_a_late_failure_is_logged_and_costs_nothing_else(
    host: ModelHost, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that fails after its answer was given is no news to anybody."""
    engine, _ = await late(host, source)
    engine.error = RuntimeError("# Do it.")
    engine.gate.set()
    await until(lambda: "RuntimeError" in caplog.text)
    assert "Do it" not in caplog.text
    engine.error = None
    assert texts(await asking(host, TURN)) == ["a = 1\nb = 2"]
