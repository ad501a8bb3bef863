"""The model comes, goes and comes back while an editor types, on the real server."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from lsprotocol import types

from lsp_server.models import EMBEDDED_MODEL
from model_export import export
from tests.checkpoints import EMBEDDED
from tests.e2e.clients import DEADLINE_S, URI, Client, answered, connected

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).parents[2]
_QUICK = "file:///project/quick.py"
_LONG_S = 3600.0
_SHORT_S = 0.2


@dataclass(frozen=True)
class Fake:
    """The server with the fake engine: its log, and the files that it waits for."""

    log: Path

    def connected(
        self, minute_s: float = _LONG_S, patience_s: float = _LONG_S, **options: Any
    ) -> AbstractAsyncContextManager[Client]:
        """Return a client of a server that was started for it."""
        arguments = map(str, (self.log, minute_s, patience_s))
        command = [sys.executable, "-m", "tests.e2e.idle_server", *arguments]
        return connected(command, cwd=_ROOT, options=options)

    def events(self, name: str) -> list[list[Any]]:
        """Return what was logged by this name, without it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event[1:] for event in map(json.loads, lines) if event[0] == name]

    def at_least(self, n: int, name: str) -> Callable[[], list[list[Any]] | None]:
        """Return what finds so many events."""
        return lambda: found if len(found := self.events(name)) >= n else None

    def let_load(self) -> None:
        """Let the model be loaded."""
        self.log.with_suffix(".load").touch()

    def let_export(self) -> None:
        """Let the checkpoint be exported."""
        self.log.with_suffix(".export").touch()

    def release(self) -> None:
        """Let the model go on."""
        self.log.with_suffix(".release").touch()


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Return a server that is not started yet."""
    return Fake(tmp_path / "engine.log")


def change(client: Client, **settings: Any) -> None:
    """Change the settings."""
    client.lsp.workspace_did_change_configuration(
        types.DidChangeConfigurationParams({"codegen": settings})
    )


def delete(client: Client, line: int, start: int, end: int) -> None:
    """Take typed text back."""
    client.version += 1
    places = types.Range(types.Position(line, start), types.Position(line, end))
    client.lsp.text_document_did_change(
        types.DidChangeTextDocumentParams(
            types.VersionedTextDocumentIdentifier(client.version, URI),
            [types.TextDocumentContentChangePartial(places, "")],
        )
    )


def times(client: Client, state: str, n: int) -> Callable[[], bool | None]:
    """Return what finds the n-th status of this state."""
    return lambda: [status.state for status in client.statuses].count(state) >= n or None


async def suggested(client: Client, line: int, character: int, **options: Any) -> list[str]:
    """Return what is suggested while typing."""
    items = await client.items(line, character, invoked=False, **options)
    return [str(item.insert_text) for item in items]


async def test_an_idle_model_is_unloaded_and_a_keystroke_brings_it_back(fake: Fake) -> None:
    """Who comes back to the editor has the model by the time that it is asked."""
    async with fake.connected(_SHORT_S, unloadAfterMinutes=1) as client:
        client.open("x = ")
        off = await client.status("off")
        assert "1 idle minutes" in off.message
        assert [status.state for status in client.statuses] == ["loading", "ready", "off"]
        client.insert(0, 4, " ")
        await client.until(times(client, "ready", 2))
        assert fake.events("load") == [["fake"], ["fake"]]
        assert client.lsp.messages == []


async def test_a_request_that_wakes_the_model_is_answered(fake: Fake) -> None:
    """The first request after a break waits for the model, and gets what it asked for."""
    async with fake.connected(_SHORT_S, unloadAfterMinutes=1) as client:
        client.open("x = ")
        await client.status("off")
        assert await suggested(client, 0, 4) == ['"3"']
        assert len(fake.events("load")) == 2


async def test_the_idle_time_can_be_set_while_the_model_is_there(fake: Fake) -> None:
    """A setting holds from when it is made, not from the next load on."""
    async with fake.connected(_SHORT_S, unloadAfterMinutes=0) as client:
        await client.status("ready")
        change(client, unloadAfterMinutes=1)
        await client.status("off")
        assert len(fake.events("load")) == 1


async def test_a_request_while_the_model_is_loaded_is_answered(fake: Fake) -> None:
    """What is asked too early waits, once for each document, and is answered."""
    async with fake.connected(model="HELD") as client:
        client.open("x = ")
        client.open("long_name = ", uri=_QUICK)
        await client.until(fake.at_least(1, "load"))
        older = client.request(0, 4, invoked=False)
        newer = client.request(0, 4, invoked=False)
        other = client.request(0, 12, uri=_QUICK, invoked=False)
        assert await answered(older) == []
        assert not newer.done()
        assert not other.done()
        fake.let_load()
        assert [item.insert_text for item in await answered(newer)] == ['"3"']
        assert [item.insert_text for item in await answered(other)] == ['"11"']


async def test_a_request_that_waits_for_a_model_that_fails_is_answered(fake: Fake) -> None:
    """A broken model is said once, and the embedded one answers whoever waited for it."""
    async with fake.connected(model="HELD broken") as client:
        client.open("x = ")
        await client.until(fake.at_least(1, "load"))
        pending = client.request(0, 4)
        fake.let_load()
        assert [item.insert_text for item in await answered(pending)] == ['"3"']
        status = await client.status("ready")
        assert status.model == "fake"
        assert status.message == "HELD broken cannot be loaded; fake answers instead"
        (shown,) = client.lsp.messages
        assert status.message in shown.message
        assert {name for name, _ in fake.events("generate")} == {"fake"}


async def test_a_model_that_is_not_here_is_said_and_the_embedded_one_answers(
    fake: Fake,
) -> None:
    """A name that stands for nothing costs no completion, and one line tells how to get it."""
    async with fake.connected(model="missing") as client:
        client.open("x = ")
        assert await suggested(client, 0, 4) == ['"3"']
        status = await client.status("ready")
        assert status.model == "fake"
        (shown,) = client.lsp.messages
        assert shown.type is types.MessageType.Warning
        for told in (status.message, shown.message):
            assert "`codegen-lsp pull missing` gets it; fake answers instead" in told


async def test_a_model_that_cannot_be_had_leaves_the_older_one(fake: Fake) -> None:
    """Who had completions goes on having them, and is told by which model."""
    async with fake.connected(model="old") as client:
        client.open("x = ")
        await client.status("ready")
        change(client, model="missing")
        await client.until(times(client, "ready", 2))
        status = client.statuses[-1]
        assert status.model == "old"
        assert status.message.endswith("; old answers instead")
        assert await suggested(client, 0, 4) == ['"3"']
        assert {name for name, _ in fake.events("generate")} == {"old"}


async def test_the_embedded_model_answers_while_another_is_exported(fake: Fake) -> None:
    """The first completion does not wait for minutes, and the model comes when it can."""
    async with fake.connected(patience_s=0, model="checkpoint") as client:
        client.open("x = ")
        assert await suggested(client, 0, 4) == ['"3"']
        status = await client.until(
            lambda: next((s for s in client.statuses if "meanwhile" in s.message), None)
        )
        assert (status.state, status.model) == ("loading", "fake")
        assert status.message == "preparing checkpoint; fake answers meanwhile"
        assert fake.events("load") == [["fake"]]
        fake.let_export()
        ready = await client.status("ready")
        assert (ready.model, ready.message) == ("checkpoint", "")
        assert await suggested(client, 0, 4) == ['"3"']
        prompts = [event for event in fake.events("generate") if event[0] == "checkpoint"]
        assert prompts
        assert client.lsp.messages == []


async def test_an_export_that_fails_leaves_the_model_that_stood_in(fake: Fake) -> None:
    """Minutes of waiting for a bad model end with a word and not with silence."""
    async with fake.connected(patience_s=0, model="broken checkpoint") as client:
        client.open("x = ")
        assert await suggested(client, 0, 4) == ['"3"']
        fake.let_export()
        status = await client.status("ready")
        assert status.model == "fake"
        assert "broken checkpoint cannot be loaded" in status.message
        client.insert(0, 4, "y")
        client.insert(0, 5, " + ")
        assert await suggested(client, 0, 8) == ['"7"']
        assert len(client.lsp.messages) == 1


async def test_a_request_stops_when_its_model_is_replaced(fake: Fake) -> None:
    """What is being written by the model before is ended and asked of the new one."""
    async with fake.connected(patience_s=_SHORT_S, model="old") as client:
        client.open("SLOW = ")
        await client.status("ready")
        change(client, model="checkpoint")
        await client.until(fake.at_least(1, "export"))
        pending = client.request(0, 7, invoked=False)
        await client.until(fake.at_least(1, "slow"))
        fake.let_export()
        assert (await client.until(_status_of(client, "checkpoint"))).state == "ready"
        await client.until(fake.at_least(2, "slow"))
        assert len(fake.events("stopped")) == 1
        client.insert(0, 7, "1")
        assert await answered(pending) == []
        assert [name for name, _ in fake.events("generate")] == ["old", "checkpoint"]


async def test_another_model_ends_an_export(fake: Fake) -> None:
    """An export that nobody wants any more ends, and the model that is wanted comes."""
    async with fake.connected(model="checkpoint") as client:
        await client.until(fake.at_least(1, "export"))
        change(client, model="newer")
        assert (await client.status("ready")).model == "newer"
        await client.until(fake.at_least(1, "export ended"))
        assert ["checkpoint"] not in fake.events("load")


async def test_the_end_of_the_session_ends_an_export(fake: Fake) -> None:
    """A server that is told to go while it exports goes, and leaves nothing half-done."""
    async with fake.connected(model="checkpoint") as client:
        await client.until(fake.at_least(1, "export"))
        await client.lsp.shutdown_async(None)
        await client.until(fake.at_least(1, "export ended"))
        client.lsp.exit(None)
        assert await asyncio.wait_for(client.process.wait(), DEADLINE_S) == 0


def _status_of(client: Client, model: str) -> Callable[[], Any]:
    return lambda: next((s for s in client.statuses if s.model == model), None)


async def test_an_edit_ends_the_waiting_for_a_model(fake: Fake) -> None:
    """A request for a text that has passed is answered before the model is there."""
    async with fake.connected(model="HELD") as client:
        client.open("x = ")
        await client.until(fake.at_least(1, "load"))
        pending = client.request(0, 4)
        client.insert(0, 4, "y")
        assert await answered(pending) == []
        fake.let_load()
        await client.status("ready")


async def test_typing_along_asks_the_model_nothing(fake: Fake) -> None:
    """A suggestion that is typed, taken back or accepted needs no new call."""
    async with fake.connected() as client:
        client.open("x = ")
        await client.status("ready")
        assert await suggested(client, 0, 4) == ['"3"']
        # The answer's own, and what is written ahead for when it is accepted.
        await client.until(fake.at_least(2, "generate"))
        client.insert(0, 4, '"')
        assert await suggested(client, 0, 5) == ['3"']
        client.insert(0, 5, "3")
        assert await suggested(client, 0, 6) == ['"']
        delete(client, 0, 4, 6)
        assert await suggested(client, 0, 4) == ['"3"']
        assert len(fake.events("generate")) == 2
        client.insert(0, 4, '"3"')
        assert await suggested(client, 0, 7)
        prompts = [prompt for _, prompt in fake.events("generate")]
        assert len(set(prompts)) == len(prompts)


async def test_whoever_asks_explicitly_asks_the_model(fake: Fake) -> None:
    """A request by key is for more than what was shown, and another text for another."""
    async with fake.connected() as client:
        client.open("x = ")
        await client.status("ready")
        assert await suggested(client, 0, 4) == ['"3"']
        await client.until(fake.at_least(2, "generate"))
        assert await client.items(0, 4)
        n_calls = len(fake.events("generate"))
        assert n_calls >= 3
        client.insert(0, 4, "'")
        client.insert(0, 0, "y")
        await suggested(client, 0, 5)
        assert len(fake.events("generate")) > n_calls


async def test_reading_ahead_ends_with_a_request(fake: Fake) -> None:
    """A file that is opened is read while nobody asks, and not a moment longer."""
    async with fake.connected() as client:
        client.open("x = ", uri=_QUICK)
        client.open("SLOWLY = ")
        await client.status("ready")
        await client.until(lambda: any("SLOWLY" in e[1] for e in fake.events("read")) or None)
        assert await suggested(client, 0, 4, uri=_QUICK) == ['"3"']
        assert fake.events("reading was stopped") == [[]]


async def test_writing_ahead_ends_with_a_request(fake: Fake) -> None:
    """What may come after an answer is written until somebody asks for something else."""
    async with fake.connected() as client:
        client.open("x = ", uri=_QUICK)
        client.open("LATER = ")
        await client.status("ready")
        assert await suggested(client, 0, 8) == ['"SLOW"']
        await client.until(fake.at_least(1, "slow"))
        assert await suggested(client, 0, 4, uri=_QUICK) == ['"3"']
        assert fake.events("stopped")
        assert fake.events("ran to its end") == []


async def test_an_answer_of_the_old_model_is_not_the_new_ones(fake: Fake) -> None:
    """A model that is changed while it answers leaves nothing that is shown as the new's."""
    async with fake.connected(model="old") as client:
        client.open("HOLD = ")
        await client.status("ready")
        pending = client.request(0, 7, invoked=False)
        await client.until(fake.at_least(1, "generate"))
        change(client, model="new")
        await client.until(times(client, "ready", 2))
        fake.release()
        await answered(pending)
        assert await suggested(client, 0, 7)
        ((_, prompt),) = (e for e in fake.events("generate") if e[0] == "old")
        assert ["new", prompt] in fake.events("generate")


async def test_an_answer_under_old_settings_is_not_the_new_ones(fake: Fake) -> None:
    """A setting that is changed while the model answers holds for the next request."""
    async with fake.connected() as client:
        client.open("HOLD = ")
        await client.status("ready")
        pending = client.request(0, 7, invoked=False)
        await client.until(fake.at_least(1, "generate"))
        change(client, maxNewTokens=500)
        # Messages are handled in order, so this is answered after the change.
        assert await client.items(0, 0, uri="file:///not/open.py") == []
        fake.release()
        await answered(pending)
        first = fake.events("generate")[0]
        assert await suggested(client, 0, 7)
        assert fake.events("generate").count(first) == 2


async def test_a_model_that_is_named_while_another_loads_is_the_one(fake: Fake) -> None:
    """The newest setting wins, and who waits is answered by its model."""
    async with fake.connected(model="HELD") as client:
        client.open("x = ")
        await client.until(fake.at_least(1, "load"))
        pending = client.request(0, 4, invoked=False)
        change(client, model="newer")
        assert (await client.status("ready")).model == "newer"
        assert await answered(pending)
        fake.let_load()
        assert {name for name, _ in fake.events("generate")} == {"newer"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported folder that runs here."""
    folder = tmp_path_factory.mktemp("models") / "good"
    export(EMBEDDED, folder, precision="fp32")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an exported folder to be broken."""
    export(EMBEDDED, tmp_path / "mine", precision="fp32")
    return tmp_path / "mine"


def _fine(_folder: Path) -> None:
    pass


def _larger_than_the_memory(folder: Path) -> None:
    n_bytes = 2 * psutil.virtual_memory().total
    try:
        # It has no blocks, so it takes no room.
        os.truncate(folder / "model.onnx.data", n_bytes)
    except OSError as error:
        pytest.skip(f"this file system has no sparse files of this size: {error}")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.onnx.data"]["size"] = n_bytes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _changed(folder: Path) -> None:
    graph = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(graph[:-1] + b"\0")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"x" * (folder / "tokenizer.json").stat().st_size)


REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "too large": (_larger_than_the_memory, {}, "choose a smaller model"),
    "for another device": (_fine, {"device": "cuda"}, "exported for cpu, not for cuda"),
    "changed": (_changed, {}, "was changed or damaged"),
    "no tokenizer": (_no_tokenizer, {}, "tokenizer.json"),
}


@pytest.mark.parametrize(("harm", "options", "reason"), REFUSED.values(), ids=REFUSED)
async def test_a_model_that_cannot_run_is_one_message_and_others_can(
    harm: Callable[[Path], None],
    options: dict[str, Any],
    reason: str,
    folder: Path,
    good: Path,
) -> None:
    """It says what is wrong in one line, and the embedded model answers until a better one."""
    harm(folder)
    async with connected(options={"model": str(folder), **options}) as client:
        client.open("import os\n\n\ndef size_of(path):\n    return ")
        status = await client.status("ready")
        assert reason in status.message
        (shown,) = await client.until(lambda: client.lsp.messages or None)
        assert shown.type is types.MessageType.Warning
        assert reason in shown.message
        assert len(shown.message.splitlines()) == 1
        assert status.model == EMBEDDED_MODEL
        assert await client.items(4, 11)
        change(client, model=str(good), device="auto")
        await client.until(times(client, "ready", 2))
        assert client.statuses[-1].message == ""
        assert await client.items(4, 11)
        assert len(client.lsp.messages) == 1


@pytest.fixture
async def with_bad_threads(good: Path) -> AsyncIterator[Client]:
    """Yield a client that asked for threads that nobody has."""
    async with connected(options={"model": str(good), "threads": 9999}) as client:
        yield client


async def test_threads_that_nobody_has_cost_only_the_setting(with_bad_threads: Client) -> None:
    """It is said once, and the model is loaded with as many as there are."""
    client = with_bad_threads
    client.open("import os\n\n\ndef size_of(path):\n    return ")
    await client.status("ready")
    (shown,) = client.lsp.messages
    assert shown.type is types.MessageType.Warning
    assert "threads" in shown.message
    assert "9999" in shown.message
    assert await client.items(4, 11)
    change(client, threads=1)
    await client.until(times(client, "ready", 2))
    assert await client.items(4, 11)
