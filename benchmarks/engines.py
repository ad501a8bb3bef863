"""Brings each engine of the peer benchmark to a running worker process.

That takes an environment, a model made from the checkpoint, and memory; what is missing
is said in the engine's result, and the others go on.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import psutil
from rich.console import Console

from benchmarks.environments import (
    CTRANSLATE2,
    LLAMA_CPP,
    OPENVINO,
    Environment,
    EnvironmentFailedError,
    cache_folder,
    last_line,
)
from benchmarks.report import AS_IS, LLAMA, OURS, Engine, Result, matrices
from benchmarks.workers.protocol import Job, Visit, to_json
from model_export.architecture import Architecture
from model_export.precision import choose_precision

_ROOT = Path(__file__).parents[1]
_ANSWER_S = 180
_LOAD_S = 600
_BESIDE_MODEL_BYTES = 1_500_000_000
_NEEDS_TORCH = "it needs torch: pip install -e '.[bench,reference]'"


@dataclass(frozen=True)
class Subject:
    """An engine, and what it takes to run it."""

    engine: Engine
    worker: str
    environment: Environment | None = None
    """None is ours, which for a peer needs the extra ``reference``."""
    is_quick: bool = True

    @property
    def reads_gguf(self) -> bool:
        """Whether it takes a GGUF file; others get what transformers makes of it."""
        return self.engine.name in (OURS, LLAMA)


_TRANSFORMERS = Subject(Engine("transformers", "fp32", "float32", 4), "transformers_torch")


def subjects(architecture: Architecture, *, has_gguf: bool) -> list[Subject]:
    """Return all engines that run such a model, ours first; llama.cpp needs a GGUF file."""
    # Preparing for an int8 cache prepares for floats too, so it comes first.
    ours = [
        Subject(
            Engine(OURS, precision, kv_type, _our_bytes(precision, architecture)),
            "ours",
            is_quick=(precision, kv_type) != ("fp32", "int8"),
        )
        for precision in ("fp32", "int8", "int4")
        for kv_type in ("int8", "float32")
    ]
    # Scales and zero points are of fp32, fp16 and uint8; a row of 1,024 has one of each.
    openvino = [
        Subject(
            Engine("openvino", precision, kv_type, n_bytes),
            "openvino_nncf",
            OPENVINO,
            is_quick=kv_type != "float16",
        )
        for precision, n_bytes in (("int8", 1 + 3 / 1024), ("int4", 0.5 + 2 / 128))
        for kv_type in ("int8", "float16", "float32")
    ]
    return [
        *ours,
        *(_llama_cpp() if has_gguf else []),
        _TRANSFORMERS,
        Subject(Engine("optimum-onnx", "fp32", "float32", 4), "optimum_onnx"),
        Subject(
            Engine("ctranslate2", "int8", "float32", 1 + 4 / 1024),
            "ctranslate2_int8",
            CTRANSLATE2,
        ),
        *openvino,
    ]


def _llama_cpp() -> list[Subject]:
    """Return each kind of file with each cache; a cache of integers needs flash attention."""
    return [
        Subject(
            # How many bytes a weight has, its worker says.
            Engine(LLAMA, precision, kv_type, 0.0, has_flash_attention),
            "llama_cpp",
            LLAMA_CPP,
            is_quick=kv_type == "float16" and (has_flash_attention or precision == AS_IS),
        )
        for precision in (AS_IS, "q4_0", "q8_0")
        for kv_type, has_flash_attention in (
            ("float16", False),
            ("float16", True),
            ("int8", True),
        )
    ]


def _our_bytes(precision: str, architecture: Architecture) -> float:
    """Return the bytes of the mean weight with its part of the block's scale."""
    chosen = choose_precision(precision, "cpu", 0)
    *products, (vocab_size, d_model) = matrices(architecture)
    of_head = chosen.for_embedding if architecture.has_tied_head else chosen.for_product
    stored = [(n_rows, width, chosen.for_product(width)) for n_rows, width in products]
    stored.append((vocab_size, d_model, of_head(d_model)))
    n_bytes, n_weights = 0.0, 0
    for n_rows, width, quantization in stored:
        n_weights += n_rows * width
        if quantization is None:
            n_bytes += 4 * n_rows * width
        else:
            block = quantization.block_size * quantization.bits / 8 + 4
            n_bytes += n_rows * -(-width // quantization.block_size) * block
    return n_bytes / n_weights


class WorkerFailedError(Exception):
    """A worker ended, did not answer in time, or could not do what was asked."""


class WorkerProcess:
    """A running worker process, answered one line for one line."""

    def __init__(self, subject: Subject, job: Job) -> None:
        logs = _created(cache_folder() / "logs")
        self._log = (logs / f"{subject.engine.label}.log").open("w+")
        self._process = subprocess.Popen(
            _command(subject, "serve", job),
            cwd=_ROOT,
            env=_environ(job.n_threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            WorkerFailedError: there is none.
        """
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.daemon = True
        timer.start()
        assert self._process.stdout is not None  # noqa: S101  It is a pipe.
        line = self._process.stdout.readline()
        if not timer.is_alive():
            raise WorkerFailedError(f"no answer within {timeout_s:.0f} s")
        timer.cancel()
        if not line:
            self._log.seek(0)
            raise WorkerFailedError(last_line(self._log.read()) or "its process ended")
        values: dict[str, Any] = json.loads(line)
        if "failed" in values:
            raise WorkerFailedError(values["failed"])
        return values

    def visit(self, visit: Visit) -> dict[str, Any]:
        """Ask for one measure.

        Raises:
            WorkerFailedError: it failed.
        """
        assert self._process.stdin is not None  # noqa: S101  It is a pipe.
        with suppress(OSError):  # The answer, or its absence, says what is wrong.
            print(to_json(visit), file=self._process.stdin, flush=True)
        return self.answer(_ANSWER_S)

    def resident_bytes(self) -> int:
        """Return what of the process is in memory."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def busy_s(self) -> float:
        """Return how long processors have worked for it."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0


@dataclass
class Loader:
    """Starts the workers of one run; what it makes lies in the cache and is used again."""

    checkpoint: Path
    """A folder, or a GGUF file."""
    n_threads: int
    console: Console
    results: list[Result] = field(default_factory=list)
    """Of all that were to start."""
    _unusable: dict[str, str] = field(default_factory=dict)

    def start(self, subject: Subject, stack: ExitStack) -> tuple[Result, WorkerProcess] | None:
        """Prepare an engine's model and load it; what fails is said in its result."""
        result = Result(subject.engine)
        self.results.append(result)
        try:
            worker = self._started(subject, result, stack)
        except (WorkerFailedError, EnvironmentFailedError) as error:
            result.failure = str(error)
            self.console.print(f"{subject.engine.label}: {error}", style="yellow")
            return None
        return result, worker

    def _started(self, subject: Subject, result: Result, stack: ExitStack) -> WorkerProcess:
        if subject.environment:
            self._make(subject.environment)
        elif subject.engine.name != OURS and not importlib.util.find_spec("transformers"):
            raise WorkerFailedError(_NEEDS_TORCH)
        job = self._job(subject)
        self._prepare(subject, job)
        _check_memory(Path(job.folder))
        worker = stack.enter_context(WorkerProcess(subject, job))
        loaded = worker.answer(_LOAD_S)
        result.load_s = loaded["load_s"]
        result.settings = loaded["settings"]
        result.versions = loaded["versions"]
        result.best_tokens = loaded["best_tokens"]
        if bytes_per_weight := loaded["bytes_per_weight"]:
            result.engine = replace(result.engine, bytes_per_weight=bytes_per_weight)
        return worker

    def _make(self, environment: Environment) -> None:
        if environment.name in self._unusable:
            raise EnvironmentFailedError(self._unusable[environment.name])
        if environment.is_made():
            return
        self.console.print(f"making the environment of {environment.name} ...")
        try:
            environment.make()
        except EnvironmentFailedError as error:
            self._unusable[environment.name] = str(error)
            raise

    def _job(self, subject: Subject) -> Job:
        engine = subject.engine
        made_by = subject.environment.digest if subject.environment else _exporter_digest()
        folder = self._models / engine.name / made_by / engine.precision
        checkpoint = self.checkpoint if subject.reads_gguf else self._folder()
        return Job(
            str(checkpoint),
            str(checkpoint if subject is _TRANSFORMERS else folder),
            engine.precision,
            engine.kv_type,
            self.n_threads,
            engine.has_flash_attention,
        )

    def _folder(self) -> Path:
        """Return a folder of the weights, which transformers makes of a GGUF file once."""
        if self.checkpoint.is_dir():
            return self.checkpoint
        if not importlib.util.find_spec("transformers"):
            raise WorkerFailedError(_NEEDS_TORCH)
        engine = _TRANSFORMERS.engine
        folder = self._models / engine.name / version("transformers") / engine.precision
        job = Job(
            str(self.checkpoint), str(folder), engine.precision, engine.kv_type, self.n_threads
        )
        self._prepare(_TRANSFORMERS, job)
        return folder

    @property
    def _models(self) -> Path:
        """Where what is made of the checkpoint lies: it goes by its files' sizes and times."""
        is_folder = self.checkpoint.is_dir()
        entries = self.checkpoint.iterdir() if is_folder else [self.checkpoint]
        files = sorted(path for path in entries if path.is_file())
        known = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        name = hashlib.sha256(f"{self.checkpoint} {known}".encode()).hexdigest()[:12]
        return cache_folder() / "models" / name

    def _prepare(self, subject: Subject, job: Job) -> None:
        """Convert the checkpoint, where these versions have not done it already."""
        folder = Path(job.folder)
        if folder.exists():
            return
        # What other versions made is of no use any more.
        for other in folder.parent.parent.glob("*"):
            if other != folder.parent:
                shutil.rmtree(other)
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _created(partial.parent)
        done = subprocess.run(
            _command(subject, "prepare", replace(job, folder=str(partial))),
            cwd=_ROOT,
            env=_environ(job.n_threads),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise WorkerFailedError(f"its model was not made: {last_line(done.stderr)}")
        partial.rename(folder)


def _command(subject: Subject, action: str, job: Job) -> list[str]:
    python = str(subject.environment.python) if subject.environment else sys.executable
    return [python, "-m", f"benchmarks.workers.{subject.worker}", action, to_json(job)]


def _environ(n_threads: int) -> dict[str, str]:
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(n_threads)}


def _check_memory(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = size + _BESIDE_MODEL_BYTES
    available = psutil.virtual_memory().available
    if needed > available:
        raise WorkerFailedError(
            f"it needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free"
        )


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _exporter_digest() -> str:
    """Return what changes when our exporter does; optimum's export is made anew with it."""
    sources = sorted((_ROOT / "model_export").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
