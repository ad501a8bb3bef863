"""Dots in methods, as tables of code."""

import pytest

from model_eval.dereferences import Dereference, find_dereferences

METHOD = "class C:\n    def f(self, a):\n        {}\n"


def found(text: str) -> list[Dereference]:
    """Return what is found, whichever seed."""
    return find_dereferences(text, seed=0)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("return self.x", [("self", "x", False)]),
        ("self.x = 1", [("self", "x", True)]),
        ("self.x += a.y", [("self", "x", True), ("a", "y", False)]),
        ("del a.y", [("a", "y", True)]),
        ("a.b.c()", [("a", "b", False), ("a.b", "c", False)]),
        ("f(a[0].b)", [("a[0]", "b", False)]),
        ("'ä'.x", [("'ä'", "x", False)]),
        ("if a.b: a.c", [("a", "b", False), ("a", "c", False)]),
        ("return f'{a.b}'", []),
        ("a. b", []),
        ("return 1.5", []),
    ],
)
def test_dots_of_a_method(statement: str, expected: list[tuple[str, str, bool]]) -> None:
    """Each dot that one could type a name after is found, with what stands before it."""
    text = METHOD.format(statement)
    dots = found(text)
    assert [(dot.receiver, dot.name, dot.is_stored) for dot in dots] == expected
    for dot in dots:
        assert text[: dot.offset].endswith(f"{dot.receiver}.")
        assert text[dot.offset :].startswith(dot.name)
        assert text[dot.end :] == "\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (METHOD.format("x = [\n            a.b,\n        ]"), "        x = ["),
        (METHOD.format("if a:\n            a.b"), "            a.b"),
        (METHOD.format("@a.b\n        def g(): pass"), "        @a.b"),
    ],
)
def test_where_its_statement_starts(text: str, line: str) -> None:
    """A dot's statement is the innermost one, from its first decorator on."""
    (dot,) = found(text)
    assert text[dot.statement :].partition("\n")[0] == line


def test_functions_and_classes_alone_have_no_methods() -> None:
    """Only what stands in a method counts."""
    assert found("a.b\ndef f(): return a.b\nclass C:\n    x = a.b\n") == []


def test_a_class_inside_a_method_is_not_counted_twice() -> None:
    """One offset is one place."""
    text = METHOD.format("class D:\n            def g(self): return self.x")
    assert [dot.name for dot in found(text)] == ["x"]


def test_five_of_a_method_at_most_and_the_same_ones() -> None:
    """A long method does not outweigh others, and the seed alone decides."""
    text = METHOD.format("return [" + ", ".join(f"a.x{n}" for n in range(30)) + "]")
    assert len(found(text)) == 5
    assert found(text) == found(text)
    assert found(text) != find_dereferences(text, seed=1)
