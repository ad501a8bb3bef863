"""Which programs are stale after an edit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.staleness import WrittenPrograms
from lsp_server.turns import read_turns

_TEXT = "# a\na = 1\n\n# b\nb = a + 1\n\n# c\nc = 3\n"


def remembered(text: str, *prompts: str) -> WrittenPrograms:
    """Return what is remembered where we wrote the programs of some turns."""
    programs = WrittenPrograms()
    for turn in read_turns(text):
        if turn.prompt in prompts:
            programs.remember(text, turn.start)
    return programs


def found(programs: WrittenPrograms, text: str) -> tuple[list[str], list[str]]:
    """Return the prompts of the stale turns and of the others."""
    stale, others = programs.stale(text)
    return [turn.prompt for turn in stale], [turn.prompt for turn in others]


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("# a\na = 1", "# a\na = 1", []),
        ("# a\na = 1", "# a\na = 2", ["b"]),
        ("# a\na = 1", "# Another a\na = 1", ["b"]),
        ("# a\na = 1", "# a\nz = 1", ["b"]),
        ("# a\na = 1\n\n", "", ["b"]),
        ("# a\na = 1\n\n", "# a\na = 1\n\n# d\na = 2\n\n", ["b"]),
        ("# a\na = 1\n\n", "# a\na = 1\n\n# d\nd = 2\n\n", []),
        ("# c\nc = 3\n", "# c\na = 3\n", []),
        ("b = a + 1", "b = a + 2", []),
        ("# a\na = 1\n\n", "import os\n\n\n# a\na = 1\n\n\n", []),
        ("# a\na = 1", "# a\na = = 1", ["b"]),
    ],
)
def test_what_uses_a_changed_turn_is_stale(old: str, new: str, stale: list[str]) -> None:
    """Only an unedited program of ours is, and only if a turn above that it uses changed."""
    programs = remembered(_TEXT, "a", "b", "c")
    assert found(programs, _TEXT.replace(old, new))[0] == stale


@pytest.mark.parametrize(
    ("program", "is_stale"),
    [
        ("print(x)", True),
        ("x = [x for y in x]", True),
        ("x += 1", True),
        ("def f(y=x):\n    return y", True),
        ("class A:\n    y = x", True),
        ("def f():\n    for y in x:\n        y()", True),
        ("print(p.kept)", True),
        ("p.kept += 1", True),
        ("print(p.own)", True),
        ("p.x()", False),
        ("x = 1\nprint(x)", False),
        ("def f(x):\n    return x", False),
        ("y = [x for x in z]", False),
        ("y = {x: w for x, w in z}", False),
        ("y = lambda x: x", False),
        ("for x in z:\n    print(x)", False),
        ("import a.b as x\nx.y()", False),
        ("try:\n    z()\nexcept E as x:\n    print(x)", False),
        ("print(inner, p.inner, item)", False),
        ("f(x=1)", False),
    ],
)
def test_only_what_is_used_from_outside_is_used(program: str, is_stale: bool) -> None:
    """A parameter, a loop's name or a function's own has nothing to do with its namesake."""
    text = (
        "# a\nx = 1\nclass P:\n    own = 1\n    def f(self, item):\n"
        f"        inner = self.kept = item\n\n# b\n{program}\n"
    )
    stale, _ = found(remembered(text, "b"), text.replace("x = 1\nclass", "x = 2\nclass"))
    assert stale == ["b"] * is_stale


def test_a_persons_program_is_told_of_and_not_stale() -> None:
    """A program that we did not write stays what it is, whatever changes above it."""
    text = _TEXT + "\n# d\nd = a\n"
    programs = remembered(text, "b")
    assert found(programs, text.replace("a = 1", "a = 2")) == (["b"], ["d"])


def test_a_copy_of_a_program_makes_both_a_persons() -> None:
    """Of two equal turns nobody knows which one is ours."""
    programs = remembered(_TEXT, "b")
    text = _TEXT.replace("a = 1", "a = 2") + "\n# b\nb = a + 1\n"
    assert found(programs, text)[0] == []


def test_only_hashes_are_remembered() -> None:
    """Nothing of the text stays with us."""
    assert "a + 1" not in repr(vars(remembered(_TEXT, "a", "b", "c")))


@pytest.mark.parametrize(
    ("then", "inserted", "is_ours"),
    [
        ("# a\na = 1\n\n# b\n|\n", "b = a", True),
        ("# a\na = 1\n\n# b\n\n|", "b = a", True),
        ("# a\na = 1\n\n# b\nb|", " = a", False),
        ("# a\na = 1\n\n# b\n|\n\nprint(1)\n", "b = a", False),
        ("# a\na = 1\n\n# b\nc = 1\n|", "b = a", False),
    ],
)
def test_what_is_accepted_is_ours(then: str, inserted: str, is_ours: bool) -> None:
    """All of a turn's program has to be: where a person wrote some of it, it is theirs."""
    before, _, after = then.partition("|")
    text = before + inserted + after
    programs = WrittenPrograms()
    programs.accept(before + after, len(before), text)
    assert found(programs, text.replace("a = 1", "a = 2"))[0] == ["b"] * is_ours


def test_what_is_accepted_in_parts_is_ours() -> None:
    """What goes on with a program of ours is a program of ours, and the part no more."""
    programs = WrittenPrograms()
    parts = ["# a\na = 1\n\n# b\n", "b = a", "\nc = a"]
    for n_parts in (1, 2):
        then = "".join(parts[:n_parts])
        programs.accept(then, len(then), then + parts[n_parts])
    text = "".join(parts).replace("a = 1", "a = 2")
    assert found(programs, text)[0] == ["b"]
    assert found(programs, text + "\nprint(c)")[0] == []


PIECES = ("# a\n", "# b\n", "a = 1\n", "b = a\n", "print(a, b)\n", "    # c\n", "def f():\n")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(text=TEXTS, edited=TEXTS, ours=st.sets(st.integers(0, 11)))
def test_nothing_of_a_person_is_ever_stale(text: str, edited: str, ours: set[int]) -> None:
    """A stale turn stands as we wrote it; in the text that we wrote there is none."""
    programs = WrittenPrograms()
    written = set()
    for index, turn in enumerate(read_turns(text)):
        if index in ours:
            programs.remember(text, turn.start)
            written.add((turn.prompt, text[turn.prompt_end : turn.end].rstrip()))
    stale, others = programs.stale(edited)
    for turn in stale:
        assert (turn.prompt, edited[turn.prompt_end : turn.end].rstrip()) in written
    assert not set(stale) & set(others)
    assert programs.stale(text)[0] == []
