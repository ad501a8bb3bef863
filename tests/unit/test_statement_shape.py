"""In which brackets and in which part of a statement its end stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.statement_shape import closers_due, shape_of


@pytest.mark.parametrize(
    ("statement", "brackets", "rest"),
    [
        ("", "", ""),
        ("f(a[1], {", "({", "f(a[1], {"),
        ("f(')', \"]\", '''}''', [", "([", "f(')', \"]\", '''}''', ["),
        ("f)(", "(", "f)("),
        ("(]", "(", "(]"),
        ("a; b", "", " b"),
        ("f(a; b", "(", "f(a; b"),
        ("if x: y", "", " y"),
        ("if x[1:2]: y", "", " y"),
        ("x: int", "", "x: int"),
        ("if (lambda: x): y", "", " y"),
        ("if lambda: x: y", "", " y"),
        ("else: a; b", "", " b"),
    ],
)
def test_brackets_and_parts(statement: str, brackets: str, rest: str) -> None:
    """Brackets in strings open nothing, and a part starts at a semicolon or a block's colon."""
    shape = shape_of(statement)
    assert "".join(statement[at] for at in shape.opened) == brackets
    assert statement[shape.start :] == rest


def test_what_is_open_is_due_from_the_inside() -> None:
    """The last bracket that was opened closes first."""
    assert closers_due("f(a[{1: '('}, (") == ")])"


def test_what_is_assigned_to() -> None:
    """Neither a keyword of a call, nor a comparison, nor an operator's ``=`` assigns."""
    assert shape_of("x; self.a = b == c = f(d=1) += (e := 1)").targets == ["self.a", "b == c"]
    assert shape_of("f = lambda a=1: a").targets == ["f"]


@given(st.text("ab()[]{};:=,.'\"\n #lambdif"))
def test_any_text_has_a_shape(statement: str) -> None:
    """Whatever is written, all places lie within it, one after the other."""
    shape = shape_of(statement)
    assert 0 <= shape.start <= shape.part <= len(statement)
    assert shape.opened == sorted(shape.opened)
    assert all(statement[at] in "([{" for at in shape.opened)
