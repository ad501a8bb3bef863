"""Checks a completion in its buffer with pyflakes and jedi; the only module with them.

It runs in a worker process, because jedi and parso hold the interpreter lock for long
and can fail on odd code in odd ways. It starts no interpreter and imports nothing from
the project: an environment's packages are read as paths.
"""

import ast
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jedi
import parso
from pyflakes import checker as pyflakes_checker
from pyflakes import messages

from lsp_server.environment import package_paths
from lsp_server.positions import LINE_END, position_at
from lsp_server.verdict import (
    UNCHECKED,
    CheckRequest,
    Problem,
    Verdict,
    VerdictKind,
)

# CPython's PyCF_ALLOW_INCOMPLETE_INPUT, which its own codeop uses.
_ALLOW_INCOMPLETE_INPUT = 0x4000
_IPYTHON_NAMES = ("display", "get_ipython", "In", "Out", "_", "__", "___", "_dh", "_ih", "_oh")

# jedi would import these packages for real to look at them.
jedi.settings.auto_import_modules = []


def check(request: CheckRequest) -> Verdict:
    """Return whether the buffer still parses and the inserted names resolve.

    Positions of problems are UTF-16, in the buffer with the text inserted. Any input has
    a verdict; what cannot be judged is unchecked.
    """
    inserted = _Inserted(request)
    tree = _parse(inserted.text)
    if isinstance(tree, ast.Module):
        return _check_names(tree, inserted, request)
    if tree is None:
        return UNCHECKED
    try:
        is_worse = _n_syntax_errors(inserted.text) > _n_syntax_errors(request.text)
    except RecursionError:
        return UNCHECKED
    if is_worse:
        return Verdict(VerdictKind.FLAGGED, (inserted.syntax_problem(tree),))
    # The code after the cursor is often still to be written, that before it is not.
    head = _parse(inserted.text[: inserted.end] + "\n", may_go_on=True)
    if isinstance(head, ast.Module):
        inserted.may_define_later = True
        return _check_names(head, inserted, request)
    if head is not None and inserted.reaches_new_text(head):
        return Verdict(VerdictKind.FLAGGED, (inserted.syntax_problem(head),))
    return UNCHECKED


def _check_names(tree: ast.Module, inserted: "_Inserted", request: CheckRequest) -> Verdict:
    @cache
    def script() -> jedi.Script:
        return _script(inserted.text, request)

    name_problems, names_known = _undefined_names(tree, inserted, script)
    import_problems, imports_known = _unresolved_imports(tree, inserted, script)
    if problems := (*name_problems, *import_problems):
        return Verdict(VerdictKind.FLAGGED, problems)
    return Verdict(VerdictKind.OK) if names_known and imports_known else UNCHECKED


class _Inserted:
    """The buffer with the text in it, and which part of it is new."""

    def __init__(self, request: CheckRequest) -> None:
        self._start = request.offset
        self.end = request.offset + len(request.insert_text)
        self.text = (
            request.text[: self._start] + request.insert_text + request.text[self._start :]
        )
        # A stub may use names before it defines them.
        self.may_define_later = (request.path or "").endswith(".pyi")
        """Whether the text after the new one may define its names."""
        self.builtins = _IPYTHON_NAMES if (request.path or "").endswith(".ipynb") else None
        """Names that are there and that nobody defines."""
        ends = [match.end() for match in LINE_END.finditer(self.text)]
        self._line_starts = [0, *ends]

    def offset(self, lineno: int, utf8_column: int) -> int:
        """Return the offset of a position of Python's parser: 1-based line, bytes."""
        start = self._line_starts[min(lineno, len(self._line_starts)) - 1]
        line = self.text[start : start + utf8_column]
        column = line.encode("utf-8", "replace")[:utf8_column]
        return start + len(column.decode("utf-8", "ignore"))

    def is_new(self, offset: int) -> bool:
        """Tell whether a name that starts at the offset reaches into the new text."""
        if self._start <= offset < self.end:
            return True
        # Of a name that was half typed only the end is new.
        head = self.text[offset : self._start]
        return offset < self._start and head.isidentifier()

    def reaches_new_text(self, error: SyntaxError) -> bool:
        """Tell whether an error is the new text's, and not one of the code before it."""
        line, column = error.end_lineno or error.lineno, error.end_offset or error.offset
        is_incomplete = "incomplete input" in error.msg
        return not is_incomplete and self._start < self._offset_in(line or 1, column or 1)

    def syntax_problem(self, error: SyntaxError) -> Problem:
        """Return the problem that an error of Python's parser is."""
        offset = self._offset_in(error.lineno or 1, 1)
        return self.problem(offset, "syntax", f"the code does not parse: {error.msg}")

    def _offset_in(self, lineno: int, column: int) -> int:
        """Return the offset of a 1-based line and character."""
        line = min(lineno, len(self._line_starts)) - 1
        return self._line_starts[line] + max(0, column - 1)

    def mentions_later(self, name: str) -> bool:
        """Tell whether the text after the new one has a name that it may define."""
        return (
            self.may_define_later
            and re.search(rf"\b{re.escape(name)}\b", self.text[self.end :]) is not None
        )

    def problem(self, offset: int, code: str, message: str) -> Problem:
        line, character = position_at(self.text, min(offset, len(self.text)))
        return Problem(line, character, code, message)


def _parse(text: str, *, may_go_on: bool = False) -> ast.Module | SyntaxError | None:
    """Return the tree, why there is none, or None where Python itself gives up.

    With ``may_go_on`` a text that only lacks its end fails with "incomplete input".
    """
    flags = ast.PyCF_ONLY_AST | (_ALLOW_INCOMPLETE_INPUT if may_go_on else 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = compile(text, "<buffer>", "exec", flags)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.Module) else None


def _n_syntax_errors(text: str) -> int:
    grammar = parso.load_grammar()
    return len(list(grammar.iter_errors(grammar.parse(text))))


def _undefined_names(
    tree: ast.Module,
    inserted: _Inserted,
    script: Callable[[], jedi.Script],
) -> tuple[list[Problem], bool]:
    """Return one problem for each undefined name, and whether every name could be judged."""
    problems: dict[str, Problem] = {}
    all_known = True
    for message in pyflakes_checker.Checker(tree, builtins=inserted.builtins).messages:
        offset = inserted.offset(message.lineno, message.col)
        if not inserted.is_new(offset):
            continue
        if isinstance(message, messages.UndefinedName):
            name = str(message.message_args[0])
            if name not in problems and not inserted.mentions_later(name):
                problems[name] = inserted.problem(
                    offset, "undefined-name", f"the name {name!r} is not defined"
                )
        # pyflakes cannot look into a star import, jedi can; a name that jedi does not
        # find may still be there.
        elif isinstance(message, messages.ImportStarUsage):
            all_known &= bool(script().goto(message.lineno, message.col))
    return list(problems.values()), all_known


def _unresolved_imports(
    tree: ast.Module, inserted: _Inserted, script: Callable[[], jedi.Script]
) -> tuple[list[Problem], bool]:
    """Return problems, and whether every import could be judged."""
    problems = []
    all_known = True
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            offset = inserted.offset(alias.lineno, alias.col_offset)
            if alias.name == "*" or not inserted.is_new(offset):
                continue
            if isinstance(node, ast.Import):
                exists = _module_exists(script(), alias.name, alias)
            else:
                exists = _name_exists(script(), node, alias)
            all_known &= exists is not None
            if exists is False:
                problems.append(
                    inserted.problem(
                        offset,
                        "unresolved-import",
                        f"there is no {alias.name!r} to import",
                    )
                )
    return problems, all_known


def _module_exists(script: jedi.Script, name: str, alias: ast.alias) -> bool | None:
    """Tell whether a module exists; None: not even its first package is known."""
    if script.infer(alias.lineno, alias.col_offset + len(name)):
        return True
    top = script.infer(alias.lineno, alias.col_offset)
    return False if "." in name and _is_known(top) else None


def _name_exists(script: jedi.Script, node: ast.ImportFrom, alias: ast.alias) -> bool | None:
    """Tell whether a module has a name; None: the module is not known."""
    # Without following: a name that a module imports from C code is found this way.
    if script.goto(alias.lineno, alias.col_offset):
        return True
    if node.level or not node.module:
        return None
    after_from = len("from ") + len(node.module)
    modules = script.infer(node.lineno, node.col_offset + after_from)
    if not _is_known(modules):
        return None
    # A module with __getattr__ may have any name.
    names = {name.name for module in modules for name in module.defined_names()}
    return None if "__getattr__" in names or not names else False


def _is_known(modules: list[jedi.api.classes.Name]) -> bool:
    """Tell whether a module's own code is there; a stub may be of another version."""
    return any(
        not module.is_stub()
        or (module.full_name or "").partition(".")[0] in sys.stdlib_module_names
        for module in modules
    )


@cache
def _environment() -> jedi.api.environment.InterpreterEnvironment:
    # The worker's own interpreter: a project's would run the project's .pth files.
    return jedi.InterpreterEnvironment()


def _script(text: str, request: CheckRequest) -> jedi.Script:
    folder = request.project or (Path(request.path).parent if request.path else None)
    project = jedi.Project(
        folder or Path("/nonexistent"),
        added_sys_path=package_paths(Path(request.project)) if request.project else (),
        load_unsafe_extensions=False,
    )
    return jedi.Script(text, path=request.path, project=project, environment=_environment())
