"""Counts what is wrong with completions at places in real files, and what the filters cost.

At each place the embedded model is asked twice, with the filters and without them, and each
answer is judged (``judge.py``) and compared with what stood there (``places.py``). Then the
real server is asked, the text is edited before it can answer, and it is asked again: no
answer may be for a text that has passed, and each is judged too. It checks its answers, as
it does for people.

Run as ``.venv/bin/codegen-lsp bench replay --quick`` after ``make test``. It needs no network.
"""

import argparse
import asyncio
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from rich.console import Console
from rich.table import Table

from benchmarks.judge import FAULTS, find_faults
from benchmarks.keystrokes import Tell, cpu_name, progress_bars, strict_json
from benchmarks.places import KINDS, Place, find_places
from lsp_server.completion import Completion, complete
from lsp_server.errors import ServingError
from lsp_server.loading import load_model
from lsp_server.plan import Snapshot
from lsp_server.positions import position_at
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from model_export.errors import ExportError
from tests.e2e.clients import Client, connected

_PLACES, _QUICK_PLACES = 2000, 200
_SEED = 0
_PACKAGES = (
    *("attr", "cattrs", "click", "huggingface_hub", "hypothesis", "jedi", "parso"),
    *("pyflakes", "pygls", "rich", "tqdm"),
)
"""Where they are installed, beside the standard library."""
_PER_FILE = 20
_FEWEST_BYTES, _MOST_BYTES = 2_000, 24_000
_SHOWN = 20
"""Faults that are printed at most."""
_ABOVE_SHARE = 0.1
"""Of the edits, those in the file's first line."""
_DEADLINE_S = 60.0
_LEAST_SHARE = 0.9
_MAX_NEW_TOKENS = 64
"""Without the filters a small model often writes as much as it may."""
_PATIENT = {
    "latencyBudgetMs": 60_000,
    "deadlineMs": 60_000,
    "maxNewTokens": _MAX_NEW_TOKENS,
    "checkDeadlineMs": 60_000,
    "suggest": "eager",
}
"""Settings with which the server reads, writes and checks all, however slow the machine is."""
_TABLE_WIDTH = 120


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one answer."""

    kind: str
    problem: str
    asked: str
    """Who was asked."""
    place: Place
    answer: str

    def __str__(self) -> str:
        """Return a few lines that show it."""
        before = "".join(self.place.before.splitlines(keepends=True)[-3:])
        after = "".join(self.place.after.splitlines(keepends=True)[:3])
        return (
            f"{self.kind}, {self.asked}: {self.problem} "
            f"({self.place.file}, {self.place.kind}, {self.place.style})\n"
            f"{before}⟦{self.answer}⟧{after.rstrip()}\n"
        )


@dataclass
class Tally:
    """What came of all places of one kind, or under one rule."""

    n_places: int = 0
    n_answers: int = 0
    """Those that are not empty."""
    n_accepted: int = 0
    """Characters from the answers' beginnings that stood there, blanks aside."""
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, place: Place, answer: str, faults: Sequence[str]) -> None:
        """Count one answer, which may be empty."""
        self.n_places += 1
        self.n_answers += bool(answer)
        self.n_accepted += place.n_accepted(answer)
        self.faults.update(faults)

    def to_json(self) -> dict[str, Any]:
        """Return all counts."""
        return vars(self) | {"faults": dict(self.faults)}


class _Key(NamedTuple):
    kind: str
    rule: str
    is_missing: bool
    """Whether something stood at the cursor that was taken away."""


@dataclass
class Replayed:
    """All that was found."""

    tallies: dict[_Key, tuple[Tally, Tally]] = field(default_factory=dict)
    """With the filters and without, by places that are alike."""
    server: Tally = field(default_factory=Tally)
    n_superseded: int = 0
    """Requests of the server that an edit followed and that got no text."""
    n_stale: int = 0
    n_otherwise: int = 0
    """Answers of neither text when it is read anew: going on in a cache uses other kernels,
    so that near-ties can flip."""
    n_expected: int = 0
    """Answers of the server that were compared with what the model says of their text."""
    faults: list[Fault] = field(default_factory=list)

    def take(self, place: Place, with_filters: Completion, without: Completion) -> None:
        """Judge what one place got."""
        rule = with_filters.rule.value if with_filters.rule else "none"
        key = _Key(place.kind, rule, bool(place.expected.strip()))
        pair = self.tallies.setdefault(key, (Tally(), Tally()))
        answers = (_text_of(with_filters), _text_of(without))
        names = ("with filters", "without")
        for tally, answer, name in zip(pair, answers, names, strict=True):
            tally.add(place, answer, self.judge(place, answer, name))

    def judge(self, place: Place, answer: str, asked: str) -> list[str]:
        """Return the kinds of faults of an answer, and keep them where they count."""
        found = find_faults(place, answer) if answer else {}
        if asked != "without":
            self.faults += [
                Fault(kind, problem, asked, place, answer) for kind, problem in found.items()
            ]
        return list(found)


def _text_of(completion: Completion) -> str:
    return completion.candidates[0].insert_text if completion.candidates else ""


def source_files() -> list[Path]:
    """Return Python files of the standard library and of installed packages."""
    folders = {Path(sysconfig.get_path("stdlib")): "*.py"}
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders[Path(spec.submodule_search_locations[0])] = "**/*.py"
    files = [file for folder, name in folders.items() for file in sorted(folder.glob(name))]
    return [f for f in files if _FEWEST_BYTES <= f.stat().st_size <= _MOST_BYTES]


def read_places(n_places: int, seed: int) -> list[Place]:
    """Return so many places; those of one text from its beginning on, which saves reading."""
    rng = np.random.default_rng(seed)
    files = source_files()
    places: list[Place] = []
    for index in rng.permutation(len(files)):
        file = files[index]
        try:
            text = file.read_text("utf-8")
            found = list(find_places(f"{file.parent.name}/{file.name}", text, _PER_FILE, rng))
        except (SyntaxError, UnicodeDecodeError):
            continue
        places += sorted(found, key=lambda place: (place.style, len(place.before)))
        if len(places) >= n_places:
            break
    return places[:n_places]


def ask_model(model: Model, places: Sequence[Place], replayed: Replayed, tell: Tell) -> None:
    """Ask the model at each place, with the filters and without."""
    for place in places:
        snapshot = Snapshot(place.text, place.offset)
        with_filters, without = (
            complete(model, snapshot, max_new_tokens=_MAX_NEW_TOKENS, filters=filters)
            for filters in (True, False)
        )
        replayed.take(place, with_filters, without)
        tell(1)


def edited(place: Place, rng: np.random.Generator) -> Place:
    """Return a place after an edit at its cursor, or above it."""
    if rng.random() < _ABOVE_SHARE:
        line = "import os\n"
        return replace(place, before=line + place.before, n_before=place.n_before + len(line))
    choices = (place.expected[:1].strip() or "x", "\n" + place.indent, "x = ")
    typed = choices[rng.integers(len(choices))]
    return replace(
        place,
        before=place.before + typed,
        n_before=place.n_before + len(typed),
        expected=place.expected.removeprefix(typed),
    )


async def ask_server(
    client: Client,
    model: Model,
    places: Sequence[Place],
    replayed: Replayed,
    seed: int,
    tell: Tell,
) -> None:
    """Ask the server at each place, edit before it can answer, and ask again."""
    rng = np.random.default_rng(seed)
    for number, place in enumerate(places):
        uri = f"file:///replay/{number}.py"
        after = edited(place, rng)
        client.open(place.text, uri)
        first = client.request(*_position(place), uri=uri, invoked=False)
        _send(client, uri, after.text)
        second = client.request(*_position(after), uri=uri, invoked=False)
        old, new = await _answer(first), await _answer(second)
        client.lsp.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
        )
        _take_pair(model, (place, after), (old, new), replayed)
        tell(1)


def _take_pair(
    model: Model,
    places: tuple[Place, Place],
    answers: tuple[str, str],
    replayed: Replayed,
) -> None:
    place, after = places
    old, new = answers
    replayed.n_superseded += not old
    if old:
        replayed.n_stale += 1
        fault = Fault("stale answer", "an edit came before it", "the server", place, old)
        replayed.faults.append(fault)
    replayed.server.add(after, new, replayed.judge(after, new, "the server"))
    if not new:
        return
    replayed.n_expected += 1
    if not _is_for(model, after, new):
        typed = after.text[place.offset : after.offset]
        if _is_for(model, place, new):
            replayed.n_stale += 1
            problem = "it is the answer of the text before the edit"
            replayed.faults.append(Fault("stale answer", problem, "the server", after, new))
        elif not _is_for(model, place, typed + new):
            replayed.n_otherwise += 1


def _is_for(model: Model, place: Place, answer: str) -> bool:
    """Tell whether an answer is what the model says at a place, or its first lines."""
    snapshot = Snapshot(place.text, place.offset)
    text = _text_of(complete(model, snapshot, max_new_tokens=_MAX_NEW_TOKENS))
    return text.startswith(answer) and text[len(answer) :][:1] in ("", "\r", "\n")


def _position(place: Place) -> tuple[int, int]:
    position = position_at(place.text, place.offset)
    return position.line, position.character


def _send(client: Client, uri: str, text: str) -> None:
    client.version += 1
    client.lsp.text_document_did_change(
        types.DidChangeTextDocumentParams(
            types.VersionedTextDocumentIdentifier(client.version, uri),
            [types.TextDocumentContentChangeWholeDocument(text)],
        )
    )


async def _answer(pending: "asyncio.Future[Any]") -> str:
    """Return the text of an answer, nothing where it is empty or an error."""
    try:
        answer = await asyncio.wait_for(pending, _DEADLINE_S)
    except JsonRpcException:
        return ""
    return answer.items[0].insert_text if answer and answer.items else ""


async def ask_a_server(
    name: str | None,
    model: Model,
    places: Sequence[Place],
    replayed: Replayed,
    seed: int,
    tell: Tell,
) -> None:
    """Start a server and ask it at each place."""
    options = [f"--model={name}"] if name is not None else []
    command = [sys.executable, "-m", "lsp_server", "serve", *options]
    async with connected(
        command, editor="vscode", options=_PATIENT, cwd=Path(__file__).parents[1]
    ) as client:
        await client.status("ready")
        await ask_server(client, model, places, replayed, seed, tell)


def run(options: argparse.Namespace) -> int:
    """Do what ``codegen-lsp bench replay`` does; returns the exit status."""
    n_places = _QUICK_PLACES if options.quick else _PLACES
    return measure(n_places, _SEED, model=options.model, json_file=options.json)


def measure(n_places: int, seed: int, *, model: str | None, json_file: Path | None) -> int:
    """Measure, print tables, and write the same as JSON; returns an exit status.

    Raises:
        ServingError, ExportError: there is no such model.
    """
    console = Console(stderr=True)
    loaded = load_model(Settings(model=model))
    replayed = Replayed()
    with progress_bars(console) as begin:
        places = read_places(n_places, seed)
        ask_model(loaded, places, replayed, begin("the model", len(places)))
        tell = begin("the server", len(places))
        asyncio.run(ask_a_server(model, loaded, places, replayed, seed, tell))
    out = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH, markup=False)
    for fault in replayed.faults[:_SHOWN]:
        out.print(str(fault), highlight=False)
    files = len({place.file for place in places})
    out.print(f"{cpu_name()}, {os.cpu_count()} cores; {len(places)} places in {files} files")
    out.print(_table(replayed))
    out.print(_server_table(replayed))
    if json_file is not None:
        json_file.write_text(strict_json(figures(replayed, seed)), encoding="utf-8")
    return 0


def _total(
    replayed: Replayed, is_meant: Callable[[_Key], bool] = lambda _: True
) -> tuple[Tally, Tally]:
    totals = (Tally(), Tally())
    for key, pair in replayed.tallies.items():
        for total, tally in zip(totals, pair if is_meant(key) else (), strict=False):
            total.n_places += tally.n_places
            total.n_answers += tally.n_answers
            total.n_accepted += tally.n_accepted
            total.faults.update(tally.faults)
    return totals


def _has(name: str, value: str, key: _Key) -> bool:
    return bool(getattr(key, name) == value)


def _rows(replayed: Replayed) -> Iterator[tuple[str, tuple[Tally, Tally]]]:
    """Yield sums by the places' kinds, by the rules, by what was missing, and of all."""
    for kind in KINDS:
        yield kind, _total(replayed, partial(_has, "kind", kind))
    for rule in sorted({key.rule for key in replayed.tallies}):
        yield f"rule: {rule}", _total(replayed, partial(_has, "rule", rule))
    yield "nothing is missing", _total(replayed, lambda key: not key.is_missing)
    yield "something is missing", _total(replayed, lambda key: key.is_missing)
    yield "all", _total(replayed)


def _table(replayed: Replayed) -> Table:
    table = Table(
        *("", "places", *FAULTS, "answers", "of those", "accepted", "of those"),
        caption="With the filters / without. Accepted: characters from the answers' beginnings "
        "that stood there. Of those: what stays of the answers and of the characters that "
        "the same places get without the filters. Where nothing is missing, no answer may be "
        "the right one.",
    )
    for name, (ours, theirs) in _rows(replayed):
        table.add_row(
            *(name, f"{ours.n_places}"),
            *(f"{ours.faults[fault]} / {theirs.faults[fault]}" for fault in FAULTS),
            f"{ours.n_answers} / {theirs.n_answers}",
            _percent(ours.n_answers, theirs.n_answers),
            f"{ours.n_accepted} / {theirs.n_accepted}",
            _percent(ours.n_accepted, theirs.n_accepted),
        )
    return table


def _server_table(replayed: Replayed) -> Table:
    server = replayed.server
    table = Table("the server, asked, edited and asked again", "")
    table.add_row("places", f"{server.n_places}")
    table.add_row("first requests that an edit ended", f"{replayed.n_superseded}")
    table.add_row("second requests with an answer", f"{server.n_answers}")
    table.add_row("stale answers", f"{replayed.n_stale}")
    otherwise = f"{replayed.n_otherwise} of {replayed.n_expected}"
    table.add_row("answers that a fresh cache gives otherwise", otherwise)
    for fault in FAULTS:
        table.add_row(fault, f"{server.faults[fault]}")
    return table


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def figures(replayed: Replayed, seed: int) -> dict[str, Any]:
    """Return all that the tables say and every fault, for JSON."""
    ours, theirs = _total(replayed, lambda key: key.is_missing)
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "seed": seed,
        "rows": {
            name: {"with_filters": one.to_json(), "without": other.to_json()}
            for name, (one, other) in _rows(replayed)
        },
        "server": {
            **replayed.server.to_json(),
            "superseded": replayed.n_superseded,
            "stale": replayed.n_stale,
            "otherwise": replayed.n_otherwise,
        },
        "is_faultless": not replayed.faults,
        "keeps_answers": ours.n_answers >= _LEAST_SHARE * theirs.n_answers,
        "keeps_characters": ours.n_accepted >= _LEAST_SHARE * theirs.n_accepted,
        "faults": [
            {
                "kind": fault.kind,
                "problem": fault.problem,
                "asked": fault.asked,
                "file": fault.place.file,
                "answer": fault.answer,
            }
            for fault in replayed.faults
        ],
    }


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--positions", type=int, default=_PLACES, metavar="N")
    parser.add_argument("--seed", type=int, default=_SEED, metavar="S")
    parser.add_argument("--model", metavar="M", help="default: the embedded model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the figures")
    options = parser.parse_args()
    try:
        return measure(
            options.positions, options.seed, model=options.model, json_file=options.json
        )
    except (ServingError, ExportError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
