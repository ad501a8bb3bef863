"""What ``codegen-lsp eval`` does: opens, samples, judges, and prints what came of it."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from platformdirs import user_cache_path

import lsp_server
from lsp_server.check_worker import CheckWorker
from lsp_server.models import EMBEDDED_MODEL
from lsp_server.serving_model import Model
from lsp_server.terminal import print_json, print_table, progress_bar
from model_eval import humaneval as humaneval_
from model_eval import mtpb as mtpb_
from model_eval import mtpb_report
from model_eval.errors import PackageError
from model_eval.executing import Executions, outcomes
from model_eval.generating import Sampling
from model_eval.mtpb_report import Table
from model_eval.opening import open_model, versions_of
from model_eval.packages import HELD_OUT, name_of, package_folder
from model_eval.plots import draw
from model_eval.records import Record
from model_eval.report import goal_rows, make_report, package_rows, result_rows
from model_eval.sandbox import Limits, Sandbox
from model_eval.steering import (
    ARMS,
    SAMPLING,
    TEMPERATURES,
    Case,
    Score,
    estimated_seconds,
    find_cases,
    judged,
    sample,
    score,
)

_SEED = 0
"""Of every run, so that whoever repeats one gets the same samples."""
_STEERED_BY = (
    *("steering", "statement_shape", "vocabulary", "python_lines", "known_names"),
    *("name_lookup", "member_names", "check_certainty", "jedi_script", "jedi_results"),
)
"""The modules of the server that decide what may come."""
_QUICK = (3, 4)
_FULL = (20, 20)
"""Cases of each package, and samples of each case."""


def steering(options: argparse.Namespace) -> int:
    """Measure what steering by known names changes."""
    per_package, n_samples = _QUICK if options.quick else _FULL
    per_package, n_samples = options.cases or per_package, options.samples or n_samples
    requirements = tuple(options.packages or HELD_OUT)
    folder = package_folder(requirements)
    cases = find_cases(folder, [name_of(r) for r in requirements], per_package)
    for requirement in requirements:
        if not any(case.package == name_of(requirement) for case in cases):
            raise PackageError(f"{requirement} has no folder of its name with methods in it")
    model, opened = open_model(options.model, options.threads)
    settings = {
        **opened,
        "exposure": _exposure(opened["model"], requirements),
        "packages": requirements,
        "cases_per_package": per_package,
        "samples": n_samples,
        **SAMPLING,
        "jedi": version("jedi"),
        "steering_sha256": _steering_sha256(),
    }
    path = Path(options.record) if options.record else _default_record("steering", settings)
    record = Record(path, settings)
    hours = estimated_seconds(model, cases, n_samples) / 3600
    print(
        f"{len(cases)} cases of {len(requirements)} packages, {len(ARMS)} arms at "
        f"{len(TEMPERATURES)} temperatures, {n_samples} samples each: about {hours:.1f} hours "
        f"if nothing is recorded yet; the record is {path}",
        file=sys.stderr,
        flush=True,
    )
    _sample(model, cases, record, n_samples)
    report = {"settings": settings, **_report(cases, record, n_samples)}
    path.with_suffix(".json").write_text(json.dumps(report, indent=1), "utf-8")
    draw(report, _title(report), path.with_suffix(".svg"))
    if options.json:
        print_json(report)
    else:
        _print(report, path)
    return 0


def humaneval(options: argparse.Namespace) -> int:
    """Measure how many functions pass their tests."""
    if options.preset == "paper":
        temperatures, n_samples = humaneval_.PAPER_TEMPERATURES, humaneval_.PAPER_SAMPLES
    else:
        temperatures, n_samples = tuple(options.temperature), options.samples
    problems = humaneval_.read_problems(options.limit)
    sandbox = Sandbox(Limits(time_s=3))
    model, opened = open_model(options.model, options.threads)
    settings = {
        "evaluation": "humaneval",
        **opened,
        "problems_sha256": humaneval_.DATA_SHA256,
        "problems": len(problems),
        "samples": n_samples,
        "temperatures": temperatures,
        "top_p": options.top_p,
        "max_new_tokens": humaneval_.MAX_NEW_TOKENS,
        "seed": _SEED,
        "sandbox": sandbox.isolation,
    }
    path, record = open_record("humaneval", options, settings)
    parts = humaneval_.parts(problems, temperatures, n_samples)
    n_left = len(parts) - sum("texts" in line for line in record.lines)
    hours = humaneval_.estimated_hours(model, parts, options.top_p, n_left, record)
    announce(
        f"{len(problems)} problems, {len(temperatures)} temperatures, {n_samples} samples each",
        hours,
        path,
        sandbox,
    )
    with Executions(sandbox, record, keeps_print=False) as executions:
        steps = humaneval_.sample(
            model, parts, options.top_p, seed=_SEED, record=record, executions=executions
        )
        go_through(steps, len(parts), executions)
    figures = humaneval_.make_report(problems, record.lines, outcomes(record), n_samples)
    return conclude(options, path, {"settings": settings, **figures}, humaneval_.tables)


def mtpb(options: argparse.Namespace) -> int:
    """Measure whether several turns make better programs than a single one."""
    folder = user_cache_path("codegen-lsp") / "problems"
    file = options.problems or mtpb_.download_problems(folder)
    mode, n_samples = options.mode, options.samples
    problems, sha256 = mtpb_.read_problems(file, whole=mode == "faithful")
    cases = mtpb_.choose_cases(problems, limit=options.limit, inputs=options.inputs, seed=_SEED)
    sampling = Sampling(options.temperature, options.top_p)
    sandbox = Sandbox()
    model, opened = open_model(options.model, options.threads)
    settings = {
        "evaluation": "mtpb",
        **opened,
        "problems_sha256": sha256,
        "mode": mode,
        "problems": len({case.problem.id for case in cases}),
        "cases": len(cases),
        "samples": n_samples,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": _SEED,
        "sandbox": sandbox.isolation,
        "libraries_of_programs": versions_of(("numpy", "pandas", "scikit-learn")),
    }
    path, record = open_record("mtpb", options, settings)
    total = len(cases) * len(mtpb_.ARMS[mode]) * n_samples
    n_left = total - sum("arm" in line for line in record.lines)
    hours = mtpb_.estimated_hours(model, cases, mode, sampling, n_left, record)
    announce(
        f"{len(cases)} cases of {settings['problems']} problems, {len(mtpb_.ARMS[mode])} arms, "
        f"{n_samples} samples each",
        hours,
        path,
        sandbox,
    )
    with Executions(sandbox, record, keeps_print=True) as executions:
        steps = mtpb_.sample(
            model,
            cases,
            mode,
            sampling,
            n_samples=n_samples,
            seed=_SEED,
            record=record,
            executions=executions,
        )
        go_through(steps, total, executions)
    figures = mtpb_report.make_report(cases, mode, record.lines, outcomes(record), sha256)
    return conclude(options, path, {"settings": settings, **figures}, mtpb_report.tables)


def go_through(steps: Iterator[None], total: int, executions: Executions) -> None:
    """Go on to the end, or until somebody breaks it off, which is no loss."""
    try:
        with progress_bar("writing") as progress:
            for done, _ in enumerate(steps, 1):
                progress(done, total)
        with progress_bar("running programs") as progress:
            executions.finish(progress)
    except KeyboardInterrupt:
        print("It was broken off; the figures are of what is done.", file=sys.stderr)


def open_record(
    evaluation: str, options: argparse.Namespace, settings: dict[str, Any]
) -> tuple[Path, Record]:
    """Return the record of a run with these settings, and where it lies."""
    path = options.record or _default_record(evaluation, settings)
    return path, Record(path, settings)


def announce(what: str, hours: float, path: Path, sandbox: Sandbox | None = None) -> None:
    """Say what is about to be done, how long it takes, and what programs run in."""
    sandboxed = f"\nPrograms run in a sandbox; {sandbox.isolation}." if sandbox else ""
    print(
        f"{what}: about {hours:.1f} hours are left; the record is {path}{sandboxed}",
        file=sys.stderr,
        flush=True,
    )


def conclude(
    options: argparse.Namespace,
    path: Path,
    report: dict[str, Any],
    tables: Callable[[Mapping[str, Any]], list[Table]],
) -> int:
    """Write the figures beside the record, and print them."""
    figures = path.with_suffix(".json")
    figures.write_text(json.dumps(report, indent=1), "utf-8")
    if options.json:
        print_json(report)
        return 0
    settings = report["settings"]
    words = [f"{settings['model']} {settings.get('precision', '')}".rstrip()]
    if "weights_sha256" in settings:
        words.append(f"weights {settings['weights_sha256'][:12]}")
    if "samples" in settings:
        words.append(f"{settings['samples']} samples")
    print(f"\n{', '.join(words)}\n")
    for title, header, rows in tables(report):
        print(title)
        print_table(header, rows)
        print()
    print(f"Figures: {figures}")
    return 0


def _steering_sha256() -> str:
    """Return a digest of the code that decides what is steered: other code, another record."""
    folder = Path(lsp_server.__file__).parent
    digest = hashlib.sha256()
    for module in _STEERED_BY:
        digest.update((folder / f"{module}.py").read_bytes())
    return digest.hexdigest()


def _exposure(model: str, requirements: tuple[str, ...]) -> str:
    """Return whether the model was trained on the packages."""
    if model == EMBEDDED_MODEL and set(requirements) <= set(HELD_OUT):
        return "none: they are not in its training list"
    return "unknown: nobody says whether the model was trained on them"


def _default_record(evaluation: str, settings: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    name = settings["model"].replace("/", "-")
    folder = user_cache_path("codegen-lsp") / "evaluations"
    return folder / f"{evaluation}-{name}-{digest[:8]}.jsonl"


def _sample(model: Model, cases: list[Case], record: Record, n_samples: int) -> None:
    worker = CheckWorker()
    worker.warm_up()
    total = len(cases) * len(ARMS) * len(TEMPERATURES)
    try:
        with progress_bar("sampling") as progress:
            steps = sample(model, cases, worker.known_names, record, n_samples)
            for done, _ in enumerate(steps, 1):
                progress(done, total)
    finally:
        worker.close()


def _report(cases: list[Case], record: Record, n_samples: int) -> dict[str, Any]:
    judgements = judged(cases, record, user_cache_path("codegen-lsp") / "mypy")
    by_name = {case.name: case for case in cases}
    known: dict[tuple[str, str], Score] = {}
    scores: dict[tuple[str, str, float], list[Score]] = {}
    seconds: dict[tuple[str, float], list[float]] = {}
    with progress_bar("scoring") as progress:
        for done, line in enumerate(record.lines, 1):
            case, arm, temperature = by_name[line["case"]], line["arm"], line["temperature"]
            for text in line["texts"]:
                if (case.name, text) not in known:
                    known[case.name, text] = score(case, text, judgements)
            samples = [known[case.name, text] for text in line["texts"]]
            scores[case.name, arm, temperature] = samples
            seconds.setdefault((arm, temperature), []).append(line["seconds"] / n_samples)
            progress(done, len(record.lines))
    return make_report(cases, scores, n_samples) | {
        "seconds": [
            {"arm": arm, "temperature": temperature, "median": median(own)}
            for (arm, temperature), own in seconds.items()
        ]
    }


def _title(report: dict[str, Any]) -> str:
    settings, n_cases = report["settings"], report["n_cases"]
    return (
        f"{settings['model']} {settings['precision']}, {n_cases['all']} cases in "
        f"{report['n_files']} files, {settings['samples']} samples"
    )


def _print(report: dict[str, Any], path: Path) -> None:
    settings, n_cases, unjudged = report["settings"], report["n_cases"], report["unjudged"]
    print(f"\n{_title(report)}; weights {settings['weights_sha256'][:12]}")
    print(f"The model's exposure to these packages is {settings['exposure']}.")
    print(
        f"The judge does not know {100 * unjudged['reads']:.0f} % of the next names that are "
        f"read and {100 * unjudged['stores']:.0f} % of those that are assigned to.\n"
    )
    for title, (header, *rows) in {
        "What is to be reached, in %; rejected: names read, exact line: all places": goal_rows(
            report
        ),
        f"Where a name is read: {n_cases['reads']} cases, in %": result_rows(report, "reads"),
        f"Where one is assigned to: {n_cases['stores']} cases, in %": result_rows(
            report, "stores"
        ),
        "Each package, names read, k=1, in %": package_rows(report),
    }.items():
        print(title)
        print_table(header, rows)
        print()
    print(f"Figures: {path.with_suffix('.json')}; plot: {path.with_suffix('.svg')}")
