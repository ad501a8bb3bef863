"""What an answer in a hole is worth, as tables."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_eval.hole_scores import (
    EXACT,
    NAMES,
    PARSES,
    SIMILARITY,
    TESTS,
    FileJudge,
    edit_distance,
    hole_figures,
    n_accepted,
    similarity,
    undefined_names,
)
from model_eval.holes import BODY, LINE, Hole

TEXT = "import os\nx = os.getcwd()\nprint(missing)\n"
HOLE = Hole("a.py", LINE, 14, 25, "pass")
WORDS = st.text("abä\n", max_size=7)


@given(WORDS, WORDS)
def test_the_edit_distance_is_levenshteins(ours: str, theirs: str) -> None:
    """The row by row computation gives what the definition gives."""

    @cache
    def defined(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = defined(i - 1, j - 1) + (ours[i - 1] != theirs[j - 1])
        return min(defined(i - 1, j) + 1, defined(i, j - 1) + 1, replaced)

    assert edit_distance(ours, theirs) == defined(len(ours), len(theirs))
    assert 0 <= similarity(ours, theirs) <= 1


@pytest.mark.parametrize(
    ("answer", "exact", "parses", "names"),
    [
        ("os.getcwd()", 1, True, True),
        ("os.getcwd()  ", 1, True, True),
        ("os.sep", 0, True, True),
        ("od.sep", 0, True, False),
        ("os.getcwd(", 0, False, False),
    ],
)
def test_answers(answer: str, exact: float, parses: bool, names: bool) -> None:
    """Blanks at a line's end are nothing; a name that the file lacked before is its own."""
    judge, filled = FileJudge(TEXT), HOLE.filled(TEXT, answer)
    assert judge.match(HOLE, answer, filled)[EXACT] == exact
    assert judge.judge(filled) == {PARSES: parses, NAMES: names}


def test_nothing_is_never_exact() -> None:
    """An empty answer in a hole of blanks would be the file as it was, and is no success."""
    hole = Hole("a.py", LINE, 9, 10, "pass")
    assert FileJudge(TEXT).match(hole, "", TEXT)[EXACT] == 0


@pytest.mark.parametrize(
    ("answer", "expected"), [("a + b", 3), ("a+c", 2), ("", 0), ("x", 0), ("a + b + c", 3)]
)
def test_accepted_characters(answer: str, expected: int) -> None:
    """They are those from the beginning that stood there, blanks aside."""
    assert n_accepted(answer, "a  +\tb") == expected


def test_what_is_no_python_has_no_names() -> None:
    """A file that does not parse is told from one without undefined names."""
    assert undefined_names("x = ") is None
    assert undefined_names("\0") is None
    assert undefined_names("x = '\\d'\n") == set()


def line(**values: Any) -> dict[str, Any]:
    """Return a record's line of a hole whose empty version parses and fails the tests."""
    return {
        "hole": f"a.py:{values['inserted']}",
        "file": "a.py",
        "kind": BODY,
        "seconds": 1.0,
        "is_late": False,
        "accepted": 2,
        EXACT: 0.0,
        SIMILARITY: 0.5,
        PARSES: True,
        NAMES: True,
        "empty": {PARSES: True, NAMES: False, TESTS: False},
        "stub": {PARSES: True, NAMES: False, TESTS: False},
        **values,
    }


def test_only_holes_that_fail_when_empty_count() -> None:
    """Each measure has its own number of holes, and the answered share stands beside it."""
    lines = [
        line(inserted="x", **{TESTS: True}),
        line(inserted="", **{TESTS: False, NAMES: False}),
        {"repeated": "a.py:x", "is_same": True},
    ]
    figures = hole_figures(lines)
    body, every = figures["kinds"]
    assert (body["kind"], every["kind"]) == (BODY, "all")
    assert (body["n_holes"], body["non_empty"], body["accepted_characters"]) == (2, 0.5, 2)
    found = {
        row["metric"]: (row["n_holes"], row["mean"], row["stub"]) for row in body["metrics"]
    }
    assert PARSES not in found
    assert found[NAMES] == found[TESTS] == (2, 0.5, 0.0)
    assert found[SIMILARITY] == (2, 0.5, None)
    assert (figures["n_same"], figures["n_repeated"]) == (1, 1)
    assert figures["by_hole"]["a.py:x"] == {EXACT: 0, SIMILARITY: 0.5, NAMES: 1, TESTS: 1}
