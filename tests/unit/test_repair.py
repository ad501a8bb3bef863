"""Cutting completions that have a problem, and choosing among several."""

import pytest

from lsp_server.check import check
from lsp_server.repair import beginnings, kept_text, rank
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Problem, Verdict, VerdictKind

_PROGRAM = "def f(x):\n    y = x\n    return {}\n\n\nz = f(1)\n"


def _repaired(marked: str, insert_text: str, cut: Cut = Cut.ANYWHERE) -> str | None:
    """Return what is kept, None where the completion is not repaired."""
    offset = marked.index("$0")
    verdict = check(CheckRequest(marked.replace("$0", ""), offset, insert_text, cut=cut))
    if verdict.verdict is not VerdictKind.REPAIRED:
        assert verdict.n_kept is None
        return None
    assert verdict.problems
    return kept_text(insert_text, verdict)


@pytest.mark.parametrize(
    ("marked", "insert_text", "kept"),
    [
        ("$0", "a = 1\nb = z\nc = 2", "a = 1"),
        ("$0", "a = 1\nb = 2\nc = z", "a = 1\nb = 2"),
        ("$0", "a = 1\nb = z\n", "a = 1\n"),
        ("$0", "a = 1\r\nb = z\r\n", "a = 1\r\n"),
        ("$0", "a = (\n    1\n)\n\nb = [\n    z\n]", "a = (\n    1\n)"),
        ("x = $0\ny = 2\n", "1\nz = q", "1"),
        ("def f(x):\n    $0\n", "y = 1\n    if x:\n        return q\n    return 1", "y = 1"),
        ("$0", "if 1:\n    a = 1\nelse:\n    b = z", "if 1:\n    a = 1"),
        ("$0", _PROGRAM.format("q"), "def f(x):\n    y = x\n"),
        ("$0", "x = 1\ny = (\n", "x = 1\n"),
        ("import os\n$0", "x = os.sep\ny = os.spe", "x = os.sep"),
        ("$0", "a = z\nb = 1", None),
        ("$0", "b = z", None),
        ("$0", "# only words\nb = z", None),
        ("def f(x):\n    $0\n", "if x:\n        return q\n    return 1", None),
        ("$0", "@staticmethod\ndef f():\n    return z", None),
        ("$0", "def f():\n    return g()\n\n\ndef g():\n    return z", None),
    ],
)  # fmt: skip
def test_what_stands_before_the_first_problem_is_kept(
    marked: str, insert_text: str, kept: str | None
) -> None:
    """Whole statements that hold by themselves are kept, and there is one with code."""
    assert _repaired(marked, insert_text) == kept


@pytest.mark.parametrize(
    ("insert_text", "kept"),
    [
        (_PROGRAM.format("q"), None),
        (_PROGRAM.format("y") + "print(q)\n", _PROGRAM.format("y")),
        ("a = 1\nif a:\n    b = a\n    c = q\n", "a = 1\n"),
    ],
)
def test_a_program_is_cut_between_its_outer_statements(
    insert_text: str, kept: str | None
) -> None:
    """No function of a turn's program loses a part of its body."""
    assert _repaired("$0", insert_text, Cut.OUTER) == kept


def test_nothing_is_cut_where_nobody_asked() -> None:
    """Who shows a completion as it is gets its problems and no more."""
    request = CheckRequest("", 0, "a = 1\nb = z")
    assert check(request).verdict is VerdictKind.FLAGGED
    assert list(beginnings(request, Problem(1, 4, "undefined-name", ""))) == []


def test_the_best_completion_comes_first() -> None:
    """By verdict, where late and unchecked are the same, then by probability."""
    ok, flagged = Verdict(VerdictKind.OK), Verdict(VerdictKind.FLAGGED)
    repaired = Verdict(VerdictKind.REPAIRED, (), 1)
    expected = [(ok, -0.1), (ok, -2.0), (repaired, 0.0), (None, -0.3), (UNCHECKED, -0.4)]
    expected.append((flagged, 0.0))
    mixed = [expected[i] for i in (4, 1, 5, 3, 0, 2)]
    assert sorted(mixed, key=lambda pair: rank(*pair)) == expected
