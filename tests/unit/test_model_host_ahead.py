"""What is done while nobody asks; with engines that recite."""

import asyncio
import math
import threading
from typing import Any

import pytest

from lsp_server.completion import Completion
from lsp_server.model_host import ModelHost
from lsp_server.plan import Snapshot
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from tests.hosting import (
    ANSWER,
    DEADLINE_S,
    OTHER,
    SNAPSHOT,
    Source,
    asking,
    loaded,
    loading,
    texts,
    until,
)


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


async def test_what_a_cancelled_request_wrote_is_a_guess(
    host: ModelHost, source: Source
) -> None:
    """Editors cancel at every key; what was written by then may well be what is typed."""
    source.script = "2 + 3\n"
    engine = await loaded(host)
    engine.hold_after = 3
    pending = asking(host)
    await until(engine.is_waiting.is_set)
    pending.cancel()
    await asyncio.wait({pending})
    await until(lambda: host._ahead)
    assert host._ahead.endswith("b = 2 ")


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
