"""Corrects what jedi 0.20 takes the results of calls for; it knows no requests.

``Self`` is the class that is asked, not the one that wrote it: ``Path("a").parent`` is a
``Path``, and jedi says ``PurePath``. Of an overloaded function jedi takes the first
signature that fits, and never sees that a ``Literal`` does: ``open("a", "rb")`` is an ``IO``.
"""

from typing import Any

from jedi.inference.base_value import NO_VALUES, ValueSet
from jedi.inference.gradual import annotation as jedi_annotation
from jedi.inference.gradual.base import DefineGenericBaseClass
from jedi.inference.gradual.generics import TupleGenericManager
from jedi.inference.gradual.typing import SelfClass
from jedi.inference.param import get_executed_param_names_and_issues
from jedi.inference.value.function import OverloadedFunctionValue

# What jedi calls a function, its arguments, its signature and a value has no public types.
_Function = Any
_Arguments = Any
_Signature = Any
_Value = Any

_infer_return_types = jedi_annotation.infer_return_types


def correct_results() -> None:
    """Let jedi bind ``Self`` and take what any fitting overload gives, from now on."""
    jedi_annotation.infer_return_types = _infer_with_self
    OverloadedFunctionValue.py__call__ = _call_overloaded


def _call_overloaded(self: _Function, arguments: _Arguments) -> ValueSet:
    signatures = self.get_signatures()
    are_fitting = [signature.matches_signature(arguments) for signature in signatures]
    first = are_fitting.index(True) if any(are_fitting) else len(signatures)
    return ValueSet.from_sets(
        signature.value.as_context(arguments).infer()
        for place, signature in enumerate(signatures)
        if are_fitting[place] or (place < first and _takes_as_many(signature, arguments))
    )


def _takes_as_many(signature: _Signature, arguments: _Arguments) -> bool:
    _, issues = get_executed_param_names_and_issues(signature.value, arguments)
    return not issues


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
