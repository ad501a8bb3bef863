"""The pure parts of the replay benchmark: places in a file, and the judge of answers."""

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.judge import INDENTATION, LINE_ENDS, SUFFIX, find_faults
from benchmarks.keystrokes import strict_json
from benchmarks.places import CRLF, KINDS, STYLES, Place, find_places
from benchmarks.replay import Replayed, Tally, edited, figures, read_places
from lsp_server import turns
from lsp_server.completion import Candidate, Completion
from lsp_server.plan import Rule

CURSOR = "$0"


def place_of(marked: str, expected: str = "", style: str = "as it is") -> Place:
    """Return the place of a text that holds the cursor's mark."""
    before, _, after = marked.partition(CURSOR)
    n_before, n_after = len(before), len(after)
    return Place("a.py", KINDS[0], style, before, expected, after, "", n_before, n_after)


def found() -> Iterator[Place]:
    """Yield places in a file of ours."""
    text = Path(turns.__file__).read_text("utf-8")
    yield from find_places("turns.py", text, 200, np.random.default_rng(1))


def test_places_are_of_all_kinds_and_styles() -> None:
    """Whatever is asked about is asked about often."""
    seen = list(found())
    assert {place.kind for place in seen} == set(KINDS)
    assert {place.style for place in seen} == set(STYLES)
    assert any(place.expected for place in seen)
    assert any(not place.expected for place in seen)


def test_what_stood_at_a_place_makes_the_file_whole_again() -> None:
    """The text that is taken away and what is left are Python together."""
    for place in found():
        if place.kind != "between brackets or quotes":
            ast.parse(place.before + place.expected + place.after)
        assert 0 <= place.n_before <= len(place.before)
        assert 0 <= place.n_after <= len(place.after)


def test_what_stood_at_a_place_has_no_fault() -> None:
    """The judge finds nothing wrong with code that people wrote."""
    for place in found():
        answer = place.expected.replace("\n", place.line_end)
        # Otherwise the judge would not look at it.
        judged = replace(place, expected="")
        assert not find_faults(judged, answer) or not answer.strip() or _repeats(place)


def _repeats(place: Place) -> bool:
    """Tell whether what stood there was a copy of what comes next, as ``yield`` may be."""
    lines = [line.strip() for line in place.after.splitlines() if line.strip()]
    return bool(lines) and place.expected.strip().endswith(lines[0][: len(place.expected)])


def test_the_line_ends_of_a_place_are_the_files() -> None:
    """A file for Windows has them everywhere, and the cursor is behind them."""
    place = place_of("a\nb$0\nc\n", style=CRLF)
    assert (place.text, place.offset) == ("a\r\nb\r\nc\r\n", 4)


@pytest.mark.parametrize(
    ("answer", "n_accepted"),
    [("x = f(1)\n    y", 7), ("x = f(2)", 4), ("", 0), ("x = f(1)\r\n    y = 2\r\nz", 9)],
)
def test_characters_are_accepted_up_to_the_first_other_one(
    answer: str, n_accepted: int
) -> None:
    """What a person would keep of an answer is its beginning that is right."""
    assert place_of("$0\n", "x = f(1)\n    y = 2").n_accepted(answer) == n_accepted


@pytest.mark.parametrize(
    ("marked", "answer"),
    [
        ("def f():\n    $0\n    return 1\n", "  x"),
        ("def f():\n$0\n    return 1\n", "x = 1"),
        ("x = 1\n$0\ny = 2\n", "    z = 1"),
        ("def f():$0\n    y\n", " return"),
        ("def f():\n    $0\n    y\n", "if x:"),
        ("def f():\n    if $0\ny\n", "x:"),
        ("def f():\n    x = $0\n    z\n", "1\n  y = 2"),
        ("def f():\n\ty\n\t$0\n", "if x:\n\t    y"),
        ("def f():\n    y\n    $0\n", "if x:\n    \ty"),
    ],
)
def test_wrong_indentation_is_found(marked: str, answer: str) -> None:
    """Each is what Python refuses, or what the file does not do."""
    assert set(find_faults(place_of(marked), answer)) == {INDENTATION}


@pytest.mark.parametrize(
    ("marked", "answer"),
    [
        ("f($0)\n", "x)"),
        ("f($0, b)\n", "a, b"),
        ("x = [\n    $0\n]\n", "1]"),
        ("def f():\n    $0\n    return 1\n", "return 1"),
        ("x = 1\n$0\ny = 2\nz = 3\n", "a = 1\ny = 2\nz = 3"),
        ("if $0 is None:\n    y\n", "x is None:"),
        ("x = 'a' + $0 + b\n", "c + b"),
        ("return $0x\n", "foo"),
        ("return $0s.value\n", "int(s.value)"),
        ("x = foo$0, b)\n", "(a, b)"),
        ("x = foo$0\n", "(a))"),
        ("x = $0 + 1\n", "y  # so"),
        ("x = $0  # so\n", "y  # so"),
    ],
)
def test_a_duplicated_suffix_is_found(marked: str, answer: str) -> None:
    """Brackets, the rest of the line and whole lines are not written again."""
    assert set(find_faults(place_of(marked), answer)) == {SUFFIX}


@pytest.mark.parametrize(
    ("marked", "answer"),
    [
        ("f($0)\n", "g(x)"),
        ("f($0, b)\n", "g(a, b)"),
        ("x = f($0\n", "a)"),
        ("def f():\n    $0\n    return 1\n", "if a:\n        return 1"),
        ("if $0\n    y\n", "x:"),
        ("if $0:\ny\n", "x"),
        ("x = $0\n", "f(\n  'a')"),
        ("if a:\n    b\nelse:\n    c\n$0\nd\n", "else:\n    e"),
        ("f($0)\n", "')'"),
    ],
)
def test_what_fits_has_no_fault(marked: str, answer: str) -> None:
    """Wrong code is not what is judged, nor is what only looks like a copy."""
    assert find_faults(place_of(marked), answer) == {}


def test_line_ends_are_judged() -> None:
    """An answer has those of its file."""
    lines = "if x:\n    y"
    assert set(find_faults(place_of("$0\n", style=CRLF), lines)) == {LINE_ENDS}
    assert set(find_faults(place_of("$0\n"), lines.replace("\n", "\r\n"))) == {LINE_ENDS}
    assert not find_faults(place_of("$0\n", style=CRLF), lines.replace("\n", "\r\n"))


def test_what_stood_there_is_right() -> None:
    """Two equal lines that a person wrote are no fault of the model."""
    assert find_faults(place_of("f()\n$0\nf()\n", "f()"), "f()") == {}
    assert find_faults(place_of("f()\n$0\nf()\n", "g()"), "f()") != {}


def test_answers_are_counted_with_and_without_filters() -> None:
    """Faults count for both, and those of the filtered answers are kept to be shown."""

    def completion(text: str) -> Completion:
        return Completion((Candidate(text, 0.0, 0.0),) if text else (), rule=Rule.LINE)

    replayed = Replayed()
    place = place_of("f($0)\n", "x")
    replayed.take(place, completion("x"), completion("x)"))
    replayed.take(place, completion("y)"), completion(""))

    ((with_filters, without),) = replayed.tallies.values()
    assert with_filters == Tally(2, 2, 1, with_filters.faults)
    assert without == Tally(2, 1, 1, without.faults)
    assert (with_filters.faults[SUFFIX], without.faults[SUFFIX]) == (1, 1)
    assert [fault.answer for fault in replayed.faults] == ["y)"]
    written = json.loads(strict_json(figures(replayed, seed=0)))
    assert written["rows"]["all"]["with_filters"]["faults"] == {SUFFIX: 1}


def test_an_edit_changes_the_text_and_keeps_the_cursor_behind_it() -> None:
    """Whatever is edited, the place after it is one of the text after it."""
    place = place_of("if x:\n    y = $0\n", "z + 1")
    rng = np.random.default_rng(0)
    after = [edited(place, rng) for _ in range(40)]
    assert all(one.text != place.text and one.after == place.after for one in after)
    assert len({one.before for one in after}) > 3


def test_places_are_the_same_for_the_same_seed() -> None:
    """A run can be done again, and has as many places as were asked for."""
    assert len(read_places(50, 1)) == 50
    assert read_places(50, 1) == read_places(50, 1) != read_places(50, 2)
