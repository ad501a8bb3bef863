"""A model that nobody uses is let go; with engines that recite."""

import asyncio
import weakref
from types import SimpleNamespace

import pytest

from lsp_server.completion import Completion
from lsp_server.errors import ModelLoadError
from lsp_server.model_host import ModelHost
from lsp_server.settings import Settings
from tests.hosting import (
    ANSWER,
    DEADLINE_S,
    OTHER,
    Source,
    a_few_turns,
    asking,
    is_gone,
    loaded,
    loading,
    name_of,
    texts,
    until,
)


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
    monkeypatch.setattr("tests.hosting.EMBEDDED", "broken")
    with pytest.raises(ModelLoadError):
        await loading(host, "broken")
    monkeypatch.setattr("lsp_server.model_host._MINUTE_S", 0.0)
    await host.sleep_when_idle(1)
    assert not host.is_asleep
