"""Cells joined to one text, what is masked there, and the way back."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types
from pygls.workspace import Workspace

from lsp_server.check import check
from lsp_server.check_worker import CheckWorker
from lsp_server.documents import Document
from lsp_server.errors import DocumentError
from lsp_server.notebooks import Cell, Notebook
from lsp_server.plan import Plan, Rule, Snapshot, plan_completion
from lsp_server.server import CompletionServer
from lsp_server.settings import Settings
from lsp_server.turns import read_turns
from lsp_server.verdict import CheckRequest, VerdictKind

URI = "file:///project/example.ipynb"
pieces = st.sampled_from(
    [
        *("\n", "\r\n", "\r", " ", "    ", "x", " = ", "é", "😀", "\u2028", "\f", "\udc00"),
        *("%time x", "%%bash\n", "%%time\n", "!ls \\\n", "?", "x?", "y = !ls", "'", '"""'),
        *("(", ")", "# Do it", "#### Do", "----", "<h1>", "def f():\n", "\\", "pass"),
    ]
)
texts = st.lists(pieces, max_size=8).map("".join)
languages = st.sampled_from(["python", "python", "markdown", "sql", ""])


def cell(name: str, text: str, language_id: str = "python") -> Cell:
    """Return a cell; one of Markdown by its language."""
    document = Document.opened(name, language_id, 1, text)
    return Cell(document, language_id == "markdown")


def notebook(*cells: str) -> Notebook:
    """Return a notebook; a Markdown cell's text begins with an m and a bar."""
    return Notebook(
        URI,
        tuple(
            cell(str(n), text.removeprefix("m|"), "markdown" if text[:2] == "m|" else "python")
            for n, text in enumerate(cells)
        ),
    )


notebooks = st.lists(st.tuples(texts, languages), max_size=5).map(
    lambda cells: Notebook(URI, tuple(cell(str(n), *c) for n, c in enumerate(cells)))
)


@pytest.mark.parametrize(
    ("cells", "joined"),
    [
        ((), ""),
        (("x = 1", "y = 2\n"), "x = 1\n\ny = 2\n"),
        (("m|Load", "", "x"), "# Load\n\n\nx"),
        (("x", "m|Load", "y"), "x\n\n# Load\ny"),
        (("m|One\n\nTwo\n\n", "m|Three", "x"), "# One\n#\n# Two\n#\n# Three\nx"),
        (("m|#### Load <b>it</b>", ""), "# Load <b>it</b>\n"),
        (("m|<h1>Load</h1>\n---\n|--|---|", ""), "# Load</h1>\n#\n#\n"),
        (("%%bash\nls\ncd", "x"), "pass\n\nx"),
        (("%%time\nx = 1",), "pass\nx = 1"),
        (("\n%%sql\nselect 1",), "pass"),
        (("%load_ext a\nif x:\n    !ls {y}\n",), "pass\nif x:\n    pass\n"),
        (("files = !ls\nn: int = %time f()",), "files = None\nn: int = None"),
        (("f?\n?f\nf.g??\nx = 'a?'\n# Why?",), "pass\npass\npass\nx = 'a?'\n# Why?"),
        (("!ls \\\n  a \\\n  b\nx",), "pass\n\n\nx"),
        (("x = (a\n  % b)\ny = '''\n!z\n'''\n!echo it's",), None),
        (("x = (1", "y"), "pass\n\ny"),
        (("x = '''", "y"), "pass\n\ny"),
        (("x != y\nx %= y\nx = a % b",), "x != y\nx %= y\nx = a % b"),
    ],
)
def test_cells_are_joined(cells: tuple[str, ...], joined: str | None) -> None:
    """Markdown is comment, code is code, and what is no Python is masked; None: in part."""
    text = notebook(*cells).joined().text
    if joined is None:
        joined = cells[0].removesuffix("!echo it's") + "pass"
    assert text == joined


def test_cells_of_other_languages_are_masked() -> None:
    """They are programs all the same, and so no place for another."""
    cells = (cell("a", "Count", "markdown"), cell("b", "select 1", "sql"), cell("c", "x"))
    assert Notebook(URI, cells).joined().text == "# Count\npass\n\nx"


def test_in_a_very_long_cell_what_looks_like_a_magic_is_one() -> None:
    """Looking for the strings around it would take longer than typing allows."""
    text = "x = '''\n" + "!ls\n" * 20_000 + "'''"
    assert notebook(text).joined("0").text == text.replace("!ls", "pass")


def test_an_unfinished_cell_is_masked_for_the_others_only() -> None:
    """Whoever writes in it sees it as it is."""
    both = notebook("x = (1", "y")
    assert both.joined("0").text == "x = (1\n\ny"
    assert both.joined("1").text == "pass\n\ny"


def test_lines_end_as_those_of_the_cell() -> None:
    """What is written for a cell has that cell's line ends."""
    both = notebook("a\r\nb", "c\nd")
    assert both.joined("0").text == "a\r\nb\r\n\r\nc\r\nd"
    assert both.joined("1").text == "a\nb\n\nc\nd"


@pytest.mark.parametrize("after", [(), ("",), ("y = 1",), ("m|Next", "y = 1"), ("%time y",)])
@pytest.mark.parametrize("before", [(), ("x = 1",), ("%%bash\nls",), ("x = (",)])
def test_an_empty_cell_below_markdown_waits_for_a_program(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """Whatever is above and below, all of the Markdown is the prompt."""
    cells = (*before, "m|## Load\n\n- the *data*", "m|----\nand more", "", *after)
    name = str(len(before) + 2)
    joined = notebook(*cells).joined(name)
    snapshot = Snapshot(joined.text, joined.offset(name, 0), uri=URI)
    plan = plan_completion(snapshot)
    assert isinstance(plan, Plan)
    assert plan.rule is Rule.TURN
    assert plan.before.endswith("# Load\n#\n# - the *data*\n#\n#\n# and more\n")


@pytest.mark.parametrize(
    ("cells", "name", "offset"),
    [
        (("m|Load", ""), "0", 4),
        (("%time x",), "0", 7),
        (("%%bash\n\nls",), "0", 7),
        (("x",), "no", 0),
    ],
)
def test_nothing_is_asked_where_no_python_is(
    cells: tuple[str, ...], name: str, offset: int
) -> None:
    """A prompt that is being typed, and a magic, have no place in the whole text."""
    with pytest.raises(DocumentError):
        notebook(*cells).joined(name).offset(name, offset)


@given(whole=notebooks, data=st.data())
def test_offsets_go_there_and_back(whole: Notebook, data: st.DataObject) -> None:
    """Any cells have a text, and an offset that is in it is the cell's own again."""
    here = data.draw(st.sampled_from([*(c.document.uri for c in whole.cells), "", "no"]))
    joined = whole.joined(here)
    for offset in range(len(joined.text) + 1):
        joined.cell_offset(offset)
        joined.cell_line(offset) if whole.cells else None
    for each in whole.cells:
        text, uri = each.document.text, each.document.uri
        for offset in range(len(text) + 1):
            try:
                there = joined.offset(uri, offset)
            except DocumentError:
                continue
            assert each.document.language_id == "python"
            assert joined.cell_offset(there) is not None
            if text[offset - 1 : offset + 1] != "\r\n" or not offset:
                assert joined.cell_offset(there) == (each.document, offset)
            rest = text[offset:].splitlines()[0] if text[offset:] else ""
            assert joined.text.startswith(rest, there)


@given(whole=notebooks)
def test_turns_are_written_into_code_cells(whole: Notebook) -> None:
    """A turn's edit lies in one code cell and gives the text that the turn asks for."""
    joined = whole.joined()
    for turn in map(joined.waiting, read_turns(joined.text)):
        edit = joined.edit(turn.prompt_end, turn.end, "written = 1")
        if edit is None:
            continue
        before = whole.cell(edit.document.uri)
        assert before is not None
        assert not before.is_markup
        old = before.document.text
        text = old[: edit.start] + edit.new_text + old[edit.end :]
        after = whole.with_document(
            Document.opened(edit.document.uri, before.document.language_id, 2, text)
        )
        expected = joined.text[: turn.prompt_end]
        if not expected.endswith("\n"):
            expected += "\n"
        found = after.joined(edit.document.uri).text.replace("\r\n", "\n")
        assert found.startswith(f"{expected}written = 1")


@pytest.mark.parametrize(
    ("cells", "edit"),
    [
        (("m|One", "", "y"), ("1", 0, 0, "z")),
        (("m|One", "", "m|Two"), ("1", 0, 0, "z")),
        (("m|One", " \n\n", "m|Two"), ("1", 0, 3, "z")),
        (("m|One", "x = 1\n", "m|Two"), ("1", 0, 6, "z")),
        (("# One", "m|Two"), ("0", 5, 5, "\nz")),
        (("# One\nx\n\n# Two\ny",), ("0", 6, 9, "z\n\n")),
        (("# One\r\nx\r\n\r\n# Two\r\ny",), ("0", 7, 12, "z\r\n\r\n")),
        (("m|One",), None),
        (("m|One", "m|Two"), None),
        (("m|One", "x", "y"), None),
        (("m|One", "%time x"), None),
        (("m|One", "x\n%time y\nz"), None),
        (("m|One", "%%bash\nx"), None),
    ],
)
def test_where_a_program_goes(
    cells: tuple[str, ...], edit: tuple[str, int, int, str] | None
) -> None:
    """It takes the place of the program that is there, if that is one code cell's."""
    whole = notebook(*cells)
    joined = whole.joined()
    turn = joined.waiting(read_turns(joined.text)[0])
    found = joined.edit(turn.prompt_end, turn.end, "z")
    assert (found and (found.document.uri, found.start, found.end, found.new_text)) == edit


def test_lines_of_cells_are_found_and_named() -> None:
    """A line of a cell is one of the whole, and the other way round."""
    joined = notebook("x\ny", "m|One\nTwo", "%%bash\nls", "z").joined()
    assert [joined.line(*place) for place in [("0", 1), ("1", 1), ("2", 1), ("3", 0)]] == [
        1, 4, 5, 7,
    ]  # fmt: skip
    assert joined.cell_line(joined.text.index("Two")) == (2, 2)
    assert joined.cell_line(joined.text.index("z")) == (4, 1)


def test_the_check_knows_the_names_of_ipython() -> None:
    """A notebook may use what only a notebook has."""
    for path, kind in ((URI, VerdictKind.OK), ("a.py", VerdictKind.FLAGGED)):
        request = CheckRequest("x = 1\n", 6, "display(x, get_ipython())\n", path=path)
        assert check(request).verdict is kind


@given(data=st.data())
def test_changes_give_the_clients_notebook(data: st.DataObject) -> None:
    """After any changes of cells and texts the server has what the client has."""
    server = CompletionServer(cast(Any, None), CheckWorker(), Settings())
    protocol = server.protocol
    protocol._workspace = Workspace(None)
    client = _Client(data)
    # As if it had been open before.
    for n_cells in (1, data.draw(st.integers(0, 3))):
        client.texts.clear()
        opened = [client.new_cell() for _ in range(n_cells)]
        client.cells = [cell for cell, _ in opened]
        protocol.lsp_notebook_document__did_open(
            types.DidOpenNotebookDocumentParams(
                types.NotebookDocument(URI, "jupyter-notebook", 1, client.cells),
                [item for _, item in opened],
            )
        )
    for _ in range(data.draw(st.integers(1, 5))):
        protocol.lsp_notebook_document__did_change(
            types.DidChangeNotebookDocumentParams(
                types.VersionedNotebookDocumentIdentifier(2, URI),
                types.NotebookDocumentChangeEvent(cells=client.change()),
            )
        )
        assert [
            (cell.document.uri, cell.is_markup, cell.document.text)
            for cell in server.notebooks[URI].cells
        ] == [
            (c.document, c.kind is types.NotebookCellKind.Markup, client.texts[c.document])
            for c in client.cells
        ]
        assert {u: d.text for u, d in server.documents.items()} == client.texts
    protocol.lsp_notebook_document__did_close(
        types.DidCloseNotebookDocumentParams(types.NotebookDocumentIdentifier(URI), [])
    )
    assert not server.documents
    assert not server.notebooks


class _Client:
    """A notebook that is edited at random."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.cells: list[types.NotebookCell] = []
        self.texts: dict[str, str] = {}
        self._n_cells = 0

    def new_cell(self) -> tuple[types.NotebookCell, types.TextDocumentItem]:
        """Make a cell."""
        self._n_cells += 1
        uri = f"cell:{self._n_cells}"
        self.texts[uri] = self._data.draw(texts)
        kind = self._data.draw(st.sampled_from(types.NotebookCellKind))
        item = types.TextDocumentItem(uri, "python", 1, self.texts[uri])
        return types.NotebookCell(kind, uri), item

    def change(self) -> types.NotebookDocumentCellChanges:
        """Change something, or all that can be at once."""
        draw = self._data.draw
        has_structure, has_data, has_text = draw(st.tuples(*[st.booleans()] * 3))
        changes = types.NotebookDocumentCellChanges()
        if has_structure:
            changes.structure = self._splice()
        if self.cells and has_data:
            index = draw(st.integers(0, len(self.cells) - 1))
            kind = draw(st.sampled_from(types.NotebookCellKind))
            self.cells[index] = types.NotebookCell(kind, self.cells[index].document)
            changes.data = [self.cells[index]]
        if self.cells and has_text:
            changes.text_content = [self._edit() for _ in range(draw(st.integers(1, 2)))]
        return changes

    def _splice(self) -> types.NotebookDocumentCellChangeStructure:
        """Replace some cells by new ones and by some of themselves, in another order."""
        draw = self._data.draw
        start = draw(st.integers(0, len(self.cells)))
        gone = self.cells[start : draw(st.integers(start, len(self.cells)))]
        kept = draw(st.permutations(gone))[: draw(st.integers(0, len(gone)))]
        new = [self.new_cell() for _ in range(draw(st.integers(0, 2)))]
        cells = draw(st.permutations([*kept, *(cell for cell, _ in new)]))
        closed = [cell.document for cell in gone if cell not in kept]
        for uri in closed:
            del self.texts[uri]
        self.cells[start : start + len(gone)] = cells
        return types.NotebookDocumentCellChangeStructure(
            types.NotebookCellArrayChange(start, len(gone), cells),
            [item for _, item in new],
            [types.TextDocumentIdentifier(uri) for uri in closed],
        )

    def _edit(self) -> types.NotebookDocumentCellContentChanges:
        """Insert into the first line of a cell, or replace its text."""
        draw = self._data.draw
        uri = draw(st.sampled_from(self.cells)).document
        text = draw(texts)
        changes: list[types.TextDocumentContentChangeEvent]
        changes = [types.TextDocumentContentChangeWholeDocument(text)]
        self.texts[uri] = text
        if draw(st.booleans()):
            here = types.Position(0, 0)
            changes.append(types.TextDocumentContentChangePartial(types.Range(here, here), "x"))
            self.texts[uri] = "x" + text
        return types.NotebookDocumentCellContentChanges(
            types.VersionedTextDocumentIdentifier(2, uri), changes
        )
