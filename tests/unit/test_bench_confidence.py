"""The pure parts of the benchmark of confidence."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import confidence
from benchmarks.confidence import (
    LEVELS,
    Place,
    Suggestion,
    as_toml,
    calibrate,
    choose_places,
    figures_of,
    first_line,
    halves,
    measure,
    place_at,
    suggest,
    turn_places,
    typed_keys,
)
from lsp_server.completion import Candidate
from lsp_server.confidence import Thresholds
from lsp_server.plan import Rule, Snapshot
from tests.fakes import fake_model

SOURCE = """\
import sys

# The paths.
def paths():
    found = sys.path

    # Leave out what is empty.
    return [path for path in found if path]
"""


def suggestion(
    *,
    right: bool,
    mean: float = -0.5,
    first: float = -0.5,
    file: str = "a",
    rule: Rule = Rule.LINE,
) -> Suggestion:
    """Return one that is right or not."""
    return Suggestion(file, Candidate("text", mean, first, rule), "text" if right else "other")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + 1", "a + 1"),
        (" = 1  \n  more", " = 1"),
        ("\n    return 1\n", "\n    return 1"),
        ("\n\n  \n\treturn 1", "\n\treturn 1"),
        ("", ""),
    ],
)
def test_the_first_line_is_one_with_something_in_it(text: str, expected: str) -> None:
    """Blank lines before it count as one, and its own indentation and blanks stay."""
    assert first_line(text) == expected


@pytest.mark.parametrize(
    ("inserted", "expected", "is_right", "is_half_right", "n_right"),
    [
        ("foo(a)\n    b", "foo(a)\n    c", True, True, 6),
        ("foo(a)", "foo(b)", False, True, 0),
        ("foo(a)", "far", False, False, 0),
        ("foo(a)", "\nfoo(a)", False, False, 0),
        ("\n\n    a = 1", "\n    a = 1\n", True, True, 5),
        (")", "", False, False, 0),
    ],
)
def test_a_suggestion_is_right_by_its_first_line(
    inserted: str, expected: str, is_right: bool, is_half_right: bool, n_right: int
) -> None:
    """Exactly, or the first half of it; what comes below is another matter."""
    one = Suggestion("a.py", Candidate(inserted, -1.0, -1.0), expected)
    assert (one.is_right, one.is_half_right, one.n_right) == (is_right, is_half_right, n_right)


def test_keys_are_those_of_the_code() -> None:
    """From the first character of a line of code to its end; comments have none."""
    lines = {SOURCE.count("\n", 0, offset) for offset in typed_keys(SOURCE)}
    assert lines == {0, 3, 4, 7}
    assert typed_keys("  ab\n\n# c\nd") == [2, 3, 4, 10, 11]


@given(st.integers(0, len(SOURCE)))
def test_a_place_lacks_what_comes_up_to_a_blank_line(offset: int) -> None:
    """What is there and what is expected are the source, and no blank line is expected."""
    place = place_at("a.py", SOURCE, offset)
    before, after = place.snapshot.text[:offset], place.snapshot.text[offset:]
    assert before + place.expected + after == SOURCE
    assert "\n\n" not in place.expected


def test_turns_are_asked_for_below_their_comment() -> None:
    """The cursor is where the program begins, and the program is what is expected."""
    texts = [(place.snapshot.offset, place.expected) for place in turn_places("a.py", SOURCE)]
    program = "return [path for path in found if path]\n"
    assert texts[-1] == (SOURCE.index("return"), program)
    assert texts[0][1].startswith("def paths():")


def test_places_are_the_same_in_each_run_and_in_order() -> None:
    """As many as are asked for, where the server would complete, a tenth of them turns."""
    sources = {"b.py": SOURCE, "a.py": SOURCE}
    places = choose_places(sources, 10)
    assert places == choose_places(sources, 10)
    assert [(p.file, p.snapshot.offset) for p in places] == sorted(
        (p.file, p.snapshot.offset) for p in places
    )
    assert len(places) == 10


def test_what_a_model_writes_is_kept_with_what_stood_there() -> None:
    """Where it writes nothing there is no suggestion, and each place is told of."""
    told: list[int] = []
    places = [Place("a.py", Snapshot(text, len(text)), "1\n") for text in ("x = ", "x = '")]
    (one,) = suggest(fake_model("1\n"), places, told.append)
    assert (one.candidate.insert_text, one.is_right, told) == ("1", True, [1, 1])


def test_no_file_is_in_both_halves() -> None:
    """What a model wrote in one file is alike; the halves are of about one size."""
    files = "aaaaabbbccd"
    first, second = halves([suggestion(right=True, file=file) for file in files])
    assert not {one.file for one in first} & {one.file for one in second}
    assert sorted((len(first), len(second))) == [5, 6]


def test_the_thresholds_show_the_most_of_what_is_right_enough() -> None:
    """Of unsure suggestions none is right here; of sure ones four in five."""
    unsure = [suggestion(right=False, mean=-2.0 - n / 100) for n in range(50)]
    sure = [suggestion(right=n % 5 != 0, mean=-0.5 - n / 100) for n in range(50)]
    found = calibrate([*unsure, *sure], 0.8)
    shown = [one for one in [*unsure, *sure] if found.let_through(one.candidate)]
    assert shown == sure


def test_the_first_token_counts_by_itself() -> None:
    """Where the mean tells nothing, its threshold asks for nothing."""
    both = [
        suggestion(right=first > -1, mean=-n / 100, first=first)
        for n in range(50)
        for first in (-0.5, -3.0)
    ]
    found = calibrate(both, 1.0)
    assert [one for one in both if found.let_through(one.candidate)] == both[::2]
    assert found.mean == -math.inf


def test_where_nothing_is_right_enough_only_the_certain_is_shown() -> None:
    """A few lucky suggestions are no precision."""
    wrong = [suggestion(right=False, mean=-1.0) for _ in range(50)]
    assert calibrate([*wrong, suggestion(right=True, mean=-0.1)], 0.5) == Thresholds(0.0, 0.0)
    assert calibrate([], 0.5) == Thresholds(0.0, 0.0)


def test_figures_of_what_is_shown() -> None:
    """Shares are of what they say; the interval holds the precision."""
    shown = [suggestion(right=n % 4 == 0, file=str(n % 3)) for n in range(40)]
    hidden = [suggestion(right=True) for _ in range(10)]
    figures = measure("quiet", "line", [*shown, *hidden], shown)
    assert (figures.suggestions, figures.shown, figures.right) == (50, 40, 10)
    assert (figures.share, figures.precision, figures.kept) == (0.8, 0.25, 0.5)
    assert figures.least <= 0.25 <= figures.most


def test_levels_are_measured_where_they_were_not_set() -> None:
    """Each half is judged by thresholds of the other; 'eager' shows all, turns are apart."""
    rules = (Rule.LINE, Rule.STATEMENT, Rule.TURN)
    each = [
        suggestion(right=mean > -1, mean=mean, file=file, rule=rule)
        for file in "ab"
        for rule in rules
        for mean in (-0.5, -2.0)
        for _ in range(30)
    ]
    calibrated, found = figures_of(each)
    figures = {(one.level, one.rule): one for one in found}
    assert figures["eager", "both"].shown == figures["eager", "both"].suggestions == 240
    assert figures["quiet", "line"].shown == figures["quiet", "line"].right == 60
    assert figures["any", "turn"].suggestions == 120
    assert figures["the surest half", "turn"].precision == 1.0
    assert calibrated["eager"][Rule.LINE] == Thresholds()


def test_the_thresholds_are_written_as_the_server_reads_them() -> None:
    """Names of the Hub too, and thresholds that ask for nothing."""
    rules = {rule: Thresholds(-0.25) for rule in confidence.RULES}
    text = as_toml("owner/model-1.5", "int8", "python", dict.fromkeys(LEVELS, rules))
    record = tomllib.loads(text)["owner/model-1.5"]
    assert (record["precision"], record["command"]) == ("int8", "python")
    for level, share in LEVELS.items():
        assert record[level]["right"] == share
        assert Thresholds(**record[level]["line"]) == Thresholds(-0.25)
