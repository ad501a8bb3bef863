"""Lines are indented as those around them."""

import pytest

from lsp_server.indentation import cut_misplaced, is_tabbed, with_tabs


@pytest.mark.parametrize(
    ("before", "generated", "after", "expected"),
    [
        ("x = 1\n", "y = 2", "\nz = 3\n", "y = 2"),
        ("x = 1\n", "    y = 2", "\nz = 3\n", ""),
        ("def f():\n", "x = 1", "\n    y = 2\n", ""),
        ("def f():\n", "    x = 1", "\n    y = 2\n", "    x = 1"),
        ("def f():\n    ", "x = 1\n  y = 2", "\n", "x = 1"),
        ("def f():\n    x = 1\n", "y = 2", "\n    z = 3\n", ""),
        ("def f():\n    x = 1\n", "y = 2", "\n\nz = 3\n", "y = 2"),
        ("def f():\n    ", "if x:", "\n    y = 2\n", ""),
        ("def f():\n    ", "a\n    if x:", "\n    y = 2\n", "a"),
        ("def f():\n    ", "if x:", "\n        y = 2\n", "if x:"),
        ("def f():\n    if ", "x:", "\n    y = 2\n", "x"),
        ("def f():\n    if ", "x:\n        z", "\n    y = 2\n", "x:\n        z"),
        ("def f():\n    if ", "x:", "", "x"),
        ("def f(\n    a", ",\n    b):", "\nx = 1\n", ",\n    b)"),
        ("def f():", "\n    x = 1", "\n    y = 2\n", "\n    x = 1"),
        ("def f():", " return", "\n    y = 2\n", ""),
        ("x = [\n", "1,\n  2,", "\n]\n", "1,\n  2,"),
        ("x = f(a", ", b)", "\n    c,\n)\n", ", b"),
        ("x = f(a", ", b)", "\ny = 2\n", ", b)"),
        ("x = 1\n    ", "y = 2", "\nz\n", "y = 2"),
        ("x = 1\n    ", "  y = 2", "\nz\n", ""),
        ("def f():\n\tx = 1\n\t", "if x:\n\t  y = 2", "\n", ""),
        # A person's own indentation stands, but where a block is missing.
        ("class A:\n  def f():\n  ", "def g():", "\n    y = 2\n", ""),
        ("x = 1\n", "# y", "\nz\n", "# y"),
        ("x = 1\n", "", "\nz\n", ""),
    ],
)
def test_cut_misplaced(before: str, generated: str, after: str, expected: str) -> None:
    """No line is indented as no block around it is, and none after it loses its block."""
    assert cut_misplaced(before, generated, after, tabbed=is_tabbed(before)) == expected


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ("if x:\n\t    y", "if x:\n\t\ty"),
        ("if x:\n        y", "if x:\n\t\ty"),
        ("f(\n\t  y)", "f(\n\t  y)"),
        ("    x\n    y", "\tx\n\ty"),
        ("x = '    '", "x = '    '"),
    ],
)
def test_lines_are_indented_by_tabs(generated: str, expected: str) -> None:
    """In a file of tabs a line has tabs, but for less than a tab's width."""
    assert with_tabs(generated) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("if x:\n\ty\n", True), ("if x:\n    y\n", False), ("x\n", False), ("", False)],
)
def test_a_file_is_indented_by_tabs_or_spaces(text: str, expected: bool) -> None:
    """What most lines begin with counts, and of nothing known it is spaces."""
    assert is_tabbed(text) is expected
