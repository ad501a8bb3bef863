"""Where names are due, and the masks of what may come there."""

from collections.abc import Iterable
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server import steering as steering_module
from lsp_server.known_names import KnownNames, NameKind, NamesRequest, Receiver
from lsp_server.steering import (
    BRACKETS,
    KINDS,
    DueNames,
    NameMemory,
    NamePlace,
    NameSource,
    Steering,
    find_name_place,
)
from lsp_server.vocabulary import Vocabulary

ATTRIBUTE, IMPORT, KEYWORD = NameKind.ATTRIBUTE, NameKind.IMPORT, NameKind.KEYWORD

TOKENS = [
    b"app", b"append", b"end", b"ap", b"x", b"_", b"(", b" ", b"\n", b".", b"=", b"==",
    b" path", b"path", b" (", b"sep", b"_(", b" as", b"z", b" z", b"\xc3", b"e(",
]  # fmt: skip
VOCABULARY = Vocabulary(dict(enumerate(TOKENS)))


@pytest.mark.parametrize(
    ("statement", "kind", "begun"),
    [
        ("x = foo.", ATTRIBUTE, ""),
        ("x = foo.ba", ATTRIBUTE, "ba"),
        ("foo().bar[1].", ATTRIBUTE, ""),
        ("'text'.", ATTRIBUTE, ""),
        ("print(f'{x}', foo.", ATTRIBUTE, ""),
        ("f(a,\n  b.", ATTRIBUTE, ""),
        ("from os import", IMPORT, ""),
        ("from os import pa", IMPORT, "pa"),
        ("from os.path import (join,\n    ", IMPORT, ""),
        ("from os import path, ", IMPORT, ""),
        ("f(", KEYWORD, ""),
        ("f(x, ke", KEYWORD, "ke"),
        ("class C(metaclass", KEYWORD, "metaclass"),
        ("from a import b; x.", ATTRIBUTE, ""),
        ("try: from os import pa", IMPORT, "pa"),
        ("import a; from os import ", IMPORT, ""),
        ("f(lambda a: a, ke", KEYWORD, "ke"),
        ("f(')', ke", KEYWORD, "ke"),
    ],
)
def test_a_name_is_due(statement: str, kind: NameKind, begun: str) -> None:
    """After a dot, among imported names and among arguments a name is due."""
    place = find_name_place(statement)
    assert place is not None
    assert (place.kind, place.begun) == (kind, begun)


@pytest.mark.parametrize(
    "statement",
    [
        "", "x", "x = 1.", "x = 1_0.", "x = ...", "'a.", "'''a.\nb.", "# a.", "x = 1  # a.",
        "f'{a.", "a. b", "from . ", "from os import path as p", "from os import path as ",
        "import os", "import os.", "from os.", "[a, b", "{a, ", "(a, b", "def f(a, b",
        "x = (a", "import a, b", "f(lambda a, b", "f(x, lambda a, b=1, c",
        "import a; import b.", "if (a", "with (a, b", "if x: from os.", "from a import b;",
    ],
)  # fmt: skip
def test_no_name_is_due(statement: str) -> None:
    """Text, numbers, aliases, new names and displays are nobody's names."""
    assert find_name_place(statement) is None


@pytest.mark.parametrize(
    ("statement", "may_be_new"),
    [
        ("self.", True),
        ("    self.a, self.", True),
        ("for self.", True),
        ("with f() as self.", True),
        ("self.a.", True),
        ("self.a = self.", True),
        ("self.a = self.b = self.", True),
        ("if x: self.", True),
        ("    else: self.", True),
        ("x = 1; self.", True),
        ("(self.a, self.", True),
        ("with (a as self.", True),
        ("for (self.a, self.", True),
        ("def f(self): self.", True),
        ("x = self.", False),
        ("x = self.a; y = self.", False),
        ("self.a += self.", False),
        ("self.a == self.", False),
        ("self.a = f(self.", False),
        ("self.a = (x, f(self.", False),
        ("f((self.", False),
        ("f(a=self.", False),
        ("x: int = self.", False),
        ("x = lambda: self.", False),
        ("if (self.", False),
        ("return self.", False),
        ("f(self.", False),
        ("if self.", False),
    ],
)
def test_what_may_be_assigned_to(statement: str, may_be_new: bool) -> None:
    """Where an assignment may come, the name may be one that nobody knows yet."""
    place = find_name_place(statement)
    assert place is not None
    assert place.may_be_new is may_be_new


class Analyser:
    """Answers each request with the same names, and remembers what it was asked."""

    def __init__(self, known: KnownNames | None) -> None:
        self.known = known
        self.requests: list[NamesRequest] = []

    def ask(self, request: NamesRequest) -> "Future[KnownNames | None]":
        """Return what is known."""
        self.requests.append(request)
        future: Future[KnownNames | None] = Future()
        future.set_result(self.known)
        return future


def steering(
    before: str, *names: str, receiver: Receiver = Receiver.INSTANCE
) -> tuple[Steering, Analyser]:
    """Return a steering at the end of a text, whose analyser knows these names."""
    analyser = Analyser(KnownNames(names, (receiver,)) if names else None)
    source = NameSource(analyser.ask, deadline_s=0.0, kinds=frozenset(NameKind))
    return Steering(source, before, "\nafter", VOCABULARY, len(TOKENS)), analyser


def allowed(before: str, written: str, *names: str, **options: Receiver) -> set[bytes] | None:
    """Return the tokens that may come, None for any."""
    mask = steering(before, *names, **options)[0].allowed(written)
    return None if mask is None else {TOKENS[i] for i in np.flatnonzero(mask)}


def test_only_names_come_after_a_dot() -> None:
    """A token is a part of a name, or a whole one and then no more of it."""
    assert allowed("x.", "", "append", "x_") == {b"app", b"append", b"ap", b"x"}
    assert allowed("", "x.", "append", "x_") == {b"app", b"append", b"ap", b"x"}


@pytest.mark.parametrize(
    "text", ['"""' + "words\n" * 3000 + '"""\n', "a = [\n" + "'x',\n" * 3000]
)
def test_what_stands_long_before_changes_nothing(text: str) -> None:
    """A long docstring, or a long list that is still open, is read from its beginning."""
    assert allowed(text + "x.", "", "append", "x_") == {b"app", b"append", b"ap", b"x"}


def test_a_name_that_is_begun_goes_on_or_ends() -> None:
    """A half-typed name becomes a known one; a whole one is left by what is no name."""
    assert allowed("x.app", "", "append") == {b"end"}
    assert allowed("x.x", "", "x_", "x") == {
        b"_", b"(", b" ", b"\n", b".", b"=", b"==", b" path", b" (", b"_(", b" as", b" z",
    }  # fmt: skip


def test_an_unknown_name_that_was_typed_stands() -> None:
    """Where no name goes on from what is there, nothing is constrained."""
    assert allowed("x.nothing", "", "append") is None


def test_what_is_not_certain_is_no_constraint() -> None:
    """An analyser that knows no names for sure leaves the model alone."""
    assert allowed("x.", "") is None


def test_a_late_answer_is_no_constraint() -> None:
    """The model goes on as long as nobody knows."""
    names = frozenset(NameKind)
    source = NameSource(lambda _request: Future(), deadline_s=0.0, kinds=names)
    late = Steering(source, "x.", "", VOCABULARY, len(TOKENS))
    assert late.allowed("") is None
    assert late.allowed("ap") is None


@pytest.mark.parametrize("receiver", [Receiver.OWN, Receiver.PROJECT_INSTANCE])
def test_new_attributes_may_be_given(receiver: Receiver) -> None:
    """An assignment to an object of the project may name what nobody knows yet."""
    assert allowed("self.", "", "append", receiver=receiver) is None
    assert allowed("y = self.", "", "append", receiver=receiver) is not None


def test_imports_name_what_there_is() -> None:
    """After ``import`` a known name may come, with a space before it, or no name."""
    names = allowed("", "from os import", "path")
    assert names == {
        b"(", b" ", b"\n", b".", b"=", b"==", b" path", b"path", b" (",
    }  # fmt: skip


def test_an_unknown_keyword_gets_no_equals_sign() -> None:
    """What is no parameter of the function is an argument, or compared, and not named."""
    assert allowed("f(z", "", "x") == set(TOKENS) - {b"="}
    assert allowed("f(x", "", "x") is None


@pytest.mark.parametrize(
    ("before", "written", "closing"),
    [
        ("x", "", set()),
        ("f(x", "", {b")"}),
        ("f(x", ")", set()),
        ("f(", "a[0", {b"]"}),
        ("f(", "a[0]", {b")"}),
        ("f((", "a", {b")", b"))"}),
        ("f(\n    g(", "a),\n    b", {b")"}),
        ("f(')', ", "x", {b")"}),
        ("f('", "x", {b")", b"))", b"]"}),
        ("# f", "x", {b")", b"))", b"]"}),
        ('"""\nf', "x", {b")", b"))", b"]"}),
        ("a = [\n" + "'x',\n" * 4000, "x", {b"]", b")", b"))"}),
    ],
)
def test_brackets_close_what_is_open(before: str, written: str, closing: set[bytes]) -> None:
    """In code no bracket closes what none opened, nor one of another kind."""
    tokens = [b")", b"))", b"]", b"x", b"("]
    source = NameSource(Analyser(None).ask, kinds=frozenset({BRACKETS}))
    vocabulary = Vocabulary(dict(enumerate(tokens)))
    mask = Steering(source, before, "", vocabulary, len(tokens)).allowed(written)
    found = set(tokens) if mask is None else {tokens[i] for i in np.flatnonzero(mask)}
    assert found == {b"x", b"(", *closing}


@given(
    st.lists(st.sampled_from(["f(", ")", "[", "]", "\n", "x", "return ", "'", '"""', " # "]))
)
def test_brackets_are_the_same_however_often_one_asks(parts: list[str]) -> None:
    """What was seen of a text that grows changes nothing, nor does a text that went back."""
    text = "".join(parts)
    source = NameSource(Analyser(None).ask, kinds=frozenset({BRACKETS}))
    often = DueNames(source, "g(1)\n", "")
    for end in (*range(len(text)), len(text) // 2, len(text)):
        alone = DueNames(source, "g(1)\n", "")
        assert often.closers_due(text[:end]) == alone.closers_due(text[:end])


def test_names_and_brackets_are_steered_together() -> None:
    """After a name only a bracket that is open closes."""
    tokens = [b"app", b"append)", b"append))", b"append", b"end"]
    analyser = Analyser(KnownNames(("append",), (Receiver.INSTANCE,)))
    vocabulary = Vocabulary(dict(enumerate(tokens)))
    steered = Steering(NameSource(analyser.ask), "f(x.", "", vocabulary, len(tokens))
    mask = steered.allowed("")
    assert mask is not None
    assert {tokens[i] for i in np.flatnonzero(mask)} == {b"app", b"append)", b"append"}


@pytest.mark.parametrize(("n_rows", "n_asked"), [(10, 1), (4000, 0)])
def test_a_long_table_of_data_is_not_read_at_each_token(n_rows: int, n_asked: int) -> None:
    """In a statement that takes long to read no names are looked for."""
    analyser = Analyser(None)
    due = DueNames(NameSource(analyser.ask), "a = [\n" + "'x',\n" * n_rows, "")
    assert due.known("b.") is None
    assert len(analyser.requests) == n_asked


@pytest.mark.parametrize("off", list(NameKind))
def test_each_kind_of_name_has_its_switch(off: NameKind) -> None:
    """What is switched off is not asked for."""
    texts = {ATTRIBUTE: "x.", IMPORT: "from os import ", KEYWORD: "f("}
    for kind, text in texts.items():
        analyser = Analyser(KnownNames(("append",), (Receiver.INSTANCE,)))
        source = NameSource(analyser.ask, kinds=KINDS - {off})
        Steering(source, text, "", VOCABULARY, len(TOKENS)).look("")
        assert len(analyser.requests) == (kind is not off)


def test_one_place_is_asked_for_once_and_in_its_buffer() -> None:
    """The analyser sees the buffer with what is written, and the place of the name."""
    steered, analyser = steering("import os\n", "append")
    for written in ("o", "os", "os.", "os.a", "os.ap"):
        steered.look(written)
        steered.allowed(written)
    assert [r.text for r in analyser.requests] == ["import os\nos.\nafter"]
    assert analyser.requests[0].offset == len("import os\nos.")


@given(st.text("aos.(),= \n'#[]{}"), st.text("aos.(),= \n'#[]{}"))
def test_any_text_has_places_within_it(before: str, written: str) -> None:
    """Whatever is written, a place lies within it and its name ends it."""
    steered, analyser = steering(before, "append")
    steered.look(written)
    for request in analyser.requests:
        assert request.text == before + written + "\nafter"
        assert 0 <= request.offset <= len(before + written)
    place = find_name_place(before + written)
    assert place is None or isinstance(place, NamePlace)
    assert place is None or (before + written).endswith(place.begun)


def test_typing_on_in_one_place_asks_nothing_anew() -> None:
    """The next keystroke after a dot has the answer of the one before."""
    analyser = Analyser(KnownNames(("append",), (Receiver.INSTANCE,)))
    memory = NameMemory(analyser.ask)
    for line in ("x.", "x.a", "x.ap", "x.append()"):
        request = NamesRequest(f"import x\n{line}\nafter", len("import x\nx."))
        assert memory.ask(request).result(0) == analyser.known
    assert len(analyser.requests) == 1


@pytest.mark.parametrize(
    "other",
    [
        NamesRequest("y.\nafter", 2),
        NamesRequest("x.\nbefore", 2),
        NamesRequest("x.\nafter", 1),
        NamesRequest("x.\nafter", 2, IMPORT),
        NamesRequest("x.\nafter", 2, path="other.py"),
    ],
)
def test_another_place_is_asked_about(other: NamesRequest) -> None:
    """An answer is for its text, its place and its file."""
    analyser = Analyser(None)
    memory = NameMemory(analyser.ask)
    memory.ask(NamesRequest("x.\nafter", 2))
    memory.ask(other)
    assert len(analyser.requests) == 2


def test_what_was_given_up_is_asked_again() -> None:
    """An answer that was too late for one keystroke is not lost to the next."""
    asked: list[Future[KnownNames | None]] = []

    def ask(_request: NamesRequest) -> "Future[KnownNames | None]":
        asked.append(Future())
        return asked[-1]

    memory = NameMemory(ask)
    request = NamesRequest("x.", 2)
    memory.ask(request).cancel()
    assert memory.ask(request) is memory.ask(request) is asked[1]


def test_not_everything_is_remembered() -> None:
    """A long session does not fill the memory."""
    analyser = Analyser(None)
    memory = NameMemory(analyser.ask)
    for offset in (*range(100), 0, 99):
        memory.ask(NamesRequest("x" * 100, offset))
    assert len(analyser.requests) == 101


def test_a_slow_analyser_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits before the end, and then for one deadline, whatever is asked after it."""
    deadlines: list[float] = []

    def waited(
        answers: Iterable[Future[KnownNames | None]], timeout: float
    ) -> tuple[set[Future[KnownNames | None]], set[Future[KnownNames | None]]]:
        deadlines.append(timeout)
        return set(), set(answers)

    monkeypatch.setattr(steering_module, "wait", waited)
    source = NameSource(lambda _request: Future(), deadline_s=1.0, kinds=frozenset(NameKind))
    late = Steering(source, "x.", "", VOCABULARY, 1)
    assert late.allowed("") is late.allowed("ap") is late.allowed("append(y.") is None
    assert late.is_unsure("ap")
    assert not deadlines
    # What was written anew since is awaited by nobody.
    late.wait(["z."])
    assert not deadlines
    late.wait(["", "ap"])
    assert sorted(late.settled()) == ["", "ap"]
    assert late.allowed("append(y.") is late.allowed("append(y.x, z.") is None
    late.wait(["append(y.", "append(y.x, z."])
    assert deadlines == [1.0]


def test_an_answer_is_for_what_stands_before_its_place() -> None:
    """What is written anew may have another object before the same place."""
    steered, analyser = steering("", "append")
    for written in ("a.", "b.", "a."):
        steered.allowed(written)
    assert [r.text for r in analyser.requests] == ["a.\nafter", "b.\nafter"]
