"""Turns written through LSP alone, on the real server with the fake engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from lsp_server.documents import Document, Edit
from lsp_server.positions import Position
from tests.e2e.clients import (
    DEADLINE_S,
    FAKE_SERVER,
    URI,
    Client,
    capabilities,
    connected,
)

pytestmark = pytest.mark.e2e

_THREE = "# One\n\n# Two\n\n# Three\n"


class Editor:
    """A client that makes the edits it is asked for, if their version is the newest."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: list[types.ApplyWorkspaceEditParams] = []
        self.texts: list[str] = []
        self.refuses = False
        self.document = Document.opened(URI, "python", 0, "")

    @property
    def text(self) -> str:
        """The text in the editor."""
        return self.document.text

    @property
    def shown(self) -> str:
        """The last message that was shown."""
        return self.client.lsp.messages[-1].message

    def open(self, text: str) -> None:
        """Open a document."""
        self.client.open(text)
        self.document = Document.opened(URI, "python", 1, text)

    def edit(self, line: int, character: int, text: str, end: Position | None = None) -> None:
        """Replace a range, and tell the server."""
        start = Position(line, character)
        end = end or start
        version = self.document.version + 1
        self.document = self.document.edited(version, [Edit(text, start, end)], "utf-16")
        where = types.Range(types.Position(*start), types.Position(*end))
        self.client.lsp.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(version, URI),
                [types.TextDocumentContentChangePartial(where, text)],
            )
        )

    def apply(self, params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
        """Make the one edit of a versioned request."""
        self.asked.append(params)
        assert params.edit.document_changes is not None
        (change,) = params.edit.document_changes
        assert isinstance(change, types.TextDocumentEdit)
        (edit,) = change.edits
        assert isinstance(edit, types.TextEdit | types.AnnotatedTextEdit)
        if self.refuses or change.text_document.version != self.document.version:
            return types.ApplyWorkspaceEditResult(applied=False)
        start, end = edit.range.start, edit.range.end
        last = Position(end.line, end.character)
        self.edit(start.line, start.character, edit.new_text, last)
        self.texts.append(self.text)
        return types.ApplyWorkspaceEditResult(applied=True)

    def start(self, command: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Send a command."""
        params = types.ExecuteCommandParams(f"codegen.{command}", list(arguments))
        request = self.client.lsp.workspace_execute_command_async(params)
        return asyncio.ensure_future(request)

    async def run(self, command: str, line: int) -> None:
        """Run a command to its end."""
        await asyncio.wait_for(self.start(command, URI, line), DEADLINE_S)

    async def begun(self, log: Path) -> None:
        """Wait until the engine writes what is slow."""
        await self.client.until(lambda: (log.exists() and "slow" in log.read_text()) or None)


@asynccontextmanager
async def editing(
    log: Path, can: types.ClientCapabilities | None = None
) -> AsyncIterator[Editor]:
    """Yield an editor on a server whose engine logs to a file."""
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        editor = Editor(client)

        @client.lsp.feature(types.WORKSPACE_APPLY_EDIT)  # type: ignore[untyped-decorator]
        def apply(params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
            return editor.apply(params)

        await client.status("ready")
        yield editor


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the file that the fake engine logs to."""
    return tmp_path / "engine.log"


@pytest.fixture
async def editor(log: Path) -> AsyncIterator[Editor]:
    """Yield an editor with Neovim's capabilities."""
    async with editing(log) as editor:
        yield editor


async def test_one_turn_is_written(editor: Editor) -> None:
    """The program stands below its comment and nothing else changes."""
    editor.open(_THREE)
    await editor.run("writeTurn", 2)
    (text,) = editor.texts
    assert text.startswith("# One\n\n# Two\nn13 = x")
    assert text.endswith("\n\n# Three\n")


async def test_all_turns_are_written_each_after_the_one_before(editor: Editor) -> None:
    """There is one versioned edit a turn, and each prompt holds the programs above it."""
    editor.open(_THREE)
    await editor.run("writeAllTurns", 0)
    assert len(editor.texts) == 3
    versions = [
        change.text_document.version
        for params in editor.asked
        for change in params.edit.document_changes or ()
        if isinstance(change, types.TextDocumentEdit)
    ]
    assert versions == [1, 2, 3]
    assert editor.text.count("= x") == 3
    assert [line for line in editor.text.split("\n") if "#" in line] == [
        "# One", "# Two", "# Three"
    ]  # fmt: skip
    assert not editor.client.lsp.messages


async def test_a_run_is_cancelled_from_its_progress(log: Path) -> None:
    """What stands by then stays, the engine stops, and the person is told."""
    async with editing(log, capabilities("vscode")) as editor:
        editor.open("# One\n\n# SLOW\n\n# Three\n")
        pending = editor.start("writeAllTurns", URI, 0)
        await editor.begun(log)
        tokens = list(editor.client.lsp.progress_reports)
        editor.client.lsp.window_work_done_progress_cancel(
            types.WorkDoneProgressCancelParams(tokens[-1])
        )
        await asyncio.wait_for(pending, DEADLINE_S)
        assert len(editor.texts) == 1
        assert "cancelled (1 written)" in editor.shown
        await editor.client.until(lambda: "stopped" in log.read_text() or None)


@pytest.mark.parametrize("line", [0, 2])
async def test_an_edit_above_or_inside_stops_the_run(
    editor: Editor, log: Path, line: int
) -> None:
    """What is being written is for another text, so it ends and says why."""
    editor.open("# One\n\n# SLOW\n\n# Three\n")
    pending = editor.start("writeTurn", URI, 2)
    await editor.begun(log)
    editor.edit(line, 2, "New ")
    await asyncio.wait_for(pending, DEADLINE_S)
    assert editor.texts == []
    assert "edited inside or above" in editor.shown


async def test_an_edit_below_does_not_stop_the_run(editor: Editor, log: Path) -> None:
    """The run is still there after it, until its document is closed."""
    editor.open("# SLOW\n\n# Two\n")
    pending = editor.start("writeTurn", URI, 0)
    await editor.begun(log)
    editor.edit(2, 2, "New ")
    # A full round trip: the server has seen the edit.
    await editor.run("writeTurn", 0)
    assert "already" in editor.shown
    assert not pending.done()
    editor.client.lsp.text_document_did_close(
        types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(URI))
    )
    await asyncio.wait_for(pending, DEADLINE_S)
    assert "not open" in editor.shown


async def test_an_edit_that_is_refused_ends_the_run(editor: Editor) -> None:
    """There is one message, and the server goes on."""
    editor.open(_THREE)
    editor.refuses = True
    await editor.run("writeAllTurns", 0)
    assert len(editor.asked) == 1
    assert "refused" in editor.shown
    editor.refuses = False
    await editor.run("writeTurn", 0)
    assert len(editor.texts) == 1


async def test_a_failing_engine_ends_the_run(editor: Editor) -> None:
    """There is one message that holds nothing of the text."""
    editor.open("# FAIL\n")
    await editor.run("writeTurn", 0)
    (message,) = editor.client.lsp.messages
    assert "RuntimeError" in message.message
    assert "FAIL" not in message.message


@pytest.mark.parametrize("arguments", [[], [URI], [URI, "1"], [URI, -1], [1, 1], [URI, 0, 0]])
async def test_wrong_arguments_are_one_error(editor: Editor, arguments: list[Any]) -> None:
    """The answer says what the command takes."""
    with pytest.raises(JsonRpcException, match="takes the URI"):
        await asyncio.wait_for(editor.start("writeTurn", *arguments), DEADLINE_S)


async def test_stale_turns_are_written_and_a_persons_are_not(editor: Editor) -> None:
    """Our own program that uses a changed turn is written anew; the others are listed."""
    editor.open("# One\nx = 1\n\n# Two\n\n# Three\ny = x\n")
    await editor.run("writeTurn", 3)
    lines = editor.text.split("\n")
    place = lines.index("x = 1")
    editor.edit(place, 5, "2")
    await editor.run("rewriteStale", 0)
    assert "y = x" in editor.text
    assert "left alone: line" in editor.shown
    assert len(editor.texts) == 2


@pytest.mark.parametrize("name", ["neovim", "vscode"])
async def test_a_rewrite_is_confirmed_where_the_client_can(log: Path, name: str) -> None:
    """Another program takes the place of the one there, again and again."""
    can = capabilities(name)
    assert can.workspace is not None
    assert can.workspace.workspace_edit is not None
    can.workspace.workspace_edit.change_annotation_support = (
        types.ChangeAnnotationsSupportOptions() if name == "vscode" else None
    )
    async with editing(log, can) as editor:
        editor.open("# One\n\n# Two\nn2 = 2\n")
        await editor.run("writeTurn", 0)
        for _ in range(3):
            await editor.run("rewriteTurn", 0)
        assert len(set(editor.texts)) == 4
        annotated = [params.edit.change_annotations for params in editor.asked]
        assert annotated[0] is None
        for annotations in annotated[1:]:
            assert bool(annotations) == (name == "vscode")
            assert all(a.needs_confirmation for a in (annotations or {}).values())


async def test_actions_are_offered_where_they_apply(editor: Editor) -> None:
    """A turn without a program can be written, one with a program anew."""
    editor.open("# One\nx = 1\n\n# Two\n\n")
    titles = []
    for line in (1, 3):
        here = types.Position(line, 0)
        actions = await editor.client.lsp.text_document_code_action_async(
            types.CodeActionParams(
                types.TextDocumentIdentifier(URI),
                types.Range(here, here),
                types.CodeActionContext([]),
            )
        )
        titles.append([action.title for action in actions or ()])
    assert titles == [
        ["Write all turns below", "Write this turn anew"],
        ["Write this turn", "Write all turns below"],
    ]
