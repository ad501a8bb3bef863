"""Which comments are turns, how far their programs reach, and what their words are."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.turns import read_turns, turn_at

LICENCE = "# Copyright 2024 Somebody\n# All rights reserved.\n"
METADATA = '# /// script\n# requires-python = ">=3.11"\n# ///\n'
FRAGMENTS = (
    *("# Do it.\n", "    # Do that.\n", "# one\n# two\n", "\t# Tab.\n", "#\n", "## a\n"),
    *("x = 1\n", "def f():\n", "    return 1\n", "\n", "  \n", "\r\n", "\f\n"),
    *("'''\n", '"""', "f(\n", ")\n", "\\\n", "# %%\n", "# ----\n", "# x = 1\n", "x  # t\n"),
    *("#!/bin/sh\n", "# coding: utf-8\n", "# type: ignore\n", LICENCE, METADATA, "# 😀"),
)
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=12).map("".join)


def prompts(text: str) -> list[str]:
    """Return the prompts of a text's turns."""
    return [turn.prompt for turn in read_turns(text)]


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


_HOSTILE = r"""
from lsp_server.turns import read_turns
n = 1 << 19
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
):
    read_turns(text)
"""


def test_hostile_texts_are_read_in_linear_time() -> None:
    """Half a megabyte of what makes patterns go back and forth takes seconds, not hours."""
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
        assert text[turn.start :].startswith(turn.indent + "#")
        assert turn.has_program or not text[turn.prompt_end : turn.end].strip()


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
