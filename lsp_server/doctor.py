"""Examines this machine for what codegen-lsp needs; reports, and mends nothing."""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from lsp_server.acceptance import describe, read_counts, statistics_file
from lsp_server.completion import complete
from lsp_server.errors import ServingError
from lsp_server.plan import Snapshot
from lsp_server.serving_model import Model
from lsp_server.session import providers
from lsp_server.verdict import CheckRequest, Verdict

_PACKAGES = (
    "codegen-lsp",
    "onnxruntime-gpu",
    "onnxruntime",
    "tokenizers",
    "pygls",
    "jedi",
    "numpy",
)
_EXAMPLE = "def add(first, second):\n    return "


@dataclass
class Report:
    """What was found; sizes are bytes, times milliseconds."""

    versions: dict[str, str] = field(default_factory=dict)
    providers: dict[str, str] = field(default_factory=dict)
    """Each execution provider with ``ok`` or why it cannot be used."""
    model: str = ""
    memory_total: int = 0
    memory_available: int = 0
    memory_used: int = 0
    """By this process with the model loaded."""
    servers: list[dict[str, int]] = field(default_factory=list)
    completion_ms: float | None = None
    check: str = ""
    statistics: dict[str, int] = field(default_factory=dict)
    """What this user's servers counted; see ``lsp_server.acceptance``."""
    problems: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Tell whether completions work here."""
        return not self.problems

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        return asdict(self)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the report as names and values for a person."""
        yield from self.versions.items()
        yield from self.providers.items()
        yield "model", self.model
        yield (
            "memory",
            f"{self.memory_available / 1e9:.1f} GB free of "
            f"{self.memory_total / 1e9:.1f} GB, {self.memory_used / 1e6:.0f} MB used here",
        )
        for server in self.servers:
            yield "server", f"pid {server['pid']}, {server['memory'] / 1e6:.0f} MB"
        if self.completion_ms is not None:
            yield "one completion", f"{self.completion_ms:.0f} ms, check: {self.check}"
        yield "completions", describe(self.statistics)
        for problem in self.problems:
            yield "problem", problem


def examine(
    open_model: Callable[[], Model], check: Callable[[CheckRequest], Verdict]
) -> Report:
    """Return a report of this machine, with one completion timed and checked."""
    memory = psutil.virtual_memory()
    report = Report(
        versions=_versions(),
        providers=providers(),
        memory_total=memory.total,
        memory_available=memory.available,
        servers=running_servers(),
        statistics=read_counts(statistics_file()),
    )
    if {"onnxruntime", "onnxruntime-gpu"} <= set(report.versions):
        report.problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install codegen-lsp again"
        )
    try:
        model = open_model()
    except ServingError as error:
        report.problems.append(str(error))
        return report
    report.model = model.name
    started = time.perf_counter()
    completion = complete(model, Snapshot(_EXAMPLE, len(_EXAMPLE)), max_new_tokens=16)
    report.completion_ms = 1e3 * (time.perf_counter() - started)
    text = completion.candidates[0].insert_text if completion.candidates else ""
    report.check = str(check(CheckRequest(_EXAMPLE, len(_EXAMPLE), text)).verdict)
    report.memory_used = psutil.Process().memory_info().rss
    return report


def _versions() -> dict[str, str]:
    found = {"python": f"{platform.python_version()} ({sys.executable})"}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def running_servers() -> list[dict[str, int]]:
    """Return the running servers that can be seen: pid and resident memory."""
    servers = []
    for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
        if _is_server(process.info["cmdline"] or []):
            memory = process.info["memory_info"]
            servers.append({"pid": process.pid, "memory": memory.rss if memory else 0})
    return servers


def _is_server(command: Sequence[str]) -> bool:
    programs = (Path(part).stem for part in command)
    return any(
        program in ("codegen-lsp", "lsp_server") and argument == "serve"
        for program, argument in zip(programs, command[1:], strict=False)
    )
