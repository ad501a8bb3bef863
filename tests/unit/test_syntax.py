"""Whether a completion leaves code that Python can read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.plan import Snapshot
from lsp_server.syntax import parses_no_worse

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
        (LONG + "x = $0\n" + LONG, "1 +", False),
        ("def f():\n" + "    x = 1\n" * 9000 + "    y = $0\n", "1 +", True),
    ],
)
def test_what_parses_no_worse(marked: str, insert_text: str, expected: bool) -> None:
    """Code that was whole stays whole, and code that was not can still be gone on with."""
    before, _, after = marked.partition(CURSOR)
    assert parses_no_worse(Snapshot(before + after, len(before)), insert_text) is expected


@given(
    st.text("a(:\n '#=\\\0", max_size=20),
    st.text("a(:\n '#=\\", max_size=9),
    st.integers(0, 20),
)
def test_any_text_has_an_answer(text: str, insert_text: str, offset: int) -> None:
    """However broken, nothing is raised."""
    snapshot = Snapshot(text, min(offset, len(text)))
    assert parses_no_worse(snapshot, insert_text) in (True, False)
