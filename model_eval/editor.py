"""An editor as the language server sees it: opens a text, asks once, takes the first item.

This is the one module that speaks LSP, and from the client's side. It knows nothing of what
is asked about.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient

from lsp_server.positions import Position, offset_at, position_at
from model_eval.errors import ServerError

_T = TypeVar("_T")

_READY_S = 120.0
_ANSWER_S = 90.0
_LATE_S = 29.0
"""From here on the clock may have decided what the answer is: the server gives who asks
explicitly what stands after 30 s."""
_ATTEMPTS = 6
"""What was read of the text by then stays read, so asking again gets further."""
_CLOSING_S = 10.0
# Nothing begins as these do, and no server keeps more than two texts in its caches.
_OTHER_TEXTS = ("zebra = (", "quartz = (")


@dataclass(frozen=True)
class Item:
    """The first item of an answer; offsets are code points of the text."""

    insert_text: str
    """Empty where there was no item."""
    start: int
    end: int
    """What stands from the start to here gives way."""
    seconds: float
    is_late: bool = False
    """Whether the clock decided, however often it was asked for."""

    def applied(self, text: str) -> str:
        """Return the text with the item in it."""
        return text[: self.start] + self.insert_text + text[self.end :]


class Editor:
    """A server's only client; a context manager that starts and ends the server.

    Before each request two other texts are asked about, so that the server's caches hold
    nothing of an earlier request: what it answers depends on the text alone.
    """

    def __init__(
        self, command: Sequence[str], settings: Mapping[str, Any], model: str, folder: Path
    ) -> None:
        """Start nothing yet; ``model`` is what the server must say that it runs.

        ``folder`` is where the project lies.
        """
        self._command = list(command)
        self._settings = dict(settings)
        self._model = model
        self._folder = folder
        self._runner = asyncio.Runner()
        self._client = LanguageClient("codegen-lsp-eval", "1")
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[bytes] | None = None
        self._loaded = asyncio.Event()
        self._status: Any = None
        # pygls puts marks on what it calls, which a method does not take.
        self._client.feature("codegen/status")(lambda status: self._take_status(status))

    def __enter__(self) -> Self:
        """Return the editor once its server has loaded the model.

        Raises:
            ServerError: the server does not start, or runs another model.
        """
        try:
            self._run(self._start())
        except BaseException:
            self._runner.run(self._stop())
            self._runner.close()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """End the server."""
        try:
            self._runner.run(self._stop())
        finally:
            self._runner.close()

    def complete(self, path: Path, text: str, offset: int) -> Item:
        """Open a text under a file's name, ask at the cursor, and return the first item.

        Raises:
            ServerError: the server ended, or answers with an error or never.
        """
        return self._run(self._complete(path, text, offset))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return self._runner.run(work)
        except (TimeoutError, RuntimeError, OSError, JsonRpcException) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"the server {' '.join(self._command)}: {reason}") from error

    def _take_status(self, status: Any) -> None:
        self._status = status
        if status.state in ("ready", "failed", "off"):
            self._loaded.set()

    async def _start(self) -> None:
        client = self._client
        await client.start_io(*self._command)
        self._process = client._server
        if self._process is not None and self._process.stderr is not None:
            # A full pipe would stop the server.
            self._draining = asyncio.create_task(self._process.stderr.read())
        inline = types.InlineCompletionClientCapabilities()
        documents = types.TextDocumentClientCapabilities(inline_completion=inline)
        await self._within(
            client.initialize_async(
                types.InitializeParams(
                    capabilities=types.ClientCapabilities(text_document=documents),
                    process_id=os.getpid(),
                    root_uri=self._folder.as_uri(),
                    initialization_options=self._settings,
                )
            ),
            _READY_S,
        )
        client.initialized(types.InitializedParams())
        await self._within(self._loaded.wait(), _READY_S)
        if (self._status.state, self._status.model) != ("ready", self._model):
            raise RuntimeError(
                f"it is {self._status.state} with {self._status.model or 'no model'}, not "
                f"ready with {self._model} {self._status.message}".rstrip()
            )

    async def _complete(self, path: Path, text: str, offset: int) -> Item:
        for number, other in enumerate(_OTHER_TEXTS):
            await self._first_item(self._folder / f"{number}.py", f"{other})\n", len(other))
        started = time.perf_counter()
        item, is_late = await self._first_item(path, text, offset)
        seconds = time.perf_counter() - started
        if item is None:
            return Item("", offset, offset, seconds, is_late)
        start = end = offset
        if item.range is not None:
            start, end = (
                offset_at(text, Position(place.line, place.character))
                for place in (item.range.start, item.range.end)
            )
        return Item(str(item.insert_text), start, end, seconds, is_late)

    async def _first_item(
        self, path: Path, text: str, offset: int
    ) -> tuple[types.InlineCompletionItem | None, bool]:
        """Return the first item, and whether it was late each time."""
        client, uri = self._client, path.as_uri()
        position = position_at(text, offset)
        params = types.InlineCompletionParams(
            types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked),
            types.TextDocumentIdentifier(uri),
            types.Position(position.line, position.character),
        )
        client.text_document_did_open(
            types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, "python", 1, text))
        )
        for _ in range(_ATTEMPTS):
            started = time.perf_counter()
            asked = client.text_document_inline_completion_async(params)
            answer = await self._within(asked, _ANSWER_S)
            is_late = time.perf_counter() - started > _LATE_S
            if not is_late:
                break
        client.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
        )
        items = answer.items if isinstance(answer, types.InlineCompletionList) else answer
        return (items[0] if items else None), is_late

    async def _within(self, awaited: Awaitable[_T], seconds: float) -> _T:
        """Return what comes in time, while the server lives."""
        if self._process is None:
            raise RuntimeError("it was not started")
        wanted = asyncio.ensure_future(awaited)
        ended = asyncio.ensure_future(self._process.wait())
        both = {wanted, ended}
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
            if ended.done():
                raise RuntimeError(f"it ended with status {ended.result()}")
            raise TimeoutError(f"no answer within {seconds:.0f} s")
        finally:
            for task in both:
                task.cancel()

    async def _stop(self) -> None:
        if self._process is None:
            return
        try:
            await self._within(self._client.shutdown_async(None), _CLOSING_S)
            self._client.exit(None)
            await asyncio.wait_for(self._process.wait(), _CLOSING_S)
        except (TimeoutError, RuntimeError, OSError, JsonRpcException):
            if self._process.returncode is None:
                self._process.kill()
        if self._draining is not None:
            await self._draining
        await self._client.stop()  # type: ignore[no-untyped-call]
