"""Attributes that do not exist on what jedi infers with certainty."""

import ast
import re
from collections.abc import Callable
from typing import Any

import jedi
from jedi.inference.gradual.conversion import convert_values
from jedi.inference.helpers import infer_call_of_leaf
from parso.python.tree import search_ancestor

from lsp_server.check_buffer import CheckedBuffer
from lsp_server.check_certainty import definitions, is_certain, is_chain_certain
from lsp_server.name_lookup import is_closed, names_of
from lsp_server.verdict import Fault, Problem

# What jedi calls a value and a leaf has no public types.
_Value = Any
_Leaf = Any


def unknown_attributes(
    tree: ast.Module, buffer: CheckedBuffer, script: Callable[[], jedi.Script]
) -> list[Problem]:
    """Return a problem for each new attribute that what has it certainly lacks."""
    problems = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        n_bytes = len(node.attr.encode())
        lineno, column = node.end_lineno or 1, (node.end_col_offset or 0) - n_bytes
        offset = buffer.offset(lineno, column)
        if not buffer.is_new(offset) or _may_exist(buffer, node):
            continue
        names = _known_names(script(), buffer.place(lineno, column))
        if names and node.attr not in names:
            receiver = ast.unparse(node.value)
            problems.append(
                buffer.problem(
                    offset, Fault.ATTRIBUTE, f"{receiver!r} has no attribute {node.attr!r}"
                )
            )
    return problems


def _may_exist(buffer: CheckedBuffer, node: ast.Attribute) -> bool:
    """Tell whether the rest of the file sets, asks for, or uses the attribute."""
    name = re.escape(node.attr)
    receiver = re.escape(ast.unparse(node.value))
    known = rf"""['"]{name}['"]|\.{name}\s*(?::[^=\n]+)?=[^=]|(?<![\w.]){receiver}\.{name}\b"""
    is_special = node.attr.startswith("__") and node.attr.endswith("__")
    return is_special or re.search(known, buffer.old_text) is not None


def _known_names(script: jedi.Script, place: tuple[int, int]) -> set[str] | None:
    """Return all names of what stands before an attribute, None where they are open."""
    # At its start the dot would be found.
    leaf = script._module_node.get_leaf_for_position((place[0], place[1] + 1))
    dot = leaf and leaf.get_previous_leaf()
    if dot is None or dot.value != "." or dot.parent.type != "trailer":
        return None
    chain = dot.parent.parent
    start = 1 if chain.children[0].type == "keyword" else 0
    parts = chain.children[start : chain.children.index(dot.parent)]
    context = script._get_module_context().create_context(leaf)
    last = parts[-1].get_last_leaf()
    is_sure = (
        is_chain_certain(context, parts) if len(parts) > 1 else is_certain(context, parts[0])
    )
    if not is_sure or _is_narrowed(parts, leaf):
        return None
    values = set(infer_call_of_leaf(context, last))
    if last.type == "name":
        # Which binding holds here depends on the way that led here.
        for name in definitions(context, last):
            if len(parts) == 1:
                values |= set(name.infer())
    values = {value for value in values if value.py__name__() != "NoneType"}
    names: set[str] = set()
    for value in values:
        if not (value.is_module() or value.is_class() or value.is_instance()):
            return None
        if value.py__name__() == "object" or not is_closed(value):
            return None
        if leaf.value.startswith("_") and _is_stub_alone(value):
            return None
        names |= names_of(value, context.tree_node)
    return names


def _is_stub_alone(value: _Value) -> bool:
    """Tell whether only a stub is known, which leaves private names out."""
    return value.is_stub() and not convert_values([value])


def _is_narrowed(parts: list[_Leaf], leaf: _Leaf) -> bool:
    """Tell whether the function asks what the receiver is, or tries the attribute."""
    receiver = "".join(part.get_code() for part in parts).strip()
    scope = search_ancestor(leaf, "funcdef") or leaf.get_root_node()
    asked = (
        rf"\b(?:isinstance|issubclass|hasattr|type|callable)\(\s*{re.escape(receiver)}\s*[,)]"
    )
    if re.search(asked, scope.get_code()):
        return True
    tried = search_ancestor(leaf, "try_stmt")
    while tried is not None:
        if any(
            "AttributeError" in c.get_code()
            for c in tried.children
            if c.type == "except_clause"
        ):
            return True
        tried = search_ancestor(tried, "try_stmt")
    return False
