"""What a check is asked and what it says; shared by the worker and those who ask it."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class CheckRequest:
    """A buffer and the text to insert at ``offset``; paths are of the file's project."""

    text: str
    offset: int
    insert_text: str
    path: str | None = None
    project: str | None = None


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


UNCHECKED = Verdict(VerdictKind.UNCHECKED)
