"""Holes in Python files: what is taken away, and what never is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_eval.holes import BODY, LINE, STATEMENT, choose_holes, find_holes

BEFORE = "import os\n\n\n"
PIECES = st.sampled_from(
    ["def f(a):\n", "    ", '    """Add."""\n', "return a + 1\n", "x = f('é', 2)\n", "if x:\n",
     "\t", "# note\n", "x = [\n    1,\n]\n", "elif y: pass\n", "\r\n", "\r",
     "\f", "\0", "'''", "\\\n",
     "x = f'{a} b'\n", "async def g(): ...\n", "@d\n", "class C:\n", "; y = 1\n", "ä = '\\d'\n"]
)  # fmt: skip


def cuts(text: str, kind: str, n_seeds: int = 20) -> set[str]:
    """Return what any of some seeds takes away."""
    return {
        hole.cut(BEFORE + text)
        for seed in range(n_seeds)
        for hole in find_holes("a.py", BEFORE + text, seed)
        if hole.kind == kind
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = f(a, 1)\n", {"= f(a, 1)", "f(a, 1)", "a, 1)", "1)"}),
        ("return_ = a.b\n", {"= a.b", "a.b", "b"}),
        ("if x and y:\n    z(1)\n", {"x and y:", "and y:", "y:", "1)"}),
        ("x = 'a b'\n", {"= 'a b'", "'a b'"}),
        ("x = f'{a} b'\n", {"= f'{a} b'", "f'{a} b'"}),
        ("x = 1  # one\n", set()),
        ("import a\nfrom b import c\n", set()),
        ("'a string'\n", set()),
        ("x()\n", set()),
    ],
)
def test_the_rest_of_a_line(text: str, expected: set[str]) -> None:
    """It begins between two tokens, never after half a word, and holds a word."""
    assert cuts(text, LINE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", {"x = 1"}),
        ("x = [\n    1,\n]\n", {"x = [\n    1,\n]", "= [\n    1,\n]", "[\n    1,\n]"}),
        ("while x:\n    y()\n", {"while x:\n    y()", "x:\n    y()", "y()"}),
        ("if x:\n    pass\nelif y:\n    pass\n", {
            "if x:\n    pass\nelif y:\n    pass", "x:\n    pass\nelif y:\n    pass",
        }),
        ("x = 1; y = 2\n", set()),
        ("[\n" + "    1,\n" * 12 + "]\n", set()),
    ],
)  # fmt: skip
def test_a_statement_or_the_rest_of_it(text: str, expected: set[str]) -> None:
    """It ends where the statement ends, blocks included, and is short."""
    assert cuts(text, STATEMENT) == expected


@pytest.mark.parametrize(
    ("text", "before", "cut", "stub"),
    [
        ("def f():\n    return 1\n", "def f():", "\n    return 1", "\n    pass"),
        ('def f():\n    """Add."""\n\n    x = 1\n    return x\n', '"""Add."""\n\n    ',
         "x = 1\n    return x", "pass"),
        ("def f():\n    @d\n    def g():\n        pass\n    return g\n", "def f():",
         "\n    @d\n    def g():\n        pass\n    return g", "\n    pass"),
    ],
)  # fmt: skip
def test_a_body(text: str, before: str, cut: str, stub: str) -> None:
    """The header and the docstring stay, and the cursor is where an editor would have it."""
    text = BEFORE + text
    (hole,) = (hole for hole in find_holes("a.py", text, 0) if hole.kind == BODY)
    assert text[: hole.start].endswith(before)
    assert (hole.cut(text), hole.stub) == (cut, stub)


@pytest.mark.parametrize(
    "text",
    ["def f(): return 1\n", "def f():\n    pass\n", 'def f():\n    """Only."""\n',
     "def f():\n    # Do it.\n    return 1\n", "class C:\n    x = 1\n"],
)  # fmt: skip
def test_what_is_no_body(text: str) -> None:
    """Stubs have nothing to take away; a comment is never a part of what is."""
    assert cuts(text, BODY) == set()


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)), st.integers(0, 9))
def test_any_text_has_holes_that_give_it_back(text: str, seed: int) -> None:
    """Whatever the file is, nothing raises, and what was taken away fits its hole."""
    for hole in find_holes("a.py", text, seed):
        cut = hole.cut(text)
        assert cut.strip()
        assert text[: hole.start] + cut + text[hole.end :] == text
        assert hole.filled(text, cut) == text
        assert hole.kind == BODY or not text[hole.start - 1].isalnum()


def test_the_same_holes_for_every_model_and_none_twice() -> None:
    """The seed and the text decide, and what looks the same counts once."""
    texts = {f"{name}.py": BEFORE + "x = f(1)\ny = g(2)\nz = h(3)\n" for name in ("one", "two")}
    holes = choose_holes(texts, 2, seed=0)
    assert holes == choose_holes(texts, 2, seed=0)
    assert [hole.kind for hole in holes] == [LINE, LINE, STATEMENT, STATEMENT]
    assert holes != choose_holes(texts, 2, seed=1)
    whole = [h for h in choose_holes(texts, 99, seed=0) if h.kind == STATEMENT]
    assert len({h.cut(texts[h.file]) for h in whole}) == len(whole) == 3
