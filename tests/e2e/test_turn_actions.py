"""Turns written through LSP alone, on the real server with the fake engine."""

import asyncio
from collections.abc import AsyncIterator, Mapping
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
        self.edit_before: tuple[int, int, str] | None = None
        """What the person types when the next edit arrives."""
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
        """Make the one edit of a request, if it is for the newest version."""
        self.asked.append(params)
        if self.edit_before is not None:
            self.edit(*self.edit_before)
            self.edit_before = None
        if params.edit.changes is not None:
            version = None
            ((edit,),) = params.edit.changes.values()
        else:
            assert params.edit.document_changes is not None
            (change,) = params.edit.document_changes
            assert isinstance(change, types.TextDocumentEdit)
            version = change.text_document.version
            (edit,) = change.edits  # type: ignore[assignment]
        assert isinstance(edit, types.TextEdit | types.AnnotatedTextEdit)
        if self.refuses or version not in (None, self.document.version):
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

    async def begun(self, log: Path, event: str = "slow") -> None:
        """Wait until the engine writes what is slow, or logs another event."""
        await self.client.until(lambda: (log.exists() and event in log.read_text()) or None)


@asynccontextmanager
async def editing(
    log: Path,
    can: types.ClientCapabilities | None = None,
    options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Editor]:
    """Yield an editor on a server whose engine logs to a file."""
    command = [*FAKE_SERVER, str(log)]
    async with connected(command, can=can, options=options) as client:
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


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("writeAllTurns", "every turn from here on has its program"),
        ("rewriteStale", "no program that was written here is stale"),
    ],
)
async def test_where_there_is_nothing_to_write_that_is_said(
    editor: Editor, command: str, said: str
) -> None:
    """Nobody waits for a command that has nothing to do."""
    editor.open("# One\nx = 1\n")
    await editor.run(command, 0)
    assert editor.texts == []
    (message,) = editor.client.lsp.messages
    assert message.message.endswith(said)


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
    """The run says that it stopped, and no message holds anything of the text."""
    editor.open("# FAIL\n")
    await editor.run("writeTurn", 0)
    assert "stopped" in editor.shown
    assert "RuntimeError" in editor.shown
    assert not any("FAIL" in message.message for message in editor.client.lsp.messages)


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


@pytest.mark.parametrize("is_answered", [False, True])
async def test_a_client_that_makes_no_edit_ends_the_run(is_answered: bool, log: Path) -> None:
    """One that never answers, or says what is not so, gets one message and no more edits."""
    env = {"EDIT_DEADLINE_S": "0.05"}
    async with connected([*FAKE_SERVER, str(log)], env=env) as client:
        editor = Editor(client)
        n_asked = 0
        is_over = asyncio.Event()

        @client.lsp.feature(types.WORKSPACE_APPLY_EDIT)  # type: ignore[untyped-decorator]
        async def apply(
            _params: types.ApplyWorkspaceEditParams,
        ) -> types.ApplyWorkspaceEditResult:
            nonlocal n_asked
            n_asked += 1
            if not is_answered:
                await is_over.wait()
            return types.ApplyWorkspaceEditResult(applied=True)

        await client.status("ready")
        editor.open(_THREE)
        await editor.run("writeAllTurns", 0)
        is_over.set()
        assert n_asked == 1
        (message,) = client.lsp.messages
        assert "the editor did not" in message.message


async def test_a_flagged_program_is_not_written(log: Path) -> None:
    """The person is told what the check found, and no edit is asked for."""
    async with editing(log, options={"checkDeadlineMs": 10_000}) as editor:
        # Nothing binds the name that the engine uses, but in the last turn.
        editor.open("# One\n\n# Two\n\nx = 1\n\n# Three\n")
        await editor.run("writeAllTurns", 0)
        assert "line 1 is not written" in editor.shown
        assert "'x'" in editor.shown
        assert "line 7" not in editor.shown
        assert [text.rstrip("\n").rpartition("\n")[2][-3:] for text in editor.texts] == ["= x"]


async def test_without_a_model_nothing_is_written(log: Path) -> None:
    """The person is told that there is none."""
    async with connected([*FAKE_SERVER, str(log)], env={"NO_MODEL": "1"}) as client:
        editor = Editor(client)
        await client.status("failed")
        editor.open(_THREE)
        await editor.run("writeAllTurns", 0)
        assert "no model is loaded" in editor.shown


async def test_a_conflict_is_tried_again_on_the_newest_text(editor: Editor) -> None:
    """An edit below that crosses ours costs a second request and not the program."""
    editor.open(_THREE)
    editor.edit_before = (4, 7, " more")
    await editor.run("writeTurn", 0)
    assert len(editor.asked) == 2
    (text,) = editor.texts
    assert text.startswith("# One\nn")
    assert text.endswith("\n\n# Two\n\n# Three more\n")
    assert not editor.client.lsp.messages


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (4, "# Zero\n\n# PARTS\na = 1\nb = 2\n\n# New\n\n# Two\n"),
        (3, "# Zero\n\n# PARTS\n# New\n\n\n# Two\n"),
        (2, "# Zero\n\n# New\n\n# PARTS\n\n# Two\n"),
        (0, "# New\n\n# Zero\n\n# PARTS\n\n# Two\n"),
    ],
)
async def test_lines_that_are_added_below_are_no_matter(
    editor: Editor, log: Path, line: int, expected: str
) -> None:
    """The program lands below its comment; lines above or in the turn leave it no place."""
    editor.open("# Zero\n\n# PARTS\n\n# Two\n")
    pending = editor.start("writeTurn", URI, 2)
    await editor.begun(log, "first part")
    editor.edit(line, 0, "# New\n\n")
    log.with_suffix(".release").touch()
    await asyncio.wait_for(pending, DEADLINE_S)
    assert editor.text == expected


@pytest.mark.parametrize("is_known", [True, False])
async def test_clients_without_versions_get_plain_edits(log: Path, is_known: bool) -> None:
    """A client is sent only what it said that it knows, and the turns are written anyway."""
    can = types.ClientCapabilities(workspace=types.WorkspaceClientCapabilities(apply_edit=True))
    assert can.workspace is not None
    if is_known:
        can.workspace.workspace_edit = types.WorkspaceEditClientCapabilities(
            document_changes=True
        )
    async with editing(log, can) as editor:
        editor.open(_THREE)
        await editor.run("writeAllTurns", 0)
        assert len(editor.texts) == 3
        for params in editor.asked:
            assert (params.edit.document_changes is not None) == is_known
            assert (params.edit.changes is not None) == (not is_known)


async def test_progress_counts_the_turns(log: Path) -> None:
    """Whoever waits sees how far it is."""
    async with editing(log, capabilities("vscode")) as editor:
        editor.open("# One\n\n# Two\nx = 1\n\n# Three\n")
        await editor.run("writeAllTurns", 0)
        kinds = types.WorkDoneProgressReport
        shown = [r.message for r in editor.client.progress if isinstance(r, kinds)]
        assert shown == ["1 of 2", "2 of 2"]


async def _titles(editor: Editor, line: int) -> list[str]:
    here = types.Position(line, 0)
    asked = editor.client.lsp.text_document_code_action_async(
        types.CodeActionParams(
            types.TextDocumentIdentifier(URI),
            types.Range(here, here),
            types.CodeActionContext([]),
        )
    )
    return [action.title for action in await asyncio.wait_for(asked, DEADLINE_S) or ()]


async def test_an_accepted_program_is_ours(editor: Editor) -> None:
    """A suggestion that was accepted at once is stale like any other program we wrote."""
    editor.open("# One\nx = 1\n\n# Two\n")
    (item,) = await editor.client.items(4, 0, invoked=False)
    editor.edit(4, 0, str(item.insert_text))
    editor.edit(1, 4, "2", Position(1, 5))
    async with asyncio.timeout(DEADLINE_S):
        while "Write the stale turns" not in await _titles(editor, 0):
            pass
    await editor.run("rewriteStale", 0)
    assert len(editor.texts) == 1


async def test_a_program_that_was_typed_along_is_the_persons(editor: Editor) -> None:
    """Nobody's typing is called stale, even where it is what was suggested."""
    editor.open("# One\nx = 1\n\n# Two\n")
    (item,) = await editor.client.items(4, 0, invoked=False)
    for character, typed in enumerate(str(item.insert_text)):
        editor.edit(4, character, typed)
    assert editor.text.endswith(str(item.insert_text))
    # Another program that is accepted is remembered, and after it so would this be.
    editor.edit(5 - 1, len(str(item.insert_text)), "\n\n# Three\n")
    (item,) = await editor.client.items(7, 0, invoked=False)
    editor.edit(7, 0, str(item.insert_text))
    editor.edit(1, 4, "2", Position(1, 5))
    async with asyncio.timeout(DEADLINE_S):
        while "Write the stale turns" not in await _titles(editor, 0):
            pass
    await editor.run("rewriteStale", 0)
    assert len(editor.texts) == 1
    assert "left alone: line 4" in editor.shown


async def test_progress_ends_with_a_run_that_fails(log: Path) -> None:
    """Nothing is shown as going on that does not."""
    async with editing(log, capabilities("vscode")) as editor:
        editor.open("# FAIL\n")
        await editor.run("writeTurn", 0)
        assert isinstance(editor.client.progress[-1], types.WorkDoneProgressEnd)
