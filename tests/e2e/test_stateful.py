"""A random editor on the real server: what both know of the documents never parts."""

import asyncio
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from lsp_server.completion import complete
from lsp_server.plan import Snapshot
from tests.e2e.clients import DEADLINE_S, Client, connected
from tests.e2e.stateful_server import CANARY, DOCUMENTS, hashing_model

pytestmark = pytest.mark.e2e

_SERVER = (sys.executable, str(Path(__file__).with_name("stateful_server.py")))
_URIS = [f"file:///project/{name}.py" for name in ("one", "two", "three")]
_LINE_END = re.compile("\r\n|\n|\r")
_UNIT_BYTES = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_CODECS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}

_PIECES = (
    *("\n", "\r", "\r\n", "\f", "\v", "\x1c", "\x85", "\u2028", "\u2029", "\t", "    "),
    *("é", "😀", "e\u0301", "\ufeff", "\udc00", "漢字"),
    *("x", " = ", "(", ")", "'", '"""', "# say ", "def f():\n    return ", f"{CANARY} = "),
    *("for x in y:\n", "FAIL", "import os\r\n"),
)
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join)
_SETTINGS = st.sampled_from(
    [
        {},
        {"candidates": 1},
        {"maxNewTokens": 64},
        {"latencyBudgetMs": 100},
        {"model": "another"},
        {"flagged": CANARY},
        {CANARY: CANARY},
    ]
)
_N_STEPS = 40
"""In each run; left to itself hypothesis begins with runs of a step or two."""
_MODEL = hashing_model()
_LONGEST = 64
"""Characters of an answer, at most."""


@dataclass
class _Asked:
    """One request, and the text that it was for."""

    msg_id: str
    uri: str
    text: str
    offset: int
    place: types.Position
    future: "asyncio.Future[Any]"
    is_cancelled: bool = False
    is_outdated: bool = False
    """Whether an edit, a closing or a newer request followed."""
    has_passed: bool = False
    """Whether the server had read what followed before it answered."""
    is_checked: bool = False


class _Editor(RuleBasedStateMachine):
    """A person with three files who does whatever comes to mind."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding
        self._texts: dict[str, str] = {}
        self._versions: Counter[str] = Counter()
        self._asked: list[_Asked] = []
        self._n_answers: Counter[object] = Counter()
        self._stack = AsyncExitStack()
        self._runner = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "stderr")
        self._client = self._runner.run(self._start())

    async def _start(self) -> Client:
        kinds = types.PositionEncodingKind
        can = types.ClientCapabilities(
            general=types.GeneralClientCapabilities(position_encodings=[kinds(self._encoding)])
        )
        command = [*_SERVER, str(self._log)]
        client = await self._stack.enter_async_context(connected(command, can=can))
        assert client.server.position_encoding == self._encoding
        protocol = client.lsp.protocol
        handle_response = protocol._handle_response

        def count_and_handle(msg_id: Any, *arguments: Any, **options: Any) -> None:
            self._n_answers[msg_id] += 1
            handle_response(msg_id, *arguments, **options)

        protocol._handle_response = count_and_handle  # type: ignore[method-assign]
        return client

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """Do one of all things; as rules of their own some would be left out at random."""
        actions: list[Callable[[st.DataObject], None]]
        actions = [self._open, self._configure, self._compare, self._wait]
        if self._texts:
            actions += [self._edit, self._edit, self._ask, self._write_on, self._leave]
        if self._asked:
            actions += [self._type_along, self._cancel]
        data.draw(st.sampled_from(actions))(data)

    def _open(self, data: st.DataObject) -> None:
        """Open a file, anew if it is open."""
        uri, text = data.draw(st.sampled_from(_URIS)), data.draw(_TEXTS)
        self._close(uri)
        self._versions[uri] += 1
        self._texts[uri] = text
        item = types.TextDocumentItem(uri, "python", self._versions[uri], text)
        self._client.lsp.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def _leave(self, data: st.DataObject) -> None:
        """Close a file."""
        self._close(self._pick(data))

    def _edit(self, data: st.DataObject) -> None:
        """Change a file, in a place or two or as a whole, and perhaps ask at once."""
        uri = self._pick(data)
        changes: list[types.TextDocumentContentChangeEvent] = []
        offset = 0
        for _ in range(data.draw(st.integers(1, 3))):
            text, new = self._texts[uri], data.draw(_TEXTS)
            if data.draw(st.integers(0, 9)) == 0:
                changes.append(types.TextDocumentContentChangeWholeDocument(new))
                self._texts[uri], offset = new, len(new)
                continue
            start, end = sorted(self._offset(data, text) for _ in range(2))
            end = data.draw(st.sampled_from([start, end]))
            place = types.Range(self._position(text, start), self._position(text, end))
            changes.append(types.TextDocumentContentChangePartial(place, new))
            self._texts[uri], offset = text[:start] + new + text[end:], start + len(new)
        self._change(uri, changes)
        if data.draw(st.booleans()) and not _is_in_line_end(self._texts[uri], offset):
            self._send(uri, offset, invoked=False)

    def _ask(self, data: st.DataObject) -> None:
        """Ask for a completion at the end of a file or anywhere in it."""
        uri = self._pick(data)
        text = self._texts[uri]
        offset = data.draw(st.sampled_from([len(text), self._offset(data, text)]))
        self._send(uri, offset, invoked=data.draw(st.booleans()))

    def _write_on(self, data: st.DataObject) -> None:
        """Begin lines that call for an answer, ask in each, and go on without waiting."""
        uri = self._pick(data)
        for number in range(data.draw(st.integers(1, 4))):
            self._append(uri, f"\n{CANARY}{number} = ")
            self._send(uri, len(self._texts[uri]), invoked=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            self._append(uri, "1")
            self._compare()

    def _type_along(self, data: st.DataObject) -> None:
        """Wait for the newest answer, type a part of it, and ask again."""
        asked = self._asked[-1]
        self._settle()
        texts = _inserted(asked)
        if texts and not asked.is_outdated and asked.uri in self._texts:
            typed = texts[0][: data.draw(st.integers(1, len(texts[0])))]
            here = self._position(asked.text, asked.offset)
            self._texts[asked.uri] = (
                asked.text[: asked.offset] + typed + asked.text[asked.offset :]
            )
            change = types.TextDocumentContentChangePartial(types.Range(here, here), typed)
            self._change(asked.uri, [change])
            if not _is_in_line_end(self._texts[asked.uri], asked.offset + len(typed)):
                self._send(asked.uri, asked.offset + len(typed), invoked=False)

    def _cancel(self, data: st.DataObject) -> None:
        """Cancel a request, answered or not."""
        asked = data.draw(st.sampled_from(self._asked[-4:]))
        asked.is_cancelled = True
        self._client.lsp.cancel_request(types.CancelParams(asked.msg_id))

    def _configure(self, data: st.DataObject) -> None:
        """Change the settings, to good ones or bad ones."""
        self._client.lsp.workspace_did_change_configuration(
            types.DidChangeConfigurationParams({"codegen": data.draw(_SETTINGS)})
        )

    def _compare(self, _data: st.DataObject | None = None) -> None:
        """Find the server's documents equal to the editor's."""
        waiting = self._waiting()

        def pass_by(_reply: object) -> None:
            for asked in waiting:
                asked.has_passed = asked.is_outdated and not self._n_answers[asked.msg_id]

        async def look() -> Any:
            reply = self._client.lsp.protocol.send_request(DOCUMENTS, {})
            # Called while the reply is read, so before any answer that comes after it.
            reply.add_done_callback(pass_by)
            return await asyncio.wait_for(asyncio.wrap_future(reply), DEADLINE_S)

        found = json.loads(self._runner.run(look()))
        assert found == {u: [self._versions[u], text] for u, text in self._texts.items()}

    def _wait(self, _data: st.DataObject) -> None:
        """Wait for all answers."""
        self._settle()

    def teardown(self) -> None:
        """Leave; every request has its one answer, and nothing is left running or logged."""
        server = psutil.Process(self._client.process.pid)
        processes = [server, *server.children(recursive=True)]
        try:
            self._compare()
            self._settle()
        finally:
            self._runner.run(self._stack.aclose())
            self._runner.close()
        with self._folder:
            assert {self._n_answers[asked.msg_id] for asked in self._asked} <= {1}
            assert self._client.process.returncode == 0
            _, alive = psutil.wait_procs(processes, timeout=DEADLINE_S)
            assert alive == []
            assert CANARY not in self._log.read_text("utf-8")

    def _pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self._texts)))

    def _offset(self, data: st.DataObject, text: str) -> int:
        offset = data.draw(st.integers(0, len(text)))
        # No position says "between CR and LF".
        return offset - 1 if _is_in_line_end(text, offset) else offset

    def _position(self, text: str, offset: int) -> types.Position:
        ends = [match.end() for match in _LINE_END.finditer(text) if match.end() <= offset]
        before = text[ends[-1] if ends else 0 : offset]
        encoded = before.encode(_CODECS[self._encoding], "surrogatepass")
        return types.Position(len(ends), len(encoded) // _UNIT_BYTES[self._encoding])

    def _change(self, uri: str, changes: list[types.TextDocumentContentChangeEvent]) -> None:
        self._outdate(uri)
        self._versions[uri] += 1
        identifier = types.VersionedTextDocumentIdentifier(self._versions[uri], uri)
        self._client.lsp.text_document_did_change(
            types.DidChangeTextDocumentParams(identifier, changes)
        )

    def _append(self, uri: str, new: str) -> None:
        text = self._texts[uri]
        end = self._position(text, len(text))
        self._texts[uri] = text + new
        change = types.TextDocumentContentChangePartial(types.Range(end, end), new)
        self._change(uri, [change])

    def _close(self, uri: str) -> None:
        if self._texts.pop(uri, None) is not None:
            self._outdate(uri)
            identifier = types.TextDocumentIdentifier(uri)
            self._client.lsp.text_document_did_close(
                types.DidCloseTextDocumentParams(identifier)
            )

    def _send(self, uri: str, offset: int, *, invoked: bool) -> None:
        self._outdate(uri)
        text = self._texts[uri]
        place = self._position(text, offset)

        async def send() -> "asyncio.Future[Any]":
            return self._client.request(
                *(place.line, place.character), uri=uri, invoked=invoked, msg_id=msg_id
            )

        msg_id = f"request {len(self._asked)}"
        future = self._runner.run(send())
        self._asked.append(_Asked(msg_id, uri, text, offset, place, future))

    def _outdate(self, uri: str) -> None:
        for asked in self._waiting():
            asked.is_outdated |= asked.uri == uri

    def _waiting(self) -> list[_Asked]:
        return [asked for asked in self._asked if not asked.future.done()]

    def _settle(self) -> None:
        """Wait for all answers, and find each to be for the text that it was asked for."""
        waiting = self._waiting()
        if waiting:
            futures = [asked.future for asked in waiting]
            self._runner.run(asyncio.wait_for(_all_done(futures), DEADLINE_S))
        for asked in self._asked:
            if not asked.is_checked:
                asked.is_checked = True
                _check(asked)


async def _all_done(futures: "list[asyncio.Future[Any]]") -> None:
    await asyncio.wait(futures)


def _check(asked: _Asked) -> None:
    if isinstance(asked.future.exception(), JsonRpcException):
        assert asked.is_cancelled
        return
    items = asked.future.result().items
    if items:
        assert not asked.has_passed
        assert {item.insert_text for item in items} <= set(_expected(asked))
        assert all(item.range == types.Range(asked.place, asked.place) for item in items)


def _inserted(asked: _Asked) -> list[str]:
    """Return the texts of an answer that was given."""
    if asked.future.exception() is not None:
        return []
    return [item.insert_text for item in asked.future.result().items]


def _expected(asked: _Asked) -> Iterator[str]:
    """Yield what may be answered: what the model says, and what is left of what it said."""
    text, offset = asked.text, asked.offset
    for n_typed in range(min(offset, _LONGEST) + 1):
        before = text[: offset - n_typed]
        typed = text[offset - n_typed : offset]
        snapshot = Snapshot(before + text[offset:], len(before), "python", asked.uri)
        try:
            completion = complete(_MODEL, snapshot, max_new_tokens=256)
        except (RuntimeError, UnicodeEncodeError):
            continue
        for candidate in completion.candidates:
            if candidate.insert_text.startswith(typed):
                yield candidate.insert_text[n_typed:]


def _is_in_line_end(text: str, offset: int) -> bool:
    return text[offset - 1 : offset + 1] == "\r\n" if offset else False


@pytest.mark.parametrize("encoding", _CODECS)
def test_the_server_and_a_random_editor_agree(encoding: str) -> None:
    """Whatever an editor does, documents stay equal, and each answer is for its own text."""
    run_state_machine_as_test(
        partial(_Editor, encoding),  # type: ignore[arg-type]
        _min_steps=_N_STEPS,
        settings=settings(
            max_examples=4,
            stateful_step_count=_N_STEPS,
            derandomize=True,
            deadline=None,
            # To look for shorter runs would cost a server for each.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
