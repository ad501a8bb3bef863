"""Notebooks on the real server with the fake engine, which tells how long its prompts are."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types

from lsp_server.documents import Document, Edit
from lsp_server.positions import Position
from tests.e2e.clients import DEADLINE_S, FAKE_SERVER, Client, capabilities, connected

pytestmark = pytest.mark.e2e

NOTEBOOK = "file:///project/example.ipynb"
CODE, MARKUP = types.NotebookCellKind.Code, types.NotebookCellKind.Markup


def cell_uri(name: str) -> str:
    """Return a cell's URI as VS Code makes them."""
    return f"vscode-notebook-cell:/project/example.ipynb#{name}"


class NotebookEditor:
    """A client with one notebook, which makes the edits that it is asked for."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.version = 1
        self.documents: dict[str, Document] = {}

    @property
    def texts(self) -> list[str]:
        """The texts of the cells that were opened, in that order."""
        return [document.text for document in self.documents.values()]

    def open(self, **cells: str) -> None:
        """Open a notebook; Markdown cells have names that begin with an m."""
        for name, text in cells.items():
            self.documents[cell_uri(name)] = Document.opened(cell_uri(name), "", 1, text)
        self.client.lsp.notebook_document_did_open(
            types.DidOpenNotebookDocumentParams(
                types.NotebookDocument(
                    NOTEBOOK, "jupyter-notebook", 1, [cell(name) for name in cells]
                ),
                [item(name, text) for name, text in cells.items()],
            )
        )

    def change(self, **changes: Any) -> None:
        """Change the notebook's cells."""
        self.version += 1
        self.client.lsp.notebook_document_did_change(
            types.DidChangeNotebookDocumentParams(
                types.VersionedNotebookDocumentIdentifier(self.version, NOTEBOOK),
                types.NotebookDocumentChangeEvent(
                    cells=types.NotebookDocumentCellChanges(**changes)
                ),
            )
        )

    def splice(self, start: int, delete_count: int, *names: str, **opened: str) -> None:
        """Put cells in the place of others; those with a text are new."""
        array = types.NotebookCellArrayChange(start, delete_count, [cell(n) for n in names])
        items = [item(name, text) for name, text in opened.items()]
        self.change(structure=types.NotebookDocumentCellChangeStructure(array, items))

    def insert(self, name: str, line: int, character: int, text: str) -> None:
        """Type in a cell."""
        here = types.Position(line, character)
        self._edit(cell_uri(name), types.Range(here, here), text)

    def _edit(self, uri: str, where: types.Range, text: str) -> None:
        start, end = (Position(p.line, p.character) for p in (where.start, where.end))
        before = self.documents[uri]
        version = before.version + 1
        self.documents[uri] = before.edited(version, [Edit(text, start, end)], "utf-16")
        document = types.VersionedTextDocumentIdentifier(version, uri)
        change = types.TextDocumentContentChangePartial(where, text)
        self.change(text_content=[types.NotebookDocumentCellContentChanges(document, [change])])

    def apply(self, params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
        """Make the one edit of a versioned request."""
        assert params.edit.document_changes is not None
        (change,) = params.edit.document_changes
        assert isinstance(change, types.TextDocumentEdit)
        (edit,) = change.edits
        assert isinstance(edit, types.TextEdit | types.AnnotatedTextEdit)
        uri = change.text_document.uri
        if change.text_document.version != self.documents[uri].version:
            return types.ApplyWorkspaceEditResult(applied=False)
        self._edit(uri, edit.range, edit.new_text)
        return types.ApplyWorkspaceEditResult(applied=True)

    async def run(self, command: str, name: str, line: int = 0) -> None:
        """Run a command on a cell to its end."""
        params = types.ExecuteCommandParams(f"codegen.{command}", [cell_uri(name), line])
        request = self.client.lsp.workspace_execute_command_async(params)
        await asyncio.wait_for(request, DEADLINE_S)

    async def actions(self, name: str, line: int = 0) -> list[str]:
        """Return the titles of the actions that are offered at a line of a cell."""
        here = types.Position(line, 0)
        params = types.CodeActionParams(
            types.TextDocumentIdentifier(cell_uri(name)),
            types.Range(here, here),
            types.CodeActionContext([]),
        )
        actions = await self.client.lsp.text_document_code_action_async(params)
        return [action.title for action in actions or ()]

    def send(self, method: str, **params: Any) -> None:
        """Send a notification that need not be one."""
        message = {"jsonrpc": "2.0", "method": f"notebookDocument/{method}", "params": params}
        body = json.dumps(message)
        assert self.client.process.stdin is not None
        self.client.process.stdin.write(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())

    async def answer(self, name: str, line: int, character: int) -> str:
        """Return what is to be inserted in a cell."""
        items = await self.client.items(line, character, uri=cell_uri(name))
        return str(items[0].insert_text) if items else ""


def cell(name: str) -> types.NotebookCell:
    """Return a cell by its name."""
    return types.NotebookCell(MARKUP if name.startswith("m") else CODE, cell_uri(name))


def item(name: str, text: str) -> types.TextDocumentItem:
    """Return a cell's document."""
    language = "markdown" if name.startswith("m") else "python"
    return types.TextDocumentItem(cell_uri(name), language, 1, text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the file that the fake engine logs to."""
    return tmp_path / "engine.log"


@pytest.fixture
async def editor(log: Path) -> AsyncIterator[NotebookEditor]:
    """Yield an editor without a notebook."""
    can = capabilities("vscode")
    can.notebook_document = types.NotebookDocumentClientCapabilities(
        types.NotebookDocumentSyncClientCapabilities()
    )
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        editor = NotebookEditor(client)

        @client.lsp.feature(types.WORKSPACE_APPLY_EDIT)  # type: ignore[untyped-decorator]
        def apply(params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
            return editor.apply(params)

        await client.status("ready")
        yield editor


def program_after(prompt: str) -> str:
    """Return what the fake engine writes where no string may stand."""
    return f"n{len(prompt)} = x"


def statement_after(prompt: str) -> str:
    """Return what the fake engine writes elsewhere."""
    return f'"{len(prompt)}"'


async def test_notebooks_of_python_and_markdown_are_asked_for(editor: NotebookEditor) -> None:
    """The client sends no other cells, and so no others have to be understood."""
    options = editor.client.server.notebook_document_sync
    assert isinstance(options, types.NotebookDocumentSyncOptions)
    (selector,) = options.notebook_selector
    assert selector.notebook == types.NotebookDocumentFilterNotebookType("jupyter-notebook")
    assert [cell.language for cell in selector.cells or ()] == ["python", "markdown"]


async def test_a_markdown_cell_is_the_prompt_of_the_cell_below(editor: NotebookEditor) -> None:
    """The program of an empty cell is asked for with all that stands above it."""
    editor.open(a="x = 1", m="# Load\n\nthe data", b="", c="y = 1")
    assert await editor.answer("b", 0, 0) == program_after("x = 1\n\n# Load\n#\n# the data\n")


async def test_magics_are_no_code_of_the_prompt(editor: NotebookEditor) -> None:
    """What IPython alone understands has no place in a program that is to be Python."""
    editor.open(a="%matplotlib inline\n!ls", b="%%bash\nls", m="Next", c="")
    assert await editor.answer("c", 0, 0) == program_after("pass\npass\n\npass\n\n# Next\n")


async def test_nothing_is_completed_where_no_python_is(editor: NotebookEditor) -> None:
    """A prompt that is being typed, and a magic, get an empty answer."""
    editor.open(m="Load", a="%time x", b="%%bash\n\n")
    for name, line, character in (("m", 0, 4), ("a", 0, 7), ("b", 1, 0)):
        assert await editor.answer(name, line, character) == ""
    params = types.ExecuteCommandParams("codegen.whyNoSuggestion", [cell_uri("b")])
    reason = await editor.client.lsp.workspace_execute_command_async(params)
    assert "only Python" in str(reason)


async def test_typing_along_an_answer_asks_no_model(editor: NotebookEditor) -> None:
    """What is left of it is known, though the whole notebook's text has changed."""
    editor.open(m="Load", a="", b="x = 1")
    (shown,) = await editor.client.items(0, 0, uri=cell_uri("a"), invoked=False)
    text = str(shown.insert_text)
    for n_typed in (1, 2):
        editor.insert("a", 0, n_typed - 1, text[n_typed - 1])
        (rest,) = await editor.client.items(0, n_typed, uri=cell_uri("a"), invoked=False)
        assert rest.insert_text == text[n_typed:]


async def test_typing_in_a_cell_changes_what_is_below_it(editor: NotebookEditor) -> None:
    """Incremental changes of a cell's text arrive, in the cell's own positions."""
    editor.open(a="x = 1", m="Next", b="")
    editor.insert("a", 0, 5, "\ny = '😀'")
    editor.insert("a", 1, 8, "  # more")
    editor.insert("m", 0, 4, " step")
    assert await editor.answer("b", 0, 0) == program_after(
        "x = 1\ny = '😀'  # more\n\n# Next step\n"
    )


async def test_an_answer_is_placed_in_the_cell(editor: NotebookEditor) -> None:
    """Its range is the cursor of the request, not one in the whole notebook."""
    editor.open(a="x = 1\ny = 2\n", b="z = '😀'; w =")
    (first, *_) = await editor.client.items(0, 13, uri=cell_uri("b"))
    here = types.Position(0, 13)
    assert first.range == types.Range(here, here)


async def test_cells_come_and_go_and_move(editor: NotebookEditor) -> None:
    """After each change of structure the server has the client's cells in its order."""
    editor.open(m="Next", b="")
    editor.splice(0, 0, "a", a="x = 1")
    assert await editor.answer("b", 0, 0) == program_after("x = 1\n\n# Next\n")
    editor.splice(0, 2, "m", "a")
    assert await editor.answer("b", 0, 0) == statement_after("# Next\nx = 1\n\n")
    editor.splice(1, 1)
    assert await editor.answer("b", 0, 0) == program_after("# Next\n")


async def test_a_cell_may_change_its_kind(editor: NotebookEditor) -> None:
    """Code that becomes Markdown is opened anew under the same name."""
    editor.open(a="Load", b="")
    document = types.TextDocumentIdentifier(cell_uri("a"))
    opened = types.TextDocumentItem(cell_uri("a"), "markdown", 2, "Load it")
    array = types.NotebookCellArrayChange(0, 1, [types.NotebookCell(MARKUP, cell_uri("a"))])
    editor.change(
        structure=types.NotebookDocumentCellChangeStructure(array, [opened], [document])
    )
    assert await editor.answer("b", 0, 0) == program_after("# Load it\n")


async def test_a_change_elsewhere_in_the_notebook_outdates_a_request(
    editor: NotebookEditor,
) -> None:
    """What was asked was for another text, so the answer is empty."""
    editor.open(m="SLOW", a="", b="x")
    pending = editor.client.request(0, 0, uri=cell_uri("a"))
    editor.insert("b", 0, 1, "y")
    assert list((await pending).items) == []


async def test_running_a_cell_outdates_nothing(editor: NotebookEditor) -> None:
    """What a cell's run changes is in no text, so an answer that is under way is given."""
    editor.open(m="Load", a="", b="x")
    pending = editor.client.request(0, 0, uri=cell_uri("a"))
    editor.change(data=[cell("b")])
    assert (await pending).items


async def test_a_closed_notebook_is_forgotten(editor: NotebookEditor) -> None:
    """Its cells are no documents any more, and the server goes on."""
    editor.open(m="Load", a="")
    editor.client.lsp.notebook_document_did_close(
        types.DidCloseNotebookDocumentParams(
            types.NotebookDocumentIdentifier(NOTEBOOK),
            [types.TextDocumentIdentifier(cell_uri(name)) for name in "ma"],
        )
    )
    assert await editor.answer("a", 0, 0) == ""
    editor.open(m="Load it", a="")
    assert await editor.answer("a", 0, 0) == program_after("# Load it\n")


async def test_messages_that_say_nothing_cost_nothing_else(editor: NotebookEditor) -> None:
    """Changes that fit no cell, or cannot be read, leave the notebook as it is."""
    editor.open(m="Load", a="")
    text = {"document": {"uri": "nowhere", "version": 1}, "changes": [{"text": "x"}]}
    for uri in (NOTEBOOK, "file:///nowhere.ipynb"):
        identifier = {"uri": uri, "version": 2}
        for change in (
            {"cells": {"structure": {"array": {"start": 99, "deleteCount": 99}}}},
            {"cells": {"textContent": [text]}},
            {"cells": {"structure": {"array": "all of them"}}},
            {"cells": [1]},
            {},
            None,
        ):
            editor.send("didChange", notebookDocument=identifier, change=change)
        editor.send("didSave", notebookDocument=identifier)
        editor.send("didClose", notebookDocument=1)
        editor.send("didOpen", notebookDocument=identifier, cellTextDocuments=[])
    assert await editor.answer("a", 0, 0) == program_after("# Load\n")


async def test_a_cell_without_a_text_keeps_its_place(editor: NotebookEditor) -> None:
    """Cells after one that the client forgot to open are still those that it means."""
    editor.open(m="Load", a="")
    editor.splice(0, 0, "z")
    editor.splice(1, 1, "n", n="x = 1")
    assert await editor.answer("a", 0, 0) == statement_after("pass\n\nx = 1\n\n")


async def test_a_turn_is_written_into_its_empty_cell(editor: NotebookEditor) -> None:
    """The program of a Markdown cell is the text of the code cell below, and no other."""
    editor.open(a="x = 1", m="Load\n\nthe data", b="", n="y = 1", m2="Next", c="")
    assert await editor.actions("m", 2) == ["Write this turn", "Write all turns below"]
    assert await editor.actions("n") == ["Write all turns below"]
    await editor.run("writeTurn", "c")
    assert editor.texts[:5] == ["x = 1", "Load\n\nthe data", "", "y = 1", "Next"]
    assert editor.texts[5].startswith("n")
    await editor.run("writeTurn", "m")
    written = program_after("x = 1\n\n# Load\n#\n# the data\n")
    assert editor.texts[:4] == ["x = 1", "Load\n\nthe data", written, "y = 1"]


async def test_all_turns_are_written_into_the_cells_there_are(editor: NotebookEditor) -> None:
    """Each prompt holds the programs above it; a prompt without a code cell has none."""
    editor.open(m="One", a="", m2="Two", b=" \n", c="%time x", d="# Three", m3="Four")
    await editor.run("writeAllTurns", "m")
    one = program_after("# One\n")
    above = f"# One\n{one}\n\n# Two\n"
    two = program_after(above)
    three = "# Three\n" + program_after(f"{above}{two}\n\npass\n\n# Three\n")
    assert editor.texts == ["One", one, "Two", two, "%time x", three, "Four"]


async def test_a_program_is_written_anew_in_its_cell(editor: NotebookEditor) -> None:
    """What stands in the cell's other turns stays as it is."""
    editor.open(m="One", a="x = 1", b="# Two\ny = 2\n\n# Three\nz = 3\n")
    await editor.run("rewriteTurn", "b", 0)
    written = editor.texts[2]
    assert written.startswith("# Two\nn")
    assert written.endswith("\n\n# Three\nz = 3\n")
    assert editor.texts[1] == "x = 1"


async def test_magics_are_not_written_over(editor: NotebookEditor) -> None:
    """A program with a magic in it is a person's, so it is left alone."""
    editor.open(m="One", a="x = 1\n%time f()\ny = 1")
    assert await editor.actions("a") == []
    await editor.run("rewriteTurn", "a")
    assert editor.texts[1] == "x = 1\n%time f()\ny = 1"


async def test_an_edit_of_the_prompt_stops_the_run(editor: NotebookEditor, log: Path) -> None:
    """A notebook's cells above the turn are what its program is written for."""
    editor.open(m="SLOW", a="")
    pending = asyncio.ensure_future(editor.run("writeTurn", "a"))
    await editor.client.until(lambda: (log.exists() and "slow" in log.read_text()) or None)
    editor.insert("m", 0, 4, "er")
    await pending
    assert editor.texts == ["SLOWer", ""]
    assert "edited inside or above" in editor.client.lsp.messages[-1].message
