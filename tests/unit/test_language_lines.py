"""The lines of C, C++, Go, Java and JavaScript, whole and while they are being written."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsp_server.language_lines import is_read, read_lines, scan
from lsp_server.positions import LINE_END
from lsp_server.python_lines import LineKind, Place

LANGUAGES = ["c", "cpp", "go", "java", "javascript"]
LETTERS = {
    LineKind.BLANK: ".",
    LineKind.COMMENT: "#",
    LineKind.CODE: "x",
    LineKind.INSIDE: "i",
}
FRAGMENTS = (
    *("// a\n", "/* a\n", " * b\n", "*/", "/** a */\n", "x = 1;\n", "{", "}\n", "(", ")", "["),
    *(
        "'",
        '"',
        "`",
        '"""',
        'R"x(',
        ')x"',
        "\\",
        "\\\n",
        "#define A\n",
        "${",
        "/",
        "\r\n",
        "\r",
    ),
    *("\n", "  ", "\t", "\f", "\v", "\0", "\x1b", "\u2028", "é😀", "case 1:\n", "@A\n", "<!--"),
)
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("language_id", "text", "expected"),
    [
        ("c", "int x; // trailing\n  // own\n\n", "x#.."),
        ("c", "/* a\n   b */\nx;\n", "##x."),
        ("c", "  /*\na\n\n  */\nx;", "####x"),
        ("c", "x; /* a\n b */\n// c", "xi#"),
        ("c", "/* a */ x;\n/* b */", "x#"),
        ("c", "/* a\n*/ x;\n// b", "#i#"),
        ("c", 'x = "// no";\n// yes', "x#"),
        ("c", 'x = "never closed;\n// yes', "x#"),
        ("c", "f(\n  // no\n  1);\n// yes", "xii#"),
        ("c", "f(\nx = 1;\n// yes", "xi#"),
        ("c", "void f() {\n  g(\n}\n// yes", "xxi#"),
        ("c", "int a[] = {\n  // no\n  1,\n};\n// yes", "xiii#"),
        ("c", "if (x) {\n  // yes\n}", "x#x"),
        ("c", "#define F(x) \\\n  // no\n// yes", "xi#"),
        ("c", "void f() {\n#ifdef A\n  x;\n#endif\n}", "xixix"),
        ("cpp", 'x = R"a(\n// no\n)";\n)a";\n// yes', "xiii#"),
        ("cpp", "int n = 1'000'000;\n// yes", "x#"),
        ("go", "x := `\n// no\n`\n// yes", "xii#"),
        ("go", "import (\n\t// no\n)\n// yes", "xii#"),
        ("java", 'x = """\n// no\n""";\n// yes', "xii#"),
        ("java", "@Override // why\n/** yes */", "x#"),
        ("javascript", "x = `\n// no ${a}\n`;\n// yes", "xii#"),
        ("javascript", "x = /'/;\n// yes", "x#"),
        ("javascript", "x = a / b; // c\n// yes", "x#"),
        ("javascript", "it('a', () => {\n  // yes\n});\n// yes", "x#x#"),
        ("javascript", "f({\n  // no\n  a: 1,\n});\n// yes", "xiii#"),
        ("typescript", "return {\n  // no\n};\n// yes", "xii#"),
    ],
)
def test_kinds(language_id: str, text: str, expected: str) -> None:
    """A comment is a line of its own outside strings, brackets and joined lines."""
    assert "".join(LETTERS[line.kind] for line in read_lines(text, language_id)) == expected


@pytest.mark.parametrize(
    ("language_id", "text", "place"),
    [
        ("c", "x = ", Place.CODE),
        ("c", "// a", Place.COMMENT),
        ("c", "// a\n", Place.CODE),
        ("c", "/* a", Place.COMMENT),
        ("c", "/* a\n b", Place.COMMENT),
        ("c", "/* a */", Place.CODE),
        ("c", "x /* a */ // b", Place.COMMENT),
        ("c", '"/*', Place.STRING),
        ("c", '"a\\"', Place.STRING),
        ("c", '"a" "b"', Place.CODE),
        ("c", "#include <a/b", Place.CODE),
        ("cpp", 'R"a(x)"', Place.STRING),
        ("cpp", 'R"a(x)a"', Place.CODE),
        ("go", "`a\n", Place.STRING),
        ("go", "'a'", Place.CODE),
        ("java", '"""\na', Place.STRING),
        ("java", "'\"'", Place.CODE),
        ("javascript", "`a ${b} ", Place.STRING),
        ("javascript", "`a ${b}`", Place.CODE),
        ("javascript", "`a\\`\n`", Place.CODE),
        ("javascript", "'a", Place.STRING),
        ("javascript", "/* a/b", Place.COMMENT),
        ("javascript", "/'/g", Place.CODE),
        ("c", "//" + " a" * 2000, Place.COMMENT),
        ("c", '"' + "a" * 2000, Place.STRING),
    ],
)
def test_place_at_the_end(language_id: str, text: str, place: Place) -> None:
    """The place of the cursor is right in half-typed comments and strings too."""
    assert scan(text, language_id).place is place


@pytest.mark.parametrize(
    ("language_id", "text", "expected"),
    [
        ("c", "f(a[", 2),
        ("c", "f('(', \"[\"", 1),
        ("c", "if (x) {", 0),
        ("c", "f(\nx;\n", 0),
        ("c", "for (i = 0; i < n;", 1),
        ("javascript", "f(() => {", 0),
        ("javascript", "f(() => {\n  g(", 1),
        ("javascript", "x = {", 1),
    ],
)
def test_open_brackets(language_id: str, text: str, expected: int) -> None:
    """Brackets count within their block, until a statement's end shows them forgotten."""
    assert scan(text, language_id).n_open_brackets == expected


def test_lines_of_a_comment_have_one_indentation() -> None:
    """However the later lines of a comment are indented, it is one comment."""
    lines = read_lines('  /**\n   * a\nb\n   */\n  x("a"); // b', "c")
    assert [line.indent for line in lines] == ["  "] * 5
    assert [line.content for line in lines] == ["", "", "", "", 'x(""");']


@pytest.mark.parametrize(
    ("language_id", "expected"),
    [("python", True), ("typescriptreact", True), ("ruby", False), ("", False)],
)
def test_languages(language_id: str, expected: bool) -> None:
    """TypeScript is read as JavaScript, and what nobody reads is said to be so."""
    assert is_read(language_id) is expected


@given(texts, st.sampled_from(LANGUAGES))
@example('R"x(\n)x"\'\n', "cpp")
@example("`${`\n`", "javascript")
def test_lines_cover_any_text(text: str, language_id: str) -> None:
    """Every text has lines that begin where the one before ended."""
    lines = read_lines(text, language_id)
    assert lines[0].start == 0
    assert lines[-1].end == len(text)
    for line, following in pairwise(lines):
        assert LINE_END.fullmatch(text[line.end : following.start])


@given(texts, texts, st.sampled_from(LANGUAGES))
def test_lines_stand_while_text_is_added_below(text: str, added: str, language_id: str) -> None:
    """What a line is, only the lines above it decide."""
    before = read_lines(text + "\n", language_id)[:-1]
    assert read_lines(text + "\n" + added, language_id)[: len(before)] == before


@given(texts, st.sampled_from(["python", *LANGUAGES]))
def test_a_scan_from_outside_ends_as_the_whole(text: str, language_id: str) -> None:
    """What stands above a line that begins in nothing decides nothing below it."""
    whole = scan(text, language_id)
    for start in whole.outside:
        part = scan(text[start:], language_id)
        assert (part.place, part.n_open_brackets) == (whole.place, whole.n_open_brackets)
