"""What is answered at the deadline, and what is written after it; with engines that recite."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from lsp_server.completion import UNFINISHED, Completion
from lsp_server.model_host import ModelHost
from lsp_server.plan import Snapshot
from tests.fakes import ScriptedEngine
from tests.hosting import (
    DEADLINE_S,
    OTHER,
    Source,
    a_few_turns,
    asking,
    loaded,
    loading,
    texts,
    until,
)

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


async def test_a_line_that_was_late_is_the_next_answer(host: ModelHost, source: Source) -> None:
    """Half a line is not shown; once it is whole it is known, without another call."""
    in_line = Snapshot("f()", 2, "python", "file:///a.py")
    source.script = "first, second)\n"
    engine = await loaded(host)
    engine.hold_after = len("first")
    nothing = await asking(host, in_line, deadline_s=0.0)
    assert (texts(nothing), nothing.silence) == ([], UNFINISHED)
    await until(engine.is_waiting.is_set)
    assert texts(await asking(host, in_line, deadline_s=0.0)) == []
    engine.gate.set()
    await until(lambda: host.answers.find(in_line))
    known = host.answers.find(in_line)
    assert known is not None
    assert known.candidate.insert_text == "first, second"
    assert len(engine.calls) == 1


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
