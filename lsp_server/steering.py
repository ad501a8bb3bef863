"""Constrains tokens: to names that can come after a dot, in imports and calls; to brackets.

The names come from an analyser that is asked while the model writes, and the model does
not wait: what it wrote against an answer that comes later is written anew from there. At
the end it waits a little; a late answer is no constraint. The idea is monitor-guided
decoding (Agrawal et al., 2023). It knows neither the analyser nor the model.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import TYPE_CHECKING

from lsp_server.known_names import KnownNames, NameKind, NamesRequest, Receiver
from lsp_server.python_lines import Place, scan
from lsp_server.statement_shape import Shape, closers_due, shape_of
from lsp_server.turns import read

if TYPE_CHECKING:
    from lsp_server.sampling import BoolArray
    from lsp_server.vocabulary import Vocabulary

_DEREFERENCE = re.compile(r"""(?<![\s.])\.(?P<begun>\w*)\Z""")
_NUMBER = re.compile(r"(?<![\w.])[0-9]\w*\.\w*\Z")
_IMPORT = re.compile(
    r"[ \t]*from[ \t]+(?P<module>[\w.]+)[ \t]+import\b"
    r"(?:[^()#;\n]*[^\w()#;\n]|[ \t]*\((?:[^()]*[^\w()])?|)(?P<begun>\w*)\Z"
)
_MAY_BE_DUE = re.compile(r"(?:\.|[(,]\s*|\bimport\b[^#\n]*)\w*\Z")
_ALIAS = re.compile(r"\bas[ \t]+\w*\Z")
_ARGUMENT = re.compile(r"(?P<mark>[\w\])][ \t]*\(|,)\s*(?P<begun>\w*)\Z")
_TARGET = re.compile(r"(?s:\s*(?:async\s+)?for\s+|.*\bas\s+|\s*)(?:[^\s=,]+\s*,\s*)*[^\s=,]+\Z")
_DEFINED = re.compile(r"\s*(?:async\s+)?def\b")
_IMPORTING = re.compile(r"\s*(?:from|import)\b")
_CALLED = re.compile(r"(\w+|[\])])\s*\(\Z")
_WINDOW = 1 << 18
"""So many characters before the cursor are looked at for the start of its statement."""
_STORED = frozenset({Receiver.OWN, Receiver.PROJECT_CLASS, Receiver.PROJECT_INSTANCE})
"""What code gives new attributes by assigning to them."""


_REMEMBERED = 64
_LONGEST = 1 << 10
"""Characters of a statement that is looked at for brackets at every step."""
_LONGEST_NAMED = 1 << 14
"""Characters of a statement in which names are looked for; a table of data may be longer."""

BRACKETS = "brackets"
"""What is steered by the statement alone: no bracket closes that none opened."""
KINDS = frozenset({*map(str, NameKind), BRACKETS})
"""What can be steered."""

Ask = Callable[[NamesRequest], "Future[KnownNames | None]"]


class NameMemory:
    """Remembers answers, so that typing on in one place asks nothing; safe from any thread.

    What stands after the place on its line is what is being written, and changes no answer.
    """

    def __init__(self, ask: Ask) -> None:
        """Take whom to ask."""
        self._ask = ask
        self._answers: OrderedDict[object, Future[KnownNames | None]] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Forget all, because another file may have other names now."""
        with self._lock:
            self._answers.clear()

    def ask(self, request: NamesRequest) -> "Future[KnownNames | None]":
        """Return the answer that is there or on its way, or ask."""
        line_end = request.text.find("\n", request.offset)
        after = request.text[line_end:] if line_end >= 0 else ""
        # Hashes, because texts are long.
        texts = hash(request.text[: request.offset]), hash(after)
        key = (texts, request.kind, request.path, request.project, request.environment)
        with self._lock:
            answer = self._answers.pop(key, None)
            if answer is None or answer.cancelled():
                answer = self._ask(request)
            self._answers[key] = answer
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        return answer


@dataclass(frozen=True)
class NameSource:
    """Who knows names, for which file, and how long they are waited for at the end."""

    ask: Ask
    path: str | None = None
    project: str | None = None
    deadline_s: float = 0.06
    kinds: frozenset[str] = KINDS
    """What is steered."""


@dataclass(frozen=True)
class NamePlace:
    """A place where a name is due; offsets are into the text it was found in."""

    kind: NameKind
    asked_at: int
    """Where one asks for the names."""
    begun: str
    """What stands of the name already."""
    may_be_new: bool = False
    """Whether it may be the target of an assignment."""


def find_name_place(statement: str) -> NamePlace | None:
    """Return the place at the end of a statement that is being written, if a name is due."""
    if _NUMBER.search(statement) or scan(statement).place is not Place.CODE:
        return None
    shape = shape_of(statement)
    if imported := _IMPORT.match(statement, shape.start):
        if _ALIAS.search(statement):
            return None
        return NamePlace(NameKind.IMPORT, imported.end("module"), imported["begun"])
    # Modules are not all known.
    if _IMPORTING.match(statement, shape.start):
        return None
    if found := _DEREFERENCE.search(statement):
        may_be_new = _may_be_target(statement, shape)
        return NamePlace(
            NameKind.ATTRIBUTE, found.start("begun"), found["begun"], may_be_new=may_be_new
        )
    found = _ARGUMENT.search(statement)
    # Parameters are new names.
    if found is None or shape.is_in_lambda or _DEFINED.match(statement, shape.start):
        return None
    if not shape.opened or not _is_call(statement[: shape.opened[-1] + 1]):
        return None
    return NamePlace(NameKind.KEYWORD, found.end("mark"), found["begun"])


def _is_call(text: str) -> bool:
    """Tell whether the bracket that ends a text is a call's."""
    called = _CALLED.search(text)
    return called is not None and not iskeyword(called[1])


def _may_be_target(statement: str, shape: Shape) -> bool:
    """Tell whether what stands at the end may yet be assigned to.

    After ``self.a = self.`` it is in one of 13 places of the standard library, after
    ``a = self.`` in one of a thousand.
    """
    if not all("." in target for target in shape.targets):
        return False
    written = statement[shape.part :]
    if shape.opened:
        # Targets may stand in brackets of their own.
        bracket = shape.opened[0] - shape.part
        if len(shape.opened) > 1 or bracket < 0 or _is_call(written[: bracket + 1]):
            return False
        written = f"{written[:bracket]} {written[bracket + 1 :]}"
    return _TARGET.match(written) is not None


class DueNames:
    """The names that are due in a text that is being written, asked for once a place."""

    def __init__(self, source: NameSource, before: str, after: str) -> None:
        """Take the text around what is written."""
        self._source = source
        self._before = before
        self._after = after
        self._statement = before[_closed_before(before) :]
        self._answers: dict[str, Future[KnownNames | None]] = {}
        """By the statement up to the place."""
        self._awaited: dict[str, Future[KnownNames | None]] = {}
        """By what was written when an answer was needed and not there."""
        self._is_slow = False
        self._placed: tuple[str | None, NamePlace | None] = None, None
        self._seen = ""
        self._start = 0

    def look(self, written: str) -> None:
        """Ask for the names at the end of what is written, so that the answer is on its way."""
        if place := self._place(written):
            self._answer(written, place)

    def known(self, written: str) -> tuple[NamePlace, KnownNames] | None:
        """Return the names that are due, None where any may come or nobody knows yet."""
        place = self._place(written)
        if place is None:
            return None
        answer = self._answer(written, place)
        if not answer.done():
            # An argument that has no keyword is worth no wait.
            if place.kind is not NameKind.KEYWORD:
                self._awaited[written] = answer
            return None
        known = None if answer.cancelled() else answer.result()
        if known is None or (place.may_be_new and _STORED & set(known.receivers)):
            return None
        return place, known

    def is_awaited(self, written: str) -> bool:
        """Tell whether the names that are due there were needed, and are not there yet."""
        return written in self._awaited

    def arrived(self) -> list[str]:
        """Return what was written where names were awaited that are there now, each once."""
        arrived = [written for written, answer in self._awaited.items() if answer.done()]
        for written in arrived:
            del self._awaited[written]
        return arrived

    def wait(self, texts: Iterable[str]) -> None:
        """Wait for what is awaited in these, until the deadline; for a slow analyser once."""
        answers = [self._awaited[text] for text in texts if text in self._awaited]
        if answers and not self._is_slow:
            _, late = wait(answers, self._source.deadline_s)
            self._is_slow = bool(late)
            for answer in late:
                answer.cancel()

    def closers_due(self, written: str) -> str | None:
        """Return the brackets that may close, the innermost first; None where any may stand."""
        if BRACKETS not in self._source.kinds:
            return None
        statement = self._statement + written
        # What was written before is not read again.
        start = self._start if written.startswith(self._seen) else 0
        if len(statement) - start > _LONGEST:
            return None
        here = scan(statement[start:])
        self._seen, self._start = written, start + here.outside[-1]
        return closers_due(statement[self._start :]) if here.place is Place.CODE else None

    def _place(self, written: str) -> NamePlace | None:
        # Each text is asked about twice: by who looks ahead, and for what may come next.
        if written != self._placed[0]:
            self._placed = written, self._find_place(written)
        return self._placed[1]

    def _find_place(self, written: str) -> NamePlace | None:
        statement = self._statement + written
        if len(statement) > _LONGEST_NAMED:
            return None
        if not _MAY_BE_DUE.search(statement, max(0, len(statement) - _LONGEST)):
            return None
        start = _statement_start(statement)
        place = find_name_place(statement[start:])
        if place is None or place.kind not in self._source.kinds:
            return None
        return replace(place, asked_at=place.asked_at + start)

    def _answer(self, written: str, place: NamePlace) -> "Future[KnownNames | None]":
        # What is written may be written anew, with another object before the same place.
        up_to_place = (self._statement + written)[: place.asked_at]
        if up_to_place not in self._answers:
            source = self._source
            text = self._before + written + self._after
            at = len(self._before) - len(self._statement) + place.asked_at
            request = NamesRequest(text, at, place.kind, source.path, source.project)
            self._answers[up_to_place] = source.ask(request)
        return self._answers[up_to_place]


class Steering:
    """The constraint on one candidate, written into a text."""

    def __init__(
        self,
        source: NameSource,
        before: str,
        after: str,
        vocabulary: "Vocabulary",
        size: int,
    ) -> None:
        """Take the text around what is written."""
        self._names = DueNames(source, before, after)
        self._vocabulary = vocabulary
        self._size = size

    def look(self, written: str) -> None:
        """Ask for the names at the end of what is written, so that the answer is on its way."""
        self._names.look(written)

    def is_unsure(self, written: str) -> bool:
        """Tell whether names were due there that are not known yet."""
        return self._names.is_awaited(written)

    def settled(self) -> list[str]:
        """Return what was written where it was unsure and is not any more, each once."""
        return self._names.arrived()

    def wait(self, texts: Iterable[str]) -> None:
        """Wait for the names that are not known in these texts yet, until the deadline."""
        self._names.wait(texts)

    def allowed(self, written: str) -> "BoolArray | None":
        """Return a mask of the tokens that may come next, None for any, as far as is known."""
        due = self._names.known(written)
        named = _mask(self._vocabulary, due[0], due[1].names, self._size) if due else None
        closers = self._names.closers_due(written)
        if closers is None:
            return named
        closing = self._vocabulary.closing(closers.encode(), self._size)
        if named is None:
            return closing
        return named & closing if (named & closing).any() else named


def _closed_before(text: str) -> int:
    """Return where the last line of a text starts that begins in no string or bracket."""
    start = text.find("\n", len(text) - _WINDOW) + 1 if len(text) > _WINDOW else 0
    window = text[start:]
    return start + read(window).line_start_before(len(window))


def _statement_start(text: str) -> int:
    """Return the same of a text that begins in none itself."""
    return scan(text).outside[-1]


def _mask(
    vocabulary: "Vocabulary", place: NamePlace, names: Sequence[str], size: int
) -> "BoolArray | None":
    begun = place.begun
    if place.kind is NameKind.KEYWORD:
        is_keyword = not begun or begun in names
        return None if is_keyword else vocabulary.without(b"=", b"==", size)
    endings = [name[len(begun) :].encode() for name in names if name.startswith(begun)]
    if not endings:
        return None
    mask = vocabulary.naming(endings, size)
    if place.kind is NameKind.IMPORT and not begun:
        mask |= vocabulary.naming([b" " + ending for ending in endings], size)
        mask |= vocabulary.no_word(size)
    return mask
