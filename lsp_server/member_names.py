"""Lists the names that jedi's filters have, without a name object or a look at the flow each.

jedi makes an object of every name and asks of each whether its code is ever reached; both
are only needed where an ``if`` or a ``try`` may leave a name out. What a file that is not
being edited has is remembered as long as parso remembers the file.
"""

from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from jedi.inference.compiled import builtin_from_name
from jedi.inference.compiled.value import CompiledValueFilter
from jedi.inference.filters import DictFilter, GlobalNameFilter, MergedFilter, ParserTreeFilter
from jedi.inference.gradual.conversion import convert_values
from jedi.inference.gradual.stub_value import StubFilter
from jedi.inference.value.instance import (
    CompiledInstanceClassFilter,
    InstanceClassFilter,
    SelfAttributeFilter,
)
from jedi.inference.value.klass import ClassFilter
from jedi.parser_utils import get_parent_scope
from parso.python.tree import search_ancestor

# What jedi calls a value and a filter, and a node of parso's tree, has no public types.
_Value = Any
_Filter = Any
_Node = Any

_BRANCHES = frozenset({"if_stmt", "try_stmt"})
_INNER_SCOPES = frozenset({"lambdef", "sync_comp_for"})

_of_files: "WeakKeyDictionary[Any, dict[object, frozenset[str]]]" = WeakKeyDictionary()
"""By what parso remembers of a file, which is replaced where the file has changed."""


def member_names(value: _Value, scope: _Node | None) -> set[str]:
    """Return what a value has of its code and of what jedi knows instead of it.

    ``scope``, a node of the syntax tree, is where one looks from.
    """
    own = {"origin_scope": scope} if scope is not None else {}
    return {
        name
        for known in _distinct((value, *convert_values([value])))
        for found in known.get_filters(**own)
        for name in names_in(found)
    }


def _distinct(values: Iterable[_Value]) -> Iterator[_Value]:
    """Yield one of the values that come from the same code: calls make many of a class."""
    seen = set()
    for value in values:
        kind = value.is_instance(), value.is_class(), value.is_compiled()
        node = getattr(value, "tree_node", None)
        key = (value if node is None else node, *kind)
        if key not in seen:
            seen.add(key)
            yield value


def names_in(found: _Filter) -> Iterable[str]:
    """Return the names of all that a filter has."""
    match found:
        case InstanceClassFilter() | CompiledInstanceClassFilter():
            return names_in(found._class_filter)
        case MergedFilter():
            return {name for part in found._filters for name in names_in(part)}
        case CompiledValueFilter():
            return _compiled_names(found)
    if type(found) is DictFilter:
        return list(found._dct)
    # What stands for something special of ``typing`` is a name and no class.
    if type(found) in _LISTINGS and hasattr(found._parser_scope, "children"):
        return _tree_names(found)
    return {name.string_name for name in found.values()}


def _compiled_names(found: _Filter) -> set[str]:
    handle = found.compiled_value.access_handle
    names = set(handle.dir())
    if not found.is_instance and handle.needs_type_completions():
        for of_type in builtin_from_name(found._inference_state, "type").get_filters():
            names.update(names_in(of_type))
    return names


def _tree_names(found: _Filter) -> frozenset[str]:
    scope = found._parser_scope
    origin = getattr(found, "_origin_scope", None)
    file = found._parso_cache_node
    listing = _LISTINGS[type(found)]
    if file is None or (origin and origin.get_root_node() is scope.get_root_node()):
        return frozenset(listing(found))
    known = _of_files.setdefault(file, {})
    key = type(found), scope.start_pos
    if key not in known:
        known[key] = frozenset(listing(found))
    return known[key]


def _scope_names(found: _Filter) -> Iterator[str]:
    """Yield what the code of a class or of a module binds in its own scope."""
    sure, doubtful = set(), set()
    for leaf, is_in_branch in _bound(found._parser_scope):
        if not is_in_branch and _is_seen(found, leaf):
            sure.add(leaf.value)
        elif is_in_branch:
            doubtful.add(leaf.value)
    yield from sure
    # Whether a branch is ever reached is the filter's to say.
    yield from (name for name in doubtful - sure if found.get(name))


def _is_seen(found: _Filter, leaf: _Node) -> bool:
    if type(found) is StubFilter:
        return bool(found._is_name_reachable(leaf))
    return type(found) is not ClassFilter or found._access_possible(leaf)


def _bound(node: _Node, *, is_in_branch: bool = False) -> Iterator[tuple[_Node, bool]]:
    """Yield each name that a scope binds, and whether in a branch of its code."""
    # What stands before the body of a class binds nothing in it.
    for child in node.children[-1:] if node.type == "classdef" else node.children:
        match child.type:
            case "name":
                if child.parent.type != "trailer" and child.is_definition(include_setitem=True):
                    yield child, is_in_branch
            case "funcdef" | "classdef":
                yield child.name, is_in_branch
            case kind if kind in _INNER_SCOPES:
                continue
            case kind if hasattr(child, "children"):
                yield from _bound(child, is_in_branch=is_in_branch or kind in _BRANCHES)


def _self_names(found: _Filter) -> Iterator[str]:
    """Yield what the methods of a class give to their first parameter."""
    cls = found._parser_scope
    firsts = {
        function.get_params()[0].name.value
        for leaf, _ in _bound(cls)
        if (function := leaf.parent).type == "funcdef" and function.get_params()
    }
    for first in firsts:
        for leaf in found._used_names.get(first, ()):
            chain = leaf.parent
            if chain.type not in ("atom_expr", "power") or len(chain.children) != 2:
                continue
            trailer = chain.children[1]
            if chain.children[0] is not leaf or trailer.children[0].value != ".":
                continue
            name = trailer.children[1]
            is_given = name.is_definition() and found._access_possible(name)
            if is_given and _is_first_parameter(leaf, cls):
                yield name.value


def _is_first_parameter(leaf: _Node, cls: _Node) -> bool:
    """Tell whether a name is what a method of the class has first."""
    node = leaf
    while (node := search_ancestor(node, "funcdef", "lambdef", "classdef")) is not cls:
        if node is None:
            return False
        params = [] if node.type == "classdef" else node.get_params()
        if any(param.name.value == leaf.value for param in params):
            is_method = node.type == "funcdef" and get_parent_scope(node) is cls
            return is_method and params[0].name.value == leaf.value
    return False


def _global_names(found: _Filter) -> Iterator[str]:
    for name, leaves in found._used_names.items():
        if any(leaf.parent.type == "global_stmt" for leaf in leaves):
            yield name


_LISTINGS = {
    ParserTreeFilter: _scope_names,
    StubFilter: _scope_names,
    ClassFilter: _scope_names,
    SelfAttributeFilter: _self_names,
    GlobalNameFilter: _global_names,
}
