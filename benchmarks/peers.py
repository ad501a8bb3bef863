"""Compares our engine with its peers on one machine: time, memory, and how near the limit.

Takes a checkpoint, or makes one of 350M shape with random weights; makes an environment for
each peer, and a worker process for each engine. The workers keep their models loaded and
take turns, so that what else the machine does falls on all alike. Run as ``codegen-lsp bench
peers`` or ``python -m benchmarks.peers``, with ``--quick`` for fewer rounds; needs the extras
``bench`` and ``reference``. All that is made lies in the user's cache and is used again.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import plots
from benchmarks.bandwidth import MemoryProbe
from benchmarks.engines import Loader, WorkerFailedError, WorkerProcess, subjects
from benchmarks.environments import cache_folder
from benchmarks.random_checkpoint import SHAPE, write_checkpoint
from benchmarks.report import (
    BLOCK,
    CONTEXTS,
    PREFILL,
    TYPED,
    Limit,
    Report,
    Result,
    decode,
    ratio,
)
from benchmarks.workers.protocol import Visit
from lsp_server.errors import ServingError
from model_eval.checkpoints import find_checkpoint
from model_export.architecture import read_architecture
from model_export.checkpoint import open_checkpoint
from model_export.errors import ExportError

_QUICK_ROUNDS, _QUICK_S = 3, 8 * 60
_ROUNDS, _FULL_S = 10, 15 * 60
"""No round but the first is begun that would end later, counted from when all are loaded."""
_DECODED_TOKENS = 16
_BLOCK_TOKENS = 4
_TYPED_TOKENS = 2
"""A typed character changes the last token, and may make one more."""
_SETTLE_S = 0.2
"""After an engine's turn, for its threads to stop spinning."""
_MOST_USED_BY_OTHERS = 0.05
_WIDTH = 120


def _visits(round_index: int) -> dict[str, Visit]:
    """Return a round's measures in their order: up one stream, whose cache is kept.

    Each round has streams of its own, because our engine would know those it has seen.
    """
    walk, short = 2 * round_index + 1, 2 * round_index + 2
    n = _DECODED_TOKENS
    return {
        decode(100): Visit("decode", short, 100, n),
        PREFILL: Visit("prefill", walk, 512, 0),
        decode(512): Visit("decode", walk, 512, n),
        BLOCK: Visit("block", walk, 512 + n, _BLOCK_TOKENS),
        decode(1024): Visit("decode", walk, 1024, n),
        decode(1500): Visit("decode", walk, 1500, n),
        decode(1900): Visit("decode", walk, 1900, n),
        # Last, for some engines can only go back by copying their cache.
        TYPED: Visit("typed", walk, 1500, _TYPED_TOKENS),
    }


def _measure(
    workers: list[tuple[Result, WorkerProcess]],
    progress: Progress,
    *,
    n_threads: int,
    n_rounds: int,
    budget_s: float,
) -> tuple[dict[str, list[float]], float]:
    """Let the workers take turns in each measure of each round, and the memory probe too.

    Returns the bandwidths by measure, and the share of the processors that others used.
    """
    probe = MemoryProbe(n_threads)
    bandwidths: dict[str, list[float]] = {}
    end = time.monotonic() + budget_s
    longest_s = 0.0
    others = _Others([worker for _, worker in workers])
    task = progress.add_task("measuring", total=n_rounds * len(_visits(0)) * len(workers))
    for round_index in range(n_rounds):
        started = time.monotonic()
        if round_index and started + longest_s > end:
            break
        # Whoever comes first after a pause should not always be the same.
        shift = round_index % max(1, len(workers))
        for name, visit in _visits(round_index).items():
            bandwidths.setdefault(name, []).append(probe.bytes_per_s())
            for result, worker in workers[shift:] + workers[:shift]:
                progress.update(task, description=f"{name}: {result.engine.label}")
                _visit(result, worker, name, visit)
                progress.advance(task)
        longest_s = max(longest_s, time.monotonic() - started)
    progress.update(task, description="measured")
    for result, worker in workers:
        if not result.failure:
            result.resident_bytes = worker.resident_bytes()
    return bandwidths, others.share()


class _Others:
    """What other programs have used of the processors since it was made.

    Timings of a machine that others use say little, and a reader cannot see it in them.
    """

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self._workers = workers
        self._started = time.monotonic()
        self._since = self._busy_s()

    def share(self) -> float:
        """Return their share, 1 for all processors all the time."""
        passed_s = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        return max(0.0, self._busy_s() - self._since) / passed_s

    def _busy_s(self) -> float:
        times = psutil.cpu_times()._asdict()
        # What guests use is counted as user's, too.
        idle = ("idle", "iowait", "steal", "guest", "guest_nice")
        everybody_s = sum(spent for name, spent in times.items() if name not in idle)
        ours_s = _busy_s(psutil.Process()) + sum(worker.busy_s() for worker in self._workers)
        return float(everybody_s - ours_s)


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _visit(result: Result, worker: WorkerProcess, name: str, visit: Visit) -> None:
    if result.failure or name in result.cannot:
        return
    time.sleep(_SETTLE_S)
    try:
        answer = worker.visit(visit)
    except WorkerFailedError as error:
        result.failure = f"{name}: {error}"
        return
    if "cannot" in answer:
        result.cannot[name] = answer["cannot"]
    else:
        result.seconds.setdefault(name, []).append(answer["seconds"])


def measure(
    console: Console, *, is_quick: bool = False, checkpoint: Path | None = None
) -> Report:
    """Run all engines that can be run here.

    ``checkpoint`` is a folder or a GGUF file; without one the weights are random.

    Raises:
        CheckpointError: ``checkpoint`` is none, or not of a model that we run.
    """
    n_rounds, budget_s = (_QUICK_ROUNDS, _QUICK_S) if is_quick else (_ROUNDS, _FULL_S)
    if checkpoint is None:
        checkpoint = cache_folder() / f"checkpoint-{SHAPE}"
        if not (checkpoint / "config.json").is_file():
            console.print("making a checkpoint with random weights ...")
            write_checkpoint(checkpoint)
    opened = open_checkpoint(checkpoint.resolve())
    architecture = read_architecture(opened.config)
    gguf = next((file for file in opened.files if file.suffix == ".gguf"), None)
    n_threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    runnable = subjects(architecture, has_gguf=gguf is not None)
    chosen = [subject for subject in runnable if subject.is_quick or not is_quick]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
        ExitStack() as stack,
    ):
        loader = Loader(gguf or opened.folder, n_threads, progress.console)
        task = progress.add_task("loading", total=len(chosen))
        workers = []
        for subject in chosen:
            progress.update(task, description=f"loading {subject.engine.label}")
            if started := loader.start(subject, stack):
                workers.append(started)
            progress.advance(task)
        progress.update(task, description="loaded")
        bandwidths, others = _measure(
            workers, progress, n_threads=n_threads, n_rounds=n_rounds, budget_s=budget_s
        )
    machine = {
        **_machine(),
        "n_threads": n_threads,
        "checkpoint": str(gguf or opened.folder),
        "used_by_others": others,
    }
    return Report(machine, architecture, bandwidths, loader.results)


def _machine() -> dict[str, Any]:
    """Return the processor's name, and which vector instructions it has."""
    info = ""
    with suppress(OSError):  # Only Linux has it.
        info = Path("/proc/cpuinfo").read_text()
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in info.splitlines())
    }
    flags = fields.get("flags", fields.get("Features", "")).split()
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in wanted if flag in flags],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def show(report: Report, console: Console) -> None:
    """Print the tables, the settings and what has to be reached."""
    machine = report.machine
    n_rounds = len(report.bandwidths[PREFILL])
    console.print(
        f"\n{machine['cpu']}: {machine['n_threads']} threads, "
        f"{' '.join(machine['flags']) or 'unknown flags'}; memory is read at "
        f"{report.bandwidth / 1e9:.1f} GB/s; {n_rounds} rounds of {_DECODED_TOKENS} tokens at "
        f"each context; other programs used {machine['used_by_others']:.0%} of the processors"
    )
    if machine["used_by_others"] > _MOST_USED_BY_OTHERS:
        console.print("[red]That is too much: measure again when the machine is idle.[/red]")
    console.print(_medians(report))
    console.print(_ratios(report))
    for result in report.results:
        if result.failure:
            console.print(f"{result.engine.label}: did not run to the end: {result.failure}")
    _show_settings(report, console)
    console.print(_must_reach(report.limits()))


def _medians(report: Report) -> Table:
    table = _table(
        "medians",
        ["engine"],
        ["load s", "GB", "prefill s", *(f"@{context}" for context in CONTEXTS)],
        ["4 at once", "typed", "% @100", "% @1900", "% same"],
    )
    table.caption = (
        "kv8: bits of a number in the KV cache. prefill s: 512 tokens. @: ms to decode a token "
        "after so many; 4 at once: after 528. typed: ms to the first token after a character "
        "is typed behind 1,500 tokens. %: of the speed that the memory allows. same: prompts "
        "whose best next token is that of ours in fp32. fa: with flash attention"
    )
    for result in report.results:
        if not result.seconds:
            continue
        table.add_row(
            result.engine.label,
            f"{result.load_s:.1f}",
            f"{result.resident_bytes / 1e9:.1f}",
            _number(result.median(PREFILL), digits=2),
            *(_number(result.median(decode(c)), 1e3) for c in CONTEXTS),
            _number(result.median(BLOCK), 1e3),
            _number(result.median(TYPED), 1e3),
            *(_number(report.share(result, c), 100, 0) for c in (100, 1900)),
            _number(report.agreement(result), 100, 0),
        )
    return table


def _ratios(report: Report) -> Table:
    table = _table(
        "ratios: our time / theirs, like for like, medians of the rounds",
        ["ours", "theirs"],
        ["prefill", *(f"@{context}" for context in CONTEXTS), "4 at once", "typed"],
    )
    measures = [PREFILL, *(decode(context) for context in CONTEXTS), BLOCK, TYPED]
    for ours, peer in report.pairs():
        values = (_number(ratio(ours, peer, measure), digits=2) for measure in measures)
        table.add_row(ours.engine.label, peer.engine.label, *values)
    for ours in report.ours():
        for rivals in report.rivals(ours):
            fastest = ((rivals.fastest(measure), measure) for measure in measures)
            values = (
                _number(ratio(ours, peer, measure), digits=2) for peer, measure in fastest
            )
            table.add_row(ours.engine.label, rivals.label, *values)
    return table


def _show_settings(report: Report, console: Console) -> None:
    for name in dict.fromkeys(result.engine.name for result in report.results):
        result = next(r for r in report.results if r.engine.name == name)
        if result.settings:
            versions = ", ".join(f"{key} {value}" for key, value in result.versions.items())
            console.print(f"{name} ({versions}): {result.settings}.")
        for measure, reason in result.cannot.items():
            console.print(f"{name} has no '{measure}': {reason}.")


def _must_reach(limits: Sequence[Limit]) -> Table:
    table = _table("limits", ["must reach"], ["limit", "this run"])
    table.add_column()
    words = {True: "reached", False: "[red]not reached[/red]", None: "not measured"}
    for limit in limits:
        sign = "<=" if limit.is_at_most else ">="
        bound = f"{sign} {limit.bound:.2f}"
        table.add_row(
            limit.what, bound, _number(limit.found, digits=2), words[limit.is_reached]
        )
    return table


def _table(title: str, names: Sequence[str], *numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in chain(*numbers):
        table.add_column(name, justify="right")
    return table


def _number(value: float | None, scale: float = 1, digits: int = 1) -> str:
    return "n/a" if value is None else f"{scale * value:.{digits}f}"


def run(options: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for; returns the exit status.

    ``options`` has ``quick``, ``model``, ``json`` and ``output``; all but the first may be
    None.

    Raises:
        ModelNotFoundError: ``model`` is not on this machine.
        CheckpointError: it is no checkpoint, or not of a model that we run.
    """
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    checkpoint = find_checkpoint(options.model) if options.model else None
    report = measure(console, is_quick=options.quick, checkpoint=checkpoint)
    show(report, console)
    written = []
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=2) + "\n", "utf-8")
        written.append(options.json)
    if importlib.util.find_spec("matplotlib"):
        written += plots.draw(report, options.output or cache_folder() / "plots")
    else:
        console.print("no plots: matplotlib is missing; pip install -e '.[bench,reference]'")
    for file in written:
        console.print(f"wrote {file}", soft_wrap=True)
    return 0 if report.ours() else 1


def main() -> int:
    """Run as a program of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 10 minutes")
    parser.add_argument(
        "--model",
        metavar="CHECKPOINT",
        help="a folder, a GGUF file or a pulled name; default: random weights",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the plots go")
    try:
        return run(parser.parse_args())
    except (ServingError, ExportError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
