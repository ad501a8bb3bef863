"""What ``codegen-lsp eval`` does: opens, samples, judges, and prints what came of it."""

import argparse
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from platformdirs import user_cache_path

import lsp_server
from lsp_server.check_worker import CheckWorker
from lsp_server.completion import Model
from lsp_server.loading import open_chosen
from lsp_server.models import EMBEDDED_MODEL, exported_folder
from lsp_server.settings import Settings
from lsp_server.terminal import print_json, print_table, progress_bar
from model_eval.errors import PackageError
from model_eval.packages import HELD_OUT, name_of, package_folder
from model_eval.plots import draw
from model_eval.records import Record
from model_eval.report import goal_rows, make_report, package_rows, result_rows
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
from model_export.manifest import DATA_FILE, read_manifest

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
    model, opened = open_model(options.model)
    settings = {
        "codegen_lsp_version": version("codegen-lsp"),
        **opened,
        "exposure": _exposure(opened["model"], requirements),
        "packages": requirements,
        "cases_per_package": per_package,
        "samples": n_samples,
        **SAMPLING,
        "jedi": version("jedi"),
        "steering_sha256": _steering_sha256(),
    }
    path = Path(options.record) if options.record else _default_record(settings)
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


def open_model(name: str | None) -> tuple[Model, dict[str, Any]]:
    """Return a model and what tells it from all others.

    Raises:
        ServingError: there is no such model here, or it cannot be run.
    """
    settings = Settings(model=name)
    with progress_bar("exporting") as progress:
        folder = exported_folder(name, progress, settings.device)
    manifest = read_manifest(folder)
    return open_chosen(folder, settings), {
        "model": manifest.source.name,
        "precision": manifest.precision,
        "device": manifest.device,
        "source_sha256": manifest.source.sha256,
        "weights_sha256": manifest.files[DATA_FILE].sha256,
    }


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


def _default_record(settings: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    name = settings["model"].replace("/", "-")
    folder = user_cache_path("codegen-lsp") / "evaluations"
    return folder / f"steering-{name}-{digest[:8]}.jsonl"


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
