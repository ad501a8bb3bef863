"""A real client on a real server's stdio, with the capabilities of real editors."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from lsprotocol import types
from pytest_lsp import LanguageClient, client_capabilities, make_test_lsp_client

SERVER = (sys.executable, "-m", "lsp_server", "serve")
FAKE_SERVER = (sys.executable, str(Path(__file__).with_name("fake_server.py")))
DEADLINE_S = 60.0
Found = TypeVar("Found")
URI = "file:///project/example.py"


def capabilities(editor: str) -> types.ClientCapabilities:
    """Return an editor's recorded capabilities, with what it has learnt since."""
    name = {"neovim": "neovim@latest", "vscode": "visual_studio_code@latest"}[editor]
    known = client_capabilities(name)
    assert known.text_document is not None
    known.text_document.inline_completion = types.InlineCompletionClientCapabilities(
        dynamic_registration=editor == "vscode"
    )
    return known


class Client:
    """What the tests ask of an editor."""

    def __init__(self, lsp: LanguageClient, server: types.InitializeResult | None) -> None:
        """Wrap a connected client."""
        self.lsp = lsp
        self._initialized = server
        self.statuses: list[Any] = []
        self.is_thinking = False
        self.n_thoughts = 0
        self.registrations: list[types.Registration] = []
        self.n_refreshes = 0
        """How often hints were to be asked for again."""
        self.version = 0

    @property
    def server(self) -> types.ServerCapabilities:
        """What the server said that it can do."""
        assert self._initialized is not None
        return self._initialized.capabilities

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The server's process."""
        process = self.lsp._server
        assert process is not None
        return process

    @property
    def progress(self) -> list[Any]:
        """What was reported under the newest token."""
        return list(list(self.lsp.progress_reports.values())[-1])

    def open(self, text: str, uri: str = URI, language: str = "python") -> None:
        """Open a document."""
        self.version = 1
        item = types.TextDocumentItem(uri, language, self.version, text)
        self.lsp.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def insert(self, line: int, character: int, text: str, uri: str = URI) -> None:
        """Type a text at a position."""
        self.version += 1
        here = types.Position(line, character)
        self.lsp.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(self.version, uri),
                [types.TextDocumentContentChangePartial(types.Range(here, here), text)],
            )
        )

    def request(
        self,
        line: int,
        character: int,
        *,
        uri: str = URI,
        invoked: bool = True,
        msg_id: str | None = None,
    ) -> "asyncio.Future[Any]":
        """Ask for an inline completion."""
        kinds = types.InlineCompletionTriggerKind
        params = types.InlineCompletionParams(
            types.InlineCompletionContext(kinds.Invoked if invoked else kinds.Automatic),
            types.TextDocumentIdentifier(uri),
            types.Position(line, character),
        )
        # Sent at once, so that what is sent after it arrives after it.
        return asyncio.wrap_future(
            self.lsp.protocol.send_request(
                types.TEXT_DOCUMENT_INLINE_COMPLETION, params, msg_id=msg_id
            )
        )

    async def items(
        self, line: int, character: int, **options: Any
    ) -> list[types.InlineCompletionItem]:
        """Return the items of one answer, which must be a list."""
        return await answered(self.request(line, character, **options))

    async def status(self, state: str) -> Any:
        """Return the next status with this state, once it is there."""
        return await self.until(
            lambda: next((s for s in self.statuses if s.state == state), None)
        )

    async def until(self, found: Callable[[], Found | None]) -> Found:
        """Return what ``found`` finds, as soon as it does."""
        async with asyncio.timeout(DEADLINE_S):
            while (value := found()) is None:
                await asyncio.sleep(0.005)
        return value


async def answered(pending: "asyncio.Future[Any]") -> list[types.InlineCompletionItem]:
    """Return the items of an answer, which must be a list and come."""
    answer = await asyncio.wait_for(pending, DEADLINE_S)
    assert isinstance(answer, types.InlineCompletionList)
    return list(answer.items)


@asynccontextmanager
async def connected(
    command: Sequence[str] = SERVER,
    *,
    editor: str = "neovim",
    options: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    can: types.ClientCapabilities | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Client]:
    """Yield a client of a server that was started for it, and end both."""
    lsp = make_test_lsp_client()
    if configuration is not None:
        lsp.set_configuration({"codegen": dict(configuration)})
    client = Client(lsp, None)

    def take_status(params: Any) -> None:
        # How long an answer takes is the machine's affair, so it is kept apart.
        was_thinking = client.is_thinking
        client.is_thinking = params.state == "thinking"
        client.n_thoughts += client.is_thinking
        if not client.is_thinking and not (was_thinking and params.state == "ready"):
            client.statuses.append(params)

    def register(params: types.RegistrationParams) -> None:
        client.registrations += params.registrations

    def refresh(_params: None) -> None:
        client.n_refreshes += 1

    lsp.feature("codegen/status")(take_status)
    lsp.feature(types.CLIENT_REGISTER_CAPABILITY)(register)
    lsp.feature(types.WORKSPACE_INLAY_HINT_REFRESH)(refresh)
    await lsp.start_io(*command, cwd=cwd, env={**os.environ, **(env or {})})
    folders = [types.WorkspaceFolder(folder.as_uri(), folder.name)] if folder else None
    client._initialized = await lsp.initialize_session(
        types.InitializeParams(
            capabilities=can or capabilities(editor),
            initialization_options=dict(options) if options is not None else None,
            workspace_folders=folders,
            root_uri=folder.as_uri() if folder else None,
        )
    )
    try:
        yield client
    finally:
        if client.process.returncode is None:
            await lsp.shutdown_session()
        await lsp.stop()  # type: ignore[no-untyped-call]
