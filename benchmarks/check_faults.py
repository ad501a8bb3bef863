"""Measures what the check finds: seeded faults in real code, and false alarms in the same.

A fault is one statement of a file in which one attribute, name, keyword or number of
arguments was changed; it is checked as a completion of the file without the statement.
The files are those of the standard library and of such packages as are installed. A call
is only counted where nobody at run time would take the changed one; where the function is
not known before running, that is not proved, and the table shows those calls apart. Run as
``.venv/bin/python -m benchmarks.check_faults``.
"""

import argparse
import ast
import builtins
import importlib
import inspect
import json
import random
import sysconfig
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from lsp_server.check import check
from lsp_server.verdict import CheckRequest, Verdict, VerdictKind

_PACKAGES = (
    "click",
    "requests",
    "rich",
    "jinja2",
    "packaging",
    "pluggy",
    "httpx2",
    "anyio",
    # These are full of paths.
    "_pytest",
    "filelock",
    "huggingface_hub",
    "virtualenv",
)
_KINDS = ("attribute", "name", "keyword", "arity")
_SIMPLE = (
    ast.Expr,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.Return,
    ast.Raise,
    ast.Assert,
)
_ENDINGS = ("_all", "_value", "_of", "_data", "_next", "_for")
_LARGEST = 60_000
"""Characters; most files that people write are smaller."""
_SKIPPED = frozenset(
    {
        # Generated tables, one like the other.
        "encodings",
        # These act when they are imported.
        "antigravity.py",
        "idlelib",
        "lib2to3",
        "this.py",
        "turtledemo",
        "site-packages",
        "test",
        "tests",
    }
)


@dataclass(frozen=True)
class Statement:
    """A statement of a file, by its offsets."""

    path: Path
    text: str
    start: int
    end: int
    node: ast.stmt
    parents: tuple[ast.AST, ...]
    """What it stands in, from the module on."""

    def request(self, written: str | None = None) -> CheckRequest:
        """Return the check of the statement, or of another, where it stands."""
        insert_text = self.text[self.start : self.end] if written is None else written
        text = self.text[: self.start] + self.text[self.end :]
        return CheckRequest(text, self.start, insert_text, path=str(self.path))


@dataclass(frozen=True)
class Fault:
    """A changed statement; ``is_proved`` where the change is a fault at run time."""

    kind: str
    statement: Statement
    written: str
    change: str
    is_proved: bool


@dataclass(frozen=True)
class Outcome:
    """What a check said; times in milliseconds."""

    kind: str
    where: str
    change: str
    is_proved: bool
    verdict: str
    problems: list[str]
    wall_ms: float
    thread_ms: float
    is_warm: bool


def source_files() -> list[Path]:
    """Return the files to choose from; a package that is not installed has none."""
    standard = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    found = [p for p in standard.rglob("*.py") if not _SKIPPED & set(p.parts)]
    for package in _PACKAGES:
        found += (packages / package).rglob("*.py")
    return sorted(found)


def read_statements(path: Path) -> list[Statement]:
    """Return the simple statements of a file, none of one that is large or does not parse."""
    try:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    if len(text) > _LARGEST or "\f" in text:
        return []
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = text.splitlines(keepends=True)

    def offset(lineno: int, column: int) -> int:
        return starts[lineno - 1] + len(lines[lineno - 1].encode()[:column].decode())

    found = []

    def visit(node: ast.AST, parents: tuple[ast.AST, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _SIMPLE) and not _is_text(child):
                end = offset(child.end_lineno or 1, child.end_col_offset or 0)
                start = offset(child.lineno, child.col_offset)
                found.append(Statement(path, text, start, end, child, (*parents, node)))
            else:
                visit(child, (*parents, node))

    visit(tree, ())
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def make_fault(kind: str, statement: Statement, chooser: random.Random) -> Fault | None:
    """Return the statement with one thing changed, None where nothing can be."""
    places = list(_places(kind, statement.node))
    if not places:
        return None
    place = chooser.choice(places)
    ending = chooser.choice(_ENDINGS)
    is_proved = kind in ("attribute", "name")
    if isinstance(place, ast.Attribute):
        old, new = place.attr, place.attr + ending
        at = _offset(statement, place.end_lineno, place.end_col_offset) - len(old)
    elif isinstance(place, ast.Name):
        old, new = place.id, place.id + ending
        at = _offset(statement, place.lineno, place.col_offset)
    elif isinstance(place, ast.keyword):
        old, new = place.arg or "", (place.arg or "") + ending
        at = _offset(statement, place.lineno, place.col_offset)
        call = _call_of(statement.node, place)
        names = [new if k is place else k.arg for k in call.keywords if k.arg]
        verdict = _is_fault(statement, call, len(call.args), names)
        if verdict is False:
            return None
        is_proved = bool(verdict)
    else:
        call = place
        more = chooser.random() < 0.5 or not call.args
        n_given = len(call.args) + (1 if more else -1)
        names = [k.arg for k in call.keywords if k.arg]
        verdict = _is_fault(statement, call, n_given, names)
        if verdict is False:
            return None
        is_proved = bool(verdict)
        at, old, new = _changed_arguments(statement, call, more=more)
    if kind in ("attribute", "name") and new in statement.text:
        return None
    if statement.text[at : at + len(old)] != old:
        return None
    written = statement.text[statement.start : at] + new
    written += statement.text[at + len(old) : statement.end]
    try:
        ast.parse(statement.text[: statement.start] + written + statement.text[statement.end :])
    except SyntaxError:
        return None
    return Fault(kind, statement, written, f"{old!r} -> {new!r}", is_proved)


def _places(kind: str, statement: ast.stmt) -> Iterator[Any]:
    for node in ast.walk(statement):
        is_read = isinstance(getattr(node, "ctx", None), ast.Load)
        if isinstance(node, ast.JoinedStr | ast.Lambda):
            # Positions in them are not all the file's.
            continue
        is_wanted = {
            "attribute": isinstance(node, ast.Attribute) and is_read,
            "name": isinstance(node, ast.Name) and is_read,
            "arity": isinstance(node, ast.Call) and _is_spelled_out(node),
        }
        if is_wanted.get(kind):
            yield node
        elif kind == "keyword" and isinstance(node, ast.Call):
            yield from (keyword for keyword in node.keywords if keyword.arg)


def _is_spelled_out(call: ast.Call) -> bool:
    has_star = any(isinstance(argument, ast.Starred) for argument in call.args)
    return not has_star and all(keyword.arg for keyword in call.keywords)


def _call_of(statement: ast.stmt, keyword: ast.keyword) -> ast.Call:
    return next(
        node
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and keyword in node.keywords
    )


def _changed_arguments(
    statement: Statement, call: ast.Call, *, more: bool
) -> tuple[int, str, str]:
    """Return where, what and by what it is replaced, to give one argument more or less."""
    if more:
        at = _offset(statement, call.func.end_lineno, call.func.end_col_offset)
        at = statement.text.index("(", at)
        return at, "(", "(0, " if call.args or call.keywords else "(0"
    last = call.args[-1]
    start = _offset(statement, last.lineno, last.col_offset)
    end = _offset(statement, last.end_lineno, last.end_col_offset)
    rest = statement.text[end:].lstrip()
    if rest.startswith(","):
        end = statement.text.index(",", end) + 1
    return start, statement.text[start:end], ""


def _offset(statement: Statement, lineno: int | None, column: int | None) -> int:
    lines = statement.text.splitlines(keepends=True)
    before = sum(map(len, lines[: (lineno or 1) - 1]))
    return before + len(lines[(lineno or 1) - 1].encode()[:column].decode())


def _is_fault(
    statement: Statement, call: ast.Call, n_given: int, names: list[str]
) -> bool | None:
    """Tell by the function itself whether it refuses a call; None: it is not known."""
    if not _is_spelled_out(call):
        return None
    found = _function(statement, call.func)
    if found is None:
        return None
    function, n_bound = found
    is_error = inspect.isclass(function) and issubclass(function, BaseException)
    if is_error and not inspect.isfunction(function.__init__):
        # An exception takes anything, but where its own code says otherwise.
        return False
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return None
    try:
        signature.bind(*[None] * (n_given + n_bound), **dict.fromkeys(names))
    except TypeError:
        return True
    return False


def _function(statement: Statement, func: ast.expr) -> tuple[Any, int] | None:
    """Return what is called at run time and how many arguments come before the written."""
    module = _module(statement.path)
    if module is None:
        return None
    classes = [node for node in statement.parents if isinstance(node, ast.ClassDef)]
    if (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.value.id in ("self", "cls")
        and len(classes) == 1
    ):
        owner = getattr(module, classes[0].name, None)
        if not inspect.isclass(owner):
            return None
        static = inspect.getattr_static(owner, func.attr, None)
        if inspect.isfunction(static):
            return static, 1
        is_bound = isinstance(static, staticmethod | classmethod)
        return (getattr(owner, func.attr), 0) if is_bound else None
    value = _value(statement, module, func)
    return None if value is None else (value, 0)


def _value(statement: Statement, module: ModuleType, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        if node.id in _local_names(statement):
            return None
        return getattr(module, node.id, getattr(builtins, node.id, None))
    if isinstance(node, ast.Attribute):
        owner = _value(statement, module, node.value)
        is_plain = inspect.ismodule(owner) or inspect.isclass(owner)
        return getattr(owner, node.attr, None) if is_plain else None
    return None


def _local_names(statement: Statement) -> set[str]:
    names = set()
    for parent in statement.parents:
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(parent):
                if isinstance(node, ast.arg):
                    names.add(node.arg)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
                elif isinstance(node, ast.alias):
                    names.add((node.asname or node.name).partition(".")[0])
                elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node is not parent:
                    names.add(node.name)
    return names


def _module(path: Path) -> ModuleType | None:
    """Return the imported module of a file, None for one that cannot be."""
    for root in (Path(sysconfig.get_path("stdlib")), Path(inspect.getfile(Table)).parents[1]):
        if path.is_relative_to(root):
            parts = path.relative_to(root).with_suffix("").parts
            break
    else:
        return None
    name = ".".join(part for part in parts if part != "__init__")
    if parts[-1] == "__main__":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    # What a module of another system does when it is imported is its own affair.
    except BaseException:  # noqa: BLE001
        return None


def choose_faults(files: list[Path], n_each: int, seed: int) -> list[Fault]:
    """Return so many faults of each kind, in files chosen by chance."""
    chooser = random.Random(seed)  # noqa: S311
    faults = []
    for kind in _KINDS:
        n_found = 0
        # A call that is not proved to be a fault is checked and does not count.
        while n_found < n_each:
            statements = read_statements(chooser.choice(files))
            if not statements:
                continue
            for _ in range(20):
                fault = make_fault(kind, chooser.choice(statements), chooser)
                if fault is not None:
                    faults.append(fault)
                    n_found += fault.is_proved
                    break
    return sorted(faults, key=lambda fault: fault.statement.path)


def choose_statements(files: list[Path], n: int, seed: int) -> list[Statement]:
    """Return one statement of each of so many files."""
    chooser = random.Random(seed)  # noqa: S311
    found: list[Statement] = []
    for path in chooser.sample(files, len(files)):
        if statements := read_statements(path):
            found.append(chooser.choice(statements))
        if len(found) == n:
            break
    return found


def judge(request: CheckRequest) -> tuple[Verdict, float, float]:
    """Return a verdict, the wall-clock and the thread's milliseconds."""
    wall, thread = time.perf_counter(), time.thread_time()
    try:
        verdict = check(request)
    # What the worker answers then.
    except Exception:  # noqa: BLE001
        verdict = Verdict(VerdictKind.UNCHECKED)
    return (
        verdict,
        1e3 * (time.perf_counter() - wall),
        1e3 * (time.thread_time() - thread),
    )


def outcome(kind: str, statement: Statement, fault: Fault | None, *, is_warm: bool) -> Outcome:
    """Check a statement, changed or as it is."""
    request = statement.request(fault.written if fault else None)
    verdict, wall_ms, thread_ms = judge(request)
    return Outcome(
        kind,
        f"{statement.path}:{statement.node.lineno}",
        fault.change if fault else "",
        fault.is_proved if fault else False,
        verdict.verdict.value,
        [f"{p.code}: {p.message}" for p in verdict.problems],
        wall_ms,
        thread_ms,
        is_warm,
    )


def main() -> None:
    """Print a table of the faults that the check finds, and of its false alarms."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="a quarter of each kind")
    parser.add_argument("--files", type=int, default=300, help="for false alarms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where each outcome is written")
    options = parser.parse_args()
    files = source_files()
    results: list[Outcome] = []
    faults = choose_faults(files, options.faults // len(_KINDS), options.seed)
    seen: set[Path] = set()
    for fault in track(faults, "faults"):
        is_warm = fault.statement.path in seen
        seen.add(fault.statement.path)
        results.append(outcome(fault.kind, fault.statement, fault, is_warm=is_warm))
    for statement in track(choose_statements(files, options.files, options.seed), "files"):
        # The first time is like opening the file.
        outcome("none", statement, None, is_warm=False)
        results.append(outcome("none", statement, None, is_warm=True))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    Console().print(_table(results))
    warm = [result for result in results if result.is_warm]
    print(
        f"a warm check takes {median(r.wall_ms for r in warm):.0f} ms at the median, "
        f"{median(r.thread_ms for r in warm):.0f} ms of its thread ({len(warm)} checks)"
    )
    for result in results:
        if result.kind == "none" and result.verdict == "flagged":
            print(f"false alarm: {result.where}: {'; '.join(result.problems)}")


def _table(results: list[Outcome]) -> Table:
    table = Table("changed", "checked", "caught", "unchecked")
    proved = [result for result in results if result.is_proved]
    rows = {"all faults": proved}
    rows |= {kind: [r for r in proved if r.kind == kind] for kind in _KINDS}
    for kind in ("keyword", "arity"):
        found = [r for r in results if r.kind == kind and not r.is_proved]
        rows[f"{kind}, perhaps no fault"] = found
    rows["nothing"] = [r for r in results if r.kind == "none"]
    for label, found in rows.items():
        table.add_row(
            label, str(len(found)), _share(found, "flagged"), _share(found, "unchecked")
        )
    return table


def _share(results: list[Outcome], verdict: str) -> str:
    n_such = sum(result.verdict == verdict for result in results)
    return f"{n_such} ({100 * n_such / len(results):.1f} %)" if results else "-"


if __name__ == "__main__":
    main()
