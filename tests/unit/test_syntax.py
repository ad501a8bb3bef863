"""Whether a completion leaves code that Python can read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.syntax import find_syntax_problem
from lsp_server.verdict import Fault

CURSOR = "$0"
LONG = "x = [\n" + "    1,\n" * 9000 + "]\n"


@pytest.mark.parametrize(
    ("marked", "insert_text", "expected"),
    [
        ("x = $0\n", "1", True),
        ("x = $0\n", "1 +", False),
        ("x = $0\n", "foo(1", True),
        ("x = 1\n$0\n", "y = (1", False),
        ("x = 1\n$0\n", "y = = 1", False),
        ("x = 1\n$0\n", "try:\n    y", False),
        ("def f():\n    $0\n", "return 1", True),
        ("def f():\n    $0\n", "return return", False),
        ("def f(\n    a$0\n):\n    return a\n", ", b", True),
        ("def f(\n    a$0\n):\n    return a\n", ", b)", False),
        ("x = {$0\n", "'a': 1,", True),
        ("if a$0\n    b\n", ":", True),
        ("try:\n    a$0\nexcept E:\n    c\n", "\n    b", True),
        ("try:\n    a\nexcept E:\n    $0\n", "b", True),
        # What is broken elsewhere says nothing about this.
        ("x = = 1\ny = $0\nz = = 1\n", "1", True),
        ("def f():\n    x = = 1\n    y = $0\n", "1", True),
        ("def f():\r\n    $0\r\n", "if a:\r\n        b", True),
        ("a = 1\n$0\ndef f(): pass\n", "@dec", True),
        ("a = 1\n$0\ndef f(): pass\n", "@dec\n@other(", False),
        ("a = 1\n$0\ndef f(): pass\n", "x = @dec", False),
        ("@dec\n$0def f(): pass\n", "x = 1\n", False),
        ("@dec\n$0\ndef f(): pass\n", "@other", True),
        ("if x:\n    y\nel$0\n", "se:\n    z = 1", True),
        ("if x:\n    y\n$0\n", "else:\n    z = 1", True),
        ("a = 1\nel$0\nb = 2\n", "se:\n    z = 1", False),
        # Nor is indentation that was there before.
        ("def f():\n        a = 1\n    foo(b, $0)\n", "c", True),
        (
            "class A:\n    def f(self):\n            a = 1\n        self.b$0\n\nz = 1\n",
            ".c",
            True,
        ),
        ("if 1:\n    x = 1\n $0\nz = (\n", "y = x", False),
        ("x = = 1\n$0\n", "y = = 2", False),
        ("x = = 1\n$0\n", "y = 2", True),
        ("def f(:\n    pass\n\n$0\n", "def g(x:\n    return x", False),
        ("def f(:\n    pass\n\n$0\n", "def g(x):\n    return x", True),
        ("x = = 1\r\ry = 2\rif a:\r    b\r    $0\rz = 1\r", "c = = 2", False),
        ("x = (\n$0\n)\ny = = 1\n", "1, 2", True),
        ('x = """\n$0\n"""\ny = = 1\n', "some words", True),
        (LONG + "x = $0\n" + LONG, "1 +", False),
        ("def f():\n" + "    x = 1\n" * 9000 + "    y = $0\n", "1 +", True),
    ],
)
def test_what_parses_no_worse(marked: str, insert_text: str, expected: bool) -> None:
    """Code that was whole stays whole, and code that was not can still be gone on with."""
    before, _, after = marked.partition(CURSOR)
    problem = find_syntax_problem(before + after, len(before), insert_text)
    assert (problem is None) is expected


@given(
    st.text("a(:\n '#=\\\0", max_size=20),
    st.text("a(:\n '#=\\", max_size=9),
    st.integers(0, 20),
)
def test_any_text_has_an_answer(text: str, insert_text: str, offset: int) -> None:
    """However broken, nothing is raised."""
    problem = find_syntax_problem(text, min(offset, len(text)), insert_text)
    assert problem is None or problem.code == Fault.SYNTAX


def test_a_problem_is_where_the_whole_file_has_it() -> None:
    """What is broken above does not draw the problem away from the completion."""
    before, after = "x = = 1\n\nif x:\n    y\n", "\nz\n"
    problem = find_syntax_problem(before + after, len(before), "y = 1\n  y = 2")
    assert problem is not None
    assert problem.line == 5
