"""Whether what a program of the Multi-Turn Programming Benchmark printed is right; pure.

After ``check_equivalence`` of salesforce/CodeGen, codegen1/benchmark/mtpb_exec.py. The
answer comes as ``guest`` encodes values, so nothing of a program is run here.
"""

import math
from dataclasses import dataclass
from typing import Any

from model_eval.sandbox import Outcome

_TOLERANCE = 1e-6
_RELATIVE, _ABSOLUTE = 1e-5, 1e-8
"""Of ``numpy.allclose``, by which the published function compares a pandas Series."""
_INTEGERS = ("uint8", "int16", "int32", "int64")
_FLOATS = ("float16", "float32", "float64")
_BOOLEANS = ("bool", "bool_")
_CAUGHT_BY_NOBODY = ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException")


@dataclass(frozen=True)
class Rules:
    """How the published evaluation differs from ours; all False is ours."""

    failing_may_pass: bool = False
    """A program that raised, or ran out of time, after it printed the answer passes."""
    few_types: bool = False
    """An answer that is to be a dictionary or None never passes."""
    exact_lists: bool = False
    """Floats within lists have to be equal to the last bit."""


PUBLISHED = Rules(failing_may_pass=True, few_types=True, exact_lists=True)


@dataclass(frozen=True)
class _Array:
    """A numpy array inside something else, which is equal to no list."""

    values: object


@dataclass(frozen=True)
class _Other:
    """An object of any other class, as what it can be cast to."""

    casts: dict[str, object]


class _NoCastError(Exception):
    """The answer cannot be made what it should be."""


def is_right(outcome: Outcome, gold: object, rules: Rules) -> bool:
    """Tell whether a program passed, under rules."""
    if outcome.printed is None:
        return False
    if outcome.error is not None:
        name = outcome.error.partition(":")[0]
        if not rules.failing_may_pass or name in _CAUGHT_BY_NOBODY:
            return False
    try:
        return _is_equivalent(outcome.printed, gold, rules)
    # What the program says that it printed may be anything.
    except (_NoCastError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
        return False
    except (RecursionError, MemoryError):
        return False


def _is_equivalent(printed: list[Any], gold: object, rules: Rules) -> bool:
    kind, content = printed
    if kind == "Series":
        return _all_close(_decoded(content), gold)
    value = _decoded(printed)
    if isinstance(value, _Array):
        value = value.values
    elif kind == "list" and value and isinstance(value[0], tuple):  # type: ignore[index]
        value = [list(part) for part in value]  # type: ignore[attr-defined]
    if gold is None or isinstance(gold, dict):
        return not rules.few_types and type(value) is type(gold) and _same(value, gold)
    if type(value) is not type(gold):
        if isinstance(gold, bool):
            return _cast(value, str) == str(gold)
        value = _cast(value, type(gold))
    if isinstance(gold, list) and rules.exact_lists:
        return value == gold
    return _same(value, gold)


def _cast(value: object, kind: type) -> object:
    if isinstance(value, _Other):
        if kind.__name__ not in value.casts:
            raise _NoCastError
        return value.casts[kind.__name__]
    return kind(value)


def _same(value: object, gold: object) -> bool:
    """Compare with tolerance for floats, also within lists and dictionaries."""
    if isinstance(value, list) and isinstance(gold, list):
        pairs = zip(value, gold, strict=False)
        return len(value) == len(gold) and all(_same(ours, theirs) for ours, theirs in pairs)
    if isinstance(value, dict) and isinstance(gold, dict):
        return value.keys() == gold.keys() and all(_same(value[key], gold[key]) for key in gold)
    if isinstance(value, float | int) and isinstance(gold, float):
        return abs(value - gold) < _TOLERANCE
    return value == gold


def _all_close(value: object, gold: object) -> bool:
    if isinstance(value, list) and isinstance(gold, list):
        if len(value) != len(gold):
            return False
        return all(_all_close(*pair) for pair in zip(value, gold, strict=True))
    if not isinstance(value, float | int) or not isinstance(gold, float | int):
        return False
    return math.isclose(value, gold, rel_tol=0, abs_tol=_ABSOLUTE + _RELATIVE * abs(gold))


def _decoded(encoded: list[Any]) -> object:
    kind, content = encoded
    match kind:
        case "None" | "bool" | "str":
            return content
        case "int":
            return int(content, 16)
        case "float":
            return float(content)
        case "list":
            return [_decoded(part) for part in content]
        case "tuple":
            return tuple(_decoded(part) for part in content)
        case "set":
            return {_decoded(part) for part in content}
        case "frozenset":
            return frozenset(_decoded(part) for part in content)
        case "dict":
            return {_decoded(key): _decoded(value) for key, value in content}
        case "ndarray" | "Series":
            return _Array(_decoded(content))
        case "numpy":
            name, inner = content
            value = _decoded(inner)
            if name in (*_INTEGERS, *_FLOATS, *_BOOLEANS):
                return value
            return _Other({"str": str(value), "int": value, "float": value})
        case _:
            return _Other({name: _decoded(cast) for name, cast in content.items()})
