"""What stands after the cursor is not written again."""

import subprocess
import sys

import pytest

from lsp_server.overlap import (
    cut_overlap,
    cut_repeated_lines,
    cut_surplus_closers,
    cut_unclosed_string,
    cut_words,
)


@pytest.mark.parametrize(
    ("generated", "after", "expected"),
    [
        ("y = 2", "\ny = 2\n", ""),
        ("x = 1\ny = 2", "\ny = 2\n", "x = 1"),
        ("x = 1\n\ny = 2\nz = 3", "\n\n\ny = 2\n\nz = 3\nw", "x = 1"),
        ("x = 1\ny = 2  ", "y = 2", "x = 1"),
        ("x = 1\ny = 2\ny = 2", "y = 2\nz", "x = 1"),
        ("x = 1\ny = 2", "y = 2\ny = 2", "x = 1"),
        ("\n    x\n    y", "\n    y\n", "\n    x"),
        # A line that is indented otherwise is another statement.
        ("if x:\n    return y", "return y\n", "if x:\n    return y"),
        ("y = 2", "    y = 2\n", "y = 2"),
        ("    y = 2", "    y = 2\n", ""),
        ("x = 1\ny = 2", "y = 20\n", "x = 1\ny = 2"),
        ("x = 1\ny = 2", "z\ny = 2\n", "x = 1\ny = 2"),
        ("x = 1\ny = 2 ", "", "x = 1\ny = 2 "),
        ("", "x", ""),
    ],
)
def test_cut_repeated_lines(generated: str, after: str, expected: str) -> None:
    """A text ends before the lines that stand after it already."""
    assert cut_repeated_lines(generated, after) == expected


@pytest.mark.parametrize(
    ("open_brackets", "generated", "after", "expected"),
    [
        ("(", "a)", ")", "a"),
        ("(", "a, b)", ")", "a, b"),
        ("(", "f(a))", ")", "f(a)"),
        ("(", "(a)", ")", "(a)"),
        ("[", "a], b", "]", "a"),
        ("(", "'(', b)", ")", "'(', b"),
        ("(", "':)')", ")", "':)'"),
        ("(", "a, c)", ", b)", "a, c"),
        ("(", "a, b)", ", b)", "a"),
        ("(", "a):", "):", "a"),
        ("(", "a)", "\n)", "a"),
        ("((", "a))", ")", "a)"),
        ("((", "a))", "))", "a"),
        ("((", "a))", "", "a))"),
        ("([", "a])", "\n)\n", "a]"),
        ("([", "a])", "\n# ]\n)\n", "a]"),
        ("", "a)", "", "a"),
        ("", "(a)", ")", "(a"),
        ("", "(a)(b)", ")", "(a)(b"),
        ("", "a", ")", "a"),
        ("(", '(2, "b",  1),', "  1),\n    (2, 2),\n    c)", '(2, "b",  '),
        ("(", "a, b)", "\n" + "    1,\n" * 999 + ")", "a, b"),
        ("", "]", "]", ""),
        ("", "a = 1", "= 1", "a "),
        ("", "data", " and x:", "data"),
        ("", "data", "and x:", ""),
        ("", "x in a", " and y", "x in a"),
        ("", "not done and", "and x:", "not done "),
        ("", "int(s.value)", "s.value", "int("),
        ("", "int(s.value)", "s.value + 1", ""),
        ("(", "g(a, b)", ", b)", "g(a, b)"),
        ("", "a + x", "x + 1", "a + "),
        ("", "'x', y", "x", ""),
        ("", "y  # why", "  # so", "y"),
        ("", "y  # why", " + 1", "y"),
        ("", "y  # why", "\n# so", "y  # why"),
        ("", "a", "", "a"),
        ("", "", ")", ""),
        ("(", "val, val,", "val, b)", ""),
        ("(", "a, val,", "val, b)", "a, "),
        ("", " self.path", " os.listdir(self.path)", ""),
        ("", " a is None else None", " b is not None else None", ""),
        ("", " typing import Any", " lsprotocol import types", ""),
        ("", " typing", " import Any", " typing"),
        ("", " import cast", " import Callable", ""),
        ("", "a", " if b else c", "a"),
        ("", "a if b", " if c else d", ""),
        ("", " a if", " b else c", " a if"),
        ("", " a if b else", " c else d", ""),
        # What is closed first after it was not opened yet.
        ("[", "f() for a in b]", ") for a in c]", "f("),
        ("", "f(x)", ") if a]", "f(x"),
        ("", "[a for a in b(c) if a.d('e'", ") if a.d('e')]", "[a for a in b(c"),
        ("", " a is None else a", " a is not None else b", ""),
        ("", " a == b", " or b", " a == b"),
        ("(", 'f"{a)', ")", ""),
    ],
)
def test_cut_overlap(open_brackets: str, generated: str, after: str, expected: str) -> None:
    """What stands after the cursor already is not written again, and no word is split."""
    assert cut_overlap(generated, after, open_brackets) == expected


@pytest.mark.parametrize(
    ("open_brackets", "generated", "expected"),
    [
        ("", "f(a)", "f(a)"),
        ("", "f(a))", "f(a)"),
        ("", "x = 1\nf([a)]\ny = 2", "x = 1"),
        ("([", "a])", "a])"),
        ("(", "a])", ""),
        ("(", "a))", "a)"),
        ("", "print(')')  # )", "print(')')  # )"),
        ("", "'{' + 1) for i in x()}", "'{' + 1"),
    ],
)
def test_cut_surplus_closers(open_brackets: str, generated: str, expected: str) -> None:
    """What closes nothing is not written, nor what comes after it."""
    assert cut_surplus_closers(generated, open_brackets, "python") == expected


@pytest.mark.parametrize(
    ("begun", "generated", "expected"),
    [
        ("", "x = 'a'\ny = 'b", "x = 'a'\n"),
        ("    if h", ".startswith(b'#define''):\n        return 'bmp'", ""),
        ("x = 'a", "b'", "b'"),
        ("", "x = 'it' # it's\ny = 2", "x = 'it' # it's\ny = 2"),
        ("", '"""it\'s"""', '"""it\'s"""'),
        ("", "x = 'a\\\nb'", "x = 'a\\\nb'"),
        # The cursor may stand in a docstring.
        ("it's ", "'a", "'a"),
    ],
)
def test_cut_unclosed_string(begun: str, generated: str, expected: str) -> None:
    """No line is written whose string has no end, nor what comes after it."""
    assert cut_unclosed_string(begun, generated) == expected


def test_words_are_cut_where_those_after_them_begin() -> None:
    """In a comment or a string a bracket is a mark like any other."""
    assert cut_words('hello"', '")') == "hello"
    assert cut_words("a :)", "!") == "a :)"


_HOSTILE = r"""
from lsp_server.overlap import cut_overlap
n = 1 << 20
for after in ('"' + '\\"' * n, "'" * n, "(" * n, "a" * n, "a " * n, ")" * n):
    cut_overlap("f(a, b)", after)
    cut_overlap("a" * 500, after)
"""


def test_what_follows_is_compared_in_bounded_time() -> None:
    """A megabyte after the cursor takes no time, whatever quotes it holds."""
    subprocess.run([sys.executable, "-c", _HOSTILE], check=True, timeout=60)
