"""Which parts of a file hold only elsewhere: on another version or system, or if they fail.

It knows Python's own parser and no analyser.
"""

import ast
from collections.abc import Iterator

_OF_THE_PLACE = frozenset(
    {"version_info", "hexversion", "platform", "implementation", "TYPE_CHECKING"}
)
"""What a condition asks when it is about where the code runs."""
_CATCHING = frozenset(
    {"ImportError", "ModuleNotFoundError", "AttributeError", "Exception", "BaseException"}
)


def conditional_nodes(tree: ast.Module) -> set[ast.AST]:
    """Return all that runs on some versions or systems only, or for type checkers only."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _asks_where(node.test)
        for statement in (*node.body, *node.orelse)
        for inner in ast.walk(statement)
    }


def forgiven_nodes(tree: ast.Module) -> set[ast.AST]:
    """Return all that a ``try`` lets fail to import, and what it does then."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try | ast.TryStar) and any(map(_catches, node.handlers))
        for statement in (*node.body, *node.handlers)
        for inner in ast.walk(statement)
    }


def _asks_where(test: ast.expr) -> bool:
    return any(name in _OF_THE_PLACE for name in _names(test)) or "os.name" in ast.unparse(test)


def _catches(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(name in _CATCHING for name in _names(handler.type))


def _names(expression: ast.expr) -> Iterator[str]:
    for node in ast.walk(expression):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
