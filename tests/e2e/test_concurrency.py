"""Requests that overtake, cancel and outdate each other, on the real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from tests.e2e.clients import DEADLINE_S, FAKE_SERVER, URI, Client, answered, connected

pytestmark = pytest.mark.e2e

_SLOW = "SLOW = 1\nname = "
_QUICK = "file:///project/quick.py"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the file that the fake engine logs to."""
    return tmp_path / "engine.log"


@pytest.fixture
async def client(log: Path) -> AsyncIterator[Client]:
    """Yield a client of the server with the fake engine."""
    async with connected([*FAKE_SERVER, str(log)]) as client:
        await client.status("ready")
        yield client


def _event(log: Path, name: str) -> Callable[[], list[Any] | None]:
    def find() -> list[Any] | None:
        lines = log.read_text().splitlines() if log.exists() else []
        return next((e for e in map(json.loads, lines) if e[0] == name), None)

    return find


def _n_events(log: Path, name: str, n: int) -> Callable[[], bool | None]:
    return lambda: (log.exists() and log.read_text().count(f'["{name}"') >= n) or None


def _n_messages(client: Client, n: int) -> bool | None:
    return len(client.lsp.messages) >= n or None


async def test_cancelling_a_request_stops_the_engine(client: Client, log: Path) -> None:
    """After $/cancelRequest the engine stops, and the next request is answered."""
    client.open(_SLOW)
    client.open("x = ", uri=_QUICK)
    pending = client.request(1, 7, msg_id="slow")
    await client.until(_event(log, "slow"))
    client.lsp.cancel_request(types.CancelParams("slow"))
    await client.until(_event(log, "stopped"))
    with pytest.raises(JsonRpcException):
        await asyncio.wait_for(pending, DEADLINE_S)
    assert await client.items(0, 4, uri=_QUICK)


async def test_a_newer_request_takes_the_place_of_an_older_one(
    client: Client, log: Path
) -> None:
    """The older request of a document is answered with an empty list, and soon."""
    client.open(_SLOW)
    older = client.request(1, 7)
    await client.until(_event(log, "slow"))
    newer = client.request(0, 9)
    assert await answered(older) == []
    await client.until(_event(log, "stopped"))
    client.lsp.text_document_did_close(
        types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(URI))
    )
    assert await answered(newer) == []


async def test_a_request_that_waits_for_its_check_is_superseded_too(log: Path) -> None:
    """An answer whose place was taken is empty, and not one that nobody checked."""
    options = {"checkDeadlineMs": 10_000}
    async with connected([*FAKE_SERVER, str(log)], options=options) as client:
        await client.status("ready")
        client.open("y = ", uri=_QUICK)
        assert await client.items(0, 4, uri=_QUICK)
        (worker,) = psutil.Process(client.process.pid).children()
        worker.suspend()
        client.open("x = ")
        older = client.request(0, 4)
        # The model's one thread has left the older request when it answers this one.
        assert await client.items(0, 0, uri=_QUICK) == []
        newer = client.request(0, 4)
        assert await answered(older) == []
        assert not newer.done()
        worker.resume()
        assert await answered(newer)


async def test_an_edit_makes_the_running_answer_stale(client: Client, log: Path) -> None:
    """A document that moved on gets an empty list for its older version, and soon."""
    client.open(_SLOW)
    pending = client.request(1, 7)
    await client.until(_event(log, "slow"))
    client.insert(1, 7, "y")
    assert await answered(pending) == []
    assert _event(log, "ran to its end")() is None


async def test_other_requests_are_served_while_the_model_runs(
    client: Client, log: Path
) -> None:
    """The event loop never waits for the model: a full round trip fits in between."""
    client.open(_SLOW)
    pending = client.request(1, 7)
    await client.until(_event(log, "slow"))
    assert await client.items(0, 0, uri="file:///not/open.py") == []
    assert not pending.done()


async def test_a_failing_engine_costs_one_answer_and_one_message(client: Client) -> None:
    """An engine that raises is said once, and the server goes on."""
    client.open("FAIL = ")
    client.open("x = ", uri=_QUICK)
    for _ in range(2):
        assert await client.items(0, 7) == []
    assert len(client.lsp.messages) == 1
    assert "FAIL" not in client.lsp.messages[0].message
    assert await client.items(0, 4, uri=_QUICK)


async def test_an_engine_without_memory_costs_one_answer_and_one_message(
    client: Client,
) -> None:
    """A MemoryError is said once, without the text, and the server goes on."""
    client.open("FULL = ")
    client.open("x = ", uri=_QUICK)
    assert await client.items(0, 7) == []
    assert await client.items(0, 7) == []
    assert len(client.lsp.messages) == 1
    assert "FULL" not in client.lsp.messages[0].message
    assert await client.items(0, 4, uri=_QUICK)


async def test_a_model_that_fails_and_fails_is_loaded_again(client: Client) -> None:
    """The third failure in a row loads the model anew, and what comes then is answered."""
    client.statuses.clear()
    client.open("FAIL = ")
    client.open("x = ", uri=_QUICK)
    for _ in range(3):
        assert await client.items(0, 7) == []
    await client.status("loading")
    await client.status("ready")
    assert await client.items(0, 4, uri=_QUICK)


async def test_an_engine_that_hangs_holds_up_neither_answers_nor_the_end(log: Path) -> None:
    """Automatic requests are answered by their deadline, and shutdown ends the server."""
    async with connected([*FAKE_SERVER, str(log)], options={"deadlineMs": 500}) as client:
        await client.status("ready")
        client.open("HANG = ")
        client.open("x = ", uri=_QUICK)
        hanging = client.request(0, 7, invoked=False)
        await client.until(_event(log, "hang"))
        assert await client.items(0, 4, uri=_QUICK, invoked=False) == []
        assert await answered(hanging) == []
        await asyncio.wait_for(client.lsp.shutdown_session(), DEADLINE_S)
        assert client.process.returncode == 0


async def test_a_model_that_hangs_is_loaded_again(client: Client, log: Path) -> None:
    """A call that never returns holds up nobody for long: one message, and a new model."""
    client.open("HANG = ")
    client.open("x = ", uri=_QUICK)
    hanging = client.request(0, 7)
    await client.until(_event(log, "hang"))
    # It waits behind the call that hangs, and is answered by the model that comes.
    waiting = client.request(0, 4, uri=_QUICK)
    client.statuses.clear()
    client.insert(0, 7, "y")
    assert await answered(hanging) == []
    assert await answered(waiting)
    assert (await client.status("ready")).model == "fake"
    (shown,) = client.lsp.messages
    assert "hangs and is loaded again" in shown.message


async def test_a_model_that_hangs_and_hangs_is_given_up(client: Client, log: Path) -> None:
    """Each that hangs keeps its memory, so after some in a row a person has to decide."""
    client.open("HANG = ")
    for n_hangs in (1, 2, 3):
        hanging = client.request(0, 7)
        await client.until(_n_events(log, "hang", n_hangs))
        client.insert(0, 7, "y")
        assert await answered(hanging) == []
        await client.until(partial(_n_messages, client, n_hangs))
    status = await client.status("failed")
    assert "choose another model" in status.message
    assert await client.items(0, 7) == []
    change = {"codegen": {"model": "another"}}
    client.statuses.clear()
    client.lsp.workspace_did_change_configuration(types.DidChangeConfigurationParams(change))
    await client.status("ready")


async def test_failures_after_the_deadline_count_too(log: Path) -> None:
    """A model that only ever fails late is loaded again like one that fails at once."""
    async with connected([*FAKE_SERVER, str(log)], options={"deadlineMs": 50}) as client:
        await client.status("ready")
        client.statuses.clear()
        for n_failures in (1, 2, 3):
            uri = f"file:///project/{n_failures}.py"
            client.open("TARDY = ", uri=uri)
            assert await client.items(0, 8, uri=uri, invoked=False) == []
            await client.until(_n_events(log, "tardy", n_failures))
            log.with_suffix(f".fail{n_failures}").touch()
        await client.status("ready")
        assert len(client.lsp.messages) == 1


async def test_emoji_and_form_feed_before_the_cursor(log: Path) -> None:
    """Characters are UTF-16, and only LF, CR LF and CR end a line, in edits too."""
    async with connected([*FAKE_SERVER, str(log)], editor="vscode") as client:
        assert client.server.position_encoding == types.PositionEncodingKind.Utf16
        await client.status("ready")
        before = "a = '😀\f\u2028'\nb = '🎉'; c ="
        client.open("a = '😀\f\u2028'\nb = '🎉'; ")
        client.insert(1, 10, "c = ")
        (item,) = await client.items(1, 14, invoked=False)
        assert item.insert_text == f'"{len(before)}"'
        assert item.range == types.Range(types.Position(1, 14), types.Position(1, 14))


async def test_positions_in_utf8_where_the_client_prefers_it(log: Path) -> None:
    """A client that counts bytes gets the same answer at its own positions."""
    can = types.ClientCapabilities(
        general=types.GeneralClientCapabilities(
            position_encodings=[types.PositionEncodingKind.Utf8]
        )
    )
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        assert client.server.position_encoding == types.PositionEncodingKind.Utf8
        await client.status("ready")
        before = "é = '😀'; x ="
        client.open(f"{before} ")
        (item,) = await client.items(0, 17, invoked=False)
        assert item.insert_text == f'"{len(before)}"'
        assert item.range is not None
        assert item.range.start.character == 17


async def test_the_server_ends_with_its_client(client: Client, log: Path) -> None:
    """After shutdown and exit nothing is left running, even in the middle of an answer."""
    client.open(_SLOW)
    pending = client.request(1, 7)
    await client.until(_event(log, "slow"))
    processes = psutil.Process(client.process.pid).children(recursive=True)
    await asyncio.wait_for(client.lsp.shutdown_session(), DEADLINE_S)
    pending.cancel()
    assert client.process.returncode == 0
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE_S)
    assert alive == []


async def test_the_server_ends_when_its_client_dies(client: Client, log: Path) -> None:
    """A client that goes without a word leaves no server behind."""
    client.open(_SLOW)
    pending = client.request(1, 7)
    await client.until(_event(log, "slow"))
    assert client.process.stdin is not None
    client.process.stdin.close()
    await asyncio.wait_for(client.process.wait(), DEADLINE_S)
    pending.cancel()
