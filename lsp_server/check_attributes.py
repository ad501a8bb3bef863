"""Attributes that do not exist on what jedi infers with certainty."""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

import jedi
from jedi.inference.gradual.conversion import convert_values

from lsp_server.check_buffer import CheckedBuffer
from lsp_server.check_certainty import certain_values
from lsp_server.check_guards import conditional_nodes
from lsp_server.jedi_script import tolerating
from lsp_server.name_lookup import is_closed, names_of, used_by
from lsp_server.verdict import Fault, Problem

# What jedi calls a value and a leaf has no public types.
_Value = Any
_Leaf = Any


def unknown_attributes(
    tree: ast.Module, buffer: CheckedBuffer, script: Callable[[], jedi.Script]
) -> list[Problem]:
    """Return a problem for each new attribute that what has it certainly lacks."""
    problems = []
    new = list(_new_attributes(tree, buffer))
    written = frozenset(node.attr for node, *_ in new)
    for node, offset, place in new:
        if not isinstance(node.ctx, ast.Load) or _may_exist(buffer, node):
            continue
        names = None
        with tolerating():
            names = _known_names(script(), place, written)
        if names and node.attr not in names and node not in conditional_nodes(tree):
            receiver = ast.unparse(node.value)
            problems.append(
                buffer.problem(
                    offset, Fault.ATTRIBUTE, f"{receiver!r} has no attribute {node.attr!r}"
                )
            )
    return problems


def _new_attributes(
    tree: ast.Module, buffer: CheckedBuffer
) -> Iterator[tuple[ast.Attribute, int, tuple[int, int]]]:
    """Yield each new attribute with its name's offset and place."""
    for node in buffer.new_nodes(tree):
        if isinstance(node, ast.Attribute):
            lineno = node.end_lineno or 1
            column = (node.end_col_offset or 0) - len(node.attr.encode())
            offset = buffer.offset(lineno, column)
            if buffer.is_new(offset):
                yield node, offset, buffer.place(lineno, column)


def _may_exist(buffer: CheckedBuffer, node: ast.Attribute) -> bool:
    """Tell whether the rest of the file sets, asks for, or uses the attribute.

    What a class of the file has, a subclass of the receiver's class has perhaps.
    """
    name = re.escape(node.attr)
    receiver = re.escape(ast.unparse(node.value))
    known = (
        rf"""['"]{name}['"]|\.{name}\s*(?::[^=\n]+)?=[^=]|(?<![\w.]){receiver}\.{name}\b"""
        rf"""|(?m:^[ \t]+(?:(?:async\s+)?def\s+{name}\b|{name}\s*(?::[^=\n]+)?=[^=]))"""
    )
    is_special = node.attr.startswith("__") and node.attr.endswith("__")
    return is_special or (
        node.attr in buffer.old_text and re.search(known, buffer.old_text) is not None
    )


def _known_names(
    script: jedi.Script, place: tuple[int, int], written: frozenset[str]
) -> set[str] | None:
    """Return all names of what stands before an attribute, None where they are open.

    What is ``written`` anew is not known to be right.
    """
    # At its start the dot would be found.
    leaf = script._module_node.get_leaf_for_position((place[0], place[1] + 1))
    dot = leaf and leaf.get_previous_leaf()
    if dot is None or dot.value != "." or dot.parent.type != "trailer":
        return None
    chain = dot.parent.parent
    start = 1 if chain.children[0].type == "keyword" else 0
    parts = chain.children[start : chain.children.index(dot.parent)]
    context = script._get_module_context().create_context(leaf)
    values = certain_values(context, parts, leaf)
    if values is None:
        return None
    names: set[str] = set()
    for value in values:
        if not (value.is_module() or value.is_class() or value.is_instance()):
            return None
        if value.py__name__() == "object" or not is_closed(value):
            return None
        if leaf.value.startswith("_") and _is_stub_alone(value):
            return None
        own = names_of(value, context.tree_node)
        if not used_by(value) <= own | written:
            return None
        names |= own
    return names


def _is_stub_alone(value: _Value) -> bool:
    """Tell whether only a stub is known, which leaves private names out."""
    return value.is_stub() and not convert_values([value])
