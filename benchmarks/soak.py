"""Measures whether the server stays as it is: 10,000 requests, then four servers side by side.

Held-out files, one of them with 20,000 lines, are typed faster than anybody types. Some
requests are superseded, some cancelled, some waited for; code actions are asked for in
between, as editors do wherever the cursor goes. Reported are the delay of the event loop
(``soak_server.py``), memory and open files of the server's processes at the start, after
each quarter and at the end, and whether ``codegen-lsp doctor`` lists all servers.

Run as ``.venv/bin/codegen-lsp bench soak --quick`` after ``make test``. It fetches two
packages from PyPI, once.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from lsprotocol import types
from rich.console import Console
from rich.table import Table

from benchmarks.keystrokes import (
    FILES,
    SHOWING_ALL,
    Tell,
    cpu_name,
    files_folder,
    progress_bars,
    strict_json,
)
from benchmarks.typist import Script, write_script
from lsp_server.doctor import running_servers
from lsp_server.models import exported_folder
from lsp_server.positions import position_at
from tests.e2e.clients import Client, connected

_REQUESTS, _QUICK_REQUESTS = 10_000, 1_000
_N_SERVERS = 4
_N_LINES = 20_000
_KEYS_PER_FILE = 250
_KEY_S = 0.03
"""Between keys; people need about five times as long."""
_WAITED_FOR = 8
"""One in so many requests is waited for; of the others, one in so many is cancelled."""
_CANCELLED = 3
_INVOKED = 50
"""One in so many is explicit."""
_WITH_ACTIONS = 4
"""With one in so many the code actions of the line are asked for."""
_SETTLING = 100
"""Requests before the first look at memory, in which caches fill."""
_DEADLINE_S = 60.0
_WATCH_S = 1.0
"""Between looks at the list of servers."""
_MOST_DELAY_MS = 20.0
_MOST_GROWTH = 1.05
"""Of the server's memory, from the middle to the end."""
_TABLE_WIDTH = 120


@dataclass(frozen=True)
class Look:
    """What the processes of a server hold."""

    server_memory: int
    """Bytes of resident memory."""
    analyser_memory: int
    """Of jedi's process, which is replaced when it is stuck, and then fills again."""
    n_handles: int
    n_processes: int


@dataclass
class Soaked:
    """What became of one server."""

    n_requests: int = 0
    n_answers: int = 0
    """Lists; what was cancelled is an error."""
    n_shown: int = 0
    looks: list[Look] = field(default_factory=list)
    """At the start and after each quarter."""
    delays_ms: dict[str, float] = field(default_factory=dict)
    """Of the event loop, by percentile."""

    @property
    def is_prompt(self) -> bool:
        """Whether the event loop was never held for long."""
        return self.delays_ms["p99.9"] <= _MOST_DELAY_MS

    @property
    def is_flat(self) -> bool:
        """Whether the server's memory stayed as it was, once its caches were full."""
        middle = self.looks[len(self.looks) // 2]
        return self.looks[-1].server_memory <= _MOST_GROWTH * middle.server_memory

    @property
    def leaks_no_handle(self) -> bool:
        """Whether no more files are open than at the first quarter."""
        return self.looks[-1].n_handles <= self.looks[1].n_handles

    def to_json(self) -> dict[str, Any]:
        """Return the figures, and whether they are as they should be."""
        return {
            **asdict(self),
            "is_prompt": self.is_prompt,
            "is_flat": self.is_flat,
            "leaks_no_handle": self.leaks_no_handle,
        }


class Typist:
    """Types scripts over and over, and asks after each key."""

    def __init__(self, client: Client, scripts: dict[str, Script]) -> None:
        self.soaked = Soaked()
        self._client = client
        self._keys = self._endless_keys(scripts)
        self._pending: set[asyncio.Future[Any]] = set()

    async def type(self, n_requests: int, tell: Tell) -> None:
        """Press keys for so many requests, and wait for the answers to the last ones."""
        for _ in range(n_requests):
            uri, place = next(self._keys)
            await self._ask(uri, place)
            tell(1)
            await asyncio.sleep(_KEY_S)
        if self._pending:
            await asyncio.wait(self._pending, timeout=_DEADLINE_S)

    def look(self) -> None:
        """Keep what the server's processes hold by now."""
        server = psutil.Process(self._client.process.pid)
        analysers = server.children(recursive=True)
        processes = [server, *analysers]
        self.soaked.looks.append(
            Look(
                server.memory_info().rss,
                sum(process.memory_info().rss for process in analysers),
                sum(process.num_fds() for process in processes),
                len(processes),
            )
        )

    async def _ask(self, uri: str, place: types.Position) -> None:
        self.soaked.n_requests += 1
        number = self.soaked.n_requests
        msg_id = f"soak {number}"
        pending = self._client.request(
            *(place.line, place.character),
            uri=uri,
            invoked=number % _INVOKED == 0,
            msg_id=msg_id,
        )
        self._pending.add(pending)
        pending.add_done_callback(self._take)
        if number % _WITH_ACTIONS == 0:
            self._ask_for_actions(uri, place)
        if number % _WAITED_FOR == 0:
            await asyncio.wait({pending}, timeout=_DEADLINE_S)
        elif number % _CANCELLED == 0:
            self._client.lsp.cancel_request(types.CancelParams(msg_id))

    def _ask_for_actions(self, uri: str, place: types.Position) -> None:
        params = types.CodeActionParams(
            types.TextDocumentIdentifier(uri),
            types.Range(place, place),
            types.CodeActionContext([]),
        )
        request = types.TEXT_DOCUMENT_CODE_ACTION
        pending = asyncio.wrap_future(self._client.lsp.protocol.send_request(request, params))
        self._pending.add(pending)
        pending.add_done_callback(self._pending.discard)

    def _take(self, pending: "asyncio.Future[Any]") -> None:
        self._pending.discard(pending)
        if not pending.cancelled() and pending.exception() is None:
            self.soaked.n_answers += 1
            self.soaked.n_shown += bool(pending.result().items)

    def _endless_keys(self, scripts: dict[str, Script]) -> Iterator[tuple[str, types.Position]]:
        """Type a script after the other, each in a document that is opened and closed."""
        lsp = self._client.lsp
        # An editor knows where its cursor is; to find that in 20,000 lines for each key
        # would take the processor from the server.
        keys = {uri: list(_keys(script)) for uri, script in scripts.items()}
        while True:
            for uri, script in scripts.items():
                self._client.open(script.start, uri)
                for change, place in keys[uri]:
                    self._client.version += 1
                    lsp.text_document_did_change(
                        types.DidChangeTextDocumentParams(
                            types.VersionedTextDocumentIdentifier(self._client.version, uri),
                            [change],
                        )
                    )
                    yield uri, place
                lsp.text_document_did_close(
                    types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
                )


def _keys(
    script: Script,
) -> Iterator[tuple[types.TextDocumentContentChangePartial, types.Position]]:
    """Yield what each key changes, and where the cursor is then."""
    text = script.start
    for edit in (edit for passage in script.passages for edit in passage.edits):
        start = _position(text, edit.offset)
        end = _position(text, edit.offset + edit.n_deleted)
        text = edit.applied(text)
        change = types.TextDocumentContentChangePartial(types.Range(start, end), edit.text)
        yield change, _position(text, edit.offset + len(edit.text))


def _position(text: str, offset: int) -> types.Position:
    return types.Position(*position_at(text, offset))


def read_scripts() -> dict[str, Script]:
    """Return what is typed into each file; the first has 20,000 lines."""
    folder = files_folder()
    texts = {name: (folder / name).read_text("utf-8") for name in FILES}
    lines = [line for text in texts.values() for line in text.splitlines(keepends=True)]
    n_times = 1 + _N_LINES // len(lines)
    texts = {"long.py": "".join((lines * n_times)[:_N_LINES]), **texts}
    return {
        (folder / name).as_uri(): write_script(text, seed, _KEYS_PER_FILE)
        for seed, (name, text) in enumerate(texts.items())
    }


def read_delays(file: Path) -> dict[str, float]:
    """Return percentiles of what a server wrote down, in milliseconds."""
    delays = np.fromfile(file, np.float32)
    shares = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "most": 100.0}
    return {name: float(np.percentile(delays, share)) for name, share in shares.items()}


async def soak(
    model: str | None, scripts: dict[str, Script], n_requests: int, tell: Tell
) -> tuple[Soaked, int]:
    """Start a server and ask it so often; return what became of it, and its process."""
    options = [f"--model={model}"] if model is not None else []
    with tempfile.TemporaryDirectory() as scratch:
        delays = Path(scratch, "delays")
        command = [sys.executable, "-m", "benchmarks.soak_server", str(delays)]
        async with connected(
            [*command, "codegen-lsp", "serve", *options],
            editor="vscode",
            options=SHOWING_ALL,
            cwd=Path(__file__).parents[1],
        ) as client:
            await client.status("ready")
            pid = client.process.pid
            typist = Typist(client, scripts)
            await typist.type(_SETTLING, lambda _done: None)
            typist.look()
            for _ in range(4):
                await typist.type(n_requests // 4, tell)
                typist.look()
        typist.soaked.delays_ms = read_delays(delays)
    return typist.soaked, pid


async def soak_together(
    model: str | None, scripts: dict[str, Script], n_requests: int, tell: Tell
) -> tuple[list[Soaked], bool]:
    """Soak some servers at once; return what became of them, and whether doctor saw all."""
    seen: set[int] = set()

    async def watch() -> None:
        while True:
            seen.update(server["pid"] for server in await asyncio.to_thread(running_servers))
            await asyncio.sleep(_WATCH_S)

    watching = asyncio.ensure_future(watch())
    each = n_requests // _N_SERVERS
    found = await asyncio.gather(*(soak(model, scripts, each, tell) for _ in range(_N_SERVERS)))
    watching.cancel()
    return [soaked for soaked, _ in found], {pid for _, pid in found} <= seen


def run(options: argparse.Namespace) -> int:
    """Do what ``codegen-lsp bench soak`` does; returns the exit status."""
    n_requests = _QUICK_REQUESTS if options.quick else _REQUESTS
    return measure(n_requests, model=options.model, json_file=options.json)


def measure(n_requests: int, *, model: str | None, json_file: Path | None) -> int:
    """Measure, print a table, and write the same as JSON; returns an exit status.

    Raises:
        ServingError, ExportError: there is nothing to type, or nothing to type at.
    """
    scripts = read_scripts()
    exported_folder(model)
    with progress_bars(Console(stderr=True)) as begin:
        tell = begin("one server", n_requests)
        alone, _ = asyncio.run(soak(model, scripts, n_requests, tell))
        tell = begin(f"{_N_SERVERS} servers", n_requests)
        together, all_listed = asyncio.run(soak_together(model, scripts, n_requests, tell))
    servers = {"alone": alone}
    servers |= {f"{number} of {_N_SERVERS}": one for number, one in enumerate(together, 1)}
    # Into a file or a pipe the table goes as wide as it is.
    out = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    out.print(f"{cpu_name()}, {os.cpu_count()} cores")
    out.print(_table(servers))
    out.print(f"doctor lists all servers: {_yes(all_listed)}")
    if json_file is not None:
        figures = {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "requests": n_requests,
            "servers": {name: one.to_json() for name, one in servers.items()},
            "doctor_lists_all": all_listed,
        }
        json_file.write_text(strict_json(figures), encoding="utf-8")
    return 0


def _table(servers: dict[str, Soaked]) -> Table:
    table = Table(
        "",
        *servers,
        caption="Delays are p50 / p99 / p99.9 / longest, in ms. Memory, in MB, and open files "
        "are at the start and after each quarter. The analyser is replaced when it is stuck.",
    )
    rows: dict[str, Callable[[Soaked], str]] = {
        "requests": lambda s: f"{s.n_requests}",
        "answers, not empty": lambda s: f"{s.n_answers}, {s.n_shown}",
        "event loop delay": lambda s: " / ".join(f"{ms:.1f}" for ms in s.delays_ms.values()),
        f"p99.9 within {_MOST_DELAY_MS:.0f} ms": lambda s: _yes(s.is_prompt),
        "server's memory": lambda s: _in_mb(look.server_memory for look in s.looks),
        "flat from the middle on": lambda s: _yes(s.is_flat),
        "analyser's memory": lambda s: _in_mb(look.analyser_memory for look in s.looks),
        "open files": lambda s: " ".join(f"{look.n_handles}" for look in s.looks),
        "no handle leaked": lambda s: _yes(s.leaks_no_handle),
    }
    for title, show in rows.items():
        table.add_row(title, *map(show, servers.values()))
    return table


def _in_mb(values: Iterable[int]) -> str:
    return " ".join(f"{value / 1e6:.0f}" for value in values)


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
