"""Undefined names and imports that do not resolve; asks pyflakes and jedi."""

import ast
import re
import sys
from collections.abc import Callable

import jedi
from pyflakes import checker as pyflakes_checker
from pyflakes import messages

from lsp_server.check_buffer import CheckedBuffer
from lsp_server.check_guards import conditional_nodes, forgiven_nodes
from lsp_server.jedi_script import tolerating
from lsp_server.name_lookup import is_closed
from lsp_server.verdict import Fault, Problem

_BINDING_OUTSIDE = re.compile(r"\b(?:global|nonlocal)\b")


def undefined_names(
    tree: ast.Module,
    buffer: CheckedBuffer,
    script: Callable[[], jedi.Script],
) -> tuple[list[Problem], bool]:
    """Return one problem for each undefined name, and whether every name could be judged.

    This takes out of the tree what cannot matter for these.
    """
    _empty_other_blocks(tree, buffer)
    problems: dict[str, Problem] = {}
    all_known = True
    checker = pyflakes_checker.Checker(tree, buffer.path, builtins=buffer.builtins)
    for message in checker.messages:
        offset = buffer.offset(message.lineno, message.col)
        if not buffer.is_new(offset):
            continue
        if isinstance(message, messages.UndefinedName):
            name = str(message.message_args[0])
            if name not in problems and not buffer.mentions_later(name):
                problems[name] = buffer.problem(
                    offset, Fault.NAME, f"the name {name!r} is not defined"
                )
        # pyflakes cannot look into a star import, jedi can.
        elif isinstance(message, messages.ImportStarUsage):
            name = str(message.message_args[0])
            if script().goto(*buffer.place(message.lineno, message.col)):
                continue
            if not _are_star_imports_known(tree, script()):
                all_known = False
            elif name not in problems:
                problems[name] = buffer.problem(
                    offset, Fault.NAME, f"the name {name!r} is not defined"
                )
    return list(problems.values()), all_known


def _empty_other_blocks(tree: ast.Module, buffer: CheckedBuffer) -> None:
    """Take the bodies of functions and classes that the new text is not in: pyflakes is slow.

    What they bind is seen nowhere else, but for what they say they bind outside.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.expr):
                continue
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and not buffer.reaches_new_lines(node)
                and not _BINDING_OUTSIDE.search(buffer.code_of(node))
            ):
                node.body = [ast.copy_location(ast.Pass(), node.body[0])]
            else:
                waiting.append(node)


def _are_star_imports_known(tree: ast.Module, script: jedi.Script) -> bool:
    """Tell whether all names that come from star imports are known."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            modules = _modules(node, script)
            values = [value for module in modules for value in module._name.infer()]
            if not _is_known(modules) or not all(is_closed(value) for value in values):
                return False
    return True


def _modules(node: ast.ImportFrom, script: jedi.Script) -> list[jedi.api.classes.Name]:
    """Return what is imported from, nothing where the import is relative."""
    if node.level or not node.module:
        return []
    after_from = len("from ") + len(node.module)
    return list(script.infer(node.lineno, node.col_offset + after_from))


def unresolved_imports(
    tree: ast.Module, buffer: CheckedBuffer, script: Callable[[], jedi.Script]
) -> tuple[list[Problem], bool]:
    """Return problems, and whether every import could be judged."""
    problems = []
    all_known = True
    for node in buffer.new_nodes(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            offset = buffer.offset(alias.lineno, alias.col_offset)
            if alias.name == "*" or not buffer.is_new(offset):
                continue
            exists = None
            with tolerating():
                exists = _exists(script(), node, alias)
            if exists is False and node in conditional_nodes(tree) | forgiven_nodes(tree):
                exists = None
            all_known &= exists is not None
            if exists is False:
                problems.append(
                    buffer.problem(
                        offset,
                        Fault.IMPORT,
                        f"there is no {alias.name!r} to import",
                    )
                )
    return problems, all_known


def _exists(
    script: jedi.Script, node: ast.Import | ast.ImportFrom, alias: ast.alias
) -> bool | None:
    if isinstance(node, ast.Import):
        return _module_exists(script, alias.name, alias)
    return _name_exists(script, node, alias)


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
    modules = _modules(node, script)
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
