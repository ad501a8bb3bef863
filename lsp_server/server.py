"""The language server: LSP on one side, snapshots on the other.

The event loop never waits for the model or for a check. A request takes a frozen
snapshot before it waits for anything, and answers an empty list if an edit or a newer
request has taken its place when it is done.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from lsp_server.acceptance import Statistics
from lsp_server.answering import Answering, Request, name_of
from lsp_server.answers import Answer
from lsp_server.documents import Document
from lsp_server.errors import DocumentError, ServingError
from lsp_server.model_host import ModelHost, ModelSource
from lsp_server.pending_checks import Checker
from lsp_server.plan import Snapshot
from lsp_server.positions import Encoding, Position, line_of, n_code_units
from lsp_server.protocol import CLIENT_DEADLINE_S, CompletionProtocol, Status
from lsp_server.settings import Settings, read_settings
from lsp_server.turn_actions import add_turn_actions
from lsp_server.verdict import CheckRequest

_SECTION = "codegen"
_ENCODINGS: dict[str, Encoding] = {"utf-8": "utf-8", "utf-16": "utf-16", "utf-32": "utf-32"}

_ACCEPTED = "codegen.accepted"
_WHY = "codegen.whyNoSuggestion"
_WORD = re.compile(r"\w*$")
_FAILURES = 3
"""After so many in a row the model is loaded again, once."""
_N_SHOWN = 64
"""So many of the newest completions may be told to be accepted."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request(Request):
    """What was asked, and where the answer is to be shown."""

    line: int
    selected: types.SelectedCompletionInfo | None = None


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
        super().__init__("codegen-lsp", version("codegen-lsp"), protocol_cls=CompletionProtocol)
        self.documents: dict[str, Document] = {}
        self.host = ModelHost(source)
        self.checker = checker
        self.settings = settings
        self.settings_problems: list[str] = []
        self._defaults = settings
        self._falling_asleep: asyncio.Task[None] | None = None
        self._n_loads = 0
        self._reloading: asyncio.Future[None] | None = None
        self._told_of_failure = False
        self._n_failures = 0
        """Of the model, without an answer between them."""
        self._answering = Answering(self, checker)
        self._statistics = statistics
        self._shown: dict[int, str] = {}
        """The rules of what was shown, by the number that tells of its acceptance."""
        self._n_shown = 0
        self._last_shown: Snapshot | None = None
        """The text that accepting it gives."""
        self.on_change: Callable[[str], None] = lambda _uri: None
        """Told of each document that is opened, edited or closed."""

    @property
    def was_shut_down(self) -> bool:
        """Whether the client said that it goes."""
        return self.protocol._shutdown

    @property
    def encoding(self) -> Encoding:
        """The unit in which the client counts characters."""
        encoding = self.workspace.position_encoding or "utf-16"
        return _ENCODINGS[types.PositionEncodingKind(encoding).value]

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
        self.protocol.send_status(Status(state, message, name))

    def take(self, document: Document) -> None:
        """Keep a document's newest version, as the newest of all documents."""
        self.documents.pop(document.uri, None)
        self.documents[document.uri] = document
        self.on_change(document.uri)
        self._answering.outdate(document.uri)
        # What is being written for another text would be thrown away.
        if not self._is_typed_along(document):
            self.host.stop(document.uri)
        self.wake()

    def _is_typed_along(self, document: Document) -> bool:
        """Tell whether a document differs by what is being written for it, and no more."""
        then = self.host.late
        if then is None or then.uri != document.uri:
            return False
        offset = then.offset + len(document.text) - len(then.text)
        return self.host.is_writing_along(_snapshot(document, offset))

    def wake(self) -> None:
        """Put off unloading the model, and load it again where that was done."""
        self.host.is_in_use()
        if self.host.is_asleep:
            self.host.is_asleep = False
            self.host.expect_load()
            self._reloading = asyncio.ensure_future(self.load_model())

    def read_ahead(self, document: Document, offset: int) -> None:
        """Read what a completion at the offset would need, while nobody asks."""
        self.host.read_ahead(_snapshot(document, offset), self.settings)

    def forget(self, uri: str) -> None:
        """End what is being done for a document that was closed, and forget it."""
        self.host.stop(uri)
        self._answering.forget(uri)
        self.documents.pop(uri, None)
        self.on_change(uri)

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
        return _model_settings(before) != _model_settings(after)

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
        answers = await self._answering.answer(request) if request else []
        return [self._item(answer, request) for answer in answers if request]

    async def complete_word(self, params: types.CompletionParams) -> list[types.CompletionItem]:
        """Answer a client that knows no inline completions: the first one, whole."""
        uri, context = params.text_document.uri, params.context
        kinds = types.CompletionTriggerKind
        is_invoked = context is None or context.trigger_kind == kinds.Invoked
        request = self._read_request(uri, params.position, None, is_invoked=is_invoked)
        answers = await self._answering.answer(request) if request else []
        return [self._menu_item(answer, request) for answer in answers[:1] if request]

    def why_no_suggestion(self, uri: str | None) -> str:
        """Return why the last answer of a document, else of the newest, was empty."""
        if uri is None:
            uri = next(reversed(self.documents), "")
        reason = self._answering.why_empty(uri)
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
            off=tuple(kind for kind, is_on in self.settings.checks.items() if not is_on),
        )

    def tell_model_failed(self, error: Exception) -> None:
        """Tell the first failure of a model; after some in a row load it again."""
        self._n_failures += 1
        if self._n_failures == _FAILURES:
            self._reloading = asyncio.ensure_future(self.load_model())
        if not self._told_of_failure:
            self._told_of_failure = True
            self.show(
                types.MessageType.Error,
                f"the model failed ({type(error).__name__}); see the log",
            )

    def tell_model_answered(self) -> None:
        """Forget the failures of a model that answers again."""
        self._n_failures = 0

    def count_accepted(self, number: object = None) -> None:
        """Count a completion that the client says was accepted."""
        rule = self._shown.pop(number, None) if isinstance(number, int) else None
        if rule is not None and self._statistics is not None:
            self._statistics.count_accepted(rule)

    def _read_request(
        self,
        uri: str,
        position: types.Position,
        selected: types.SelectedCompletionInfo | None,
        *,
        is_invoked: bool,
    ) -> _Request | None:
        """Return what is asked, None where the document has no such place."""
        started = time.monotonic()
        document = self.documents.get(uri)
        if document is None:
            return None
        try:
            offset = self._offset(document, position)
            if selected is None:
                snapshot = _snapshot(document, offset)
                return _Request(snapshot, is_invoked, started, position.line)
            start = self._offset(document, selected.range.start)
            end = self._offset(document, selected.range.end)
        except DocumentError as error:
            log.info("no completion: %s", error)
            return None
        # What is asked is what comes after the item that is selected in the menu.
        text = document.text[:start] + selected.text + document.text[end:]
        snapshot = replace(_snapshot(document, 0), text=text, offset=start + len(selected.text))
        return _Request(snapshot, is_invoked, started, position.line, selected)

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

    def _item(self, answer: Answer, request: _Request) -> types.InlineCompletionItem:
        text, cursor = answer.candidate.insert_text, self._cursor(answer, request)
        place = types.Range(cursor, cursor)
        if request.selected is not None:
            text, place = request.selected.text + text, request.selected.range
        return types.InlineCompletionItem(
            insert_text=text, range=place, command=self._command(answer, request)
        )

    def _menu_item(self, answer: Answer, request: _Request) -> types.CompletionItem:
        snapshot, cursor = answer.snapshot, self._cursor(answer, request)
        # Clients show what goes on with the word before the cursor.
        start, _ = line_of(snapshot.text, snapshot.offset)
        word = _WORD.search(snapshot.text[start : snapshot.offset])
        typed = word.group() if word else ""
        text = typed + answer.candidate.insert_text
        n_typed = n_code_units(typed, self.encoding)
        first = types.Position(cursor.line, cursor.character - n_typed)
        return types.CompletionItem(
            label=text.strip().splitlines()[0],
            kind=types.CompletionItemKind.Text,
            insert_text_format=types.InsertTextFormat.PlainText,
            text_edit=types.TextEdit(types.Range(first, cursor), text),
            command=self._command(answer, request),
        )

    def _cursor(self, answer: Answer, request: _Request) -> types.Position:
        text, offset = answer.snapshot.text, answer.snapshot.offset
        start, _ = line_of(text, offset)
        return types.Position(request.line, n_code_units(text[start:offset], self.encoding))

    def _command(self, answer: Answer, request: _Request) -> types.Command | None:
        """Return what tells us that an item was accepted, where that is counted."""
        if self._statistics is None or not self.settings.statistics:
            return None
        # Whoever types along a suggestion is shown the same one.
        if answer.accepted != self._last_shown:
            self._last_shown = answer.accepted
            rule = name_of(answer.candidate.rule)
            self._statistics.count_shown(rule, 1e3 * (time.monotonic() - request.started))
            self._n_shown += 1
            self._shown[self._n_shown] = rule
            self._shown.pop(self._n_shown - _N_SHOWN, None)
        return types.Command("Completion accepted", _ACCEPTED, arguments=[self._n_shown])


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

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.take_initial_settings(params.initialization_options)
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

    @server.command(_ACCEPTED)
    def accepted(*arguments: Any) -> None:
        server.count_accepted(*arguments[:1])

    server.on_change = add_turn_actions(server, server)

    @server.feature(types.SHUTDOWN)
    def shutdown(_params: None) -> None:
        server.host.close()

    return server


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
    return bool(values and values[0]) and server.take_settings(values[0])


def _snapshot(document: Document, offset: int) -> Snapshot:
    return Snapshot(document.text, offset, document.language_id, document.uri)


def _model_settings(settings: Settings) -> tuple[object, ...]:
    """Return the settings that a model is loaded with."""
    return (
        settings.model,
        settings.device,
        settings.threads,
        settings.kv_cache,
        settings.cache_megabytes,
    )
