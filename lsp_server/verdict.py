"""What a check is asked and what it says; shared by the worker and those who ask it."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """A kind of problem; each can be switched off."""

    SYNTAX = "syntax"
    NAME = "undefined-name"
    IMPORT = "unresolved-import"
    ATTRIBUTE = "unknown-attribute"
    ARGUMENT = "wrong-argument"


class Cut(StrEnum):
    """Where a completion with a problem may be cut."""

    NEVER = "never"
    ANYWHERE = "anywhere"
    """After any statement."""
    OUTER = "outer"
    """Between statements that are indented no deeper than the first."""


@dataclass(frozen=True)
class CheckRequest:
    """A buffer and the text to insert at ``offset``; paths are of the file's project."""

    text: str
    offset: int
    insert_text: str
    path: str | None = None
    project: str | None = None
    environment: str | None = None
    """The folder of the environment, where a person named it."""
    off: tuple[str, ...] = ()
    """The faults that are not looked for."""
    cut: Cut = Cut.NEVER


class VerdictKind(StrEnum):
    """How a completion fared."""

    OK = "ok"
    REPAIRED = "repaired"
    UNCHECKED = "unchecked"
    """Nothing is known: the check came late, or the place cannot be judged."""
    FLAGGED = "flagged"


@dataclass(frozen=True)
class Problem:
    """What is wrong, where: a UTF-16 position in the buffer with the completion in it."""

    line: int
    character: int
    code: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """The result of one check."""

    verdict: VerdictKind
    problems: tuple[Problem, ...] = ()
    """Of a repaired completion those that were cut away."""
    n_kept: int | None = None
    """How many characters of a repaired completion hold."""


UNCHECKED = Verdict(VerdictKind.UNCHECKED)
