"""The language server: LSP on one side, snapshots on the other.

The event loop never waits for the model or for a check. A request takes a frozen
snapshot before it waits for anything, and answers an empty list if an edit or a newer
request has taken its place when it is done.
"""

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from lsp_server.acceptance import Statistics
from lsp_server.answering import Answering, Request
from lsp_server.answers import Answer
from lsp_server.client_process import until_gone
from lsp_server.documents import Document, Edit
from lsp_server.errors import DocumentError, ModelHangsError, ServingError
from lsp_server.items import (
    ACCEPTED,
    ItemRequest,
    Shown,
    inline_item,
    insert_text_mode,
    menu_item,
)
from lsp_server.known_names import KnownNames, NamesRequest
from lsp_server.message_input import MessageInput
from lsp_server.model_host import ModelHost, ModelSource
from lsp_server.notebooks import Notebook
from lsp_server.packing import OpenFile
from lsp_server.pending_checks import Checker
from lsp_server.plan import Snapshot
from lsp_server.positions import Encoding, Position
from lsp_server.protocol import CLIENT_DEADLINE_S, CompletionProtocol, Status
from lsp_server.settings import Settings, read_settings
from lsp_server.steering import KINDS, DueNames, NameMemory, NameSource
from lsp_server.turn_actions import TURN_MARK, add_turn_actions
from lsp_server.turn_hints import TurnHints
from lsp_server.verdict import CheckRequest

_SECTION = "codegen"
_ENCODINGS: dict[str, Encoding] = {"utf-8": "utf-8", "utf-16": "utf-16", "utf-32": "utf-32"}

_WHY = "codegen.whyNoSuggestion"
_NOTEBOOKS = types.NotebookDocumentSyncOptions(
    [
        types.NotebookDocumentFilterWithNotebook(
            types.NotebookDocumentFilterNotebookType("jupyter-notebook"),
            [types.NotebookCellLanguage(language) for language in ("python", "markdown")],
        )
    ]
)
_FAILURES = 3
"""After so many in a row the model is loaded again, once."""
_OVERLOOKED_S = 0.3

log = logging.getLogger(__name__)


class CompletionServer(LanguageServer):
    """The server's state: documents, settings, one model, one thread that runs it."""

    protocol: CompletionProtocol

    def __init__(
        self,
        source: ModelSource,
        checker: Checker,
        settings: Settings,
        statistics: Statistics | None = None,
    ) -> None:
        """Start nothing; the model is loaded once a client is there."""
        super().__init__(
            "codegen-lsp",
            version("codegen-lsp"),
            protocol_cls=CompletionProtocol,
            notebook_document_sync=_NOTEBOOKS,
        )
        self.documents: dict[str, Document] = {}
        self.notebooks: dict[str, Notebook] = {}
        """Their cells are documents too."""
        self.host = ModelHost(source)
        self.host.on_failure = self._take_failure
        self.host.on_answer = self._take_model_answer
        self.checker = checker
        self.settings = settings
        self.settings_problems: list[str] = []
        self._defaults = settings
        self._state = ""
        """What the client was told last."""
        self._n_asked = 0
        self._falling_asleep: asyncio.Task[None] | None = None
        self._watching_client: asyncio.Task[None] | None = None
        self.on_client_gone: Callable[[], None] = lambda: None
        """Called when the process of the client has ended, where its number is known."""
        self._n_loads = 0
        self._reloading: asyncio.Future[None] | None = None
        self._told_of_failure = False
        self._n_failures = self._n_hangs = 0
        """Of the model, without an answer between them."""
        self._answering = Answering(self, checker)
        self._names = NameMemory(checker.known_names)
        self.host.names_for = self._names_for
        self.shown = Shown(statistics)
        self.on_change: Callable[[str], None] = lambda _uri: None
        """Told of each document that is opened, edited or closed."""
        self.on_shown: Callable[[Sequence[Answer]], None] = lambda _answers: None
        """Told of the answers that are shown."""
        self.on_model: Callable[[], None] = lambda: None
        """Told when another model answers."""

    @property
    def was_shut_down(self) -> bool:
        """Whether the client said that it goes."""
        return self.protocol._shutdown

    @property
    def encoding(self) -> Encoding:
        """The unit in which the client counts characters."""
        encoding = self.workspace.position_encoding or "utf-16"
        return _ENCODINGS[types.PositionEncodingKind(encoding).value]

    def start_io(self, stdin: BinaryIO | None = None, stdout: BinaryIO | None = None) -> None:
        """Serve on stdio until the client leaves; what is no message is skipped."""
        messages = MessageInput(cast(BufferedIOBase, stdin or sys.stdin.buffer))
        super().start_io(cast(BinaryIO, messages), stdout)

    def start_tcp(self, host: str, port: int) -> None:
        """Serve the first client that connects, as on stdio.

        Raises:
            OSError: nobody can listen there.
        """
        with socket.create_server((host, port)) as listening:
            log.info("listening on %s:%d", *listening.getsockname()[:2])
            connection, _ = listening.accept()
        # A client that died leaves bytes that cannot be sent.
        with connection, suppress(ConnectionError), connection.makefile("rwb") as stream:
            self.start_io(cast(BinaryIO, stream), cast(BinaryIO, stream))

    def watch_client(self, process_id: int | None) -> None:
        """Leave once the client's process is gone, even if nobody closes the input."""

        async def watch(process_id: int) -> None:
            await until_gone(process_id)
            log.error("the client is gone")
            self.on_client_gone()

        if process_id is not None:
            self._watching_client = asyncio.ensure_future(watch(process_id))

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log an error by its kind alone: its text may hold the user's."""
        log.error("%s while handling a message", type(error).__name__)

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show one line to the person at the editor."""
        self.protocol.show(kind, message)

    def set_status(self, state: str, message: str) -> None:
        """Send ``codegen/status``, with the model that answers, else the one that is to."""
        model = self.host.model
        name = model.name if model else self.settings.model or ""
        self._state = state
        self.protocol.send_status(Status(state, message, name))

    async def _answer(self, request: Request) -> list[Answer]:
        """Answer; where that takes longer than a person overlooks, the status says so."""
        self._n_asked += 1
        later = asyncio.get_running_loop().call_later(_OVERLOOKED_S, self._tell_thinking)
        try:
            return await self._answering.answer(request)
        finally:
            later.cancel()
            self._n_asked -= 1
            if self._state == "thinking" and not self._n_asked:
                self.set_status("ready", self.host.model.notice if self.host.model else "")

    def _tell_thinking(self) -> None:
        if self._state == "ready":
            self.set_status("thinking", "")

    def take(self, document: Document) -> None:
        """Keep a document's newest version, as the newest of all documents."""
        if next(reversed(self.documents), None) != document.uri:
            self._names.forget()
        if self.documents.pop(document.uri, None) is None:
            self._load_imports(document)
        self.documents[document.uri] = document
        if notebook := self.notebook_of(document.uri):
            self.notebooks[notebook.uri] = notebook.with_document(document)
        uri = self._owner(document.uri)
        self.on_change(uri)
        self._answering.outdate(uri)
        # What is being written for another text would be thrown away.
        if not self._is_typed_along(document):
            self.host.stop(uri)
        self.wake()

    def _load_imports(self, document: Document) -> None:
        is_asked = self.settings.steering or self.settings.check_deadline_ms
        if document.language_id == "python" and is_asked:
            path = to_fs_path(document.uri)
            project = self._project(path)
            request = NamesRequest(
                document.text,
                0,
                path=path,
                project=str(project) if project else None,
                environment=self.settings.environment,
            )
            self.checker.load_imports(request)

    def take_notebook(self, notebook: Notebook) -> None:
        """Keep a notebook whose cells are others now, and their documents."""
        self.notebooks[notebook.uri] = notebook
        self.documents |= {cell.document.uri: cell.document for cell in notebook.cells}
        self.on_change(notebook.uri)
        self._answering.outdate(notebook.uri)
        self.host.stop(notebook.uri)
        self.wake()

    def notebook_of(self, uri: str) -> Notebook | None:
        """Return the notebook that a document is a cell of."""
        return next((n for n in tuple(self.notebooks.values()) if n.cell(uri)), None)

    def _owner(self, uri: str) -> str:
        """Return the URI of what is completed as one text: a cell's notebook, or a file."""
        notebook = self.notebook_of(uri)
        return notebook.uri if notebook else uri

    def _is_typed_along(self, document: Document) -> bool:
        """Tell whether a document differs by what is being written for it, and no more."""
        then, uri = self.host.late, self._owner(document.uri)
        if then is None or then.uri != uri:
            return False
        notebook = self.notebooks.get(uri)
        text = notebook.joined(document.uri).text if notebook else document.text
        language_id = "python" if notebook else document.language_id
        offset = then.offset + len(text) - len(then.text)
        return self.host.is_writing_along(Snapshot(text, offset, language_id, uri))

    def _snapshot(self, document: Document, offset: int) -> Snapshot:
        """Return what is asked at an offset: of a cell it is the whole notebook.

        Raises:
            DocumentError: nothing is completed there.
        """
        notebook = self.notebook_of(document.uri)
        if notebook is None:
            others = self._open_files(document.uri)
            return Snapshot(document.text, offset, document.language_id, document.uri, others)
        joined = notebook.with_document(document).joined(document.uri)
        offset = joined.offset(document.uri, offset)
        return Snapshot(joined.text, offset, "python", notebook.uri)

    def _open_files(self, uri: str) -> tuple[OpenFile, ...]:
        """Return the other Python files, where the settings say that they are read."""
        if not self.settings.open_files:
            return ()
        return tuple(
            OpenFile(other.uri, other.text)
            for other in self.documents.values()
            if other.uri != uri and other.language_id == "python"
        )

    def wake(self) -> None:
        """Put off unloading the model, and load it again where that was done."""
        self.host.is_in_use()
        if self.host.is_asleep:
            self.host.is_asleep = False
            self.host.expect_load()
            self._reloading = asyncio.ensure_future(self.load_model())

    def read_ahead(self, document: Document, offset: int) -> None:
        """Read what a completion at the offset would need, while nobody asks."""
        with suppress(DocumentError):
            self.host.read_ahead(self._snapshot(document, offset), self.settings)

    def expect_name(self, document: Document, position: Position) -> None:
        """Ask for the names after a dot that was typed, in the time before a request comes."""
        with suppress(DocumentError):
            offset = document.offset(position, self.encoding)
            snapshot = self._snapshot(document, offset)
            if source := self._names_for(snapshot):
                before, after = (
                    snapshot.text[: snapshot.offset],
                    snapshot.text[snapshot.offset :],
                )
                ask = partial(_look, source, before, after)
                asyncio.get_running_loop().run_in_executor(None, ask)

    def forget(self, uri: str) -> None:
        """End what is being done for a document that was closed, and forget it."""
        self.host.stop(uri)
        self._answering.forget(uri)
        self.documents.pop(uri, None)
        self.on_change(uri)

    def forget_notebook(self, uri: str) -> None:
        """End what is being done for a notebook that was closed, and forget it."""
        if notebook := self.notebooks.pop(uri, None):
            for cell in notebook.cells:
                self.documents.pop(cell.document.uri, None)
        self.forget(uri)

    def take_initial_settings(self, values: object) -> None:
        """Take what the client said at the start; it holds for what it never says again."""
        self.take_settings(values)
        self._defaults = self.settings

    def take_settings(self, values: object) -> bool:
        """Take settings from the client; returns whether another model is wanted."""
        before = self.settings
        self.settings, problems = read_settings(values, self._defaults)
        self.settings_problems += problems
        after = self.settings
        if before != after:
            self.host.forget_answers()
        needs_model = _model_settings(before) != _model_settings(after)
        if needs_model:
            self._n_failures = self._n_hangs = 0
        return needs_model

    def tell_settings_problems(self) -> None:
        """Show what was wrong with the settings, once."""
        if self.settings_problems:
            self.show(types.MessageType.Warning, "; ".join(self.settings_problems))
            self.settings_problems = []

    async def load_model(self) -> None:
        """Load the model that the settings name; a newer call takes over."""
        self._n_loads += 1
        self._told_of_failure = False
        self.host.expect_load()
        self.set_status("loading", "loading the model")
        try:
            token = f"codegen-lsp/load/{self._n_loads}"
            async with self.protocol.shown_progress(token) as report:
                is_loaded = await self.host.load(self.settings, report, self._tell_meanwhile)
        # Whatever is wrong with a model, the server stays up for a better one.
        except BaseException as error:
            self.host.give_up_load()
            if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
            expected = isinstance(error, ServingError)
            self._tell_failure(str(error) if expected else f"{type(error).__name__}: {error}")
        else:
            if not is_loaded:
                return
            self._tell_loaded()
        if self.host.model is not None:
            self.on_model()
            self.fall_asleep_later()
            if self.documents:
                newest = next(reversed(self.documents.values()))
                self.read_ahead(newest, len(newest.text))

    def _tell_meanwhile(self) -> None:
        if model := self.host.model:
            wanted = self.settings.model or "the embedded model"
            self.set_status("loading", f"preparing {wanted}; {model.name} answers meanwhile")

    def _tell_failure(self, reason: str) -> None:
        log.error("no model: %s", reason)
        if model := self.host.model:
            self.set_status("ready", f"{reason}; {model.name} answers instead")
            self.show(types.MessageType.Warning, f"{reason}; {model.name} answers instead")
        else:
            self.set_status("failed", reason)
            self.show(types.MessageType.Error, f"no model is loaded: {reason}")

    def _tell_loaded(self) -> None:
        if model := self.host.model:
            log.info("model %s is ready", model.name)
            self.set_status("ready", model.notice)
            if model.notice:
                self.show(types.MessageType.Warning, model.notice)

    def fall_asleep_later(self) -> None:
        """Let the model go once nobody has typed for as long as the settings say."""
        if self._falling_asleep is not None:
            self._falling_asleep.cancel()

        async def fall_asleep() -> None:
            minutes = self.settings.unload_after_minutes
            await self.host.sleep_when_idle(minutes)
            if self.host.is_asleep:
                log.info("the model is unloaded")
                self.set_status("off", f"unloaded after {minutes} idle minutes")

        self._falling_asleep = asyncio.ensure_future(fall_asleep())

    async def complete(
        self, params: types.InlineCompletionParams
    ) -> list[types.InlineCompletionItem]:
        """Answer one request for an inline completion."""
        context = params.context
        is_invoked = context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
        uri, selected = params.text_document.uri, context.selected_completion_info
        request = self._read_request(uri, params.position, selected, is_invoked=is_invoked)
        answers = await self._answer(request) if request else []
        self.on_shown(answers)
        if request is None:
            return []
        return [
            inline_item(answer, request, self.encoding, self._command(answer, request))
            for answer in answers
        ]

    async def complete_word(self, params: types.CompletionParams) -> list[types.CompletionItem]:
        """Answer a client that knows no inline completions: the first one, whole."""
        uri, context = params.text_document.uri, params.context
        kinds = types.CompletionTriggerKind
        is_invoked = context is None or context.trigger_kind == kinds.Invoked
        request = self._read_request(uri, params.position, None, is_invoked=is_invoked)
        answers = await self._answer(request) if request else []
        self.on_shown(answers[:1])
        if request is None:
            return []
        mode = insert_text_mode(self.client_capabilities)
        return [
            menu_item(answer, request, self.encoding, mode, self._command(answer, request))
            for answer in answers[:1]
        ]

    def why_no_suggestion(self, uri: str | None) -> str:
        """Return why the last answer of a document, else of the newest, was empty."""
        if uri is None:
            uri = next(reversed(self.documents), "")
        reason = self._answering.why_empty(self._owner(uri))
        if reason is None:
            return "nothing was asked for this file yet"
        return f"no suggestion, because {reason}" if reason else "the last answer was not empty"

    def check_request(self, snapshot: Snapshot, insert_text: str) -> CheckRequest:
        """Return what is to be checked of a candidate."""
        path = to_fs_path(snapshot.uri)
        project = self._project(path)
        return CheckRequest(
            snapshot.text,
            snapshot.offset,
            insert_text,
            path=path,
            project=str(project) if project else None,
            environment=self.settings.environment,
            off=tuple(kind for kind, is_on in self.settings.checks.items() if not is_on),
        )

    def _names_for(self, snapshot: Snapshot) -> NameSource | None:
        switches = self.settings.steering
        if isinstance(switches, bool):
            switches = dict.fromkeys(KINDS, switches)
        kinds = frozenset(kind for kind in KINDS if switches.get(kind, True))
        if not kinds or snapshot.language_id != "python":
            return None
        path = to_fs_path(snapshot.uri.removesuffix(TURN_MARK))
        project = self._project(path)
        return NameSource(self._ask_names, path, str(project) if project else None)

    def _ask_names(self, request: NamesRequest) -> "Future[KnownNames | None]":
        return self._names.ask(replace(request, environment=self.settings.environment))

    def _take_failure(self, error: BaseException) -> None:
        """Tell the first failure of a model; after some in a row load it again."""
        if isinstance(error, ModelHangsError):
            self._take_hang()
            return
        self._n_failures += 1
        if self._n_failures == _FAILURES:
            self._reloading = asyncio.ensure_future(self.load_model())
        if not self._told_of_failure:
            self._told_of_failure = True
            self.show(
                types.MessageType.Error,
                f"the model failed ({type(error).__name__}); see the log",
            )

    def _take_hang(self) -> None:
        """Load a model again that hangs, unless it does so again and again."""
        self._n_hangs += 1
        if self._n_hangs < _FAILURES:
            self.show(types.MessageType.Error, "the model hangs and is loaded again")
            self._reloading = asyncio.ensure_future(self.load_model())
        else:
            # Each that hangs keeps its memory.
            self.host.give_up_load()
            self._tell_failure("it hangs; choose another model, or restart the server")

    def _take_model_answer(self) -> None:
        """Forget the failures of a model that answers again."""
        self._n_failures = self._n_hangs = 0

    def _read_request(
        self,
        uri: str,
        position: types.Position,
        selected: types.SelectedCompletionInfo | None,
        *,
        is_invoked: bool,
    ) -> ItemRequest | None:
        """Return what is asked, None where the document has no such place."""
        started = time.monotonic()
        document = self.documents.get(uri)
        if document is None:
            return None
        try:
            offset = self._offset(document, position)
            if selected is not None:
                # What is asked is what comes after the item that is selected in the menu.
                start, end = (
                    Position(place.line, place.character)
                    for place in (selected.range.start, selected.range.end)
                )
                offset = document.offset(start, self.encoding) + len(selected.text)
                edit = Edit(selected.text, start, end)
                document = document.edited(document.version, [edit], self.encoding)
            snapshot = self._snapshot(document, offset)
        except DocumentError as error:
            log.info("no completion: %s", error)
            self._answering.say_nothing(self._owner(uri), str(error))
            return None
        return ItemRequest(snapshot, is_invoked, started, position.line, selected)

    def _command(self, answer: Answer, request: ItemRequest) -> types.Command | None:
        return self.shown.command(answer, request) if self.settings.statistics else None

    def _offset(self, document: Document, position: types.Position) -> int:
        return document.offset(Position(position.line, position.character), self.encoding)

    def _project(self, path: str | None) -> Path | None:
        if path is None:
            return None
        for folder in self.workspace.folders.values():
            root = to_fs_path(folder.uri)
            if root and Path(path).is_relative_to(root):
                return Path(root)
        return Path(path).parent


def create_server(
    source: ModelSource,
    checker: Checker,
    settings: Settings | None = None,
    statistics: Statistics | None = None,
) -> CompletionServer:
    """Return a server that is ready to be started on stdio or TCP.

    ``settings`` are the defaults for what the client does not say. Without ``statistics``
    nothing is counted.
    """
    server = CompletionServer(source, checker, settings or Settings(), statistics)

    actions = add_turn_actions(server, server)
    hints = TurnHints(server, server, actions.stale)
    server.on_change, server.on_shown = actions.take_change, actions.take_shown
    server.on_model = hints.take_model

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.watch_client(params.process_id)
        server.take_initial_settings(params.initialization_options)
        hints.announce(params.capabilities)
        known = params.capabilities.text_document
        if not (known and known.inline_completion):
            # An item in the menu is better than nothing.
            server.feature(types.TEXT_DOCUMENT_COMPLETION)(completion)

    async def completion(params: types.CompletionParams) -> types.CompletionList:
        # What is typed next may lead to another text.
        return types.CompletionList(True, await server.complete_word(params))

    @server.feature(types.INITIALIZED)
    async def initialized(_params: types.InitializedParams) -> None:
        server.host.expect_load()
        server.checker.warm_up()
        await _pull_settings(server)
        server.tell_settings_problems()
        _ask_for_settings_changes(server)
        hints.follow_settings()
        await server.load_model()

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def did_change_configuration(
        params: types.DidChangeConfigurationParams,
    ) -> None:
        pushed = params.settings
        if isinstance(pushed, dict) and _SECTION in pushed:
            needs_model = server.take_settings(pushed[_SECTION])
        else:
            needs_model = await _pull_settings(server)
        server.tell_settings_problems()
        hints.follow_settings()
        if needs_model:
            await server.load_model()
        elif server.host.model is not None:
            server.fall_asleep_later()

    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline_completion(
        params: types.InlineCompletionParams,
    ) -> types.InlineCompletionList:
        return types.InlineCompletionList(await server.complete(params))

    @server.command(_WHY)
    def why_no_suggestion(*arguments: Any) -> str:
        uri = arguments[0] if arguments and isinstance(arguments[0], str) else None
        reason = server.why_no_suggestion(uri)
        server.show(types.MessageType.Info, reason)
        return reason

    @server.command(ACCEPTED)
    def accepted(*arguments: Any) -> None:
        server.shown.count_accepted(*arguments[:1])

    @server.feature(types.SHUTDOWN)
    def shutdown(_params: None) -> None:
        server.host.close()

    return server


def _look(source: NameSource, before: str, after: str) -> None:
    DueNames(source, before, after).look("")


async def _pull_settings(server: CompletionServer) -> bool:
    """Ask the client for its settings, if it can tell; returns as take_settings."""
    workspace = server.client_capabilities.workspace
    if not (workspace and workspace.configuration):
        return False
    item = types.ConfigurationItem(section=_SECTION)
    asked = server.workspace_configuration_async(types.ConfigurationParams([item]))
    try:
        values = await asyncio.wait_for(asked, CLIENT_DEADLINE_S)
    # A client that cannot tell its settings gets the defaults.
    except Exception as error:  # noqa: BLE001
        log.warning("the client did not tell its settings: %s", type(error).__name__)
        return False
    return bool(values) and server.take_settings(values[0])


def _ask_for_settings_changes(server: CompletionServer) -> None:
    """Register for changes of the settings, where the client wants that to be done."""
    workspace = server.client_capabilities.workspace
    changes = workspace.did_change_configuration if workspace else None
    if changes and changes.dynamic_registration:
        options = types.DidChangeConfigurationRegistrationOptions(section=_SECTION)
        method = types.WORKSPACE_DID_CHANGE_CONFIGURATION
        registration = types.Registration("codegen/settings", method, options)
        server.client_register_capability(types.RegistrationParams([registration]))


def _model_settings(settings: Settings) -> tuple[object, ...]:
    """Return the settings that a model is loaded with."""
    return (
        settings.model,
        settings.device,
        settings.threads,
        settings.kv_cache,
        settings.cache_megabytes,
    )
