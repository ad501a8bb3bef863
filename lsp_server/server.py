"""The language server: LSP on one side, snapshots on the other.

The event loop never waits for the model or for a check. A request takes a frozen
snapshot before it waits for anything, and answers an empty list if an edit or a newer
request has taken its place when it is done.
"""

import asyncio
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from lsp_server.answers import Answer
from lsp_server.completion import Candidate, Completion
from lsp_server.documents import Document
from lsp_server.errors import DocumentError, ServingError
from lsp_server.model_host import ModelHost, ModelSource
from lsp_server.pending_checks import Checker, PendingChecks
from lsp_server.plan import Snapshot
from lsp_server.positions import Encoding, Position, line_of, n_code_units
from lsp_server.protocol import CLIENT_DEADLINE_S, CompletionProtocol, Status
from lsp_server.settings import Settings, read_settings
from lsp_server.verdict import UNCHECKED, CheckRequest, VerdictKind

_SECTION = "codegen"
_ENCODINGS: dict[str, Encoding] = {"utf-8": "utf-8", "utf-16": "utf-16", "utf-32": "utf-32"}

log = logging.getLogger(__name__)

_N_BUFFERS = 4
_BUFFER_CHARACTERS = 1 << 14
"""So much of so many other documents is looked at for what may be repeated."""


class CompletionServer(LanguageServer):
    """The server's state: documents, settings, one model, one thread that runs it."""

    protocol: CompletionProtocol

    def __init__(self, source: ModelSource, checker: Checker, settings: Settings) -> None:
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
        self._checks = PendingChecks(checker)
        self._outdated: dict[str, asyncio.Event] = {}

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
        # What is being written for the older text would be thrown away.
        self.supersede(document.uri)
        self.wake()

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

    def supersede(self, uri: str) -> None:
        """End what is still being done for a document's older version or request."""
        self.host.scheduler.stop(uri)
        if outdated := self._outdated.pop(uri, None):
            outdated.set()

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
        document = self.documents.get(params.text_document.uri)
        if document is None:
            return []
        position = Position(params.position.line, params.position.character)
        try:
            offset = document.offset(position, self.encoding)
        except DocumentError as error:
            log.info("no completion: %s", error)
            return []
        snapshot = _snapshot(document, offset)
        is_invoked = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
        self.wake()
        self.supersede(document.uri)
        self._outdated[document.uri] = outdated = asyncio.Event()
        answers = await self._answers(snapshot, is_invoked, outdated)
        if outdated.is_set():
            return []
        log.info("shown: %s", ",".join(map(_verdict_of, answers)) or "nothing")
        hides_flagged = not is_invoked and self.settings.flagged == "hide"
        return [
            self._item(answer, position.line)
            for answer in sorted(answers, key=_is_flagged)
            if not (hides_flagged and _is_flagged(answer))
        ]

    async def _answers(
        self, snapshot: Snapshot, is_invoked: bool, outdated: asyncio.Event
    ) -> list[Answer]:
        """Return checked answers: one that is known, or what the model writes."""
        completion = Completion()
        settings = self.settings
        known = None if is_invoked else self.host.answers.find(snapshot)
        if known is not None and known.verdict is not None:
            log.info("automatic, known")
            return [known]
        if known is None:
            completion = await self._ask_model(snapshot, is_invoked, outdated)
            _log_completion(completion, is_invoked)
        n_models = self.host.n_models
        candidates = (known.candidate,) if known else completion.candidates
        answers = await self._checked(candidates, snapshot, outdated)
        if self.settings != settings or self.host.n_models != n_models:
            # What is to come would be answered otherwise.
            return answers
        for answer in reversed(answers):
            self.host.answers.remember(answer)
        shown = [answer for answer in answers if not _is_flagged(answer)]
        is_followed = shown and not is_invoked and not outdated.is_set()
        self.host.go_on(completion, shown[0] if is_followed else None, self.settings)
        return answers

    async def _ask_model(
        self, snapshot: Snapshot, is_invoked: bool, outdated: asyncio.Event
    ) -> Completion:
        others = [d.text for uri, d in self.documents.items() if uri != snapshot.uri]
        try:
            return await self.host.complete(
                snapshot,
                self.settings,
                outdated,
                n_candidates=self.settings.candidates if is_invoked else 1,
                buffers=[text[:_BUFFER_CHARACTERS] for text in reversed(others[-_N_BUFFERS:])],
            )
        # An engine that fails must cost one answer and not the server.
        except Exception as error:  # noqa: BLE001
            log.error("the model failed: %s", type(error).__name__)
            if not self._told_of_failure:
                self._told_of_failure = True
                self.show(
                    types.MessageType.Error,
                    f"the model failed ({type(error).__name__}); see the log",
                )
            return Completion(silence="the model failed")

    async def _checked(
        self,
        candidates: tuple[Candidate, ...],
        snapshot: Snapshot,
        outdated: asyncio.Event,
    ) -> list[Answer]:
        """Return the candidates with the verdicts that are there by the deadline."""
        deadline_s = self.settings.check_deadline_ms / 1e3
        if not deadline_s or snapshot.language_id != "python" or not candidates:
            return [Answer(snapshot, candidate, UNCHECKED) for candidate in candidates]
        path = to_fs_path(snapshot.uri)
        project = self._project(path)
        requests = [
            CheckRequest(
                snapshot.text,
                snapshot.offset,
                candidate.insert_text,
                path=path,
                project=str(project) if project else None,
            )
            for candidate in candidates
        ]
        verdicts = await self._checks.verdicts(requests, deadline_s, outdated)
        return [
            Answer(snapshot, candidate, verdict)
            for candidate, verdict in zip(candidates, verdicts, strict=True)
        ]

    def _project(self, path: str | None) -> Path | None:
        if path is None:
            return None
        for folder in self.workspace.folders.values():
            root = to_fs_path(folder.uri)
            if root and Path(path).is_relative_to(root):
                return Path(root)
        return Path(path).parent

    def _item(self, answer: Answer, line: int) -> types.InlineCompletionItem:
        text, offset = answer.snapshot.text, answer.snapshot.offset
        start, _ = line_of(text, offset)
        cursor = types.Position(line, n_code_units(text[start:offset], self.encoding))
        return types.InlineCompletionItem(
            insert_text=answer.candidate.insert_text, range=types.Range(cursor, cursor)
        )


def create_server(
    source: ModelSource, checker: Checker, settings: Settings | None = None
) -> CompletionServer:
    """Return a server that is ready to be started on stdio or TCP.

    ``settings`` are the defaults for what the client does not say.
    """
    server = CompletionServer(source, checker, settings or Settings())

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.take_initial_settings(params.initialization_options)

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


def _verdict_of(answer: Answer) -> str:
    return (answer.verdict or UNCHECKED).verdict.value


def _is_flagged(answer: Answer) -> bool:
    return _verdict_of(answer) == VerdictKind.FLAGGED.value


def _log_completion(completion: Completion, is_invoked: bool) -> None:
    log.info(
        "%s rule=%s candidates=%d prompt=%d reused=%d generated=%d first_ms=%.0f "
        "total_ms=%.0f%s%s",
        "invoked" if is_invoked else "automatic",
        completion.rule.value if completion.rule else "none",
        len(completion.candidates),
        completion.prompt_tokens,
        completion.reused_tokens,
        completion.generated_tokens,
        completion.first_token_ms,
        completion.total_ms,
        f" unread={len(completion.unread)}" if completion.unread else "",
        f" silence={completion.silence!r}" if completion.silence else "",
    )
