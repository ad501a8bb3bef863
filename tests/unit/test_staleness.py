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
