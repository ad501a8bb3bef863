"""What a person types, as the keystroke benchmark has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.typist import Edit, Script, accepted_part, write_script

SOURCE = "".join(
    f"def function_{n}(value):\n    if value > {n}:\n        return 0\n\n    return {n}\n\n\n"
    for n in range(20)
)


def after(script: Script) -> str:
    """Return the text when all is typed."""
    text = script.start
    for passage in script.passages:
        for edit in passage.edits:
            assert 0 <= edit.offset <= edit.offset + edit.n_deleted <= len(text)
            text = edit.applied(text)
    return text


@given(
    st.text("ab_(:.é😀 \n\r\t", max_size=300) | st.just(SOURCE),
    st.integers(0, 1000),
    st.integers(1, 400),
)
def test_what_comes_out_is_the_file_that_went_in(source: str, seed: int, n_keys: int) -> None:
    """Wrong keys are deleted, and what is deleted is typed again, in any text."""
    assert after(write_script(source, seed, n_keys)) == source


@given(st.integers(0, 1000), st.data())
def test_accepting_at_any_key_leaves_the_same_file(seed: int, data: st.DataObject) -> None:
    """What was accepted is skipped: the keys that are left complete the same text."""
    script = write_script(SOURCE, seed, 200)
    text = script.start
    for passage in script.passages:
        accepted_at = data.draw(st.integers(0, len(passage.edits) - 1))
        n_accepted = data.draw(st.integers(1, 30))
        skipped_to = -1
        for index, edit in enumerate(passage.edits):
            if edit.offset < skipped_to:
                continue
            text = edit.applied(text)
            if index == accepted_at:
                cursor = edit.offset + len(edit.text)
                expected = passage.after(text, cursor)
                if part := accepted_part(expected[:n_accepted], expected):
                    text = Edit(0, cursor, 0, part).applied(text)
                    skipped_to = cursor + len(part)
    assert text == SOURCE


def test_a_person_makes_mistakes_and_jumps_and_pauses() -> None:
    """The script is no plain list of characters: that would flatter a server."""
    script = write_script(SOURCE, 0, 600)
    edits = [edit for passage in script.passages for edit in passage.edits]
    assert len(script.passages) > 2
    assert any(edit.n_deleted == 1 for edit in edits)
    assert any(edit.n_deleted > 1 for edit in edits)
    assert all(edit.pause_s > 0 for edit in edits)
    assert 0.1 < sum(edit.pause_s for edit in edits) / len(edits) < 0.4


def test_a_seed_makes_the_same_script() -> None:
    """Runs that are compared type the same."""
    assert write_script(SOURCE, 3, 100) == write_script(SOURCE, 3, 100)
    assert write_script(SOURCE, 3, 100) != write_script(SOURCE, 4, 100)


def test_enter_brings_the_indentation() -> None:
    """Nobody types the spaces that an editor puts there."""
    edits = write_script("if a:\n        b\n", 1, 20).passages[0].edits
    assert "\n        " in [edit.text for edit in edits]


@pytest.mark.parametrize(
    ("suggestion", "expected", "part"),
    [
        ("return x", "return x\n", "return x"),
        ("return x\n    pass", "return x\n\n", "return x"),
        ("return", "returned", ""),
        ("retry", "return", ""),
        ("x)", "x)\n", ""),
        ("", "return", ""),
    ],
)
def test_a_suggestion_is_taken_if_it_is_right(
    suggestion: str, expected: str, part: str
) -> None:
    """The whole or its first line, without cutting a word, from three characters on."""
    assert accepted_part(suggestion, expected) == part
