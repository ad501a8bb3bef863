"""The places of a file where a method dereferences something: pure, reads Python's own tree.

The counterpart for Python of DotPrompts (Agrawal et al., 2023, section 4).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model_eval.offsets import Offsets

_PER_FUNCTION = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Dereference:
    """One dot in a method; offsets are code points of the file."""

    offset: int
    """After the dot."""
    end: int
    """Where the method ends."""
    receiver: str
    """The source of what is dereferenced."""
    statement: int
    """Where the first line of its statement starts, decorators included."""
    name: str
    is_stored: bool
    """Whether the true text assigns to it."""


def find_dereferences(text: str, *, seed: int) -> list[Dereference]:
    """Return at most five of each method, chosen by the seed, in the order of the text.

    Raises:
        SyntaxError: the text is no Python.
    """
    rng = np.random.default_rng(seed)
    tree = ast.parse(text)
    offsets = Offsets(text)
    # What is in a class inside a method counts for the inner one.
    found: dict[int, Dereference] = {}
    for method in _methods(tree):
        inside = list(_in_method(method, text, offsets))
        chosen = rng.permutation(len(inside))[:_PER_FUNCTION]
        found |= {inside[index].offset: inside[index] for index in chosen}
    return [found[offset] for offset in sorted(found)]


def _methods(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (child for child in node.body if isinstance(child, Function))


def _in_method(method: Function, text: str, offsets: Offsets) -> Iterator[Dereference]:
    end = offsets.end(method)
    for statement in method.body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.stmt):
                continue
            for attribute in _attributes(node):
                after, value = offsets.end(attribute), attribute.value
                start = after - len(attribute.attr)
                # A dot on a line of its own is no place where one asks for a name.
                if text[start - 1 : after] != f".{attribute.attr}":
                    continue
                yield Dereference(
                    offset=start,
                    end=end,
                    receiver=text[offsets.start(value) : offsets.end(value)],
                    statement=offsets.line_start(node),
                    name=attribute.attr,
                    is_stored=not isinstance(attribute.ctx, ast.Load),
                )


def _attributes(statement: ast.stmt) -> Iterator[ast.Attribute]:
    """Yield what a statement dereferences itself, without the statements in it."""
    pending = list(ast.iter_child_nodes(statement))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.stmt | ast.JoinedStr):
            continue
        if isinstance(node, ast.Attribute):
            yield node
        pending += ast.iter_child_nodes(node)
