"""Loading a model, and who answers meanwhile; with engines that recite."""

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from lsp_server.completion import Completion
from lsp_server.errors import ModelLoadError
from lsp_server.model_host import ModelHost
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from tests.hosting import (
    ANSWER,
    DEADLINE_S,
    EMBEDDED,
    OTHER,
    SNAPSHOT,
    Source,
    a_few_turns,
    asking,
    engine_of,
    is_gone,
    loaded,
    loading,
    name_of,
    texts,
    until,
)


async def test_a_model_that_is_loaded_answers(host: ModelHost) -> None:
    """Nothing is there before it was loaded, and then it answers."""
    assert texts(await asking(host)) == []
    await loaded(host)
    assert name_of(host) == "model"
    assert texts(await asking(host)) == ["2"]


async def test_later_collections_do_not_look_at_a_loaded_model(host: ModelHost) -> None:
    """They would hold the event loop for long, again and again."""
    gc.unfreeze()
    await loaded(host)
    await until(gc.get_freeze_count)


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
    monkeypatch.setattr("tests.hosting.EMBEDDED", "broken")
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


async def test_a_closed_host_takes_no_requests(host: ModelHost) -> None:
    """After the end nothing hangs: a request gets nothing and idle work is dropped."""
    await loaded(host)
    host.close()
    host.read_ahead(SNAPSHOT, Settings())
    assert texts(await asking(host)) == []
