"""Which comments are turns, how far their programs reach, and what their words are."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.python_lines import LineKind
from lsp_server.python_lines import scan as scan_python
from lsp_server.turns import read, read_turns, turn_at

LICENCE = "# Copyright 2024 Somebody\n# All rights reserved.\n"
METADATA = '# /// script\n# requires-python = ">=3.11"\n# ///\n'
FRAGMENTS = (
    *("# Do it.\n", "    # Do that.\n", "# one\n# two\n", "\t# Tab.\n", "#\n", "## a\n"),
    *("x = 1\n", "def f():\n", "    return 1\n", "\n", "  \n", "\r\n", "\f\n"),
    *("'''\n", '"""', "f(\n", ")\n", "\\\n", "# %%\n", "# ----\n", "# x = 1\n", "x  # t\n"),
    *("#!/bin/sh\n", "# coding: utf-8\n", "# type: ignore\n", LICENCE, METADATA, "# 😀"),
)
DOCSTRINGS = ('    """Doc."""\n', "  r'doc'\n", '\t"""Two\n\tlines.\n\t"""\n', "class A:\n")
BLOCKS = (
    *("\n\n", "\n\nx = 1\n", "\n\n# Do it.\n", "\n\ndef f():\n", "\n\n    def g(self):\n"),
    *(
        "\n\n\t@a\n",
        "\n\n    # Do that.\n",
        '    """Two\n\nlines."""\n',
        "'a\\\n",
        "(",
        "\n\n)",
    ),
)
SLASHED_FRAGMENTS = (
    *("// Do it.\n", "    // Do that.\n", "/* One\n * two. */\n", "/**\n * One.\n */\n"),
    *("x = 1;\n", "void f() {\n", "    g();\n", "}\n", "\n", "  \n", "\r\n", "\r", "(", ")"),
    *(
        "/*",
        "*/",
        "'",
        '"',
        "`",
        '"""',
        "${",
        "\\\n",
        "#if A\n",
        "// ----\n",
        "//\n",
        "// x;\n",
    ),
    *(
        "//go:build a\n",
        "// eslint-disable\n",
        "//#region\n",
        "\0",
        "\f",
        "\u2028",
        "// 😀",
        "{",
    ),
)
LANGUAGES = ["python", "c", "cpp", "go", "java", "javascript"]
texts = st.lists(
    st.sampled_from(FRAGMENTS + DOCSTRINGS) | st.text(max_size=6), max_size=12
).map("".join)
texts_of_blocks = st.lists(st.sampled_from(FRAGMENTS + DOCSTRINGS + BLOCKS), max_size=16).map(
    "".join
)
slashed_texts = st.lists(
    st.sampled_from(SLASHED_FRAGMENTS) | st.text(max_size=6), max_size=12
).map("".join)


def prompts(text: str, language_id: str = "python") -> list[str]:
    """Return the prompts of a text's turns."""
    return [turn.prompt for turn in read_turns(text, language_id)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Do it.", ["Do it."]),
        ("#Do it.\nx = 1\n", ["Do it."]),
        ("# One\n# and two.\nx = 1\n", ["One\nand two."]),
        ("# One\n\n# Two\n", ["One", "Two"]),
        ("# One\n  # Two\n", ["One", "Two"]),
        ("# One\n#\n# Two\n", ["One\n\nTwo"]),
        ("## Title\n", ["Title"]),
        ("#: Documents x.\n", ["Documents x."]),
        ("#### Title\n", ["Title"]),
        ("#   Deep.\n", ["  Deep."]),
        ("\t# Tab.\n", ["Tab."]),
        ("# One\r\n# Two\r\nx\r\n", ["One\nTwo"]),
        ("f(\n  # no\n)\n# Yes.\n", ["Yes."]),
        ("x = '''\n# no\n'''\n# Yes.\n", ["Yes."]),
        ("x = 1 + \\\n# no\n\n# Yes.\n", ["Yes."]),
        ("x = 'never closed\n# Yes.\n", ["Yes."]),
        ("print(\n\nimport os\n# Yes.\n", ["Yes."]),
        ("# return result\nx = 1\n", ["return result"]),
        ("# import libraries\n", ["import libraries"]),
        ("# Print a row of ---- marks.\n", ["Print a row of ---- marks."]),
        ("# Type: the kind of a token.\n", ["Type: the kind of a token."]),
        ("data = load(\n\n# Sort.\n\n# Print.\n\n", ["Sort.", "Print."]),
        ("data = load(\n\nx = 1\n# Print.\n", ["Print."]),
        ("f(\n\n    # no\n    a,\n)\n# Yes.\n", ["Yes."]),
        ("f(\n\n    x=1,\n# no\n)\n# Yes.\n", ["Yes."]),
        ("if a:\n    b\n# Otherwise.\nelse:\n    c\n", []),
        ("if a:\n    b\n# Otherwise.\n\nelse:\n    c\n", []),
        ("if a:\n    b\n    # Do it.\nelse:\n    c\n", ["Do it."]),
        ("try:\n    b\n# It fails.\nexcept E:\n    c\n# In the end.\nfinally:\n    d\n", []),
        ("match a:\n    # One.\n    case 1:\n        b\n", []),
        ("# Both.\nelsewhere = 1\n", ["Both."]),
        ("# from here import it\n", []),
        ("x = 1  # trailing\n", []),
        ("", []),
    ],
)
def test_prompts(text: str, expected: list[str]) -> None:
    """Adjacent own-line comments of one indentation are one prompt."""
    assert prompts(text) == expected


@pytest.mark.parametrize(
    "comment",
    [
        "#!/usr/bin/env python",
        "# -*- coding: utf-8 -*-",
        "# vim: set fileencoding=utf-8 :",
        "# type: ignore",
        "# noqa: E501",
        "# pragma: no cover",
        "# pylint: disable=all",
        "# fmt: off",
        "# ruff: noqa",
        "# flake8: noqa",
        "# %%",
        "# %% Load",
        "# In [3]:",
        "# region Helpers",
        "#endregion",
        "# ---- Helpers ----",
        "# ----------\n# Helpers\n# ----------",
        "##########\n# Helpers\n##########",
        "##########",
        "# Helpers ----",
        "# ===========",
        "#",
        "# ...",
        "# x = compute(1)",
        "# print(x)",
        "# import os.path",
        "# for x in y:",
        "# if x:\n#     y = 1",
        "# re.compile('\\d')",
        "# import numpy as np",
        "# from os import path",
        "# else:",
        "# else:\n#     foo()",
        "# elif x > 1:\n#     foo()",
        "# except ValueError:\n#     pass",
        *("# cspell: words foo", "# codespell:ignore", "# pyre-strict", "# autopep8: off"),
        *("# doctest: +SKIP", "# codegen: off"),
        METADATA.rstrip(),
    ],
)
def test_comments_that_are_no_turns(comment: str) -> None:
    """Comments for tools, banners, cell marks and commented-out code state no step."""
    assert prompts(f"{comment}\nx = 1\n") == []


@pytest.mark.parametrize(
    "header",
    [
        LICENCE,
        "# SPDX-License-Identifier: MIT\n",
        "# Licensed under the Apache License, Version 2.0\n",
        "# This file is part of X; see the LICENSE file.\n",
        "#!/usr/bin/python\n# Copyright (c) 2020\n",
    ],
)
def test_a_licence_is_no_turn_at_the_top_alone(header: str) -> None:
    """The header of a file is none; below code its words are like any others."""
    assert prompts(header + "\n# Do it.\n") == ["Do it."]
    assert len(prompts("x = 1\n" + header.replace("#!", "# "))) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "Import libraries.",
        "Done",
        "Note: this is prose",
        "Typed words, not a type.",
        "Return the result",
        "Read the licence plates from the file.",
        "Region growing from a seed.",
        "Format x as f'{x}'.",
        "a.b",
        "用中文写",
    ],
)
def test_prose_is_a_turn(prompt: str) -> None:
    """Words that look a little like code, a mark or a licence still are a prompt."""
    assert prompts(f"# {prompt}\n") == [prompt]


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ("# A\n", [""]),
        ("# A", [""]),
        ("# A\n\n\t\n", ["\n\t\n"]),
        ("# A\nx = 1\n", ["x = 1\n"]),
        ("# A\nx = 1\n# B\ny = 2\n", ["x = 1\n", "y = 2\n"]),
        ("# A\n\nx = 1\n\ny = 2\n", ["\nx = 1\n\ny = 2\n"]),
        ("def f():\n    # A\n    x\n\ny\n", ["    x\n\n"]),
        ("def f():\n    # A\n\ny\n", ["\n"]),
        ("# A\nif x:\n    # B\n    y\nz\n", ["if x:\n    # B\n    y\nz\n", "    y\n"]),
        ("# A\nif x:\n    # B\n    y\n# C\n", ["if x:\n    # B\n    y\n", "    y\n", ""]),
        ("  # A\n  x\n# B\n", ["  x\n", ""]),
        ("# A\nx\n# %%\ny\n", ["x\n"]),
        ("# A\nx\n# ------\ny\n", ["x\n"]),
        ("# A\n# noqa\nx\n", ["# noqa\nx\n"]),
        ("# A\n\n# x = 1\ny\n", ["\n# x = 1\ny\n"]),
        ("\t# A\n\tx\n        y\nz\n", ["\tx\n        y\n"]),
        ("    # A\n    f('''\nx\n''')\n    y\nz\n", ["    f('''\nx\n''')\n    y\n"]),
        ("# A\r\nx\r\n# B\r\n", ["x\r\n", ""]),
    ],
)
def test_programs(text: str, programs: list[str]) -> None:
    """A program ends at the next comment of its scope or an outer one, or with the scope."""
    turns = read_turns(text)
    assert [text[turn.prompt_end : turn.end] for turn in turns] == programs
    assert [turn.has_program for turn in turns] == [bool(p.strip()) for p in programs]


def test_spans_are_the_words() -> None:
    """The spans point at the prompt's words, without marks and trailing spaces."""
    text = "x = 1\n    # One two  \r\n    ## three 😀\n    #\n    y\n"
    (turn,) = read_turns(text)
    words = [text[start:end] for start, end in turn.prompt_spans]
    assert words == ["One two", "three 😀", ""]
    assert (turn.start, turn.indent, turn.prompt) == (6, "    ", "\n".join(words))


@pytest.mark.parametrize(
    ("offset", "prompt"),
    [(0, None), (4, "A"), (12, "A"), (18, "B"), (24, "B"), (26, None), (28, "C"), (29, "C")],
)
def test_turn_at_is_the_innermost(offset: int, prompt: str | None) -> None:
    """The cursor answers the innermost turn whose program it stands in."""
    text = "# A\nif x:\n    # B\n    y\n# C\nz"
    turn = turn_at(read_turns(text), offset)
    assert (turn.prompt if turn else None) == prompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('def f():\n    """Do it."""\n', [("Do it.", False)]),
        ('def f():\n    """Do it."""\n\n\nx = 1\n', [("Do it.", False)]),
        ('def f():\n    """Do it."""\n    return 1\n', [("Do it.", True)]),
        ('def f():\n    """Do it."""\n    ...\n', [("Do it.", True)]),
        ('def f():\n    """Do it."""\n    pass\n', [("Do it.", True)]),
        ("async def f(\n    x: int,\n) -> int:\n    'Do it.'  # noqa\n", [("Do it.", False)]),
        ('class A:\n\n    r"""\n    One\n\n    two.\n    """\n', [("One\n\ntwo.", False)]),
        (
            'class A:\n    """A."""\n\n    def f(self):\n        """F."""\n',
            [("A.", True), ("F.", False)],
        ),
        (
            '# A\ndef f():\n    """Do it."""\n# B\n',
            [("A", True), ("Do it.", False), ("B", False)],
        ),
        ('def f():\n    """Do it."""\n    x\n    # B\n', [("Do it.", True), ("B", False)]),
        ('def f():\n    """Do it."""\n    # The step.\n    x\n', [("The step.", True)]),
        ('def f():\r\n    """Do it."""\r\n', [("Do it.", False)]),
        ('"""A module."""\n', []),
        ('def f():\n    x = """Data."""\n', []),
        ('def f():\n    """Do it.""" + x\n', []),
        ('def f():\n    """Do it.""" "again"\n', []),
        ('def f():\n    b"""Do it."""\n', []),
        ('def f():\n    """ """\n', []),
        ('def f():\n    """Do it.\n', []),
        ('def f(): """Do it."""\n', []),
        ('def f():\n"""Do it."""\n', []),
        ('if x:\n    """Do it."""\n', []),
    ],
)
def test_docstrings(text: str, expected: list[tuple[str, bool]]) -> None:
    """A docstring is a prompt unless comments below it are; ``...`` is a program."""
    assert [(turn.prompt, turn.has_program) for turn in read_turns(text)] == expected


def test_the_program_of_a_docstring() -> None:
    """It is the body below, indented as the docstring, to the scope's end."""
    text = 'def f():\n    """One\n    two.\n    """\n    x\n\ny\n'
    (turn,) = read_turns(text)
    assert [text[start:end] for start, end in turn.prompt_spans] == ["One", "two."]
    assert text[turn.prompt_end : turn.end] == "    x\n\n"
    assert (text[turn.start :].index('"'), turn.indent) == (4, "    ")


C_FILE = """\
/* Copyright 2024 Somebody. All rights reserved. */
#include <stdio.h>

/*
 * Add two numbers.
 */
int add(int a, int b)
{
    // NOLINTNEXTLINE
    // Return the sum.
    return a + b; /* trailing */
}

// ---- Main ----

int main(void) {
    // printf("old");

    // Print the sum of 1 and 2.

}
"""
CPP_FILE = """\
// Holds points.
class Points {
public:
    /// Add a point.
    void add(Point p) { points_.push_back(p); }

private:
    std::vector<Point> points_ = {
        // Data, no step.
        {1, 2},
    };
};
"""
GO_FILE = """\
//go:build linux

// Package main counts words.
package main

import (
\t// For reading.
\t"bufio"
)

// count returns the number of words.
func count(s string) int {
\tif s == "" {
\t\t// Nothing to count.
\t\treturn 0
\t}
\t//nolint:gosec
\t// Split at `spaces`.
\treturn len(strings.Fields(s))
}
"""
JAVA_FILE = """\
package a;

/**
 * Counts words.
 * @see {@link String}
 */
public class Counter {
    // private int old;

    // Count the words of a text.
    int count(String text) {
        String s = \"\"\"
            // No step.
            \"\"\";
        //
        /* Split it. */
    }
}
"""
JAVASCRIPT_FILE = """\
/* eslint-env node */
// @ts-check
'use strict';

// Read the file
// and split it.
const lines = read().split(/['"]/);

describe('lines', () => {
  // They are many.
  it('counts', () => { check(lines); });
  // console.log(lines)
});

//#region Rest
// Write `them`.
"""


@pytest.mark.parametrize(
    ("language_id", "text", "expected"),
    [
        (
            "c",
            C_FILE,
            [
                ("Add two numbers.", "int add", "}\n\n"),
                ("Return the sum.", "    return a", "trailing */\n"),
                ("Print the sum of 1 and 2.", "\n", "\n"),
            ],
        ),
        (
            "cpp",
            CPP_FILE,
            [
                ("Holds points.", "class Points {", "};\n"),
                ("Add a point.", "    void add", "push_back(p); }\n\n"),
            ],
        ),
        (
            "go",
            GO_FILE,
            [
                ("Package main counts words.", "package main", ")\n\n"),
                ("count returns the number of words.", "func count", "}\n"),
                ("Nothing to count.", "\t\treturn 0", "return 0\n"),
                ("Split at `spaces`.", "\treturn len", "(s))\n"),
            ],
        ),
        (
            "java",
            JAVA_FILE,
            [
                ("Counts words.\n@see {@link String}", "public class", "}\n"),
                ("Count the words of a text.", "    int count", "    }\n"),
                ("Split it.", "", ""),
            ],
        ),
        (
            "typescript",
            JAVASCRIPT_FILE,
            [
                ("Read the file\nand split it.", "const lines", "});\n\n"),
                ("They are many.", "  it(", "console.log(lines)\n"),
                ("Write `them`.", "", ""),
            ],
        ),
    ],
)
def test_turns_of_other_languages(
    language_id: str, text: str, expected: list[tuple[str, str, str]]
) -> None:
    """Files as people write them have the turns that people see in them."""
    turns = read_turns(text, language_id)
    assert [turn.prompt for turn in turns] == [prompt for prompt, _, _ in expected]
    for turn, (_, start, end) in zip(turns, expected, strict=True):
        program = text[turn.prompt_end : turn.end]
        assert program.startswith(start)
        assert program.endswith(end)
        assert turn.has_program is bool(program.strip())


@pytest.mark.parametrize(
    "comment",
    [
        *("// eslint-disable-next-line", "/* eslint no-console: 0 */", "// @ts-ignore"),
        *("// NOLINT(foo)", "// clang-format off", "//go:generate stringer", "// +build linux"),
        *("//nolint:all", "// prettier-ignore", "/* istanbul ignore next */", "// #region A"),
        *("// region A", "//endregion", "// MARK: - A", "// ---- A ----", "//////////\n// A"),
        *(
            "/*********\n * A\n *********/",
            "/* ==== A ==== */",
            "//",
            "/**/",
            "/***/",
            "// ...",
        ),
        *(
            "// x = 1;",
            "// if (x) {",
            "// }",
            "// f(x)",
            "/* a.b(c);\n   d(); */",
            "/** @ts-check */",
        ),
        *("// cspell:ignore foo", "// codegen: off", "// Last.\nelse {"),
        *("// One.\ncase 1:", "// Not that.\ndefault:", "// Failed.\n} catch (e) {"),
    ],
)
def test_slashed_comments_that_are_no_turns(comment: str) -> None:
    """Comments for tools, banners, marks and commented-out code state no step here either."""
    assert prompts(f"x = 1;\n{comment}\ny = 2;\n", "javascript") == []


@pytest.mark.parametrize(
    ("comment", "prompt"),
    [
        ("//Do it.", "Do it."),
        ("/// Do it.", "Do it."),
        ("//! Do it.", "Do it."),
        ("/* Do it. */", "Do it."),
        ("/** Do it.\n    and that */", "Do it.\nand that"),
        ("/*\n  One\n\n  two\n*/", "One\n\ntwo"),
        ("/* Do * it */", "Do * it"),
        ("// Call f(x) twice", "Call f(x) twice"),
        ("// Lint the file", "Lint the file"),
        ("// Export the table", "Export the table"),
        ("/* Never closed", "Never closed"),
        ("// Do it.\r\n// Then that.\r", "Do it.\nThen that."),
    ],
)
def test_slashed_prompts(comment: str, prompt: str) -> None:
    """Line comments, blocks and documentation all state steps in words without marks."""
    assert prompts(f"x = 1;\n\n{comment}\n", "cpp") == [prompt]


def test_a_licence_of_any_language() -> None:
    """The header of a file is no turn, and the comment below it is one."""
    text = "/*\n * Licensed under the Apache License.\n */\n\n// Do it.\n"
    assert prompts(text, "java") == ["Do it."]


def test_unknown_languages_have_no_turns() -> None:
    """Nobody knows what a comment is there."""
    assert prompts("# Do it.\n// Do it.\n", "ruby") == []


_HOSTILE = r"""
from lsp_server.turns import read_turns
n = 1 << 17
for text in (
    "# a" + "-" * n + "b",
    "# " + "- " * n + "b",
    "# a" + "--- " * (n // 4) + "b",
    "#\n" * (n // 4),
    "# \n" * (n // 4) + "# a\n",
    "# a" + " " * n + "b",
    "#" * n + " a",
    "# ///" + " " * n + "b",
    "# ///" + "a" * n + " -",
    "# coding:" * (n // 9),
    "# " + "see the " * (n // 8),
    "# " + "a." * n + "b(",
    "# x = " + "(" * n,
    " " * n + "# a\n" + "# noqa\n" * (n // 8),
    "".join(" " * i + "# a\n" for i in range(1400)) + "# noqa\n" * (n // 8),
    '"' + '\\"' * n,
    "'" * n + "a",
    "f(\n" + "from " * (n // 5),
    "f(\n" + ("from" + " " * 99 + "\n") * (n // 99),
    "\\\n" * (n // 4),
    "def f():\n    \'\'\'" + "\\\\" * n,
    "def f():\n" * (n // 9),
    "def f():\n \'\'\'a\'\'\'\n" * (n // 20) + "\n" * n,
    "x(\n\n" * (n // 4),
    "x(\n\n" * (n // 8) + "def f():\n\n" * (n // 22),
    "\'\'\'\n\nx\n\n" * (n // 8) + "\'\'\'",
):
    read_turns(text)
n >>= 2
for text in (
    "// a" + "-" * n + "b",
    "/* a\n" + " * b\n" * (n // 5),
    "/*" * n,
    "x /* y\n" * (n // 8),
    ("'" + "a b(" * 250 + "\n") * 99,
    ("/" + "a" * 990 + "(" + "\n") * 99,
    '"' + '\\"' * n,
    "`${" * n,
    "{" * n + "}" * n,
    "(\n" * (n // 4) + "x;\n" * (n // 4),
    "// x(" + "(" * n,
    "// " + "{@a " * (n // 4),
    " " * n + "// a",
    "#if A \\\n" * (n // 8),
):
    for language_id in ("c", "java", "javascript"):
        read_turns(text, language_id)
"""


def test_hostile_texts_are_read_in_linear_time() -> None:
    """What makes patterns go back and forth takes seconds for 128 KB, not hours."""
    subprocess.run([sys.executable, "-c", _HOSTILE], check=True, timeout=60)


@given(texts)
def test_any_text_has_turns_in_order(text: str) -> None:
    """However broken a text is, its turns are in order, in range and of its own words."""
    turns = read_turns(text)
    assert [turn.start for turn in turns] == sorted({turn.start for turn in turns})
    for turn in turns:
        assert 0 <= turn.start < turn.prompt_end <= turn.end <= len(text)
        assert turn.prompt.strip()
        assert turn.prompt == "\n".join(text[a:b] for a, b in turn.prompt_spans)
        line = text[turn.start :]
        assert line.startswith(turn.indent)
        assert line[len(turn.indent)] in "#\"'rRuU"
        assert turn.has_program or not text[turn.prompt_end : turn.end].strip()


def _without_blocks(text: str) -> str:
    """Return the text with a space in each blank line, where no block ends then."""
    return re.sub(r"\n(?=\r?\n)", "\n ", text)


@given(texts_of_blocks)
def test_a_text_is_read_in_blocks_as_it_is_at_once(text: str) -> None:
    """Where one block ends and another begins changes no turn."""

    def moved(offset: int) -> int:
        return len(_without_blocks(text[:offset]))

    assert [
        replace(
            turn,
            start=moved(turn.start),
            prompt_end=moved(turn.prompt_end),
            end=moved(turn.end),
            # Where an empty line of words begins is no matter.
            prompt_spans=tuple((moved(a), moved(b)) for a, b in turn.prompt_spans if a < b),
        )
        for turn in read_turns(text)
    ] == [
        replace(turn, prompt_spans=tuple((a, b) for a, b in turn.prompt_spans if a < b))
        for turn in read_turns(_without_blocks(text))
    ]


@given(texts_of_blocks, st.integers(0, 200))
def test_lines_that_begin_outside_are_found_before_any_place(text: str, offset: int) -> None:
    """They are the last ones that the scan of the whole text finds there."""
    reading, lines = read(text), scan_python(text).lines
    outside = [line for line in lines if line.kind is not LineKind.INSIDE]
    starts = [line.start for line in outside if line.start < offset]
    assert reading.line_start_before(offset) == (starts[-1:] or [0])[0]
    statements = [line for line in outside if line.kind is LineKind.CODE and not line.indent]
    starts = [line.start for line in statements if line.start < offset]
    assert reading.statement_start_before(offset) == (starts[-1:] or [0])[0]


@given(texts)
def test_turns_stand_while_text_is_added_below(text: str) -> None:
    """What is appended changes no turn above it, but for the last programs' ends."""
    before = read_turns(text)
    after = read_turns(text + "\n\n\ndef unrelated():\n    return 1\n")
    for old, new in zip(before, after, strict=False):
        assert (old.start, old.prompt_end, old.prompt_spans) == (
            new.start,
            new.prompt_end if old.prompt_end < len(text) else old.prompt_end,
            new.prompt_spans,
        )
        if old.end < len(text):
            assert (old.end, old.has_program) == (new.end, new.has_program)
    assert len(after) >= len(before)


@given(slashed_texts, st.sampled_from(LANGUAGES))
def test_any_text_has_turns_in_every_language(text: str, language_id: str) -> None:
    """Spans lie in the prompt and in order, and prompts never overlap programs."""
    turns = read_turns(text, language_id)
    assert [turn.start for turn in turns] == sorted({turn.start for turn in turns})
    for turn in turns:
        assert 0 <= turn.start < turn.prompt_end <= turn.end <= len(text)
        assert turn.prompt.strip()
        assert turn.prompt == "\n".join(text[a:b] for a, b in turn.prompt_spans)
        bounds = [turn.start, *(at for span in turn.prompt_spans for at in span)]
        assert [*bounds, turn.prompt_end] == sorted([*bounds, turn.prompt_end])
        assert turn.has_program or not text[turn.prompt_end : turn.end].strip()
    for turn, following in pairwise(turns):
        assert turn.prompt_end <= following.start
        assert following.start >= turn.end or following.end <= turn.end


OTHER_SCOPES = {
    "python": ("def f():\n    # A\n    x\n", "def g():\n    # B\n    y = (1)\n"),
    "go": ("func f() {\n\t// A\n\tx\n}\n", "func g() {\n\t// B\n\ty := (1)\n}\n"),
} | dict.fromkeys(
    ("c", "cpp", "java", "javascript"),
    ("void f() {\n  // A\n  x;\n}\n", "void g() {\n  // B\n  y = (1);\n}\n"),
)


@given(st.text(max_size=20), st.sampled_from(LANGUAGES), st.booleans())
def test_turns_stand_while_another_scope_is_edited(
    typed: str, language_id: str, is_above: bool
) -> None:
    """What somebody types in one function changes no turn of a function above it."""
    other, edited = OTHER_SCOPES[language_id]
    (before,) = read_turns(other, language_id)
    below = edited.replace("1", typed)
    after = read_turns(f"{other}\n{below}" if is_above else other + "\n" + typed, language_id)
    assert after[0].start == before.start
    assert (after[0].prompt_spans, after[0].has_program) == (before.prompt_spans, True)
    if is_above or language_id != "python":
        assert after[0].end <= len(other) + 1
