"""Teaches jedi what ``Self`` is: the class that is asked, not the one that wrote it.

jedi 0.20 takes ``Path("a").parent`` for a ``PurePath``, where typeshed writes the property,
and knows nothing of what ``Generator[Self]`` yields. It knows no requests.
"""

from typing import Any

from jedi.inference.base_value import NO_VALUES, ValueSet
from jedi.inference.gradual import annotation as jedi_annotation
from jedi.inference.gradual.base import DefineGenericBaseClass
from jedi.inference.gradual.generics import TupleGenericManager
from jedi.inference.gradual.typing import SelfClass

# What jedi calls a function, its arguments and a value has no public types.
_Function = Any
_Arguments = Any
_Value = Any

_infer_return_types = jedi_annotation.infer_return_types


def bind_self() -> None:
    """Let jedi bind ``Self`` in the annotations of results, from now on."""
    jedi_annotation.infer_return_types = _infer_with_self


def _infer_with_self(function: _Function, arguments: _Arguments) -> ValueSet:
    written = function.tree_node.annotation
    if written is None or "Self" not in written.get_code():
        return _infer_return_types(function, arguments)
    # Before all others comes the instance, or the class of a class method.
    _, receiver = next(iter(arguments.unpack()), (None, None))
    classes = ValueSet(
        value.get_annotated_class_object() if value.is_instance() else value
        for value in (receiver.infer() if receiver else NO_VALUES)
    )
    context = function.get_default_param_context()
    return ValueSet.from_sets(
        _with_self(value, classes)
        for value in jedi_annotation.infer_annotation(context, written)
    ).execute_annotation(None)


def _with_self(value: _Value, classes: ValueSet) -> ValueSet:
    if isinstance(value, SelfClass):
        return classes
    if not isinstance(value, DefineGenericBaseClass):
        return ValueSet([value])
    generics = tuple(
        ValueSet.from_sets(_with_self(inner, classes) for inner in generic)
        for generic in value.get_generics()
    )
    return ValueSet([value._create_instance_with_generics(TupleGenericManager(generics))])
