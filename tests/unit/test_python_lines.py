"""The scanner's lines, on hand-written code, on any text, and against ``tokenize``."""

import io
import sysconfig
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsp_server.positions import LINE_END
from lsp_server.python_lines import Line, LineKind, Place, scan, width_of

LETTERS = {
    LineKind.BLANK: ".",
    LineKind.COMMENT: "#",
    LineKind.CODE: "x",
    LineKind.INSIDE: "i",
}
# All that means something to the scanner, and some that means nothing.
ALPHABET = "ab#\"'()[]{}\\ \t\f\n\r:@é😀"
texts = st.text(st.sampled_from(ALPHABET), max_size=40) | st.lists(
    st.sampled_from(
        ["'''", '"""', "def ", "return", "\\\n", "(\n", "# a\n", "x\n", "\r\n", "'"]
    )
).map("".join)
STDLIB = Path(sysconfig.get_path("stdlib"))
MODULES = [
    *("abc", "argparse", "ast", "bdb", "calendar", "cmd", "code", "codecs", "copy", "csv"),
    *("dataclasses", "difflib", "dis", "enum", "functools", "heapq", "inspect", "textwrap"),
    *("tokenize", "typing"),
]

_NO_STATEMENT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}


def read_lines(text: str) -> list[Line]:
    """Return the lines of a scan."""
    return scan(text).lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "."),
        ("x = 1\n", "x."),
        ("# a\n  # b\n\n\t\n", "##..."),
        ("x = 1  # trailing\n", "x."),
        ("f(\n  # inside\n  1,\n)\ny\n", "xiiix."),
        ("x = '''\n# text\n\n'''\ny", "xiiix"),
        ('"""\n# text\n"""\n# c', "xii#"),
        ("x = 1 + \\\n  # not own\ny", "xix"),
        ("x = 'a\\\n# text'\ny", "xix"),
        ("x = 'never closed\n# c", "x#"),
        ("x = '#'\n# c", "x#"),
        ("x = r'\\'\n# in a string'\n", "x#."),
        ("x = ''\n# c", "x#"),
        ("x = '''a''' '# b'\n# c", "x#"),
        ("f(\n\ndef g():\n  # c\n", "xix#."),
        ("f(\nx = [\nimport a\n# c", "xix#"),
        ("f(\n@wraps\n# c", "xx#"),
        ("f(\n  a\n  @ b\n)\n", "xiii."),
        ("f(\n  return_type=1,\n  class_=2,\n)\n", "xiii."),
        ("f(\nreturn", "xi"),
        ("x)\n# c", "x#"),
        ("# a\r\n# b\r# c", "###"),
        ("x\f\n# a\f\n# b", "x##"),
        ("\f# a\n", "#."),
        ("a\v# no\u2028# line\n", "x."),
    ],
)
def test_kinds(text: str, expected: str) -> None:
    """A comment is a line of its own outside strings, brackets and joined lines."""
    assert "".join(LETTERS[line.kind] for line in read_lines(text)) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x = ", Place.CODE),
        ("# a", Place.COMMENT),
        ("x  # a", Place.COMMENT),
        ("# a\n", Place.CODE),
        ("x = 'a", Place.STRING),
        ("x = 'a'", Place.CODE),
        ("x = 'a\\'", Place.STRING),
        ("x = 'a\\", Place.STRING),
        ("x = 'a\\\n", Place.STRING),
        ("x = 'a\n", Place.CODE),
        ("x = ''", Place.CODE),
        ("x = '''", Place.STRING),
        ('"""a\n# b', Place.STRING),
        ('"""a""', Place.STRING),
        ('"""a"""', Place.CODE),
        ('"""a\\"""', Place.STRING),
        ('"""a\\', Place.STRING),
        ("x = '\"'", Place.CODE),
        ("f'{x[", Place.STRING),
        ("x = \\", Place.CODE),
    ],
)
def test_place_at_the_end(text: str, place: Place) -> None:
    """The place of the cursor is right after escaped quotes and half-typed strings too."""
    assert scan(text).place is place


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(", 1),
        ("f([", 2),
        ("f(a[1])", 0),
        ("f('('", 1),
        ("f(\nreturn 1", 0),
        ("))", 0),
        ("f(\n\n# a", 0),
        ("f(\n\nx = 1", 0),
        ("f(\n\nx: int = 1", 0),
        ("f(\n \nx.y += 1", 0),
        ("f(\n\nif x", 0),
        ("f(\n# a", 1),
        ("f(\n\n    # a", 1),
        ("f(\n\nx=1", 1),
        ("f(\n\nx == 1", 1),
        ("f(\n\nx", 1),
        ("f(\n\n)", 0),
    ],
)
def test_open_brackets(text: str, expected: int) -> None:
    """Brackets count outside strings and until a statement shows them forgotten."""
    assert scan(text).n_open_brackets == expected


@pytest.mark.parametrize(
    ("indent", "expected"), [("", 0), ("    ", 4), ("\t", 8), ("  \t", 8), ("\f  ", 2)]
)
def test_width_of(indent: str, expected: int) -> None:
    """Tabs go to multiples of eight and form feeds are no column, as in Python."""
    assert width_of(indent) == expected


def test_content_is_the_code_of_a_line() -> None:
    """A line's content has neither its indentation nor its comment."""
    lines = read_lines("\tif x:  # why\n\t\ty = '#' \\\n  # c\n")
    assert [line.content for line in lines] == ["if x:", "y = '#' \\", "", ""]
    assert [line.indent for line in lines] == ["\t", "\t\t", "  ", ""]


@given(texts)
@example("x = 'a\\\r'")
@example("\\\r\n\\")
def test_lines_cover_any_text(text: str) -> None:
    """Every text has lines that begin where the one before ended."""
    lines = read_lines(text)
    assert lines[0].start == 0
    assert lines[-1].end == len(text)
    for line, following in pairwise(lines):
        between = text[line.end : following.start]
        assert LINE_END.fullmatch(between), (line, following)
    for line in lines:
        assert LINE_END.search(text[line.start : line.end]) is None
        assert text[line.start : line.end].startswith(line.indent)


@pytest.mark.parametrize("name", MODULES)
def test_agrees_with_tokenize(name: str) -> None:
    """On valid code the comments and inner lines are those of Python's own tokenizer."""
    text = (STDLIB / f"{name}.py").read_text(encoding="utf-8")
    comments: set[int] = set()
    inside: set[int] = set()
    statement_row = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row = token.start[0]
        if token.type == tokenize.COMMENT and not statement_row:
            comments.add(row)
        elif token.type == tokenize.NEWLINE:
            inside.update(range(statement_row + 1, row + 1))
            statement_row = 0
        elif token.type not in _NO_STATEMENT:
            statement_row = statement_row or row
    kinds = {row: line.kind for row, line in enumerate(read_lines(text), 1)}
    assert {row for row in kinds if kinds[row] is LineKind.COMMENT} == comments
    assert {row for row in kinds if kinds[row] is LineKind.INSIDE} == inside
