"""Where the end of a statement that is being written stands: in which brackets, in which part.

Pure. The statement ends in code, in no string and no comment; any text has a shape.
"""

import re
from typing import NamedTuple

_OPENED_BY = {")": "(", "]": "[", "}": "{"}
_CLOSED_BY = {opening: closing for closing, opening in _OPENED_BY.items()}

_PART = re.compile(
    r"""(?P<skipped>
        \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3}
      | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | \#[^\n]*
    )
    | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<semicolon>;) | (?P<lambda>\blambda\b)
    | (?P<colon>:(?!=)) | (?P<equals>(?<![=!<>:+\-*/%@&|^~])=(?!=))""",
    re.VERBOSE | re.DOTALL,
)
_HEADER = re.compile(
    r"\s*(?:async\s+)?(?:if|elif|else|for|while|try|except|finally|with|class|def|match|case)\b"
)


class Shape(NamedTuple):
    """What encloses the end of a statement; offsets are into its text."""

    opened: list[int]
    """The brackets that are still open, the innermost last."""
    start: int
    """Behind the last semicolon, or the colon of a header."""
    targets: list[str]
    """What the statement that starts there assigns to, as far as an ``=`` has come."""
    part: int
    """Behind the last of these ``=``, else as ``start``."""
    is_in_lambda: bool
    """Whether it ends among the parameters of a lambda."""


def closers_due(statement: str) -> str:
    """Return the brackets that close what is open at a statement's end, the innermost first."""
    return "".join(_CLOSED_BY[statement[at]] for at in reversed(shape_of(statement).opened))


def shape_of(statement: str) -> Shape:
    """Return the shape of a statement's end."""
    opened: list[int] = []
    lambdas: list[int] = []
    start = part = 0
    targets: list[str] = []
    for match in _PART.finditer(statement):
        position = match.start()
        match match.lastgroup:
            case "open":
                opened.append(position)
            case "close" if opened and statement[opened[-1]] == _OPENED_BY[match[0]]:
                opened.pop()
                lambdas = [depth for depth in lambdas if depth <= len(opened)]
            case "lambda":
                lambdas.append(len(opened))
            case "colon" if lambdas and lambdas[-1] == len(opened):
                lambdas.pop()
            case "colon" if not opened and _HEADER.match(statement, start):
                start = part = match.end()
                targets = []
            case "semicolon" if not opened:
                start = part = match.end()
                targets = []
            case "equals" if not opened and not lambdas:
                targets.append(statement[part:position].strip())
                part = match.end()
    is_in_lambda = bool(lambdas) and lambdas[-1] == len(opened)
    return Shape(opened, start, targets, part, is_in_lambda)
