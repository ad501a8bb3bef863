"""Measures how much of a prompt stands from key to key, with and without a condensed head.

Files of the standard library, some longer than the context, are typed as a person would
(``typist.py``), jumps to other places and wrong keys included. After each key the prompt is
planned twice: as the end of the text alone, and with what is in use of the text before.
With ``--lines`` a model also tells how likely it finds lines past the context, of packages
that the embedded one never saw; those that name what left the prompt are told apart.

Run as ``.venv/bin/python -m benchmarks.prefix_reuse`` after ``make test``.
"""

import argparse
import math
import re
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.keystrokes import Times, cpu_name, files_folder, progress_bars, strict_json
from benchmarks.typist import write_script
from lsp_server.loading import open_model
from lsp_server.models import embedded_checkpoint, exported_folder
from lsp_server.plan import Plan, Snapshot, plan_completion
from lsp_server.prompt import TextTokenizer, beginning, build_prompt
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from lsp_server.turns import read_turns

_FILES = ("argparse.py", "configparser.py", "textwrap.py", "reprlib.py", "bisect.py")
_HELD_OUT = ("click/core.py", "click/types.py", "tqdm/std.py")
"""What the embedded model never saw, for its bits per byte."""
_CONTEXTS = (2048, 512)
_MAX_NEW_TOKENS = 256
_KEYS, _QUICK_KEYS = 1000, 200
_SEED = 0
_ENOUGH = 0.95
"""Of the last prompt's tokens."""
_DEFINED = re.compile(r"^(?:async def|def|class) (\w+)", re.MULTILINE)
_WORD = re.compile(r"\w+")
_TITLES = {False: "end of the text", True: "with a condensed head"}
"""By whether the old text is condensed."""
_TABLE_WIDTH = 110


@dataclass
class Kept:
    """What became of the prompts of one way to plan them."""

    title: str
    context: int
    kept: list[float] = field(default_factory=list)
    """For each key, the share of the last prompt that the prompt begins with."""
    kept_in_place: list[float] = field(default_factory=list)
    """The same without the first key after a jump."""
    lengths: list[int] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of keys that keep enough."""
        return float(np.mean([kept >= _ENOUGH for kept in self.kept]))

    @property
    def share_in_place(self) -> float:
        """The same without the first key after a jump."""
        return float(np.mean([kept >= _ENOUGH for kept in self.kept_in_place]))


@dataclass
class Guessed:
    """How likely a model finds lines past the context."""

    title: str
    context: int
    n_lines: int = 0
    n_bytes: int = 0
    bits: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TITLES.values(), 0.0))
    """By how the prompt was planned."""


def _n_tokens(context: int) -> int:
    return context - min(_MAX_NEW_TOKENS, context // 2)


def typed(source: str, n_keys: int) -> Iterator[tuple[Plan, bool]]:
    """Yield what each key calls for, and whether it is the first at its place."""
    script = write_script(source, _SEED, n_keys)
    text = script.start
    for passage in script.passages:
        is_first = True
        for edit in passage.edits:
            text = edit.applied(text)
            plan = plan_completion(Snapshot(text, edit.offset + len(edit.text)))
            if isinstance(plan, Plan):
                yield plan, is_first
                is_first = False


def follow(tokenizer: TextTokenizer, plans: Sequence[tuple[Plan, bool]], kept: Kept) -> None:
    """Plan the prompt of each key, and compare it with the one before."""
    last: list[int] = []
    for plan, is_first in plans:
        started = time.thread_time()
        token_ids = build_prompt(
            tokenizer,
            plan.before,
            plan.turns,
            n_tokens=_n_tokens(kept.context),
            heal=plan.heal,
            eos_token_id=0,
            condense=kept.title == _TITLES[True],
        ).token_ids
        kept.times_ms.append(1e3 * (time.thread_time() - started))
        kept.lengths.append(len(token_ids))
        if last:
            pairs = zip(last, token_ids, strict=False)
            n_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            kept.kept.append(n_same / len(last))
            if not is_first:
                kept.kept_in_place.append(n_same / len(last))
        last = token_ids


def guess(model: Model, sources: Sequence[str], n_lines: int, context: int) -> list[Guessed]:
    """Return bits per byte of lines, those that name what left and others."""
    found = {True: Guessed("that name what left", context), False: Guessed("others", context)}
    places = [(s, match.end()) for s in sources for match in re.finditer("\n", s)]
    turns = {source: read_turns(source) for source in sources}
    n_tokens = _n_tokens(context)
    for index in np.random.default_rng(_SEED).permutation(len(places)):
        source, offset = places[index]
        text, line = source[:offset], source[offset : source.find("\n", offset) + 1]
        # A file of so many characters does not fit, and about so many of it do.
        start = offset - 4 * n_tokens
        if start < 0 or not line.strip() or line.lstrip().startswith("#"):
            continue
        left = set(_DEFINED.findall(text[:start])) - set(_WORD.findall(text[start:]))
        one = found[not left.isdisjoint(_WORD.findall(line))]
        if one.n_lines < n_lines:
            one.n_lines += 1
            one.n_bytes += len(line.encode())
            for condense, title in _TITLES.items():
                head, start = beginning(
                    model.tokenizer, text, turns[source], n_tokens, condense=condense
                )
                tail = model.tokenizer.encode(text[start:]).token_ids
                prompt = [*head, *tail[len(head) - n_tokens :]]
                target = model.tokenizer.encode(line).token_ids
                values = model.engine.log_probabilities([*prompt, *target], len(prompt))
                one.bits[title] -= float(values.sum()) / math.log(2)
    return list(found.values())


def measure(*, quick: bool, n_lines: int, model: str | None, json_file: Path | None) -> None:
    """Measure, print tables, and write the same as JSON."""
    folder = Path(sysconfig.get_path("stdlib"))
    tokenizer = Tokenizer.from_file(embedded_checkpoint() / "tokenizer.json")
    found = [Kept(title, context) for context in _CONTEXTS for title in _TITLES.values()]
    with progress_bars(Console(stderr=True)) as begin:
        tell = begin("typing", len(_FILES) * len(found))
        for name in _FILES:
            source = (folder / name).read_text("utf-8")
            plans = list(typed(source, _QUICK_KEYS if quick else _KEYS))
            for one in found:
                follow(tokenizer, plans, one)
                tell(1)
    guessed = []
    if n_lines:
        opened = open_model(exported_folder(model), Settings(model=model))
        sources = [(files_folder() / name).read_text("utf-8") for name in _HELD_OUT]
        for context in _CONTEXTS:
            guessed += guess(opened, sources, n_lines, context)
    out = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    out.print(f"{cpu_name()}; keys: {len(found[0].times_ms)}")
    out.print(_kept_table(found))
    if guessed:
        out.print(_guessed_table(guessed))
    if json_file is not None:
        figures = {
            "cpu": cpu_name(),
            "quick": quick,
            "kept": [
                {
                    "title": one.title,
                    "context": one.context,
                    "share": one.share,
                    "share_in_place": one.share_in_place,
                    "mean_tokens": float(np.mean(one.lengths)),
                    "ms": asdict(Times.of(one.times_ms)),
                }
                for one in found
            ],
            "guessed": [asdict(one) for one in guessed],
        }
        json_file.write_text(strict_json(figures), encoding="utf-8")


def _kept_table(found: Sequence[Kept]) -> Table:
    table = Table(
        *(
            "context",
            "prompt",
            "keys that keep 95 %",
            "jumps apart",
            "tokens",
            "CPU ms to plan",
        ),
        caption="Tokens are the mean; times p50 / p95 / longest.",
    )
    for one in found:
        table.add_row(
            *(f"{one.context}", one.title),
            *(f"{100 * one.share:.2f} %", f"{100 * one.share_in_place:.2f} %"),
            *(f"{np.mean(one.lengths):.0f}", str(Times.of(one.times_ms))),
        )
    return table


def _guessed_table(guessed: Sequence[Guessed]) -> Table:
    table = Table("context", "lines", "", *_TITLES.values(), title="bits per byte")
    for one in guessed:
        values = (f"{one.bits[title] / max(1, one.n_bytes):.3f}" for title in _TITLES.values())
        table.add_row(f"{one.context}", f"{one.n_lines}", one.title, *values)
    return table


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the keys")
    parser.add_argument(
        "--lines", type=int, default=0, help="lines of each kind that a model guesses"
    )
    parser.add_argument("--model", help="guess with this model, not the embedded one")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    measure(
        quick=options.quick, n_lines=options.lines, model=options.model, json_file=options.json
    )


if __name__ == "__main__":
    main()
