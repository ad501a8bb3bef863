"""Judges whether names exist, without the analyser that steers: mypy, and what runs.

It knows neither models nor tokens. Nothing of a judged package is run; of the standard
library's modules the names are those that they have when imported.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lsp_server.positions import LINE_END, line_of
from model_eval.dereferences import Dereference

_NO_PLACE = re.compile(r"\s*(?:elif|else|except|finally|case|@)")
_MESSAGE = re.compile(r"^.*?:(?P<line>\d+): (?P<kind>error|note): (?P<text>.*)$", re.MULTILINE)
_MISSING = "[attr-defined]"
_REVEALED = "Revealed type is"
_OPEN_TYPE = re.compile(r'"(?:Any|builtins\.object|<nothing>|Never)\b')


class Judgement(StrEnum):
    """What is said of a name on a receiver."""

    EXISTS = "exists"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """The judge cannot tell what the receiver is."""


@dataclass(frozen=True)
class _Probe:
    dereference: Dereference
    name: str | None
    """None asks what the receiver is."""


def judge_names(
    path: Path, names: Mapping[Dereference, Sequence[str]], *, search: Path, cache: Path
) -> dict[tuple[Dereference, str], Judgement]:
    """Judge names on the receivers of one file, whose own text is whole.

    ``search`` is the folder that the packages lie in, ``cache`` is mypy's. Where the judge
    says that a true name is missing, it is wrong about the receiver and says nothing.
    """
    text = path.read_text("utf-8")
    modules = _module_names(text)
    listed = _names_at_run_time({m for d in names if (m := modules.get(d.receiver))})
    judged: dict[tuple[Dereference, str], Judgement] = {}
    probes: list[_Probe] = []
    for dereference, wanted in names.items():
        if (module := modules.get(dereference.receiver)) in listed:
            for name in wanted:
                exists = name in listed[module]
                judged[dereference, name] = Judgement.EXISTS if exists else Judgement.MISSING
        else:
            every = dict.fromkeys((None, dereference.name, *wanted))
            probes += [_Probe(dereference, name) for name in every]
    judged |= _judged_by_mypy(path, text, probes, search, cache)
    return {
        (dereference, name): Judgement.UNKNOWN
        if judged.get((dereference, dereference.name)) is Judgement.MISSING
        else judgement
        for (dereference, name), judgement in judged.items()
    }


def _judged_by_mypy(
    path: Path, text: str, probes: Sequence[_Probe], search: Path, cache: Path
) -> dict[tuple[Dereference, str], Judgement]:
    probed, lines = _with_probes(text, probes)
    errors: dict[int, list[str]] = {}
    if lines:
        for message in _MESSAGE.finditer(_mypy(path, probed, search, cache)):
            errors.setdefault(int(message["line"]), []).append(message["text"])
    is_known = {
        probe.dereference: any(
            _REVEALED in said and not _OPEN_TYPE.search(said)
            for said in errors.get(lines.get(probe, -1), ())
        )
        for probe in probes
        if probe.name is None
    }
    judged = {}
    for probe in probes:
        if probe.name is None:
            continue
        said = errors.get(lines.get(probe, -1), [])
        if any(_MISSING in message for message in said):
            judgement = Judgement.MISSING
        elif said or not is_known[probe.dereference]:
            judgement = Judgement.UNKNOWN
        else:
            judgement = Judgement.EXISTS
        judged[probe.dereference, probe.name] = judgement
    return judged


def _with_probes(text: str, probes: Sequence[_Probe]) -> tuple[str, dict[_Probe, int]]:
    """Return the text with a line for each probe before its statement, and which line."""
    starts = {match.end() for match in LINE_END.finditer(text)} | {0}
    by_start: dict[int, list[_Probe]] = {}
    for probe in probes:
        by_start.setdefault(probe.dereference.statement, []).append(probe)
    out: list[str] = []
    n_lines = 0
    lines = {}
    for start in sorted(starts):
        _, end = line_of(text, start)
        line = text[start:end]
        if start in by_start and not _NO_PLACE.match(line):
            indent = line[: len(line) - len(line.lstrip())]
            for probe in by_start[start]:
                source = _source(probe)
                if source is not None:
                    out.append(indent + source)
                    n_lines += 1
                    lines[probe] = n_lines
        out.append(line)
        n_lines += 1
    probed = "\n".join(out)
    try:
        ast.parse(probed)
    except SyntaxError:
        return text, {}
    return probed, lines


def _source(probe: _Probe) -> str | None:
    receiver = " ".join(probe.dereference.receiver.split("\n"))
    source = f"reveal_type({receiver})" if probe.name is None else f"({receiver}).{probe.name}"
    try:
        ast.parse(source)
    except SyntaxError:
        return None
    return source


def _mypy(path: Path, text: str, search: Path, cache: Path) -> str:
    shadow = cache / "probed.py"
    cache.mkdir(parents=True, exist_ok=True)
    shadow.write_text(text, "utf-8")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--shadow-file", path, shadow),
            *("--cache-dir", cache, "--config-file", ""),
            *("--ignore-missing-imports", "--follow-imports", "silent", "--no-error-summary"),
            *("--check-untyped-defs", "--show-error-codes", "--no-pretty"),
            *("--allow-redefinition", "--no-warn-unused-ignores"),
            path.relative_to(search),
        ],
        cwd=search,
        capture_output=True,
        text=True,
        check=False,
    )
    own = f"{path.relative_to(search)}:"
    return "\n".join(line for line in run.stdout.splitlines() if line.startswith(own))


def _module_names(text: str) -> dict[str, str]:
    """Return what each name that a file binds to a module of the standard library is."""
    modules = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in sys.stdlib_module_names:
                    modules[alias.asname or alias.name] = alias.name
    return modules


def _names_at_run_time(modules: set[str]) -> dict[str, frozenset[str]]:
    program = (
        "import importlib, json, sys\n"
        "names = {m: dir(importlib.import_module(m)) for m in json.load(sys.stdin)}\n"
        "json.dump(names, sys.stdout)\n"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", program],
        input=json.dumps(sorted(modules)),
        capture_output=True,
        text=True,
        check=True,
    )
    return {module: frozenset(names) for module, names in json.loads(run.stdout).items()}
