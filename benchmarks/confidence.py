"""Finds how sure a model must be of what it suggests unasked, and measures what that gives.

At keys of files that the embedded model never saw, what comes up to the next blank line is
taken away, as if it were not written yet, and a completion is asked for. It is right where
its first line is what stood there. Thresholds are chosen for each level and rule: those that
show the most, of those with which as much of it is right as the level asks for. What they
give is measured on packages that they were not chosen on, in two turns: those chosen on one
half of the packages are tried on the other. The intervals, of 95 %, are over files. Programs
of comment turns, which no level hides, are measured beside them.

Run as ``.venv/bin/python -m benchmarks.confidence`` after ``make test``, with ``--model``
for another than the embedded model; it fetches packages from PyPI, once. What it prints
at last, chosen on all packages, goes into ``lsp_server/confidence.toml``. What other models
saw, nobody knows.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.environments import cache_folder
from benchmarks.keystrokes import cpu_name, fetch, progress_bars, strict_json
from lsp_server.completion import Candidate, complete
from lsp_server.confidence import EAGER, FILE, Thresholds
from lsp_server.errors import ServingError
from lsp_server.loading import open_model
from lsp_server.models import exported_folder
from lsp_server.plan import Rule, Snapshot, plan_completion
from lsp_server.serving_model import Model
from lsp_server.turns import read_turns
from model_export.errors import ExportError
from model_export.manifest import read_manifest

LEVELS = {"quiet": 0.6, "balanced": 0.4}
"""How much of what a level shows is to be right."""
RULES = (Rule.LINE, Rule.STATEMENT)
_PACKAGES = (
    "arrow==1.3.0", "cattrs==24.1.2", "click==8.1.7", "httpx==0.27.2", "invoke==2.2.0",
    "loguru==0.7.2", "requests==2.32.3", "structlog==24.4.0", "tinydb==4.8.2", "tqdm==4.66.4",
)  # fmt: skip
"""None is in the embedded model's training list."""
_NOT_ITS_OWN = {"tests", "vendor", "_vendor"}
_PLACES = 1500
_TURNS_SHARE = 0.1
_CONTEXT = 1024
"""Tokens, so that prompts are read in minutes."""
_MAX_NEW_TOKENS = 64
"""About what a model writes by the deadline."""
_STEPS = 41
"""Thresholds that are tried, of each kind."""
_FEWEST = 20
"""So few right or wrong suggestions say nothing."""
_SAMPLES = 2000
_SEED = 0
_TABLE_WIDTH = 120


@dataclass(frozen=True)
class Place:
    """A cursor, and what stood there up to the next blank line."""

    file: str
    snapshot: Snapshot
    expected: str


@dataclass(frozen=True)
class Suggestion:
    """What a model wrote at a place."""

    file: str
    candidate: Candidate
    expected: str

    def to_json(self) -> dict[str, Any]:
        """Return what a calibration needs to know, and no text."""
        candidate = self.candidate
        return {
            "file": self.file,
            "rule": candidate.rule.value if candidate.rule else "",
            "mean": candidate.mean_log_probability,
            "first": candidate.first_log_probability,
            "is_right": self.is_right,
            "is_half_right": self.is_half_right,
            "n_right": self.n_right,
        }

    @property
    def is_right(self) -> bool:
        """Whether its first line is what stood there."""
        return first_line(self.candidate.insert_text) == first_line(self.expected)

    @property
    def is_half_right(self) -> bool:
        """Whether at least half of its first line is how what stood there begins."""
        ours, theirs = first_line(self.candidate.insert_text), first_line(self.expected)
        return theirs.startswith(ours[: (len(ours) + 1) // 2])

    @property
    def n_right(self) -> int:
        """Characters of a first line that is right, without blanks around it."""
        return len(first_line(self.expected).strip()) if self.is_right else 0


@dataclass(frozen=True)
class Shown:
    """What a level shows of the suggestions of a rule, on files that it was not set on."""

    level: str
    rule: str
    suggestions: int
    shown: int
    right: int
    half_right: int
    precision: float
    """The share of what is shown that is right, NaN where nothing is shown."""
    least: float
    most: float
    """The ends of its interval."""
    kept: float
    """Of the characters of right first lines, how many are shown."""

    @property
    def share(self) -> float:
        """How much of the suggestions is shown."""
        return self.shown / max(1, self.suggestions)


def first_line(text: str) -> str:
    """Return the first line that is not blank; a newline before it tells that it is new."""
    line = text.lstrip()
    blanks = text[: len(text) - len(line)]
    _, newline, indent = blanks.rpartition("\n")
    return newline + indent + line.partition("\n")[0].rstrip()


def typed_keys(source: str) -> list[int]:
    """Return the offsets where a person has the cursor who types the lines of code."""
    offsets: list[int] = []
    start = 0
    for line in source.split("\n"):
        code = line.lstrip()
        if code and not code.startswith("#"):
            offsets += range(start + len(line) - len(code), start + len(line) + 1)
        start += len(line) + 1
    return offsets


def place_at(file: str, source: str, offset: int) -> Place:
    """Return the place of a cursor without what comes after it up to a blank line."""
    end = _blank_line_after(source, offset)
    snapshot = Snapshot(source[:offset] + source[end:], offset)
    return Place(file, snapshot, source[offset:end])


def turn_places(file: str, source: str) -> Iterator[Place]:
    """Yield the place below each comment, indented, without its program."""
    for turn in read_turns(source, "python"):
        code = source[turn.prompt_end :].lstrip(" ")
        if turn.has_program and code[:1] != "\n":
            yield place_at(file, source, len(source) - len(code))


def _blank_line_after(source: str, offset: int) -> int:
    end = source.find("\n\n", offset)
    return end if end >= 0 else len(source)


def choose_places(sources: dict[str, str], n_places: int) -> list[Place]:
    """Return places where something is completed, in the order of the text.

    So the cache has most of what is before each.
    """
    rng = np.random.default_rng(_SEED)
    keys = [(file, key) for file, source in sources.items() for key in typed_keys(source)]
    turns = [place for file, source in sources.items() for place in turn_places(file, source)]
    places = [turns[i] for i in rng.permutation(len(turns))[: round(_TURNS_SHARE * n_places)]]
    for index in rng.permutation(len(keys)):
        if len(places) >= n_places:
            break
        file, key = keys[index]
        place = place_at(file, sources[file], key)
        if not isinstance(plan_completion(place.snapshot), str):
            places.append(place)
    return sorted(places, key=lambda place: (place.file, place.snapshot.offset))


def suggest(
    model: Model, places: Sequence[Place], tell: Callable[[int], None]
) -> Iterator[Suggestion]:
    """Yield what a model writes, where it writes anything."""
    for place in places:
        completion = complete(model, place.snapshot, max_new_tokens=_MAX_NEW_TOKENS)
        if completion.candidates:
            yield Suggestion(place.file, completion.candidates[0], place.expected)
        tell(1)


def halves(suggestions: Sequence[Suggestion]) -> tuple[list[Suggestion], list[Suggestion]]:
    """Return the suggestions of two halves of the packages, as many in each as can be."""
    by_package: dict[str, list[Suggestion]] = {}
    for one in suggestions:
        by_package.setdefault(one.file.partition("/")[0], []).append(one)
    found: tuple[list[Suggestion], list[Suggestion]] = ([], [])
    for own in sorted(by_package.values(), key=len, reverse=True):
        min(found, key=len).extend(own)
    return found


def calibrate(suggestions: Sequence[Suggestion], share: float) -> Thresholds:
    """Return the thresholds that show the most, of those with which the share is right.

    Where none do, only what is certain is shown.
    """
    means = np.array([one.candidate.mean_log_probability for one in suggestions])
    firsts = np.array([one.candidate.first_log_probability for one in suggestions])
    is_right = np.array([one.is_right for one in suggestions])
    best, n_best = Thresholds(0.0, 0.0), 0
    for mean, first in product(_steps(means), _steps(firsts)):
        is_shown = (means >= mean) & (firsts >= first)
        n_shown = int(is_shown.sum())
        if n_shown > max(n_best, _FEWEST - 1) and is_right[is_shown].mean() >= share:
            best, n_best = Thresholds(mean, first), n_shown
    return best


def _steps(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    """Return thresholds that hide nothing, then more and more."""
    if not len(values):
        return []
    shares = np.linspace(0, 1, _STEPS)[1:]
    return [-math.inf, *(round(float(value), 3) for value in np.quantile(values, shares))]


def measure(
    level: str, rule: str, suggestions: Sequence[Suggestion], shown: Sequence[Suggestion]
) -> Shown:
    """Return the figures of what is shown of the suggestions."""
    least, most = _interval(shown)
    n_right = sum(one.is_right for one in shown)
    return Shown(
        level=level,
        rule=rule,
        suggestions=len(suggestions),
        shown=len(shown),
        right=n_right,
        half_right=sum(one.is_half_right for one in shown),
        precision=n_right / len(shown) if shown else math.nan,
        least=least,
        most=most,
        kept=sum(one.n_right for one in shown)
        / max(1, sum(one.n_right for one in suggestions)),
    )


def _interval(shown: Sequence[Suggestion]) -> tuple[float, float]:
    """Return between what shares of them are right; those of a file belong together."""
    files = sorted({one.file for one in shown})
    if not files:
        return math.nan, math.nan
    n_shown = np.array([sum(one.file == file for one in shown) for file in files])
    n_right = np.array([sum(one.is_right for one in shown if one.file == f) for f in files])
    drawn = np.random.default_rng(_SEED).integers(len(files), size=(_SAMPLES, len(files)))
    shares = n_right[drawn].sum(axis=1) / n_shown[drawn].sum(axis=1)
    least, most = np.percentile(shares, (2.5, 97.5)).tolist()
    return least, most


Calibrated = dict[str, dict[Rule, Thresholds]]


def figures_of(suggestions: Sequence[Suggestion]) -> tuple[Calibrated, list[Shown]]:
    """Return thresholds from all packages, and what those of each half give on the other."""
    first, second = halves(suggestions)
    tried = [(_calibrated(second), first), (_calibrated(first), second)]
    found = []
    for level in (*LEVELS, EAGER):
        shown = {
            rule: [
                one
                for calibrated, held_out in tried
                for one in _of(held_out, rule)
                if calibrated[level][rule].let_through(one.candidate)
            ]
            for rule in RULES
        }
        found += [measure(level, r.value, _of(suggestions, r), shown[r]) for r in RULES]
        both = [one for rule in RULES for one in _of(suggestions, rule)]
        found.append(measure(level, "both", both, [s for r in RULES for s in shown[r]]))
    turns = _of(suggestions, Rule.TURN)
    surest = sorted(turns, key=lambda one: -one.candidate.mean_log_probability)
    found.append(measure("any", Rule.TURN.value, turns, turns))
    found.append(measure("the surest half", Rule.TURN.value, turns, surest[: len(turns) // 2]))
    return _calibrated(suggestions), found


def _calibrated(suggestions: Sequence[Suggestion]) -> Calibrated:
    return {
        EAGER: dict.fromkeys(RULES, Thresholds()),
        **{
            level: {rule: calibrate(_of(suggestions, rule), share) for rule in RULES}
            for level, share in LEVELS.items()
        },
    }


def _of(suggestions: Sequence[Suggestion], rule: Rule) -> list[Suggestion]:
    return [one for one in suggestions if one.candidate.rule is rule]


def as_toml(name: str, precision: str, command: str, calibrated: Calibrated) -> str:
    """Return a model's part of the file of thresholds."""
    key = json.dumps(name)
    lines = [f"[{key}]", f"precision = {json.dumps(precision)}"]
    lines.append(f"command = {json.dumps(command)}")
    for level, share in LEVELS.items():
        lines += ["", f"[{key}.{level}]", f"right = {share}"]
        for rule, chosen in calibrated[level].items():
            lines.append(f"{rule.value} = {{ mean = {chosen.mean}, first = {chosen.first} }}")
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Shown]) -> Table:
    table = Table(
        *("level", "rule", "suggestions", "shown", "right", "95 %", "half right", "kept"),
        caption="Shown: of the suggestions. Right and half right: of what is shown. Kept: of "
        "the characters of right first lines, how many are shown.",
    )
    for one in found:
        table.add_row(
            *(one.level, one.rule, f"{one.suggestions}", _percent(one.share)),
            *(_percent(one.precision), f"{_percent(one.least)} to {_percent(one.most)}"),
            *(_percent(one.half_right / max(1, one.shown)), _percent(one.kept)),
        )
    return table


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def run(options: argparse.Namespace) -> int:
    """Measure, print a table and the thresholds, and write the same as JSON.

    Raises:
        ServingError, ExportError: there is no such model here, or nothing to complete.
    """
    root = cache_folder() / "confidence"
    if not root.is_dir():
        fetch(_PACKAGES, root)
    folder = exported_folder(options.model)
    model = open_model(folder)
    model.engine.context_length = min(_CONTEXT, model.engine.context_length)
    names = [package.partition("==")[0] for package in _PACKAGES]
    paths = [path for name in names for path in sorted((root / name).rglob("*.py"))]
    own = [path for path in paths if not _NOT_ITS_OWN & set(path.relative_to(root).parts)]
    sources = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in own}
    places = choose_places(sources, options.places)
    with progress_bars(Console(stderr=True)) as begin:
        suggestions = list(suggest(model, places, begin(model.name, len(places))))
    calibrated, found = figures_of(suggestions)
    command = f"python -m benchmarks.confidence --places {options.places}"
    if options.model:
        command += f" --model {model.name}"
    # Into a file or a pipe the table goes as wide as it is.
    out = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    out.print(f"{model.name}, {cpu_name()}, {os.cpu_count()} cores")
    out.print(f"{len(places)} places, {len(suggestions)} with a suggestion")
    out.print(_table(found))
    print(f"For lsp_server/{FILE}:\n")
    print(as_toml(model.name, read_manifest(folder).precision, command, calibrated))
    if options.json is not None:
        figures = {
            "model": model.name,
            "places": len(places),
            "suggestions": [one.to_json() for one in suggestions],
            "levels": [{**asdict(one), "share": one.share} for one in found],
            "thresholds": {
                level: {rule.value: asdict(chosen[rule]) for rule in RULES}
                for level, chosen in calibrated.items()
            },
        }
        options.json.write_text(strict_json(figures), encoding="utf-8")
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", help="another than the embedded model")
    parser.add_argument("--places", type=int, default=_PLACES)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    try:
        return run(parser.parse_args())
    except (ServingError, ExportError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
