"""What a place in real code calls for, in every language that is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.plan import Plan, Rule, Snapshot, plan_completion

CURSOR = "▒"


def planned(marked: str, language_id: str) -> Plan | str:
    """Return the plan at the cursor's mark."""
    before, _, after = marked.partition(CURSOR)
    return plan_completion(Snapshot(before + after, len(before), language_id))


C_PLACES = [
    ("#include <stdio.h>\n\n// Add two numbers.\n▒\n", Rule.TURN),
    ("int main(void) {\n    /*\n     * Print the sum.\n     */\n    ▒\n}\n", Rule.TURN),
    ("int main(void) {\n    int x = ▒\n    return x;\n}\n", Rule.STATEMENT),
    ("int main(void) {\n    ▒\n}\n", Rule.STATEMENT),
    ("int main(void)\n{\n    if (x) {▒\n}\n", Rule.STATEMENT),
    ("int a[] = {\n    1,\n    ▒\n};\n", Rule.LINE),
    ('    printf("%d\\n", ▒);\n', Rule.LINE),
    ('    printf("Hello ▒', "string"),
    ("/* Add ▒\n */\n", "comment"),
    ("// Add ▒\nint x;\n", "comment"),
    ("int va▒lue;\n", "inside a word"),
]
CPP_PLACES = [
    ("class A {\n public:\n  /// Add a point.\n  ▒\n};\n", Rule.TURN),
    ("class A {\n public:\n  A() = default;\n  ▒\n};\n", Rule.STATEMENT),
    ("for (const auto& x : xs) {\n  total += ▒\n}\n", Rule.STATEMENT),
    ("std::sort(xs.begin(), ▒);\n", Rule.LINE),
    ('auto s = R"(\n// No step.\n▒\n)";\n', "string"),
]
GO_PLACES = [
    ("package main\n\n// count returns the number of words.\n▒\n", Rule.TURN),
    ("func f() {\n\t// Split it.\n▒\n}\n", Rule.TURN),
    ("func f() {\n\tx := ▒\n}\n", Rule.STATEMENT),
    ("import (\n\t// For reading.\n\t▒\n)\n", Rule.LINE),
    ("x := `SELECT ▒\n", "string"),
]
JAVA_PLACES = [
    ("class A {\n    /**\n     * Count words.\n     */\n    ▒\n}\n", Rule.TURN),
    ("class A {\n    // Count words.\n    int n;\n    ▒\n}\n", Rule.STATEMENT),
    ("    return text.▒\n", Rule.STATEMENT),
    ("    foo(a, ▒)\n", Rule.LINE),
    ('String s = """\n    ▒\n    """;\n', "string"),
]
JAVASCRIPT_PLACES = [
    ("// Read the file.\n▒\n", Rule.TURN),
    ("describe('a', () => {\n  // It counts.\n  ▒\n});\n", Rule.TURN),
    ("const x = ▒\n", Rule.STATEMENT),
    ("const f = () => {\n  ▒\n};\n", Rule.STATEMENT),
    ("const x = {\n  // Data.\n  ▒\n};\n", Rule.LINE),
    ("fetch(url).then(▒)\n", Rule.LINE),
    ("x = `Hello ▒`;\n", "string"),
]
PYTHON_PLACES = [
    ('def f(x):\n    """Double it."""\n    ▒\n', Rule.TURN),
    ('def f(x):\n    """Double it."""\n\n▒\n\n\ny = 1\n', Rule.TURN),
    ('class A:\n    """Hold\n    points.\n    """\n    ▒\n\nx = 1\n', Rule.TURN),
    ('def f(x):\n    """Double it."""\n    ▒\n    return 2 * x\n', Rule.STATEMENT),
    ('def f(x):\n    """Double ▒\n    """\n', "string"),
    ('def f(x):\n    """Double it."""▒\n', Rule.STATEMENT),
    ('def f(x):\n    """Double it."""\n▒', Rule.TURN),
    ('def f(x):\n    """Double it."""\n\n\n▒', Rule.STATEMENT),
    ('def f(x):\n    """Double it."""\n\n\n    ▒', Rule.TURN),
    ('class E(Exception):\n    """Raised."""\n▒', Rule.TURN),
    ('class E(Exception):\n    """Raised."""\n\n▒', Rule.STATEMENT),
    ('class E(Exception):\n    """Raised."""\n\n\n▒', Rule.STATEMENT),
    ('class E(Exception):\n    """Raised."""\n\n    ▒', Rule.TURN),
    ('class P:\n    def a(self):\n        """Return a."""\n    ▒\n', Rule.STATEMENT),
    ('class P:\n    def a(self):\n        """Return a."""\n\n    ▒\n', Rule.STATEMENT),
    ('class P:\n    def a(self):\n        """Return a."""\n\n        ▒\n', Rule.TURN),
    ("def f():\n    # Print the sum.\n\n▒", Rule.TURN),
    ("def f():\n    # Print the sum.\n\n\n▒", Rule.STATEMENT),
    ("# Print the sum.\n\n\n▒", Rule.TURN),
    ("# Print the sum.\n▒\n\nx = 1\n", Rule.TURN),
    ("# Print the sum.\n▒\n  \n\nx = 1\n", Rule.TURN),
    ("def f():\n    # Print the sum.\n    ▒\n\n    return 1\n", Rule.TURN),
    ('def f():\n    """Double it."""\n    ▒\n\n    return 1\n', Rule.TURN),
    ("# Print the sum.\n▒\nx = 1\n", Rule.STATEMENT),
    ("# Print the sum.\n\n▒\n\nx = 1\n", Rule.STATEMENT),
    ("# Print the sum.\nx = 1\n▒\n\ny = 1\n", Rule.STATEMENT),
    ("x = '''\n\ndef f():\n    ▒\n'''\n", "string"),
    ("x = f(\n\ny = ▒\n", Rule.STATEMENT),
    ("x = f(\n\ndef g():\n    ▒\n", Rule.STATEMENT),
]


@pytest.mark.parametrize(
    ("language_id", "marked", "expected"),
    [
        (language_id, marked, expected)
        for language_id, places in [
            ("c", C_PLACES),
            ("cpp", CPP_PLACES),
            ("go", GO_PLACES),
            ("java", JAVA_PLACES),
            ("javascript", JAVASCRIPT_PLACES),
            ("typescriptreact", JAVASCRIPT_PLACES),
            ("python", PYTHON_PLACES),
        ]
        for marked, expected in places
    ],
)
def test_rule_of_a_place(language_id: str, marked: str, expected: Rule | str) -> None:
    """A program below its comment or docstring, else the statement, the line or nothing.

    A line opened below a comment waits for its program, unless code stands right below. It
    is another place where it is indented less, but for an empty line that is near.
    """
    plan = planned(marked, language_id)
    if isinstance(expected, str):
        assert isinstance(plan, str)
        assert expected in plan
    else:
        assert isinstance(plan, Plan)
        assert plan.rule is expected


@pytest.mark.parametrize(
    ("language_id", "marked", "before", "indent"),
    [
        ("python", 'def f():\n    """One\n    two."""  # noqa\n\n▒', "# noqa\n", "    "),
        ("c", "  /*\n   * One.\n   */\n▒", "*/\n", "  "),
        ("go", "\t// One.\n\t// Two.\n\t▒\n}", "Two.\n", "\t"),
    ],
)
def test_the_prompt_of_a_turn(language_id: str, marked: str, before: str, indent: str) -> None:
    """It ends with the line of the comment or docstring, whose indentation the program has."""
    plan = planned(marked, language_id)
    assert isinstance(plan, Plan)
    assert plan.rule is Rule.TURN
    assert plan.before.endswith(before)
    assert plan.before in marked
    assert plan.indent == indent


@pytest.mark.parametrize(
    ("language_id", "allowed", "forbidden"),
    [("python", b"x/", b"#`"), ("c", b"x#*", b"/`"), ("go", b"x*", b"/`#")],
)
def test_no_comment_is_begun(language_id: str, allowed: bytes, forbidden: bytes) -> None:
    """A statement never begins with what begins a comment in its language."""
    plan = planned("x = 1\n▒\n", language_id)
    assert isinstance(plan, Plan)
    assert not set(allowed) & set(plan.not_first)
    assert set(forbidden) <= set(plan.not_first)


@pytest.mark.parametrize(
    ("language_id", "marked"),
    [
        ("python", "# Print ▒\nx = 1\n"),
        ("python", 'def f(x):\n    """Double ▒\n    """\n'),
        ("python", 'print("Hello ▒")\n'),
        ("c", "/* Add ▒\n */\n"),
        ("javascript", "x = `Hello ▒`;\n"),
    ],
)
def test_words_are_completed_where_that_is_asked_for(language_id: str, marked: str) -> None:
    """In a comment or a string it is the rest of the line, and nothing of code is asked."""
    before, _, after = marked.partition(CURSOR)
    snapshot = Snapshot(before + after, len(before), language_id)
    assert isinstance(plan_completion(snapshot), str)
    plan = plan_completion(snapshot, in_comments=True)
    assert isinstance(plan, Plan)
    assert (plan.rule, plan.before, plan.not_first) == (Rule.LINE, before, b"")
    assert not plan.is_python


def test_code_is_planned_alike_where_words_are_completed_too() -> None:
    """The setting for comments changes nothing outside them."""
    for language_id, places in (("python", PYTHON_PLACES), ("c", C_PLACES)):
        for marked, _ in places:
            before, _, after = marked.partition(CURSOR)
            snapshot = Snapshot(before + after, len(before), language_id)
            plan = plan_completion(snapshot)
            if isinstance(plan, Plan):
                assert plan_completion(snapshot, in_comments=True) == plan


PIECES = (
    "// a\n",
    "# a\n",
    '"""',
    "def f():\n",
    "    ",
    "x\n",
    "{",
    "}",
    "(",
    "'",
    "`",
    "\r",
    "/*",
)


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=10).map("".join),
    st.integers(0, 40),
    st.sampled_from(["python", "c", "cpp", "go", "java", "javascript", "ruby"]),
)
def test_any_place_has_a_plan(text: str, offset: int, language_id: str) -> None:
    """However broken a text is, the model goes on from a beginning of it or not at all."""
    offset = min(offset, len(text))
    plan = plan_completion(Snapshot(text, offset, language_id))
    if isinstance(plan, Plan):
        unix = text.replace("\r\n", "\n").replace("\r", "\n")
        assert unix.startswith(plan.before) or "\r\n" in text
        assert plan.rule is not Rule.TURN or not plan.line_before.strip()
