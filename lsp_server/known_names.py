"""What is asked about the names that may come next, and what is known of them.

Shared by the worker and those who ask it; knows no analyser and no model.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_IMPORTED = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<of>\.*[\w.]*\w)[ \t]+import\b|import[ \t]+(?P<whole>[\w.]*\w))",
    re.MULTILINE,
)


class NameKind(StrEnum):
    """What a name is to what stands before it."""

    ATTRIBUTE = "attribute"
    """It comes after a dot."""
    IMPORT = "import"
    """It comes after ``from module import``."""
    KEYWORD = "keyword"
    """It is the keyword of an argument."""


@dataclass(frozen=True)
class NamesRequest:
    """A buffer and the offset where one looks for names; paths are of the file's project.

    The offset is after the dot, after the module that is imported from, or after the
    bracket or comma that an argument follows.
    """

    text: str
    offset: int
    kind: NameKind = NameKind.ATTRIBUTE
    path: str | None = None
    project: str | None = None
    environment: str | None = None
    """The folder of the environment, where a person named it."""


def imported_modules(text: str) -> Iterator[tuple[str, int]]:
    """Yield the modules that a text imports, the first of each line, and where they end."""
    for found in _IMPORTED.finditer(text):
        kind = found.lastgroup or ""
        yield found[kind], found.end(kind)


class Receiver(StrEnum):
    """What has the names."""

    MODULE = "module"
    CLASS = "class"
    INSTANCE = "instance"
    PROJECT_CLASS = "project class"
    PROJECT_INSTANCE = "project instance"
    OWN = "own"
    """``self`` or ``cls``."""
    FUNCTION = "function"


@dataclass(frozen=True)
class KnownNames:
    """All names that can come."""

    names: tuple[str, ...]
    receivers: tuple[Receiver, ...]
