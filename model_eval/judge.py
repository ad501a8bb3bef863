"""Judges whether names exist, without the analyser that steers: mypy, and run time.

It knows neither models nor tokens. Nothing of a judged package is run; of the standard
library's modules the names are those that they have when imported.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from lsp_server.positions import LINE_END, line_of
from model_eval.dereferences import Dereference

_NO_PLACE = re.compile(r"\s*(?:elif|else|except|finally|case)\b")
_MESSAGE = re.compile(
    r"^(?P<file>.*?):(?P<line>\d+): (?:error|note): (?P<text>.*)$", re.MULTILINE
)
_MISSING = re.compile(r"\[attr-defined\]|undefined in superclass")
_REVEALED = "Revealed type is"
_OPEN_TYPE = re.compile(r'"(?:Any|builtins\.object|<nothing>|Never)\b')


class Judgement(StrEnum):
    """What is said of a name on a receiver."""

    EXISTS = "exists"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """The judge cannot tell what the receiver is."""


@dataclass(frozen=True)
class Question:
    """A name after a dot of a file, whose own text is whole."""

    path: Path
    dereference: Dereference
    name: str


@dataclass(frozen=True)
class _Probe:
    dereference: Dereference
    name: str | None
    """None asks what the receiver is."""


def judge_names(
    questions: Iterable[Question], *, search: Path, cache: Path
) -> dict[Question, Judgement]:
    """Judge each name, and the true one of each dereference.

    ``search`` is the folder that the packages lie in, ``cache`` is the judge's. Where the
    judge says that a true name is missing, it is wrong about the receiver and says nothing.
    """
    by_path: dict[Path, dict[Question, None]] = {}
    for question in questions:
        own = by_path.setdefault(question.path, {})
        own |= {replace(question, name=question.dereference.name): None, question: None}
    judged: dict[Question, Judgement] = {}
    probes: dict[Path, list[_Probe]] = {}
    modules = {path: _module_names(path.read_text("utf-8")) for path in by_path}
    used = {
        modules[q.path].get(q.dereference.receiver) for own in by_path.values() for q in own
    }
    listed = _names_at_run_time({module for module in used if module is not None})
    for path, asked in by_path.items():
        for question in asked:
            module = modules[path].get(question.dereference.receiver)
            if module in listed:
                exists = question.name in listed[module]
                judged[question] = Judgement.EXISTS if exists else Judgement.MISSING
            else:
                judged[question] = Judgement.UNKNOWN
                own_probes = probes.setdefault(path, [])
                own_probes += [_Probe(question.dereference, n) for n in (None, question.name)]
    judged |= _judged_by_mypy(probes, search, cache)
    return {
        question: judgement
        if judged[replace(question, name=question.dereference.name)] is Judgement.EXISTS
        else Judgement.UNKNOWN
        for question, judgement in judged.items()
    }


def _judged_by_mypy(
    probes: Mapping[Path, Sequence[_Probe]], search: Path, cache: Path
) -> dict[Question, Judgement]:
    texts: dict[Path, str] = {}
    lines: dict[tuple[Path, _Probe], int] = {}
    for path, own in probes.items():
        texts[path], where = _with_probes(path.read_text("utf-8"), list(dict.fromkeys(own)))
        lines |= {(path, probe): line for probe, line in where.items()}
    said = _messages(texts, search, cache)
    judged = {}
    for path, own in probes.items():
        for probe in own:
            if probe.name is None:
                continue
            about = said.get((path, lines.get((path, probe), -1)), [])
            receiver = lines.get((path, _Probe(probe.dereference, None)), -1)
            is_known = any(
                _REVEALED in message and not _OPEN_TYPE.search(message)
                for message in said.get((path, receiver), ())
            )
            if any(map(_MISSING.search, about)):
                judgement = Judgement.MISSING
            elif about or not is_known or (path, probe) not in lines:
                judgement = Judgement.UNKNOWN
            else:
                judgement = Judgement.EXISTS
            judged[Question(path, probe.dereference, probe.name)] = judgement
    return judged


def _messages(
    texts: Mapping[Path, str], search: Path, cache: Path
) -> dict[tuple[Path, int], list[str]]:
    """Return what mypy says of each line of each text, each in its file's place."""
    said: dict[tuple[Path, int], list[str]] = {}
    if not texts:
        return said
    run = _mypy(texts, search, cache)
    # One file that it cannot read at all keeps it from the others.
    runs = (
        [_mypy({path: texts[path]}, search, cache) for path in texts] if run is None else [run]
    )
    for output in runs:
        for message in _MESSAGE.finditer(output or ""):
            place = (search / message["file"], int(message["line"]))
            said.setdefault(place, []).append(message["text"])
    return said


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


def _mypy(texts: Mapping[Path, str], search: Path, cache: Path) -> str | None:
    """Return what mypy says, None where it could not read something."""
    cache.mkdir(parents=True, exist_ok=True)
    shadows: list[str | Path] = []
    for number, (path, text) in enumerate(texts.items()):
        shadow = cache / f"probed{number}.py"
        shadow.write_text(text, "utf-8")
        shadows += ["--shadow-file", path, shadow]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", *shadows),
            *("--cache-dir", cache, "--config-file", ""),
            *("--ignore-missing-imports", "--follow-imports", "silent", "--no-error-summary"),
            *("--check-untyped-defs", "--show-error-codes", "--no-pretty"),
            *("--allow-redefinition", "--no-warn-unused-ignores"),
            *(path.relative_to(search) for path in texts),
        ],
        cwd=search,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if run.returncode not in (0, 1) else run.stdout


def _module_names(text: str) -> dict[str, str]:
    """Return each name that a file binds to a module of the standard library and no more."""
    modules: dict[str, str] = {}
    others = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in sys.stdlib_module_names:
                    modules[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            others |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.arg):
            others.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            others.add(node.id)
    return {name: module for name, module in modules.items() if name not in others}


def _names_at_run_time(modules: set[str]) -> dict[str | None, frozenset[str]]:
    """Return the names of each module that can be imported here."""
    program = (
        "import importlib, json, sys\n"
        "names = {}\n"
        "for module in json.load(sys.stdin):\n"
        "    try:\n"
        "        names[module] = dir(importlib.import_module(module))\n"
        "    except ImportError:\n"
        "        pass\n"
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
