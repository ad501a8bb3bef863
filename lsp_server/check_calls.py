"""Calls with a wrong number of arguments or with unknown keywords."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jedi
from jedi.inference.helpers import infer_call_of_leaf

from lsp_server.check_buffer import CheckedBuffer
from lsp_server.check_certainty import (
    decorators_of,
    definitions,
    has_given_up,
    is_certain,
    is_chain_certain,
)
from lsp_server.check_guards import conditional_nodes
from lsp_server.jedi_script import tolerating
from lsp_server.name_lookup import is_closed
from lsp_server.verdict import Fault, Problem

# What jedi calls a value and a name has no public types.
_Value = Any
_Name = Any

_KEEPING_SIGNATURE = frozenset(
    {
        "abstractmethod",
        "classmethod",
        "final",
        "overload",
        "override",
        "staticmethod",
    }
)
_MAKING_CALLS = frozenset({"NamedTuple", "TypedDict", "Protocol", "Enum", "type"})
"""What gives a class a signature that its own code does not show."""
_OF_THE_TYPE = frozenset({"__init_subclass__", "__new__"})
"""What takes a class first, however it is called."""
_MAKERS = frozenset({"__init__", "__new__"})
_METACLASS = re.compile(r"\bmetaclass\s*=\s*(?!(?:abc\.)?ABCMeta\b)")
_ODD_DATACLASS = re.compile(r"\binit\s*=\s*False|\bInitVar\b|(?i:\bkw_only\b)")
_BY_POSITION = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
_BY_KEYWORD = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


@dataclass(frozen=True)
class _Parameter:
    name: str
    kind: str
    is_optional: bool


def wrong_arguments(
    tree: ast.Module, buffer: CheckedBuffer, script: Callable[[], jedi.Script]
) -> list[Problem]:
    """Return a problem for each call that no known signature of its function takes."""
    problems = []
    for node in buffer.new_nodes(tree):
        if not isinstance(node, ast.Call) or not buffer.touches_new_text(node):
            continue
        if not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        end = (node.func.end_lineno or 1, node.func.end_col_offset or 0)
        if buffer.offset(node.end_lineno or 1, node.end_col_offset or 0) <= buffer.start:
            continue
        signatures: list[list[_Parameter]] = []
        with tolerating():
            signatures = _signatures(script(), buffer.place(*end))
        if not signatures or node in conditional_nodes(tree):
            continue
        # Who has yet to write the bracket may have yet to write arguments.
        is_whole = buffer.offset(node.end_lineno or 1, node.end_col_offset or 0) <= buffer.end
        faults = [_fault(node, signature, is_whole=is_whole) for signature in signatures]
        if all(faults):
            place, message = faults[0] or (node, "")
            offset = buffer.offset(place.lineno, place.col_offset)
            called = ast.unparse(node.func)
            problems.append(buffer.problem(offset, Fault.ARGUMENT, f"{called}() {message}"))
    return problems


def _fault(
    call: ast.Call, signature: list[_Parameter], *, is_whole: bool
) -> tuple[ast.expr | ast.keyword, str] | None:
    """Return where a call does not fit a signature and why, None where it fits."""
    kinds = {parameter.kind for parameter in signature}
    by_position = [p for p in signature if p.kind in _BY_POSITION]
    n_given = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    has_star = n_given < len(call.args)
    has_double_star = any(keyword.arg is None for keyword in call.keywords)
    if n_given > len(by_position) and "VAR_POSITIONAL" not in kinds:
        first = call.args[len(by_position)] if not has_star else call.func
        return first, f"takes {len(by_position)} positional arguments, not {n_given}"
    filled = {p.name for p in by_position[:n_given]}
    takes = {p.name for p in signature if p.kind in _BY_KEYWORD} - filled
    for keyword in call.keywords:
        if keyword.arg and keyword.arg not in takes and "VAR_KEYWORD" not in kinds:
            return keyword, f"takes no keyword {keyword.arg!r}"
    if has_star or has_double_star or not is_whole:
        return None
    filled |= {keyword.arg for keyword in call.keywords if keyword.arg}
    for parameter in signature:
        is_needed = (
            parameter.kind in (*_BY_POSITION, *_BY_KEYWORD) and not parameter.is_optional
        )
        if is_needed and parameter.name not in filled:
            return call.func, f"lacks the argument {parameter.name!r}"
    return None


def _signatures(script: jedi.Script, end: tuple[int, int]) -> list[list[_Parameter]]:
    """Return all signatures of what ends at a place, none where they are not certain."""
    leaf = script._module_node.get_leaf_for_position(end)
    if leaf is None or leaf.type != "name" or leaf.value in _OF_THE_TYPE:
        return []
    context = script._get_module_context().create_context(leaf)
    if leaf.parent.type == "trailer":
        chain = leaf.parent.parent
        start = 1 if chain.children[0].type == "keyword" else 0
        parts = chain.children[start : chain.children.index(leaf.parent) + 1]
        is_sure = is_chain_certain(context, parts)
    else:
        is_sure = leaf.value not in ("super", "type") and is_certain(context, leaf)
    if not is_sure or any(_is_changed(name) for name in definitions(context, leaf)):
        return []
    signatures = []
    for value in infer_call_of_leaf(context, leaf):
        found = _signatures_of(value)
        if not found:
            return []
        signatures += found
    return [] if has_given_up(context) else signatures


def _is_changed(name: _Name) -> bool:
    """Tell whether a decorator, of which jedi may know little, stands before a call."""
    names = [name, *name.goto()]
    functions = [n.tree_name.parent for n in names if n.tree_name is not None]
    return any(
        not set(decorators_of(function)) <= _KEEPING_SIGNATURE
        for function in functions
        if function.type == "funcdef"
    )


def _signatures_of(value: _Value) -> list[list[_Parameter]]:
    if value.is_class():
        return _signatures_of_class(value)
    node = getattr(value, "tree_node", None)
    if node is None or node.type != "funcdef":
        return []
    is_plain = set(decorators_of(node)) <= _KEEPING_SIGNATURE
    return [_parameters(signature) for signature in value.get_signatures()] if is_plain else []


def _parameters(signature: Any) -> list[_Parameter]:
    return [
        _Parameter(name.string_name, name.get_kind().name, "=" in name.to_string())
        for name in signature.get_param_names()
    ]


def _signatures_of_class(cls: _Value) -> list[list[_Parameter]]:
    """Return the signatures of what makes an instance, none where that is not plain."""
    if not is_closed(cls):
        return []
    made = [_parameters(signature) for signature in cls.get_signatures()]
    for index, base in enumerate(cls.py__mro__()):
        node = getattr(base, "tree_node", None)
        if node is None or node.type != "classdef":
            if base.py__name__() in ("Generic", "Protocol"):
                continue
            return []
        is_stub = base.get_root_context().is_stub()
        if base.py__name__() in _MAKING_CALLS or _has_metaclass(node):
            return []
        functions = {function.name.value for function in _functions(node)}
        if decorators_of(node) == ["dataclass"]:
            # What jedi makes of it has the fields of its bases too.
            return [] if functions & _MAKERS or index or _has_odd_fields(cls) else made
        if node.get_decorators() and not is_stub:
            return []
        if "_make" in functions and not is_stub:
            # jedi does not know the defaults of a named tuple.
            return [[replace(p, is_optional=True) for p in parameters] for parameters in made]
        if functions & _MAKERS == {"__init__"}:
            return made
        if functions & _MAKERS and not (is_stub and functions & _MAKERS == {"__new__"}):
            return []
        if functions & _MAKERS:
            # The first argument is the class.
            found = cls.py__getattribute__("__new__")
            return [_parameters(s)[1:] for value in found for s in value.get_signatures()]
    return []


def _has_odd_fields(cls: _Value) -> bool:
    """Tell whether a dataclass, or what it inherits from, has fields that jedi gets wrong."""
    return any(
        _ODD_DATACLASS.search(base.tree_node.get_code())
        for base in cls.py__mro__()
        if getattr(base, "tree_node", None) and not base.get_root_context().is_stub()
    )


def _has_metaclass(node: Any) -> bool:
    arguments = node.get_super_arglist()
    return arguments is not None and _METACLASS.search(arguments.get_code()) is not None


def _functions(node: Any) -> Iterator[Any]:
    """Yield the functions of a class, overloads and what conditions guard too."""
    for child in node.children:
        if child.type == "funcdef":
            yield child
        elif hasattr(child, "children") and child.type != "classdef":
            yield from _functions(child)
