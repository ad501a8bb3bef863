"""Models that raise, and models that hang; with engines that do so when they are told to."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lsp_server.completion import Completion
from lsp_server.errors import ModelHangsError
from lsp_server.model_host import ModelHost
from lsp_server.settings import Settings
from tests.hosting import (
    ANSWER,
    DEADLINE_S,
    OTHER,
    SNAPSHOT,
    Source,
    a_few_turns,
    asking,
    loaded,
    loading,
    name_of,
    texts,
    until,
)


class Hang:
    """A call that does not return before it is let go, whatever it is told."""

    def __init__(self) -> None:
        self.is_stuck = threading.Event()
        self.gate = threading.Event()
        self.is_over = threading.Event()

    def __call__(self, *_arguments: Any, **_options: Any) -> Completion:
        """Hang."""
        self.is_stuck.set()
        assert self.gate.wait(DEADLINE_S)
        self.is_over.set()
        return Completion(written="too late")


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """Let the host notice at once what hangs, and let that go in the end."""
    monkeypatch.setattr("lsp_server.model_host._HANGS_S", 0.01)
    hang = Hang()
    yield hang
    hang.gate.set()


@pytest.fixture
def failures(host: ModelHost) -> list[BaseException]:
    """Return what the host tells of its models."""
    failures: list[BaseException] = []
    host.on_failure = failures.append
    return failures


async def test_a_model_that_hangs_is_given_up(
    host: ModelHost,
    hang: Hang,
    failures: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once it was to stop and did not, it is gone, and the next model answers who waits."""
    await loaded(host)
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.model_host.complete", hang)
        hanging = asking(host)
        await until(hang.is_stuck.is_set)
    waiting = asking(host, OTHER)
    await a_few_turns()
    assert failures == []
    host.stop(SNAPSHOT.uri)
    await until(lambda: failures)
    assert [type(error) for error in failures] == [ModelHangsError]
    assert name_of(host) is None
    assert not waiting.done()
    await loaded(host, "newer")
    assert texts(await waiting) == ["2"]
    assert texts(await hanging) == ["2"]
    hang.gate.set()
    await until(hang.is_over.is_set)
    assert texts(await asking(host)) == ["2"]
    assert len(failures) == 1
    assert host._ahead == ""


async def test_a_model_that_works_is_not_given_up(
    host: ModelHost,
    hang: Hang,
    failures: list[BaseException],
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long answer that nobody stopped is no hang, and neither is one that ends soon."""
    del hang
    engine = await loaded(host)
    engine.gate.clear()
    pending = asking(host)
    await until(engine.is_waiting.is_set)
    watching = host._watching
    assert watching is not None
    await asyncio.wait({watching}, timeout=0.1)
    assert not watching.done()
    # However busy the machine is, it ends sooner.
    monkeypatch.setattr("lsp_server.model_host._HANGS_S", 5.0)
    host.stop(SNAPSHOT.uri)
    await pending
    await watching
    assert failures == []
    assert source.opened == ["model"]


async def test_reading_ahead_that_hangs_gives_the_model_up(
    host: ModelHost,
    hang: Hang,
    failures: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody asked for is noticed as soon as somebody asks."""
    engine = await loaded(host)
    monkeypatch.setattr(engine, "prefill", hang)
    host.read_ahead(OTHER, Settings())
    await until(hang.is_stuck.is_set)
    waiting = asking(host)
    await until(lambda: failures)
    await loaded(host, "newer")
    assert texts(await waiting) == ["2"]


async def test_an_old_model_that_hangs_takes_the_new_one_with_it_not(
    host: ModelHost,
    hang: Hang,
    failures: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model whose place another took leaves it the thread, without a word."""
    await loaded(host)
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.model_host.complete", hang)
        hanging = asking(host)
        await until(hang.is_stuck.is_set)
    await loaded(host, "newer")
    assert texts(await asking(host, OTHER)) == ["2"]
    assert texts(await hanging) == ["2"]
    assert name_of(host) == "newer"
    assert failures == []


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError("Failed to allocate")])
async def test_every_failure_is_told(
    error: Exception, is_late: bool, host: ModelHost, failures: list[BaseException]
) -> None:
    """Before the deadline or after it, a model that raises is known to have raised, once."""
    engine = await loaded(host)
    engine.gate.clear()
    engine.error = error
    pending = asking(host, deadline_s=0.0 if is_late else None)
    if is_late:
        assert texts(await pending) == []
    await until(engine.is_waiting.is_set)
    engine.gate.set()
    if not is_late:
        with pytest.raises(type(error)):
            await pending
    await until(lambda: failures)
    assert failures == [error]


async def test_an_answer_is_told_too(host: ModelHost) -> None:
    """Whoever counts failures in a row hears what comes between them."""
    told: list[bool] = []
    host.on_answer = lambda: told.append(True)
    engine = await loaded(host)
    engine.gate.clear()
    assert texts(await asking(host, deadline_s=0.0)) == []
    assert told == []
    engine.gate.set()
    await until(lambda: told)


async def test_a_failure_of_an_old_model_is_not_told(
    host: ModelHost, failures: list[BaseException]
) -> None:
    """What the old model does last is no reason to load the new one again."""
    engine = await loaded(host)
    engine.gate.clear()
    await asking(host, deadline_s=0.0)
    await until(engine.is_waiting.is_set)
    await loading(host, "newer")
    engine.error = RuntimeError("broken")
    engine.gate.set()
    assert texts(await asking(host)) == ["2"]
    assert failures == []
    assert host.answers.find(ANSWER.snapshot) is None
