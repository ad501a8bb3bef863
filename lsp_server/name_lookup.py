"""Which names may come next, where that is certain; uses jedi, in the worker process.

It knows neither tokens nor what the names are for.
"""

import re
from pathlib import Path
from typing import Any

import jedi
from jedi.inference.gradual.conversion import convert_values
from jedi.inference.helpers import infer_call_of_leaf

from lsp_server.jedi_script import open_script
from lsp_server.known_names import KnownNames, NameKind, NamesRequest, Receiver

# What jedi calls a value and a leaf has no public types.
_Value = Any
_Leaf = Any

_HOOKS = frozenset({"__getattr__", "__getattribute__"})
_SETS_ANY = re.compile(
    r"\bsetattr\(\s*(?:self|cls)\b|\b(?:self|cls)\.__dict__\b|\bvars\((?:self|cls)\)"
)
_BY_NAME = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


def known_names(request: NamesRequest) -> KnownNames | None:
    """Return all names that can come at a place, None where they are not certain.

    They are certain where everything that the object may be is a module, a class or an
    instance whose bases are all known, and without a hook for other names. May raise
    whatever jedi raises.
    """
    script = open_script(request.text, request.path, request.project)
    place = _place(request.text, request.offset)
    if request.kind is NameKind.KEYWORD:
        return _known_keywords(script, place)
    # A leaf that ends at a place goes before one that starts there.
    leaf = script._module_node.get_leaf_for_position(place)
    if request.kind is NameKind.ATTRIBUTE and leaf is not None:
        leaf = leaf.get_previous_leaf() if leaf.value == "." else None
    # What ``from .`` is about stands after the dot.
    if leaf is None or leaf.type == "keyword":
        return None
    context = script._get_module_context().create_context(leaf)
    scope = context.tree_node
    if request.kind is NameKind.IMPORT:
        scope = None
        values = {v for name in script.infer(*leaf.end_pos) for v in name._name.infer()}
    else:
        values = set(infer_call_of_leaf(context, leaf))
    values = {value for value in values if value.py__name__() != "NoneType"} or values
    receivers, names = set(), set()
    for value in values:
        receiver = _receiver(value, leaf, request)
        if receiver is None or not _is_closed(value):
            return None
        receivers.add(receiver)
        for known in {value, *convert_values([value])}:
            own = {"origin_scope": scope} if scope is not None else {}
            for found in known.get_filters(**own):
                names |= {name.string_name for name in found.values()}
    return KnownNames(tuple(sorted(names)), tuple(sorted(receivers))) if names else None


def _known_keywords(script: jedi.Script, place: tuple[int, int]) -> KnownNames | None:
    signatures = script.get_signatures(*place)
    params = [param for signature in signatures for param in signature.params]
    if not signatures or any(param.kind.name == "VAR_KEYWORD" for param in params):
        return None
    names = {param.name for param in params if param.kind.name in _BY_NAME}
    return KnownNames(tuple(sorted(names)), (Receiver.FUNCTION,))


def _place(text: str, offset: int) -> tuple[int, int]:
    """Return jedi's line, from 1 on, and column."""
    start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset) + 1, offset - start


def _receiver(value: _Value, leaf: _Leaf, request: NamesRequest) -> Receiver | None:
    """Return what a value is; None is what may have any names."""
    if value.is_module():
        return Receiver.MODULE
    if not (value.is_class() or value.is_instance()) or value.py__name__() == "object":
        return None
    if leaf.value in ("self", "cls"):
        return Receiver.OWN
    path = value.get_root_context().py__file__()
    is_project = path is None or _is_of_project(Path(path), request)
    if value.is_class():
        return Receiver.PROJECT_CLASS if is_project else Receiver.CLASS
    return Receiver.PROJECT_INSTANCE if is_project else Receiver.INSTANCE


def _is_of_project(path: Path, request: NamesRequest) -> bool:
    if request.path is not None and path == Path(request.path):
        return True
    folder = request.project or (str(Path(request.path).parent) if request.path else None)
    return (
        folder is not None and path.is_relative_to(folder) and "site-packages" not in path.parts
    )


def _is_closed(value: _Value) -> bool:
    """Tell whether nothing but its known code gives a value its names."""
    if value.is_module():
        found = {name.string_name for f in value.get_filters() for name in f.values()}
        return "__getattr__" not in found
    cls = value if value.is_class() else value.py__class__()
    for base in cls.py__mro__():
        if base.is_compiled() or base.tree_node.type != "classdef":
            continue
        # A base that is not found is left out of the order.
        if any(not known.infer() for known in base.py__bases__()):
            return False
        is_object = base.py__name__() == "object"
        own = {function.name.value for function in base.tree_node.iter_funcdefs()}
        if (own & _HOOKS and not is_object) or _SETS_ANY.search(base.tree_node.get_code()):
            return False
    return True
