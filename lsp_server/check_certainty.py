"""Tells whether what jedi infers of an expression is all that it can be.

jedi leaves out what it cannot infer without saying so: of ``x = known() or unknown()`` it
tells the first. Here every part that an expression's value comes from has to be known.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from jedi.inference import recursion
from jedi.inference.gradual.type_var import TypeVar
from jedi.inference.helpers import infer_call_of_leaf
from jedi.inference.names import TreeNameDefinition
from jedi.inference.syntax_tree import infer_trailer
from parso.python.tree import search_ancestor

# What jedi calls a context, a name, and a node of parso's tree has no public types.
_Context = Any
_Name = Any
_Node = Any

_DEPTH = 8
_PLAIN = frozenset(
    {"string", "strings", "number", "fstring", "comparison", "not_test", "lambdef"}
)
_ALTERNATIVES = frozenset({"or_test", "and_test", "arith_expr", "term"})
_KEEPING_RESULT = frozenset({"staticmethod", "classmethod", "abstractmethod", "override"})
_PROPERTIES = frozenset({"property", "cached_property"})
_KNOWN_DECORATORS = (
    _KEEPING_RESULT
    | _PROPERTIES
    | {"cache", "contextmanager", "asynccontextmanager", "deleter", "final", "lru_cache"}
    | {"overload", "setter"}
)
"""What jedi knows the effect of."""
_UNIONS = frozenset({"Optional", "Union", "Annotated", "ClassVar", "Final"})
_ANY = frozenset({"Any", "object", "Incomplete", "MaybeNone", "Protocol"})
_IMPORTS = frozenset({"import_name", "import_from"})


def certain_values(context: _Context, parts: list[_Node], leaf: _Node) -> set[Any] | None:
    """Return all that a chain before a dot can be, None left aside, None if that is open.

    ``leaf`` is what comes after the dot, or the dot.
    """
    is_sure = (
        is_chain_certain(context, parts) if len(parts) > 1 else is_certain(context, parts[0])
    )
    if not is_sure or _is_narrowed(parts, leaf):
        return None
    last = parts[-1].get_last_leaf()
    values = set(infer_call_of_leaf(context, last))
    if last.type == "name" and len(parts) == 1:
        # Which binding holds here depends on the way that led here.
        for name in definitions(context, last):
            values |= set(name.infer())
    if has_given_up(context):
        return None
    return {value for value in values if value.py__name__() != "NoneType"}


def has_given_up(context: _Context) -> bool:
    """Tell whether jedi has come to a limit, after which what it finds is not all."""
    detector = context.inference_state.execution_recursion_detector
    most = max(detector._funcdef_execution_counts.values(), default=0)
    return bool(
        detector._execution_count >= recursion.total_function_execution_limit
        or most >= recursion.per_function_execution_limit
    )


def is_certain(context: _Context, node: _Node, depth: int = _DEPTH) -> bool:
    """Tell whether everything that a node can be is inferred, None left aside."""
    if not depth:
        return False
    match node.type:
        case kind if kind in _PLAIN:
            return True
        case "keyword":
            return node.value in ("True", "False", "None")
        case "name":
            return _is_name_certain(context, node, depth)
        case "atom":
            inner = node.children[1]
            is_group = node.children[0].value == "(" and inner.type != "testlist_comp"
            return is_certain(context, inner, depth) if is_group else True
        case kind if kind in _ALTERNATIVES:
            if kind == "term" and node.children[0].type in ("string", "strings"):
                return True
            return all(is_certain(context, part, depth - 1) for part in node.children[::2])
        case "ternary" | "test":
            return all(is_certain(context, node.children[i], depth - 1) for i in (0, 4))
        case "namedexpr_test":
            return is_certain(context, node.children[2], depth - 1)
        case "atom_expr" | "power":
            return is_chain_certain(context, node.children, depth)
    return False


def is_chain_certain(context: _Context, parts: list[_Node], depth: int = _DEPTH) -> bool:
    """Tell the same of an atom with trailers."""
    if parts[0].type == "keyword" or not is_certain(context, parts[0], depth):
        return False
    values = context.infer_node(parts[0])
    for trailer in parts[1:]:
        if trailer.type != "trailer":
            return False
        opening = trailer.children[0].value
        if opening == ".":
            if not _is_name_certain(context, trailer.children[1], depth - 1, is_trailer=True):
                return False
        elif opening == "(":
            if not _are_results_certain(values, depth - 1):
                return False
        elif not _is_typed(trailer.get_previous_leaf()):
            is_first = trailer is parts[1]
            if not is_first or not _is_annotated_generic(context, parts[0]):
                return False
        values = infer_trailer(context, values, trailer)
        if not values:
            return False
    return True


def _is_name_certain(
    context: _Context, leaf: _Node, depth: int, *, is_trailer: bool = False
) -> bool:
    if not depth:
        return False
    found = definitions(context, leaf)
    are_none = [_is_none(name) for name in found]
    if not found or all(are_none):
        return False
    return all(
        is_none
        or (
            not _is_kept_private(name, leaf)
            and _is_definition_certain(name, depth, is_trailer=is_trailer)
        )
        for name, is_none in zip(found, are_none, strict=True)
    )


def _is_kept_private(name: _Name, leaf: _Node) -> bool:
    """Tell whether another file imports a name and leaves it out of its ``__all__``.

    jedi does not read ``__all__``: it may have come through a star import that lacks it.
    """
    found = name.tree_name
    if found is None or found.get_root_node() is leaf.get_root_node():
        return False
    definition = found.get_definition(import_name_always=True)
    root = found.get_root_node()
    if (
        definition is None
        or definition.type not in _IMPORTS
        or name.get_root_context().is_stub()
    ):
        return False
    quoted = rf"""['"]{re.escape(found.value)}['"]"""
    return "__all__" in root.get_used_names() and not re.search(quoted, root.get_code())


def definitions(context: _Context, leaf: _Node) -> list[_Name]:
    """Return what a name may stand for, wherever in its scope it is bound."""
    found = {}
    for name in TreeNameDefinition(context, leaf).goto():
        found[_key(name)] = name
        for binding in _other_bindings(name):
            other = TreeNameDefinition(name.parent_context, binding)
            found.setdefault(_key(other), other)
    return list(found.values())


def _key(name: _Name) -> object:
    return name if name.tree_name is None else id(name.tree_name)


def _other_bindings(name: _Name) -> Iterator[_Node]:
    """Yield where else the same scope, or the same class on ``self``, binds a name."""
    leaf = name.tree_name
    if leaf is None or name.get_root_context().is_stub():
        return
    definition = leaf.get_definition(import_name_always=True)
    if definition is None or definition.type == "param":
        return
    is_member = leaf.parent.type == "trailer"
    scope = search_ancestor(leaf, "classdef") if is_member else _scope(leaf)
    for other in leaf.get_root_node().get_used_names().get(leaf.value, ()):
        if other is leaf or (other.parent.type == "trailer") is not is_member:
            continue
        if not other.is_definition(include_setitem=False):
            continue
        if is_member:
            if search_ancestor(other, "classdef") is scope:
                yield other
        elif _scope(other) is scope or _is_shared(other):
            yield other


def _scope(leaf: _Node) -> _Node:
    """Return the function, class or module that binds a name."""
    parent = leaf.parent
    # The name of a function or class is bound outside of it.
    if parent.type in ("funcdef", "classdef") and parent.name is leaf:
        parent = parent.parent
    while parent.parent and parent.type not in ("funcdef", "classdef", "lambdef"):
        parent = parent.parent
    return parent


def _is_shared(leaf: _Node) -> bool:
    """Tell whether a function binds a name outside of itself."""
    scope = _scope(leaf)
    for other in leaf.get_root_node().get_used_names()[leaf.value]:
        if other.parent.type in ("global_stmt", "nonlocal_stmt") and _scope(other) is scope:
            return True
    return False


def _is_none(name: _Name) -> bool:
    statement = name.tree_name and name.tree_name.get_definition()
    if statement is None or statement.type != "expr_stmt":
        return False
    value = statement.get_rhs()
    return value.type == "keyword" and value.value == "None" and not _annotation(statement)


def _is_definition_certain(name: _Name, depth: int, *, is_trailer: bool) -> bool:
    leaf = name.tree_name
    if leaf is None:
        return True
    definition = leaf.get_definition(import_name_always=True)
    context = name.parent_context
    if definition is None:
        return bool(name.infer())
    if _is_of_program(definition):
        return True
    if definition.type in _IMPORTS:
        found = [other for other in name.goto() if _key(other) != _key(name)]
        return bool(found) and all(
            _is_definition_certain(other, depth - 1, is_trailer=False) for other in found
        )
    if not depth:
        return False
    match definition.type:
        case "classdef":
            return True
        case "funcdef":
            is_stub = context.get_root_context().is_stub()
            if not is_stub and not set(decorators_of(definition)) <= _KNOWN_DECORATORS:
                return False
            return not is_trailer or _is_member_certain(definition, context, depth)
        case "param":
            return _is_param_certain(definition, context)
        case "expr_stmt":
            return _is_statement_certain(definition, leaf, context, depth)
        case "with_stmt":
            item = search_ancestor(leaf, "with_item")
            return item is not None and is_certain(context, item.children[0], depth - 1)
        case "try_stmt":
            return bool(name.infer())
        case "namedexpr_test":
            return is_certain(context, definition.children[2], depth - 1)
        case "for_stmt" | "sync_comp_for":
            is_plain = definition.children[1] is leaf
            return is_plain and _are_elements_certain(context, definition.children[3], depth)
    return False


def _is_of_program(definition: _Node) -> bool:
    """Tell whether a definition holds only where its file is run as the program."""
    branch = search_ancestor(definition, "if_stmt")
    return branch is not None and "__name__" in branch.children[1].get_code()


def _is_member_certain(function: _Node, context: _Context, depth: int) -> bool:
    decorators = set(decorators_of(function))
    if decorators & _PROPERTIES:
        return _is_return_certain(function, context.create_context(function), depth)
    return True


def _is_param_certain(param: _Node, context: _Context) -> bool:
    if param.star_count:
        return True
    if param.annotation is not None:
        return _is_annotation_certain(param.annotation, context)
    function = search_ancestor(param, "funcdef", "lambdef")
    is_first = function.type == "funcdef" and function.get_params()[0] is param
    is_method = _scope(function.name).type == "classdef" if is_first else False
    return is_method and "staticmethod" not in decorators_of(function)


def _is_statement_certain(statement: _Node, leaf: _Node, context: _Context, depth: int) -> bool:
    if annotation := _annotation(statement):
        return _is_annotation_certain(annotation, context)
    if context.get_root_context().is_stub():
        return True
    if statement.children[1].type == "operator" and statement.children[1].value != "=":
        # What another statement gave it is kept.
        return True
    targets = statement.children[:-1:2]
    if any(leaf is target or _ends_with(target, leaf) for target in targets):
        return is_certain(context, statement.get_rhs(), depth - 1)
    return False


def _ends_with(target: _Node, leaf: _Node) -> bool:
    return target.type in ("atom_expr", "power") and target.get_last_leaf() is leaf


def _annotation(statement: _Node) -> _Node | None:
    second = statement.children[1]
    return second.children[1] if second.type == "annassign" else None


def _is_annotation_certain(annotation: _Node, context: _Context) -> bool:
    """Tell whether an annotation, or each part of a union, names a known class."""
    match annotation.type:
        case "keyword":
            return bool(annotation.value == "None")
        case "string":
            return (
                re.fullmatch(r"""(['"])(?!Any\b|object\b)\w+\1""", annotation.value) is not None
            )
        case "expr":
            parts = annotation.children[::2]
            if context.get_root_context().is_stub():
                # There ``str | Any`` stands for a str that may be None.
                parts = [part for part in parts if part.get_code().strip() not in _ANY]
            return all(_is_annotation_certain(part, context) for part in parts)
        case "atom_expr" | "power" if annotation.children[-1].children[0].value == "[":
            *named, subscript = annotation.children
            if named[-1].get_last_leaf().value in _UNIONS:
                inner = subscript.children[1]
                parts = inner.children[::2] if inner.type == "subscriptlist" else [inner]
                return all(_is_annotation_certain(part, context) for part in parts)
            return _names_class(named, context)
        case "atom_expr" | "power":
            return _names_class(annotation.children, context)
        case "name":
            return _names_class([annotation], context)
    return False


def _names_class(parts: list[_Node], context: _Context) -> bool:
    """Tell whether a dotted name is a class's, and no variable's."""
    name = parts[-1].get_last_leaf().value
    if name in _ANY:
        return False
    if name == "Self":
        return True
    is_stub = bool(context.get_root_context().is_stub())
    values = context.infer_node(parts[0])
    for trailer in parts[1:]:
        values = infer_trailer(context, values, trailer)
    if not values or any(isinstance(value, TypeVar) for value in values):
        return False
    return is_stub or all(value.is_class() or value.is_stub() for value in values)


def _are_elements_certain(context: _Context, iterable: _Node, depth: int) -> bool:
    """Tell whether what an iterable yields is known: by a type, not by what it was made of."""
    if _is_annotated_generic(context, iterable):
        return True
    is_typed = iterable.type in ("atom_expr", "power") and _is_typed(iterable.get_last_leaf())
    return is_typed and is_certain(context, iterable, depth - 1)


def _is_annotated_generic(context: _Context, leaf: _Node) -> bool:
    """Tell whether a name is annotated like ``list[str]`` wherever it is bound."""
    found = definitions(context, leaf) if leaf.type == "name" else []
    return bool(found) and all(map(_are_parts_certain, found))


def _are_parts_certain(name: _Name) -> bool:
    definition = name.tree_name and name.tree_name.get_definition()
    if definition is None or definition.type not in ("param", "expr_stmt"):
        return False
    is_param = definition.type == "param"
    annotation = definition.annotation if is_param else _annotation(definition)
    if annotation is None or annotation.type not in ("atom_expr", "power"):
        return False
    *named, subscript = annotation.children
    if subscript.children[0].value != "[" or named[-1].get_last_leaf().value in _UNIONS:
        return False
    inner = subscript.children[1]
    parts = inner.children[::2] if inner.type == "subscriptlist" else [inner]
    # A parameter with a star is a tuple or a dictionary of these.
    is_plain = not (is_param and definition.star_count)
    return is_plain and all(_is_annotation_certain(part, name.parent_context) for part in parts)


def _is_typed(last: _Node) -> bool:
    """Tell whether what ends with a leaf is a call's result, and no list that may grow."""
    return bool(last.value == ")" and last.parent.type == "trailer")


def _are_results_certain(values: Iterable[Any], depth: int) -> bool:
    """Tell whether the results of calling any of the values are known."""
    return all(_is_result_certain(value, depth) for value in values)


def _is_result_certain(value: Any, depth: int) -> bool:
    if value.is_class():
        return all(
            base.is_compiled()
            or base.get_root_context().is_stub()
            or all(
                function.name.value != "__new__" for function in base.tree_node.iter_funcdefs()
            )
            for base in value.py__mro__()
        )
    # A decorated function stands behind what decorates it.
    value = getattr(value, "_original_value", value)
    for overload in getattr(value, "_overloaded_functions", [value]):
        function = getattr(overload, "tree_node", None)
        if function is None or function.type != "funcdef" or not depth:
            return False
        if not _is_return_certain(function, overload.as_context(), depth):
            return False
    return True


def _is_return_certain(function: _Node, context: _Context, depth: int) -> bool:
    if function.annotation is not None:
        outer = context.parent_context or context
        return _is_annotation_certain(function.annotation, outer)
    if set(decorators_of(function)) - _KEEPING_RESULT - _PROPERTIES:
        return False
    if next(function.iter_yield_exprs(), None) is not None:
        return True
    returned = [
        statement.children[1]
        for statement in function.iter_return_stmts()
        if hasattr(statement, "children")
    ]
    return bool(returned) and all(is_certain(context, value, depth - 1) for value in returned)


def decorators_of(node: _Node) -> list[str]:
    """Return the last names of a function's or a class's decorators."""
    names = []
    for decorator in node.get_decorators():
        written = decorator.children[1]
        code = written.get_code(include_prefix=False).partition("(")[0]
        names.append(code.rpartition(".")[2].strip())
    return names


def _is_narrowed(parts: list[_Node], leaf: _Node) -> bool:
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
