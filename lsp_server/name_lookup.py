"""Which names may come next, where that is certain; uses jedi, in the worker process.

It knows neither tokens nor what the names are for.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jedi
from jedi.inference.compiled import builtin_from_name

from lsp_server.check_certainty import certain_values, decorators_of
from lsp_server.jedi_script import open_script
from lsp_server.known_names import KnownNames, NameKind, NamesRequest, Receiver
from lsp_server.member_names import member_names

# What jedi calls a value and a leaf has no public types.
_Value = Any
_Leaf = Any

_HOOKS = frozenset({"__getattr__", "__getattribute__"})
_SETS_ANY = re.compile(
    r"\bsetattr\(|__setattr__\(|\bvars\((?:self|cls)\)|\b__slots__\b"
    r"|\b(?:self|cls)\.__dict__\b(?!\.(?:copy|get|items|keys|values)\()"
)
_SLOTS = re.compile(r"""^[ \t]+__slots__\s*=\s*(\([^()]*\)|\[[^\[\]]*\]|"\w+"|'\w+')""", re.M)
_METACLASS = re.compile(r"\s*class\s+\w+\s*\([^:]*\bmetaclass\s*=")
_GIVEN = re.compile(r"\.(\w+)[ \t]*(?::[^=\n]+)?=(?!=)")
_ENUMS = frozenset({"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"})
_PLAIN_METACLASSES = frozenset({"type", "ABCMeta", "EnumMeta", "EnumType"})
_PLAIN_DECORATORS = frozenset(
    {"dataclass", "final", "runtime_checkable", "total_ordering", "unique", "define", "frozen"}
)
_ATTRS = frozenset({"define", "frozen"})
"""Their fields lose a leading underscore as keywords, and jedi leaves it."""
_KEEPING_KEYWORDS = frozenset(
    {"abstractmethod", "classmethod", "final", "overload", "override", "staticmethod"}
)
_SPECIAL = frozenset({"__members__", "__dataclass_fields__"})
"""Names that decorators and metaclasses give."""
_OPEN_MODULES = frozenset({"sys"})
"""Programs are frozen with names of their own in it."""
_WORD = re.compile(r"\w+")
_PRIVATE_FIELD = re.compile(r"^[ \t]+_\w*[ \t]*[:=]", re.M)
_BY_NAME = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


def known_names(request: NamesRequest) -> KnownNames | None:
    """Return all names that can come at a place, None where they are not certain.

    They are certain where everything that the object may be is a module, a class or an
    instance whose bases are all known, and without a hook for other names; and where a
    class uses nothing of its own that is not known. May raise whatever jedi raises.
    """
    script = open_script(request.text, request.path, request.project, request.environment)
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
        found = script.infer(*leaf.end_pos, prefer_stubs=True)
        values = {value for name in found for value in name._name.infer()}
    else:
        chain = _chain_before(leaf)
        found = certain_values(context, chain, leaf)
        if found is None or _may_be_shadowed(chain, found, request.text):
            return None
        values = found
    # What the file gives to anything is perhaps this one's.
    receivers, names = set(), _SPECIAL.union(_GIVEN.findall(request.text))
    if not values:
        return None
    for value in values:
        receiver = _receiver(value, leaf, request)
        if receiver is None or not is_closed(value):
            return None
        own = names_of(value, scope)
        begun = _WORD.match(request.text, request.offset)
        # What is being written may be wrong.
        used = used_by(value) - {begun[0] if begun else ""}
        if not value.is_module() and not (_is_whole(own) and used <= own):
            return None
        receivers.add(receiver)
        names |= own
    return KnownNames(tuple(sorted(names)), tuple(sorted(receivers)))


def _known_keywords(script: jedi.Script, place: tuple[int, int]) -> KnownNames | None:
    signatures = script.get_signatures(*place)
    if not signatures or not _is_called_as_written(script, signatures[0].bracket_start):
        return None
    params = [param for signature in signatures for param in signature.params]
    if any(param.kind.name == "VAR_KEYWORD" for param in params):
        return None
    names = {param.name for param in params if param.kind.name in _BY_NAME}
    return KnownNames(tuple(sorted(names)), (Receiver.FUNCTION,))


def _is_called_as_written(script: jedi.Script, bracket: tuple[int, int]) -> bool:
    """Tell whether what is called before a bracket is known, and changed by no decorator."""
    leaf = script._module_node.get_leaf_for_position(bracket)
    if leaf is None or leaf.type != "name":
        return False
    context = script._get_module_context().create_context(leaf)
    values = certain_values(context, _chain_before(leaf), leaf)
    return bool(values) and all(map(_has_plain_signature, values or ()))


def _has_plain_signature(value: _Value) -> bool:
    if value.is_class():
        return is_closed(value) and not _has_renamed_fields(value)
    node = getattr(value, "tree_node", None)
    if node is None or node.type != "funcdef":
        return False
    return set(decorators_of(node)) <= _KEEPING_KEYWORDS


def _has_renamed_fields(cls: _Value) -> bool:
    return any(
        base.tree_node.type == "classdef"
        and not _ATTRS.isdisjoint(decorators_of(base.tree_node))
        and _PRIVATE_FIELD.search(_code_of(base)) is not None
        for base in cls.py__mro__()
        if not base.is_compiled()
    )


def _chain_before(leaf: _Leaf) -> list[_Leaf]:
    """Return the atom and the trailers that end with a leaf, in broken code too."""
    node = leaf
    inner = ("trailer", "atom", "strings")
    while node.parent.type in inner and node is node.parent.children[-1]:
        node = node.parent
    siblings = node.parent.children
    end = next(index for index, sibling in enumerate(siblings) if sibling is node)
    start = end
    while siblings[start].type == "trailer" and start:
        start -= 1
    return list(siblings[start : end + 1])


def _may_be_shadowed(chain: list[_Leaf], values: Iterable[_Value], text: str) -> bool:
    """Tell whether a module's name is that of a loop as well, perhaps of one yet to be written.

    The ``for`` of a comprehension comes after what is written of each.
    """
    name = chain[0].value if len(chain) == 1 and chain[0].type == "name" else ""
    loop = rf"\bfor\s[^:\n]*?\b{name}\b[^:\n]*?\sin\s"
    return bool(name) and any(v.is_module() for v in values) and bool(re.search(loop, text))


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


def _is_whole(names: set[str]) -> bool:
    """Tell whether an object's names include what all have, and something of its own."""
    return "__class__" in names and any(not name.startswith("__") for name in names)


def used_by(value: _Value) -> set[str]:
    """Return the names that an object's class and its bases use of themselves.

    A mixin uses names that only other classes give.
    """
    if value.is_module():
        return set()
    is_class = value.is_class()
    cls = value if is_class else value.py__class__()
    words = ("cls",) if is_class else ("self", "cls")
    used: set[str] = set()
    for base in cls.py__mro__():
        if not base.is_compiled() and base.tree_node.type == "classdef":
            used.update(_used_in(base.tree_node, words))
    return {name for name in used if not name.startswith("__")}


def _used_in(node: _Leaf, words: tuple[str, ...]) -> Iterator[str]:
    """Yield what stands after a dot and one of the words in a piece of code."""
    start, end = node.start_pos, node.end_pos
    found = node.get_root_node().get_used_names()
    for leaf in (leaf for word in words for leaf in found.get(word, ())):
        if start <= leaf.start_pos < end:
            dot = leaf.get_next_leaf()
            name = dot and dot.get_next_leaf()
            if name and dot.value == "." and name.type == "name":
                yield name.value


def names_of(value: _Value, scope: _Leaf | None) -> set[str]:
    """Return what a value is known to have, seen from a scope of the syntax tree."""
    slots = {name for code in _own_codes(value) for name in _slots_in(code) or ()}
    names = slots | member_names(value, scope)
    return names.union(*(member_names(other, scope) for other in _unlisted(value)))


def _unlisted(value: _Value) -> Iterator[_Value]:
    """Yield what gives a value names, but not in jedi's list of them."""
    if value.is_module():
        return
    if value.is_class():
        yield from value.get_metaclasses()
    cls = value if value.is_class() else value.py__class__()
    # The tuple that a NamedTuple is.
    if any(base.py__name__() == "Tuple" for base in cls.py__mro__()):
        yield builtin_from_name(value.inference_state, "tuple")


def _own_codes(value: _Value) -> Iterator[str]:
    """Yield the code of a value's class and of its bases, where it is Python."""
    if value.is_module():
        return
    cls = value if value.is_class() else value.py__class__()
    for base in cls.py__mro__():
        if not base.is_compiled() and base.tree_node.type == "classdef":
            yield _code_of(base)


def _code_of(cls: _Value) -> str:
    """Return the code of a class, from its file, because the tree is slow to write it out."""
    (first, start), (last, end) = cls.tree_node.start_pos, cls.tree_node.end_pos
    lines = cls.get_root_context().code_lines[first - 1 : last - 1]
    ending = cls.get_root_context().code_lines[last - 1 : last]
    return "".join([*lines, *(line[:end] for line in ending)])[start:]


def _slots_in(code: str) -> list[str] | None:
    """Return the names in the slots of a class, None where they are computed."""
    found = _SLOTS.search(code)
    try:
        slots = ast.literal_eval(found[1]) if found else ()
    except (SyntaxError, ValueError):
        return None
    names = (slots,) if isinstance(slots, str) else slots
    return [name for name in names if isinstance(name, str)]


def is_closed(value: _Value) -> bool:
    """Tell whether nothing but its known code gives a value its names."""
    if value.is_module():
        return _is_module_closed(value)
    cls = value if value.is_class() else value.py__class__()
    bases = list(cls.py__mro__())
    if value.is_instance() and cls.py__name__() in _ENUMS:
        # It is a class that a call made.
        return False
    metaclasses = {metaclass.py__name__() for metaclass in cls.get_metaclasses()}
    if not metaclasses <= _PLAIN_METACLASSES:
        return False
    if all(base.py__name__() != "object" for base in bases):
        return False
    if value.is_class() and cls.get_root_context().py__name__() == "typing":
        # The stub does not say that these are abstract classes.
        return False
    if cls.py__name__().endswith("Mixin"):
        # It lives by what others have.
        return False
    for base in bases:
        if base.is_compiled() or base.tree_node.type != "classdef":
            continue
        # A base that is not found is left out of the order; stubs leave none out.
        is_stub = cls.get_root_context().is_stub()
        if not is_stub and any(not known.infer() for known in base.py__bases__()):
            return False
        is_object = base.py__name__() == "object"
        functions = {f.name.value: f for f in base.tree_node.iter_funcdefs()}
        code = _code_of(base)
        if "__setstate__" in functions:
            # It gives back what was there before.
            code = code.replace(functions["__setstate__"].get_code(), "")
        if functions.keys() & _HOOKS and not is_object:
            return False
        # Of a stub nothing is run.
        if base.get_root_context().is_stub():
            continue
        if _slots_in(code) is not None:
            code = _SLOTS.sub("", code, count=1)
        if _has_unsure_base(base.tree_node):
            return False
        is_plain = set(decorators_of(base.tree_node)) <= _PLAIN_DECORATORS
        has_metaclass = _METACLASS.match(code) is not None
        if not is_plain or _SETS_ANY.search(code) or has_metaclass > bool(metaclasses):
            return False
        if _is_set_outside(base.tree_node):
            return False
    return True


def _has_unsure_base(node: _Leaf) -> bool:
    """Tell whether a base's name has several definitions in the file.

    One is often what stands in for a package that is not installed.
    """
    arguments = node.get_super_arglist()
    used_names = node.get_root_node().get_used_names()
    leaf = arguments and arguments.get_first_leaf()
    while leaf is not None and leaf.start_pos < arguments.end_pos:
        if sum(name.is_definition() for name in used_names.get(leaf.value, ())) > 1:
            return True
        leaf = leaf.get_next_leaf()
    return False


def _is_set_outside(node: _Leaf) -> bool:
    """Tell whether the file of a class sets attributes of it by names that it computes."""
    for leaf in node.get_root_node().get_used_names().get("setattr", ()):
        bracket = leaf.get_next_leaf()
        target = bracket and bracket.get_next_leaf()
        if target is not None and target.value == node.name.value:
            return True
    return False


def _is_module_closed(value: _Value) -> bool:
    if value.py__name__() in _OPEN_MODULES:
        return False
    if any(found.get("__getattr__") for found in value.get_filters()):
        return False
    node = value.tree_node
    if node is None or value.is_stub():
        return True
    stars = [found for found in node.iter_imports() if found.is_star_import()]
    is_filled = bool(node.get_used_names().keys() & {"globals", "vars"})
    return not is_filled and len(value.star_imports()) >= len(stars)
