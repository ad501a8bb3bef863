"""What ``codegen-lsp eval perplexity``, ``holes`` and ``precisions`` do."""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from lsp_server.engine import default_threads
from lsp_server.loading import open_model as open_folder
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.terminal import progress_bar
from model_eval import humaneval
from model_eval.bits import POSITIONS, ScoringEngine, bit_figures, n_read, score_text
from model_eval.checkpoints import find_checkpoint
from model_eval.commands import announce, conclude, go_through, open_record
from model_eval.editor import Editor
from model_eval.errors import RunError
from model_eval.executing import Executions, outcomes
from model_eval.hole_run import (
    SERVER_SETTINGS,
    chosen_again,
    estimated_seconds,
    run_holes,
    serve_command,
)
from model_eval.hole_scores import hole_figures
from model_eval.holes import Hole, choose_holes
from model_eval.mtpb import Case, read_problems
from model_eval.opening import export_of, header_of, open_model
from model_eval.packages import name_of, package_folder, python_files
from model_eval.precisions import (
    RUNGS,
    Measured,
    Rung,
    bits_per_weight,
    ladder_figures,
    ladder_tables,
)
from model_eval.project import ProjectTests, source_files
from model_eval.prompt_perplexity import estimated_hours as prompt_hours
from model_eval.prompt_perplexity import measure, passed_samples, perplexity_figures
from model_eval.records import Record, read_record
from model_eval.sandbox import Limits, Sandbox
from model_eval.source_tables import bit_tables, hole_tables, prompt_tables
from model_export import export
from model_export.errors import UnsupportedPrecisionError
from model_export.manifest import Manifest, read_manifest, write_manifest

SEED = 0
"""Of every run, so that whoever repeats one gets the same files and holes."""
_TRIED_TOKENS = 512
_PRECISION_PACKAGES = ("click==8.1.7", "tqdm==4.66.4")
"""The embedded model never saw them."""
_TEMPERATURES, _TOP_P = (0.2,), 0.95
"""Of HumanEval's samples on each rung."""


def perplexity(options: argparse.Namespace) -> int:
    """Measure how much source text, or the prompts of a recorded run, surprise a model."""
    if options.mtpb is not None:
        return _prompt_perplexity(options)
    texts = choose_texts(source_files(options.source.resolve()), options.limit)
    model, opened = open_model(options.model, options.threads)
    size, stride = _window(model, options.window, options.stride)
    settings = {
        "evaluation": "perplexity",
        **opened,
        "source": options.source.resolve().name,
        "source_sha256_of_files": sha256_of(texts),
        "files": len(texts),
        "window": size,
        "stride": stride,
        "seed": SEED,
    }
    path, record = open_record("perplexity", options, settings)
    left = _left(texts, record)
    announce(
        f"{len(texts)} files, {len(left)} left, in windows of {size} tokens every {stride}",
        bit_hours(model, left, size, stride),
        path,
    )
    with _interruptible(record), progress_bar("reading") as progress:
        for done, _ in enumerate(score_files(model, texts, record, size, stride), 1):
            progress(done, len(texts))
    report = {"settings": settings, "bits": bit_figures(record.lines)}
    return conclude(options, path, report, bit_tables)


def holes(options: argparse.Namespace) -> int:
    """Measure what the real server gives for holes in a project's files."""
    folder = options.folder.resolve()
    texts = source_files(folder)
    chosen = choose_holes(texts, options.limit, SEED)
    exported, opened = export_of(options.model, options.threads)
    with ExitStack() as stack:
        tests = None
        if options.run_tests is not None:
            tests = stack.enter_context(ProjectTests(folder, options.run_tests))
        settings = {
            "evaluation": "holes",
            **opened,
            "project": folder.name,
            "project_sha256_of_files": sha256_of(texts),
            "holes_of_each_kind": options.limit,
            "holes": len(chosen),
            "seed": SEED,
            "server_settings": SERVER_SETTINGS | {"threads": options.threads},
            "tests": options.run_tests,
            "isolation": tests.isolation if tests else None,
        }
        path, record = open_record("holes", options, settings)
        with _interruptible(record):
            _ask_about(exported, settings, folder, texts, chosen, record, tests, path)
    report = {"settings": settings, "holes": hole_figures(record.lines)}
    return conclude(options, path, report, hole_tables)


@contextmanager
def _interruptible(record: Record) -> Iterator[None]:
    """Let somebody break a run off, which then ends with the figures of what is done."""
    try:
        yield
    except KeyboardInterrupt:
        if not record.lines:
            raise
        print("It was broken off; the figures are of what is done.", file=sys.stderr)


def choose_texts(texts: Mapping[str, str], limit: int | None) -> dict[str, str]:
    """Return so many texts, by hashes of their names."""
    names = sorted(texts, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())
    return {name: texts[name] for name in names[:limit]}


def sha256_of(texts: Mapping[str, str]) -> str:
    """Return a hash of files' names and texts."""
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\0{texts[name]}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def score_files(
    model: Model, texts: Mapping[str, str], record: Record, size: int, stride: int
) -> Iterator[None]:
    """Write what the record lacks of the texts' scores; yields after each."""
    # What serves need not read from an empty cache, so its protocol does not ask for it.
    engine = cast("ScoringEngine", model.engine)
    done = {line["file"] for line in record.lines}
    for name, text in texts.items():
        if name not in done:
            scored = score_text(engine, model.tokenizer, text, size=size, stride=stride)
            record.add({"file": name, **asdict(scored)})
        yield


def bit_hours(model: Model, texts: Mapping[str, str], size: int, stride: int) -> float:
    """Return about how long texts take, from one window."""
    n_tokens = sum(
        n_read(len(model.tokenizer.encode(text).token_ids), size=size, stride=stride)
        for text in texts.values()
    )
    if not n_tokens:
        return 0.0
    engine = cast("ScoringEngine", model.engine)
    n_tried = min(size, _TRIED_TOKENS)
    started = time.perf_counter()
    engine.logits([engine.eos_token_id] * n_tried)
    return n_tokens / n_tried * (time.perf_counter() - started) / 3600


def _left(texts: Mapping[str, str], record: Record) -> dict[str, str]:
    done = {line["file"] for line in record.lines}
    return {name: text for name, text in texts.items() if name not in done}


def _window(model: Model, size: int | None, stride: int | None) -> tuple[int, int]:
    # What stands before is told apart up to here, and longer logits fill the memory.
    longest = min(model.engine.context_length, POSITIONS[-1])
    size = longest if size is None else min(size, longest)
    stride = max(1, size // 2) if stride is None else stride
    if not stride < size:
        raise RunError(f"windows of {size} tokens cannot begin every {stride} tokens")
    return size, stride


def _ask_about(
    exported: Path,
    settings: Mapping[str, Any],
    folder: Path,
    texts: Mapping[str, str],
    chosen: Sequence[Hole],
    record: Record,
    tests: ProjectTests | None,
    path: Path,
) -> None:
    """Ask about the holes that the record lacks; no server is started for none."""
    total = len(chosen) + len(chosen_again(chosen))
    n_left = total - len(record.lines)
    n_files = len({hole.file for hole in chosen})
    what = f"{len(chosen)} holes in {n_files} files, some twice, {n_left} requests left"
    if not n_left:
        announce(what, 0.0, path)
        return
    command, name = serve_command(exported), settings["model"]
    with Editor(command, settings["server_settings"], name, folder) as editor:
        seconds = estimated_seconds(editor, folder, texts, chosen, tests)
        announce(what, seconds * n_left / total / 3600, path)
        with progress_bar("asking the server") as progress:
            steps = run_holes(editor, folder, texts, chosen, record, tests)
            for done, _ in enumerate(steps, 1):
                progress(done, total)


def _prompt_perplexity(options: argparse.Namespace) -> int:
    recorded, problems_file = options.mtpb
    run = read_record(recorded)
    header = run.settings
    if header.get("evaluation") != "mtpb" or header.get("mode") != "clean":
        raise RunError(f"{recorded} is no record of `codegen-lsp eval mtpb` in clean mode")
    problems, sha256 = read_problems(problems_file, whole=False)
    if sha256 != header["problems_sha256"]:
        raise RunError(f"{recorded} is a run on other problems than {problems_file}")
    model, opened = open_model(options.model, options.threads)
    if opened["weights_sha256"] != header["weights_sha256"]:
        raise RunError(f"{recorded} is a run of another model: {header['model']}")
    cases = [Case(problem, i) for problem in problems for i in range(len(problem.inputs))]
    samples = passed_samples(cases, run.lines, outcomes(run))
    settings = {
        "evaluation": "prompt perplexity",
        **opened,
        "problems_sha256": sha256,
        "samples": len(samples),
        "programs": {key: header[key] for key in ("samples", "temperature", "top_p", "seed")},
    }
    path, record = open_record("perplexity", options, settings)
    left = samples[len(record.lines) :]
    announce(f"{len(samples)} programs, {len(left)} left", prompt_hours(model, left), path)
    with _interruptible(record), progress_bar("reading") as progress:
        for done, _ in enumerate(measure(model, samples, record), 1):
            progress(done, len(samples))
    report: dict[str, Any] = {"settings": settings, "prompts": perplexity_figures(record.lines)}
    if options.calibrate:
        report["calibrated"] = _calibrate(options.model, report["prompts"]["threshold"])
    return conclude(options, path, report, prompt_tables)


def _calibrate(name: str | None, threshold: float | None) -> str:
    """Write a threshold into the model's manifest, or take an old one away."""
    folder, _ = export_of(name)
    manifest = read_manifest(folder)
    try:
        write_manifest(replace(manifest, perplexity_threshold=threshold), folder)
    except OSError as error:
        raise RunError(f"{folder} cannot keep a threshold: {error.strerror}") from error
    if threshold is None:
        return f"no evidence, so {folder.name} has no threshold"
    return f"{folder.name} calls prompts above a perplexity of {threshold:.1f} unclear"


def precisions(options: argparse.Namespace) -> int:
    """Measure what each smaller precision of a checkpoint costs."""
    checkpoint = find_checkpoint(options.checkpoint)
    if options.source is not None:
        texts = source_files(options.source.resolve())
    else:
        packages = package_folder(_PRECISION_PACKAGES)
        texts = {
            path.relative_to(packages).as_posix(): path.read_text("utf-8")
            for requirement in _PRECISION_PACKAGES
            for path in python_files(packages, name_of(requirement))
        }
    texts = choose_texts(texts, options.files)
    folder = options.holes.resolve() if options.holes else None
    hole_texts = source_files(folder) if folder else {}
    chosen = choose_holes(hole_texts, options.limit, SEED)
    problems = humaneval.read_problems(options.problems) if options.humaneval else []
    settings = {
        "evaluation": "precisions",
        "codegen_lsp_version": version("codegen-lsp"),
        "model": options.checkpoint,
        "device": options.device,
        "source": options.source.name if options.source else list(_PRECISION_PACKAGES),
        "source_sha256_of_files": sha256_of(texts),
        "files": len(texts),
        "project": folder.name if folder else None,
        "project_sha256_of_files": sha256_of(hole_texts),
        "holes": len(chosen),
        "seed": SEED,
        "threads": options.threads or default_threads(),
        "server_settings": SERVER_SETTINGS if folder else None,
        "problems": len(problems),
    }
    path, _ = open_record("precisions", options, settings)
    ladder = _Ladder(path, texts, folder, hole_texts, chosen, problems, options.threads)
    unavailable = {}
    for rungs in _by_precision():
        precision = rungs[0].precision
        with tempfile.TemporaryDirectory(prefix="codegen-lsp-") as scratch:
            exported = Path(scratch, precision)
            try:
                with progress_bar(f"exporting {precision}") as progress:
                    manifest = export(
                        checkpoint,
                        exported,
                        precision=precision,
                        device=options.device,
                        progress=progress,
                    )
            except UnsupportedPrecisionError as error:
                unavailable[precision] = str(error)
                continue
            for rung in rungs:
                ladder.measure(rung, exported, manifest)
    figures = ladder_figures(ladder.measured, bits_per_weight(checkpoint))
    reasons = [{"precision": p, "reason": reason} for p, reason in unavailable.items()]
    report = {"settings": settings, **figures, "unavailable": reasons}
    return conclude(options, path, report, ladder_tables)


def _by_precision() -> list[list[Rung]]:
    by_precision: dict[str, list[Rung]] = {}
    for rung in RUNGS:
        by_precision.setdefault(rung.precision, []).append(rung)
    return list(by_precision.values())


class _Ladder:
    """The rungs that were measured, each in records of its own beside the ladder's."""

    def __init__(
        self,
        path: Path,
        texts: Mapping[str, str],
        folder: Path | None,
        hole_texts: Mapping[str, str],
        chosen: Sequence[Hole],
        problems: Sequence[humaneval.Problem],
        threads: int | None,
    ) -> None:
        self.measured: list[Measured] = []
        self._path = path
        self._texts = texts
        self._folder = folder
        self._hole_texts = hole_texts
        self._chosen = chosen
        self._problems = problems
        self._threads = threads

    def measure(self, rung: Rung, exported: Path, manifest: Manifest) -> None:
        """Measure one rung, or go on with it."""
        header = {**header_of(manifest, self._threads), "kv_cache_setting": rung.kv_cache}
        bits = self._bits(rung, exported, header)
        holes: list[dict[str, Any]] = []
        passed: dict[str, float] = {}
        # What an int8 cache changes is too little for so few answers to show.
        if rung.kv_cache == "float":
            if self._folder is not None:
                holes = self._holes(self._folder, rung, exported, header)
            if self._problems:
                passed = self._passed(rung, exported, header)
        size = sum(file.size for file in manifest.files.values()) / 1e6
        self.measured.append(Measured(rung, size, bits, holes, passed))

    def _bits(self, rung: Rung, exported: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
        model = open_folder(exported, self._settings(rung))
        size, stride = _window(model, None, None)
        settings = {
            "evaluation": "perplexity",
            **header,
            "source_sha256_of_files": sha256_of(self._texts),
            "files": len(self._texts),
            "window": size,
            "stride": stride,
            "seed": SEED,
        }
        path = self._beside(rung, "bits")
        record = Record(path, settings)
        left = _left(self._texts, record)
        hours = bit_hours(model, left, size, stride)
        announce(f"{rung.name}: {len(left)} of {len(self._texts)} files left", hours, path)
        with progress_bar(f"reading, {rung.name}") as progress:
            steps = score_files(model, self._texts, record, size, stride)
            for done, _ in enumerate(steps, 1):
                progress(done, len(self._texts))
        return record.lines

    def _holes(
        self, folder: Path, rung: Rung, exported: Path, header: dict[str, Any]
    ) -> list[dict[str, Any]]:
        settings = {
            "evaluation": "holes",
            **header,
            "project": folder.name,
            "project_sha256_of_files": sha256_of(self._hole_texts),
            "holes": len(self._chosen),
            "seed": SEED,
            "server_settings": SERVER_SETTINGS | {"threads": self._threads},
        }
        path = self._beside(rung, "holes")
        record = Record(path, settings)
        _ask_about(
            exported,
            settings,
            folder,
            self._hole_texts,
            self._chosen,
            record,
            None,
            path,
        )
        return record.lines

    def _passed(self, rung: Rung, exported: Path, header: dict[str, Any]) -> dict[str, float]:
        sandbox = Sandbox(Limits(time_s=3))
        settings = {
            "evaluation": "humaneval",
            **header,
            "problems": len(self._problems),
            "samples": 1,
            "temperatures": _TEMPERATURES,
            "top_p": _TOP_P,
            "seed": SEED,
            "sandbox": sandbox.isolation,
        }
        record = Record(self._beside(rung, "humaneval"), settings)
        model = open_folder(exported, self._settings(rung))
        parts = humaneval.parts(self._problems, _TEMPERATURES, 1)
        with Executions(sandbox, record, keeps_print=False) as executions:
            steps = humaneval.sample(
                model, parts, _TOP_P, seed=SEED, record=record, executions=executions
            )
            go_through(steps, len(parts), executions)
        figures = humaneval.make_report(
            self._problems, record.lines, outcomes(record), n_samples=1
        )
        return {
            row["problem"]: float(next(iter(row["passed"].values())))
            for row in figures["problems"]
        }

    def _settings(self, rung: Rung) -> Settings:
        return Settings(kv_cache=rung.kv_cache, threads=self._threads)

    def _beside(self, rung: Rung, what: str) -> Path:
        kind = rung.precision if rung.kv_cache == "float" else f"{rung.precision}-int8-cache"
        return self._path.with_name(f"{self._path.stem}-{kind}-{what}.jsonl")
