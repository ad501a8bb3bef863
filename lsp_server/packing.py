"""What stands above the text of a Python file that a prompt holds as it is; pure.

When the context is full whole old turns leave, then function bodies not in use. Imports,
signatures and definitions in use stay, in the order of the file. Where that is asked for,
what the file imports from other open files comes before. It knows no model and no tokenizer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from lsp_server.python_lines import Line, LineKind, scan, width_of
from lsp_server.turns import Turn

_NAME = re.compile(r"[^\W\d]\w*")
_IMPORT = re.compile(r"(?:import|from)\b")
_DEFINITION = re.compile(r"(?:async[ \t]+)?(def|class)[ \t]+(?P<bound>\w+)")
_ASSIGNMENT = re.compile(
    r"(?P<bound>\w+(?:[ \t]*,[ \t]*\w+)*)[ \t]*(?:=(?!=)|:[ \t]*(?=[^ \t=]))"
)
_FROM_IMPORT = re.compile(
    r"^from[ \t]+(?P<dots>\.*)(?P<module>[\w.]*)[ \t]+import[ \t]*(?P<names>\([^()]*\)|[^\n]*)",
    re.MULTILINE,
)
_MODULE_IMPORT = re.compile(
    r"^import[ \t]+(?P<module>[\w.]+)(?:[ \t]+as[ \t]+(?P<alias>\w+))?", re.MULTILINE
)
_IMPORTED_NAME = re.compile(r"(\w+)(?:[ \t]+as[ \t]+(\w+))?")
_COMMENT = re.compile(r"#.*")
_IMPORTED_STEP = 512
_IMPORTED_CHARACTERS = 1024
"""Of all files together, at most."""
_FIRST_INDENT = re.compile(r"\s*^([ \t]*)(?=\S)", re.MULTILINE)
_ELISION = "..."


class OpenFile(NamedTuple):
    """A Python file that is open beside the one that is written."""

    uri: str
    text: str


class _Need(IntEnum):
    """How much a part of old text is needed; what is needed most comes first."""

    OPEN = 0
    """The kept text begins in its body."""
    USED_IMPORT = 1
    NAMED = 2
    """A turn that is being written names it."""
    USED = 3
    """The kept text uses it."""
    USED_BODY = 4
    IMPORT = 5
    SIGNATURE = 6


class _Kind(Enum):
    """What a part is."""

    IMPORT = "import"
    ASSIGNMENT = "assignment"
    FUNCTION = "function"
    CLASS = "class"


@dataclass(frozen=True)
class _Part:
    """An import, an assignment, or a definition with its signature apart from its body."""

    kind: _Kind
    names: frozenset[str]
    """What it binds; of an import, all names in it."""
    text: str
    """The whole of it, or the decorators and the signature."""
    body: str = ""
    indent: str = ""
    """The indentation of its body."""
    parent: int | None = None
    """Of what a class holds, the place of the class."""
    is_open: bool = False
    """Its body goes on in the kept text."""

    @property
    def elision(self) -> str:
        """What stands for a body that leaves."""
        return f"{self.indent}{_ELISION}\n" if self.body and not self.is_open else ""


def condensed(
    text: str, start: int, turns: Sequence[Turn], *, step: int, n_characters: int
) -> str:
    """Return what stands for ``text[:start]``, at most so many characters of whole lines.

    ``turns`` are those of the text and of what follows it. What is in use is read off the
    kept text as far as it went at the last multiple of ``step`` characters, and off the
    prompts of the turns that are being written. So typing a program rarely changes it.
    """
    if start == 0 or text[start - 1] != "\n":
        return ""
    settled = max(start, text.rfind("\n", 0, len(text) - len(text) % step) + 1)
    prompts = (
        turn.prompt
        for turn in turns
        if turn.prompt_end <= len(text) and (turn.end > settled or turn.end >= len(text))
    )
    named = frozenset().union(*map(_names, prompts))
    old, kept = text[:start], text[start:settled]
    return _condensed(old, _width_at(text, start), kept, named, n_characters)


def imported(text: str, uri: str, files: Sequence[OpenFile]) -> str:
    """Return the definitions that a text imports from files, below the files' names.

    Of a module that is imported itself, those count that the text speaks of up to its last
    multiple of some hundred characters, so that typing rarely changes anything.
    """
    # What is typed now may become another import.
    text = text[: text.rfind("\n") + 1]
    settled = text[: len(text) - len(text) % _IMPORTED_STEP]
    wanted: dict[OpenFile, set[str]] = {}
    for match in _FROM_IMPORT.finditer(text):
        dots, module = match["dots"], match["module"]
        for name, alias in _IMPORTED_NAME.findall(_COMMENT.sub("", match["names"])):
            if file := _find(dots, module, uri, files):
                wanted.setdefault(file, set()).add(name)
            elif file := _find(dots, f"{module}.{name}".lstrip("."), uri, files):
                wanted.setdefault(file, set()).update(_attributes(settled, alias or name))
    for match in _MODULE_IMPORT.finditer(text):
        if file := _find("", match["module"], uri, files):
            called = match["alias"] or match["module"]
            wanted.setdefault(file, set()).update(_attributes(settled, called))
    written = ""
    for file, names in wanted.items():
        title = f"# {file.uri.rpartition('/')[2]}\n"
        n_left = _IMPORTED_CHARACTERS - len(written) - len(title)
        found = _condensed(file.text, 0, "", frozenset(names), n_left, _Need.NAMED)
        written += title + found if found else ""
    return written


def _find(dots: str, module: str, uri: str, files: Sequence[OpenFile]) -> OpenFile | None:
    """Return the file of a module; of several the one that lies nearest."""
    path = module.replace(".", "/")
    ends = (f"/{path}.py", f"/{path}/__init__.py") if path else ("/__init__.py",)
    if dots:
        folder = uri.rsplit("/", len(dots))[0]
        found = [file for file in files if file.uri in {folder + end for end in ends}]
    else:
        found = [file for file in files if file.uri.endswith(ends)]

    def n_shared(file: OpenFile) -> int:
        pairs = zip(file.uri.split("/"), uri.split("/"), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    return max(found, key=n_shared, default=None)


def _attributes(text: str, name: str) -> set[str]:
    """Return the names that a text takes from a module."""
    return set(re.findall(rf"(?<![\w.]){re.escape(name)}\.(\w+)", text))


@lru_cache(maxsize=32)
def _condensed(
    old: str,
    next_width: int,
    kept: str,
    named: frozenset[str],
    n_characters: int,
    least: _Need = _Need.SIGNATURE,
) -> str:
    parts = _outline(old, next_width)
    chosen, whole = _choose(parts, named, _used(kept), n_characters, least)
    parents = {parts[place].parent for place in chosen}
    written = []
    for place in sorted(chosen):
        part = parts[place]
        if part.parent in whole:
            continue
        written.append(part.text)
        if place in whole:
            written.append(part.body)
        elif place not in parents:
            written.append(part.elision)
    return "".join(written)


def _choose(
    parts: Sequence[_Part],
    named: frozenset[str],
    used: frozenset[str],
    n_characters: int,
    least: _Need,
) -> tuple[set[int], set[int]]:
    """Return the places of the parts that stay, and of those that stay whole."""
    wanted = []
    for place, part in enumerate(parts):
        parent = None if part.parent is None else parts[part.parent]
        need, body_need = _needs(part, parent, named, used)
        if need is not None and need <= least:
            # What is near comes before what is far, but a class before what it holds.
            wanted.append((need, parent is not None, -place, False))
            if body_need is not None:
                wanted.append((body_need, parent is not None, -place, True))
    chosen: set[int] = set()
    whole: set[int] = set()
    n_left = n_characters
    for _, is_held, nearness, is_body in sorted(wanted):
        place = -nearness
        part = parts[place]
        if part.parent in whole:
            continue
        if is_body:
            is_possible = place in chosen
            cost = len(part.body) - len(part.elision)
        else:
            is_possible = not is_held or part.parent in chosen
            cost = len(part.text) + len(part.elision)
        if is_possible and cost <= n_left:
            (whole if is_body else chosen).add(place)
            n_left -= cost
    return chosen, whole


def _needs(
    part: _Part, parent: _Part | None, named: frozenset[str], used: frozenset[str]
) -> tuple[_Need | None, _Need | None]:
    """Return how much a part is needed, and its body; None where it may leave."""
    if part.is_open:
        return _Need.OPEN, None
    is_named, is_used = not part.names.isdisjoint(named), not part.names.isdisjoint(used)
    if part.kind is _Kind.IMPORT:
        return (_Need.USED_IMPORT if is_named or is_used else _Need.IMPORT), None
    scope = parent or part
    if not scope.names.isdisjoint(named):
        need = _Need.NAMED
    elif not scope.names.isdisjoint(used) or (parent and parent.is_open):
        need = _Need.USED
    elif parent is None and part.kind is not _Kind.ASSIGNMENT:
        need = _Need.SIGNATURE
    else:
        return None, None
    if part.body and is_named:
        return need, _Need.NAMED
    if is_used and part.kind is _Kind.FUNCTION:
        return need, _Need.USED_BODY
    return need, None


@lru_cache(maxsize=16)
def _outline(old: str, next_width: int) -> tuple[_Part, ...]:
    """Return the parts of a text, which a line of the given indentation follows."""
    lines = scan(old).lines
    parts: list[_Part] = []
    for statement in _statements(lines, 0, len(lines)):
        if width_of(lines[statement.start].indent) > 0:
            # Where the text begins inside of something, nobody knows inside of what.
            continue
        part = _part(old, lines, statement, next_width)
        if part is None:
            continue
        parts.append(part)
        if part.kind is _Kind.CLASS:
            parent = len(parts) - 1
            held = list(_statements(lines, statement.body, statement.end))
            for member in held:
                if lines[member.start].indent == lines[held[0].start].indent:
                    one = _part(old, lines, member, next_width)
                    if one is not None:
                        is_open = one.is_open and part.is_open
                        parts.append(replace(one, parent=parent, is_open=is_open))
    return tuple(parts)


class _Statement(NamedTuple):
    """Indices of lines."""

    start: int
    """Of its first decorator, or of itself."""
    own: int
    body: int
    end: int
    is_last: bool
    """Of its block."""


def _statements(lines: Sequence[Line], first: int, last: int) -> Iterator[_Statement]:
    """Yield the statements of a block, with what is indented below each."""
    start = None
    index = first
    while index < last:
        line = lines[index]
        if line.kind is not LineKind.CODE:
            index += 1
            continue
        body = index + 1
        while body < last and lines[body].kind is LineKind.INSIDE:
            body += 1
        end = following = body
        while following < last and not _is_beside(lines[following], line):
            following += 1
            if lines[following - 1].kind in (LineKind.CODE, LineKind.INSIDE):
                end = following
        start = index if start is None else start
        if not line.content.startswith("@"):
            yield _Statement(start, index, body, end, following == last)
            start = None
        index = end


def _is_beside(line: Line, other: Line) -> bool:
    return line.kind is LineKind.CODE and width_of(line.indent) <= width_of(other.indent)


def _part(
    old: str, lines: Sequence[Line], statement: _Statement, next_width: int
) -> _Part | None:
    """Return what a statement is to the text below it, None where it is nothing."""

    def between(first: int, last: int) -> str:
        end = lines[last].start if last < len(lines) else len(old)
        return old[lines[first].start : end]

    line = lines[statement.own]
    text = between(statement.start, statement.body)
    if _IMPORT.match(line.content):
        return _Part(_Kind.IMPORT, _names(text), text)
    if match := _DEFINITION.match(line.content):
        body = between(statement.body, statement.end) if statement.end > statement.body else ""
        return _Part(
            _Kind.CLASS if match[1] == "class" else _Kind.FUNCTION,
            frozenset({match["bound"]}),
            text,
            body,
            body[: len(body) - len(body.lstrip(" \t"))],
            is_open=statement.is_last and next_width > width_of(line.indent),
        )
    if match := _ASSIGNMENT.match(line.content):
        return _Part(_Kind.ASSIGNMENT, _names(match["bound"]), text)
    return None


def _width_at(text: str, start: int) -> int:
    """Return the indentation of the first line from there on that holds something."""
    match = _FIRST_INDENT.match(text, start)
    return width_of(match[1]) if match else 0


def _used(kept: str) -> frozenset[str]:
    """Return the names in a text, but for those that it binds before it uses them."""
    used: set[str] = set()
    bound: set[str] = set()
    for line in kept.split("\n"):
        match = _DEFINITION.match(line) or _ASSIGNMENT.match(line)
        used.update(_names(line[match.end() if match else 0 :]) - bound)
        if match:
            bound.update(_names(match["bound"]))
    return frozenset(used)


@lru_cache(maxsize=1024)
def _names(text: str) -> frozenset[str]:
    return frozenset(_NAME.findall(text))
