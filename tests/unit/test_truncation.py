"""Where programs, statements and lines end, whole and while they are being written."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsp_server.indentation import cut_misplaced
from lsp_server.language_lines import read_lines
from lsp_server.overlap import cut_overlap, cut_repeated_lines
from lsp_server.python_lines import LineKind, scan
from lsp_server.truncation import (
    cut_line,
    cut_statement,
    cut_turn,
    is_talk,
    truncate,
    whole_statements,
)

CASES = Path(__file__).parents[3] / "shared" / "data" / "mtpb_truncate_cases.jsonl"
PIECES = (
    *("x = 1", "def f():", "default = 1", "print(x)", "print_all()", "if x:", "else:", "e"),
    *("    y = 2", "  z", "\n", "\n\n", "\n\n\n", "# c", "    # c", "'''", '"""', "'", "("),
    *(")", "\\", "return", "return_x=1", "@wraps", "\t", "   ", "<|endoftext|>", "elif y:"),
    *("[\n", "]\n", ":", "é", "case 1:", "    def g(self):\n", "        pass\n", "\r", "\f"),
    *("\n```", "    ```\n", "`", "\nThis is the code", "\n    Foo if", "In this", " Here's"),
)
SLASHED_PIECES = (
    *(
        "x = 1;",
        "x = 1",
        "if (x) ",
        "{",
        "}",
        "}\n",
        "\n",
        "\n\n",
        "\n\n\n",
        "// c",
        "/* c",
        "*/",
    ),
    *(
        "(",
        ")",
        "'",
        '"',
        "`",
        '"""',
        'R"(',
        "/",
        "    ",
        "\t",
        "else",
        "el",
        "while (x);",
        "do ",
    ),
    *(
        "#if A",
        "\\",
        ";",
        ":",
        "case 1:",
        "+",
        ".f()",
        "\n```",
        "@A",
        "<|endoftext|>",
        "é",
        "\r",
    ),
)
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
slashed_texts = st.lists(st.sampled_from(SLASHED_PIECES), max_size=12).map("".join)
languages = st.sampled_from(["c", "cpp", "go", "java", "javascript"])
indents = st.sampled_from(["", "    ", "\t"])


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("", ""),
        ("x = 1\ny = 2", "x = 1\ny = 2"),
        ("x = 1\n\ny = 2", "x = 1\n\ny = 2"),
        ("x = 1\n\n\ny = 2", "x = 1"),
        ("x = 1\n# next", "x = 1\n"),
        ("# first", ""),
        ("\n\n\nx", ""),
        ("x = 1\n  # inner\ny", "x = 1\n  # inner\ny"),
        ("x = 1  # trailing", "x = 1  # trailing"),
        ("x<|endoftext|>y", "x"),
        ("x\n'''doc'''", "x\n"),
        ('"""doc"""', ""),
        ("x = '''a'''", "x = '''a'''"),
        ("print(1)\nprint(2)", "print(1)\n"),
        ("print(1)\nprint_x(2)", "print(1)\n"),
        ("x\nprint(1)\n  print(2)", "x\nprint(1)\n  print(2)"),
        ("def f():\n  x\ndef g():", "def f():\n  x\n"),
        ("def f():\n  x\ndefault = 1", "def f():\n  x\n"),
        ("x = '''\n# in a string\n'''", "x = '''\n"),
        # The second ``print`` is cut first, so a ``def`` after it never counts.
        ("def f(): 1\nprint(1)\nprint(2)\ndef g(): 2", "def f(): 1\nprint(1)\n"),
        ("print(1)\n# c\nprint(2)", "print(1)\n"),
        ("print(1)\r# c", "print(1)\r# c"),
    ],
)
def test_truncate(completion: str, expected: str) -> None:
    """The published rules, with what is odd about them."""
    assert truncate(completion) == expected


def test_truncate_agrees_with_the_published_function() -> None:
    """All recorded answers of CodeGen's own ``truncate`` are ours."""
    if not CASES.is_file():
        pytest.skip(f"{CASES.name} is not on this machine")
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 3000
    assert [case for case in cases if truncate(case["completion"]) != case["truncated"]] == []


@pytest.mark.parametrize(
    ("generated", "indent", "expected"),
    [
        ("x = 1\n", "", None),
        ("x = 1\n# next", "", "x = 1\n"),
        ("if x:\n    # why\n    y\n# next", "", "if x:\n    # why\n    y\n"),
        ("x = '''\n# text\n'''\ny\n\n\n", "", "x = '''\n# text\n'''\ny"),
        ("x = '''\na\n\n\nb\n'''\n# c", "", "x = '''\na\n\n\nb\n'''\n"),
        ("x = '''\nprint\nprint\n'''\nprint\n# c", "", "x = '''\nprint\nprint\n'''\nprint\n"),
        ("x = [\n# a\n1]\n# c", "", "x = [\n# a\n1]\n"),
        ("x = 1\n'''doc", "", "x = 1\n"),
        ("x = 1\n\n\n", "", "x = 1"),
        ("    x = 1\n", "    ", None),
        ("    x = 1\ny", "    ", "    x = 1\n"),
        ("    x = 1\n\n  y", "    ", "    x = 1\n\n"),
        ("    x = 1\n    # next", "    ", "    x = 1\n"),
        ("    x = 1\n# outer", "    ", "    x = 1\n"),
        ("    x = '''\ntext\n'''\n", "    ", None),
        ("    x = (\n1\n)\n    y", "    ", None),
        ("    def f():\n        x\n    def g():", "    ", "    def f():\n        x\n"),
        ("\tx = 1\n        y\n    z", "\t", "\tx = 1\n        y\n"),
        ("x = 1\n```\n\nThis code sets x.", "", "x = 1\n"),
        ("x = 1\n``", "", None),
        ("if x:\n    y\n    ```\nz", "", "if x:\n    y\n"),
        ("    x = 1\n    ```", "    ", "    x = 1\n"),
        ("x = 1\n\nThis code sets x", "", "x = 1\n\n"),
        ("The function returns", "", ""),
        ("x = '''\n```\n'''\n", "", None),
        ("    x = '''\n```\n'''\n", "    ", None),
        ("x = f(\n    a,\n)\n```", "", "x = f(\n    a,\n)\n"),
    ],
)
def test_cut_turn(generated: str, indent: str, expected: str | None) -> None:
    """A turn's program ends with its scope, at a comment or talk, or where CodeGen cuts.

    But CodeGen cuts inside strings and brackets too.
    """
    assert cut_turn(generated, indent) == expected


@pytest.mark.parametrize(
    ("before", "generated", "expected"),
    [
        ("x = ", "1", None),
        ("x = ", "1\n", "1"),
        ("x = ", "f(\n    1,\n)\ny", "f(\n    1,\n)"),
        ("x = ", "'''\na\n\n\nb'''\n", "'''\na\n\n\nb'''"),
        ("x = ", "1 + \\\n    2\ny", "1 + \\\n    2"),
        ("x", "", None),
        ("", "f(\n    return_x=1,\n)\n", "f(\n    return_x=1,\n)"),
        ("def f(", "):\n    return 1\n", None),
        ("def f(", "):\n    return 1\n\nx", "):\n    return 1"),
        ("def f(", "a,\n      b):\n    return 1\nx", "a,\n      b):\n    return 1"),
        ("def f():", "\n    a\n\n\n    b\n", "\n    a"),
        ("if x:", "\n    a\nelse:\n    b\nx", "\n    a\nelse:\n    b"),
        ("if x:", "\n    a\nelsewhere = 1", "\n    a"),
        ("if x:", "\n    a\nel", None),
        ("if x:", "\n    a\nx", "\n    a"),
        ("if x:", "  # why\n    a\nx", "  # why\n    a"),
        ("    if x:", "\n        a\n    # b\n", "\n        a"),
        ("    if x:", "\n        a\nelse:\n", "\n        a"),
        ("", "try:\n    a\nexcept E:\n    b\nx", "try:\n    a\nexcept E:\n    b"),
        ("", "@wraps\ndef f():\n    a\nb", "@wraps\ndef f():\n    a"),
        ("", "@wraps\n@twice\nclass A:\n    a\n\nb", "@wraps\n@twice\nclass A:\n    a"),
        ("", "\n\nx = 1\n", "\n\nx = 1"),
        ("a = {", "'b': 1}\nc", "'b': 1}"),
        ("x", ": int\ny", ": int"),
        ("class A: ", "pass\nb", "pass"),
        ("x = ", "1\n```\nThis", "1"),
        ("", "```\nThis", ""),
        ("    ", "```\nThis", ""),
        ("", "\n```", "\n"),
        ("if x:", "\n    y\n    ```\n", "\n    y"),
        ("if x:", "\n    y\n```\n", "\n    y"),
        ("if x:", "\n    y\n\n    Note that y is", "\n    y"),
        ("if x:", "\n```\n", ""),
        ("x = ", "'''\n```\n'''\n", "'''\n```\n'''"),
    ],
)
def test_cut_statement(before: str, generated: str, expected: str | None) -> None:
    """A statement ends with its line, or with its block and the clauses that belong to it."""
    assert cut_statement(before, generated) == expected


@pytest.mark.parametrize(
    ("language_id", "before", "generated", "below", "expected"),
    [
        ("python", "if ", "a:\n    b\nelse:\n    c\nd", "    x", "a:"),
        ("python", "if ", "a:\n    b\n\nd", "x", "a:\n    b"),
        ("python", "", "if a:\n    b\nc", "    x", "if a:"),
        ("python", "", "    if a:\n        b\n    d", "    x", "    if a:\n        b"),
        ("c", "if (a) ", "{\n  b;\n}\n", "  x;", "{"),
        ("c", "if (a)", " \n{\n  b;\n}\n", "{", " "),
        ("c", "if (a) ", "{\n  b;\n}\nx;", "x;", "{\n  b;\n}"),
        ("javascript", "x = ", "a(\n  b)\nc", "  .d()", "a(\n  b)"),
    ],
)
def test_a_block_that_stands_below_is_not_written(
    language_id: str, before: str, generated: str, below: str, expected: str
) -> None:
    """A header that is edited above its block ends with its line."""
    (line,) = read_lines(below, language_id)
    assert cut_statement(before, generated, language_id, below=line) == expected


@pytest.mark.parametrize(
    ("generated", "expected"), [("a", None), ("a\nb", "a"), ("\n", ""), ("", None)]
)
def test_cut_line(generated: str, expected: str | None) -> None:
    """A line ends at its newline."""
    assert cut_line(generated) == expected


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ("x = 1\ny = ", "x = 1\n"),
        ("x = ", ""),
        ("x = 1\n", "x = 1\n"),
        ("x = 1\nif y:\n", "x = 1\n"),
        ("x = 1\nif y:\n\n    # why\n    z", "x = 1\n"),
        ("if y:\n    z\n    w", "if y:\n    z\n"),
        ("x = 1\nf(\n    a,\n    b", "x = 1\n"),
        ("x = 1\ny = '''\ntext\n", "x = 1\n"),
        ("x = 1\ny = 2 + \\\n", "x = 1\n"),
        ("x = 1\n@wraps\n", "x = 1\n"),
        ("def f():\n    if x:\n        for y in z:\n", ""),
        ("def f():\n    '''Note:'''\n", "def f():\n    '''Note:'''\n"),
        ("x = 1  # so:\n", "x = 1  # so:\n"),
        ("\n\n", ""),
        ("x = 1\ntry:\n    y()\n", "x = 1\n"),
        ("x = 1\ntry:\n    y()\nexcept E:\n", "x = 1\n"),
        ("try:\n    y()\nexcept E:\n    z()\nel", "try:\n    y()\nexcept E:\n    z()\n"),
        ("try:\n    y()\nfinally:\n    z()\n", "try:\n    y()\nfinally:\n    z()\n"),
        ("x\ntry:\n    try:\n        y\n    except E:\n        z\n", "x\n"),
        (
            "try:\n    y\nexcept:\n    try:\n        z\n    finally:\n        w\n",
            "try:\n    y\nexcept:\n    try:\n        z\n    finally:\n        w\n",
        ),
        ("def f():\n    try:\n        y\n", ""),
        (
            "try:\n        y\n    except E:\n        z\n    w\n",
            "try:\n        y\n    except E:\n        z\n    w\n",
        ),
        ("y\nexcept E:\n    z\n", "y\nexcept E:\n    z\n"),
    ],
)
def test_whole_statements(generated: str, expected: str) -> None:
    """What was cut off by the limit ends with a line that can be the last."""
    assert whole_statements(generated) == expected


@pytest.mark.parametrize(
    ("language_id", "generated", "indent", "expected"),
    [
        ("c", "x = 1;\n", "", None),
        ("c", "x = 1;\n// next", "", "x = 1;\n"),
        ("c", "x = 1;\n/* next", "", "x = 1;\n"),
        ("c", "x = 1;\n/", "", None),
        (
            "c",
            "if (x) {\n    // why\n    y;\n}\n// next",
            "",
            "if (x) {\n    // why\n    y;\n}\n",
        ),
        ("c", "    x;\n}", "    ", "    x;\n"),
        ("c", "x;\n}", "", "x;\n"),
        ("c", "x;\n} else {\n", "", "x;\n"),
        ("c", "    f(\n1);\n    y;\n", "    ", None),
        ("c", "#define A (\nx;\n// b", "", "#define A (\nx;\n"),
        ("c", "x;\n\n\ny;", "", "x;"),
        ("c", "x;\n```", "", "x;\n"),
        ("c", "x;<|endoftext|>", "", "x;"),
        ("c", 'print("a");\nprint("b");\n# c\n', "", None),
        ("cpp", 'x = R"(\n}\n// no\n)";\n}', "", 'x = R"(\n}\n// no\n)";\n'),
        ("go", "\tif x {\n\t\ty\n\t}\n\t// z", "\t", "\tif x {\n\t\ty\n\t}\n"),
        (
            "java",
            "  int f() {\n    return 1;\n  }\n}",
            "  ",
            "  int f() {\n    return 1;\n  }\n",
        ),
        ("javascript", "  it(() => {\n    x\n  });\n});", "  ", "  it(() => {\n    x\n  });\n"),
        ("javascript", "x = `\n}\n// no`\n// yes", "", "x = `\n}\n// no`\n"),
        ("javascript", "String name is talk in Python\n", "", None),
    ],
)
def test_cut_turn_of_other_languages(
    language_id: str, generated: str, indent: str, expected: str | None
) -> None:
    """A program ends with its scope, at a comment, or at a bracket that it did not open."""
    assert cut_turn(generated, indent, language_id) == expected


@pytest.mark.parametrize(
    ("language_id", "before", "generated", "expected"),
    [
        ("c", "x = ", "1;\ny", "1;"),
        ("c", "x = ", "1;", None),
        ("c", "x = ", "f(\n    1,\n    2);\ny", "f(\n    1,\n    2);"),
        ("c", "int x[] = {", "\n    1,\n};\ny", "\n    1,\n};"),
        ("c", "int f(void)", "\n{\n    return 1;\n}\n\nx", "\n{\n    return 1;\n}"),
        (
            "c",
            "",
            "if (x) {\n    y;\n}\nelse {\n    z;\n}\nw",
            "if (x) {\n    y;\n}\nelse {\n    z;\n}",
        ),
        ("c", "", "if (x)\n    y;\nz;\n", "if (x)\n    y;"),
        ("c", "", "if (x) {\n    y;\n}\nel", None),
        ("c", "", "if (x) {\n    y;\n}\nwhile (z)", "if (x) {\n    y;\n}"),
        ("c", "", "do {\n    y;\n}\nwhile (z);\nv", "do {\n    y;\n}\nwhile (z);"),
        ("c", "} else {", "\n    y;\n}\nz", "\n    y;\n}"),
        ("c", "case 1", ":\nx", ":"),
        ("c", "#include ", "<a.h>\nx", "<a.h>"),
        ("c", "#define A ", "\\\n    1\nx", "\\\n    1"),
        ("c", "    x = ", "1\n\n\ny", "1"),
        ("c", "    ", "}\nx", ""),
        ("c", "    x ", "\n}", ""),
        ("c", "x = ", "';';\n", "';';"),
        ("cpp", "class A ", "{\n public:\n  A();\n};\nx", "{\n public:\n  A();\n};"),
        ("cpp", "", "template <class T>\nT f();\nx", "template <class T>\nT f();"),
        (
            "java",
            "",
            "@Override\npublic int f() {\n  return 1;\n}\nx",
            "@Override\npublic int f() {\n  return 1;\n}",
        ),
        (
            "java",
            "",
            "try {\n  x;\n} catch (E e) {\n  y;\n}\nz",
            "try {\n  x;\n} catch (E e) {\n  y;\n}",
        ),
        ("go", "x := ", "1\ny", "1"),
        ("go", "x := ", "1 +\n\t2\ny", "1 +\n\t2"),
        ("go", "", "x++\ny", "x++"),
        ("go", "", "if x {\n\ty\n} else {\n\tz\n}\nw", "if x {\n\ty\n} else {\n\tz\n}"),
        ("go", "func f() ", "{\n\treturn\n}\nx", "{\n\treturn\n}"),
        ("javascript", "x = ", "1\ny", "1"),
        ("javascript", "x = ", "a\n  .b()\n  .c();\ny", "a\n  .b()\n  .c();"),
        ("javascript", "x = ", "a ||\n  b\ny", "a ||\n  b"),
        ("javascript", "", "if (x)\n  y()\nelse\n  z()\nw", "if (x)\n  y()\nelse\n  z()"),
        ("javascript", "f(() => ", "{\n  x;\n});\ny", "{\n  x;\n});"),
        ("javascript", "x = ", "`\n;\n`;\ny", "`\n;\n`;"),
        ("javascript", "", "```\n", ""),
    ],
)
def test_cut_statement_of_other_languages(
    language_id: str, before: str, generated: str, expected: str | None
) -> None:
    """A statement ends with its mark or its line, and after its block and clauses."""
    assert cut_statement(before, generated, language_id) == expected


@pytest.mark.parametrize(
    ("language_id", "generated", "expected"),
    [
        ("c", "x = 1;\ny = ", "x = 1;\n"),
        ("c", "x = 1;\nif (y) {\n    z;\n", "x = 1;\n"),
        ("c", "if (y) {\n    z;\n}\nx = \n", "if (y) {\n    z;\n}\n"),
        ("c", "int f(void)\n", ""),
        ("c", "x;\n}\ny;\n", "x;\n"),
        ("java", 'x = """\n  ;\n', ""),
        ("c", "} else {\n  x;\n}\n", "} else {\n  x;\n}\n"),
        ("javascript", "y;\nx = `\n;\n", "y;\n"),
        ("go", "x := 1\ny := f(\n", "x := 1\n"),
        ("go", "x := 1 +\n", ""),
        ("javascript", "x = 1\nif (y)\n", "x = 1\n"),
    ],
)
def test_whole_statements_of_other_languages(
    language_id: str, generated: str, expected: str
) -> None:
    """What was cut off by the limit ends with a line that can be the last."""
    assert whole_statements(generated, language_id) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("```", True),
        ("```python", True),
        ("``", False),
        ("This code uses a loop.", True),
        ("In this example, the function", True),
        ("Here's an example:", True),
        ("Example usage:", True),
        ("The result is", True),
        ("* Use recursion to compute", True),
        ("- Then the caller", True),
        ("3. Use iteration to", True),
        ("3. if Foo else 4", False),
        ("*Foo, bar = baz", False),
        ("- Foo", False),
        ("The res", False),
        ("Foo i", False),
        ("Foo if bar else Baz", False),
        ("True if Foo in Bar else None", False),
        ("A and B or not C", False),
        ("Foo(a, b)", False),
        ("Foo: Bar = 1", False),
        ("Foo = Bar", False),
        ("Rb'a b'", False),
        ("match x:", False),
        ("type A = B", False),
        ("x = 1", False),
        ("", False),
    ],
)
def test_talk_is_no_python(line: str, expected: bool) -> None:
    """Fences and sentences of instruct models are told from any line that Python has."""
    assert is_talk(line) is expected
    if expected:
        with pytest.raises(SyntaxError):
            compile(line, "line", "exec")


def test_no_line_of_the_standard_library_is_talk() -> None:
    """What ends a program never stands in one."""
    found = [
        (path.name, line.content)
        for path in Path(json.__file__).parents[1].glob("[a-d]*.py")
        for line in scan(path.read_text(encoding="utf-8")).lines
        if line.kind is LineKind.CODE and is_talk(line.content)
    ]
    assert found == []


@given(texts, indents)
@example("    f(\nreturn_x=1)\n    y\n    # c", "    ")
def test_stopping_early_never_changes_a_turn(generated: str, indent: str) -> None:
    """The first cut that a growing text shows is the cut of the whole text."""
    cuts = (cut_turn(generated[:end], indent) for end in range(len(generated) + 1))
    assert next((c for c in cuts if c is not None), None) == cut_turn(generated, indent)


@given(texts, st.sampled_from(["", "    ", "if x:", "x = ", "    def f(", "@a"]))
@example("f(\n    return_x=1,\n)\n", "")
@example("\n    a\n\n\n    b\nx\n", "if x:")
@example("'''a\n\n\nb'''\n", "x = ")
def test_stopping_early_never_changes_a_statement(generated: str, before: str) -> None:
    """The first cut that a growing text shows is the cut of the whole text."""
    cuts = (cut_statement(before, generated[:end]) for end in range(len(generated) + 1))
    assert next((c for c in cuts if c is not None), None) == cut_statement(before, generated)


@given(texts)
def test_stopping_early_never_changes_a_line(generated: str) -> None:
    """The first cut that a growing text shows is the cut of the whole text."""
    cuts = (cut_line(generated[:end]) for end in range(len(generated) + 1))
    assert next((c for c in cuts if c is not None), None) == cut_line(generated)


@given(texts, indents)
def test_cuts_are_beginnings(generated: str, indent: str) -> None:
    """Nothing that cuts a text ever adds to it."""
    for part in (
        cut_turn(generated, indent),
        cut_statement(indent, generated),
        cut_line(generated),
        truncate(generated, indent),
        whole_statements(generated),
        cut_overlap(generated, ")"),
        cut_repeated_lines(generated, "    y = 2\n)"),
        cut_misplaced("def f():\n" + indent, generated, "\n    y = 2\n"),
    ):
        assert part is None or generated.startswith(part)


@given(slashed_texts, indents, languages)
def test_stopping_early_never_changes_a_turn_of_other_languages(
    generated: str, indent: str, language_id: str
) -> None:
    """The first cut that a growing text shows is the cut of the whole text."""
    lengths = range(len(generated) + 1)
    cuts = (cut_turn(generated[:length], indent, language_id) for length in lengths)
    assert next((c for c in cuts if c is not None), None) == cut_turn(
        generated, indent, language_id
    )


@given(slashed_texts, st.sampled_from(["", "    ", "if (x) {", "x = ", "} "]), languages)
def test_stopping_early_never_changes_a_statement_of_other_languages(
    generated: str, before: str, language_id: str
) -> None:
    """The first cut that a growing text shows is the cut of the whole text."""
    lengths = range(len(generated) + 1)
    cuts = (cut_statement(before, generated[:length], language_id) for length in lengths)
    assert next((c for c in cuts if c is not None), None) == cut_statement(
        before, generated, language_id
    )


@given(slashed_texts, indents, languages)
def test_cuts_of_other_languages_are_beginnings(
    generated: str, indent: str, language_id: str
) -> None:
    """Nothing that cuts a text ever adds to it."""
    for part in (
        cut_turn(generated, indent, language_id),
        cut_statement(indent, generated, language_id),
        whole_statements(generated, language_id),
    ):
        assert part is None or generated.startswith(part)
