"""What goes over the wire otherwise than pygls does it: documents, errors, status, progress."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidRequest
from pygls.protocol import LanguageServerProtocol, lsp_method

from lsp_server.documents import Document, Edit
from lsp_server.model_host import Progress
from lsp_server.notebooks import Cell, Notebook
from lsp_server.positions import Encoding, Position

_STATUS = "codegen/status"
CLIENT_DEADLINE_S = 2.0
"""How long a client may take to answer a question of ours."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What the notification ``codegen/status`` carries."""

    state: str
    message: str
    model: str


class DocumentKeeper(Protocol):
    """What the protocol needs of ``lsp_server.server.CompletionServer``."""

    documents: dict[str, Document]
    notebooks: dict[str, Notebook]

    @property
    def encoding(self) -> Encoding:
        """The unit in which the client counts characters."""

    def take(self, document: Document) -> None:
        """Keep a document's newest version."""

    def take_notebook(self, notebook: Notebook) -> None:
        """Keep a notebook whose cells are others now, and their documents."""

    def forget_notebook(self, uri: str) -> None:
        """Forget a notebook."""

    def read_ahead(self, document: Document, offset: int) -> None:
        """Read what a completion at the offset would need."""

    def expect_name(self, document: Document, position: Position) -> None:
        """Ask for the names that may come after a dot that was typed."""

    def forget(self, uri: str) -> None:
        """Forget a document, and what is being done for it."""


class CompletionProtocol(LanguageServerProtocol):
    """pygls' protocol with our own documents; see ``lsp_server.documents`` for why."""

    @property
    def _keeper(self) -> DocumentKeeper:
        return cast(DocumentKeeper, self._server)

    def handle_message(self, message: Any) -> None:
        """Answer what comes after shutdown with an error; pygls would only log it."""
        method = getattr(message, "method", None)
        msg_id = getattr(message, "id", None)
        if self._shutdown and method is not None and msg_id is not None:
            error = JsonRpcInvalidRequest("the server is shutting down")
            self._send_response(msg_id, None, error.to_response_error())
            return
        super().handle_message(message)

    def structure_message(self, data: dict[str, Any]) -> Any:
        """Answer a request that cannot be read with an error; pygls would only log it."""
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "id" in data and "method" in data:
                self._send_response(data["id"], None, error.to_response_error())
            raise

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Keep a document that was opened."""
        document = _opened(params.text_document)
        self._keeper.take(document)
        # Nobody knows where the cursor will be; what stands before it is read by then.
        self._keeper.read_ahead(document, len(document.text))

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Apply the client's edits."""
        self._change(params.text_document, params.content_changes)

    def _change(
        self,
        identifier: types.VersionedTextDocumentIdentifier,
        changes: Sequence[types.TextDocumentContentChangeEvent],
    ) -> None:
        keeper = self._keeper
        document = keeper.documents.get(identifier.uri)
        if document is not None:
            edits = [_edit(change) for change in changes]
            document = document.edited(identifier.version, edits, keeper.encoding)
            keeper.take(document)
            if edits and edits[-1].text == "." and (start := edits[-1].start):
                keeper.expect_name(document, Position(start.line, start.character + 1))

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """Forget a document that was closed."""
        self._keeper.forget(params.text_document.uri)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def lsp_notebook_document__did_open(
        self, params: types.DidOpenNotebookDocumentParams
    ) -> None:
        """Keep a notebook that was opened, and its cells."""
        opened = {item.uri: _opened(item) for item in params.cell_text_documents}
        uri = params.notebook_document.uri
        cells = [_cell(cell, opened) for cell in params.notebook_document.cells]
        self._keeper.forget_notebook(uri)
        self._keeper.take_notebook(Notebook(uri, tuple(cells)))
        if cells:
            last = cells[-1].document
            self._keeper.read_ahead(last, len(last.text))

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def lsp_notebook_document__did_change(
        self, params: types.DidChangeNotebookDocumentParams
    ) -> None:
        """Apply the client's changes of cells: first which there are, then their texts."""
        keeper, uri, changes = self._keeper, params.notebook_document.uri, params.change.cells
        if uri not in keeper.notebooks or changes is None:
            return
        if changes.structure or changes.data:
            notebook = keeper.notebooks[uri]
            cells = list(notebook.cells)
            if structure := changes.structure:
                known = {**keeper.documents, **{c.document.uri: c.document for c in cells}}
                for closed in structure.did_close or ():
                    keeper.forget(closed.uri)
                    known.pop(closed.uri, None)
                known |= {item.uri: _opened(item) for item in structure.did_open or ()}
                array = structure.array
                cells[array.start : array.start + array.delete_count] = [
                    _cell(cell, known) for cell in array.cells or ()
                ]
            kinds = {data.document: _is_markup(data) for data in changes.data or ()}
            cells = [
                replace(cell, is_markup=kinds[cell.document.uri])
                if cell.document.uri in kinds
                else cell
                for cell in cells
            ]
            # That a cell was run changes nothing.
            if tuple(cells) != notebook.cells:
                keeper.take_notebook(notebook.with_cells(cells))
        for content in changes.text_content or ():
            self._change(content.document, content.changes)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def lsp_notebook_document__did_close(
        self, params: types.DidCloseNotebookDocumentParams
    ) -> None:
        """Forget a notebook that was closed, and its cells."""
        for cell in params.cell_text_documents:
            self._keeper.forget(cell.uri)
        self._keeper.forget_notebook(params.notebook_document.uri)

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show one line to the person at the editor."""
        params = types.ShowMessageParams(kind, f"codegen-lsp: {message}")
        self.notify(types.WINDOW_SHOW_MESSAGE, params)

    def send_status(self, status: Status) -> None:
        """Send ``codegen/status``."""
        self.notify(_STATUS, status)

    @asynccontextmanager
    async def shown_progress(self, token: str) -> AsyncIterator[Progress]:
        """Yield a function that shows progress in the editor, if it can show any."""
        progress = self.progress
        if not await self.can_show_progress(token):
            yield lambda _done, _total: None
            return
        progress.begin(token, types.WorkDoneProgressBegin("Loading the model", percentage=0))
        loop = asyncio.get_running_loop()
        shown = 0

        def report(done: int, total: int) -> None:
            nonlocal shown
            percentage = 100 * done // max(1, total)
            if percentage > shown:
                shown = percentage
                value = types.WorkDoneProgressReport(percentage=percentage)
                loop.call_soon_threadsafe(progress.report, token, value)

        try:
            yield report
        finally:
            progress.end(token, types.WorkDoneProgressEnd())

    async def can_show_progress(self, token: str) -> bool:
        """Ask the client to show progress under a token; False where it cannot."""
        window = self.client_capabilities.window
        if not (window and window.work_done_progress):
            return False
        try:
            await asyncio.wait_for(self.progress.create_async(token), CLIENT_DEADLINE_S)
        # A client that cannot show progress is no reason not to load.
        except Exception as error:  # noqa: BLE001
            log.warning("the client shows no progress: %s", type(error).__name__)
            return False
        return True


def _edit(change: types.TextDocumentContentChangeEvent) -> Edit:
    if isinstance(change, types.TextDocumentContentChangeWholeDocument):
        return Edit(change.text)
    start, end = change.range.start, change.range.end
    return Edit(
        change.text,
        Position(start.line, start.character),
        Position(end.line, end.character),
    )


def _opened(item: types.TextDocumentItem) -> Document:
    return Document.opened(item.uri, item.language_id, item.version, item.text)


def _cell(cell: types.NotebookCell, documents: Mapping[str, Document]) -> Cell:
    # A cell without a text has a place all the same: those after it are counted.
    document = documents.get(cell.document) or Document.opened(cell.document, "", 0, "")
    return Cell(document, _is_markup(cell))


def _is_markup(cell: types.NotebookCell) -> bool:
    return cell.kind == types.NotebookCellKind.Markup
