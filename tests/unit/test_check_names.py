"""Undefined names, judged by a tree of which most is left out."""

import argparse
import ast
import dataclasses
import logging
import typing
from pathlib import Path
from types import ModuleType

import pytest
from pyflakes import checker, messages

from lsp_server.check_buffer import CheckedBuffer, parse
from lsp_server.check_names import undefined_names
from lsp_server.verdict import CheckRequest

_N_STATEMENTS = 8


def _undefined(text: str, start: int, end: int) -> set[str]:
    request = CheckRequest(text[:start] + text[end:], start, text[start:end])
    buffer = CheckedBuffer(request)
    tree = parse(text)
    assert isinstance(tree, ast.Module)
    problems, _ = undefined_names(tree, buffer, lambda: pytest.fail("jedi was asked"))
    return {problem.message.split("'")[1] for problem in problems}


@pytest.mark.parametrize(
    ("marked", "undefined"),
    [
        ("def f():\n    global x\n    x = 1\n$0print(x)$0\n", set()),
        ("class A:\n    def f(self):\n        global x\n        x = 1\n$0print(x)$0\n", set()),
        ("def f():\n    x = 1\n$0print(x)$0\n", {"x"}),
        ("class A:\n    x = 1\n$0print(x)$0\n", {"x"}),
        ("class A:\n    x = 1\n    $0y = x$0\n", set()),
        ("class A:\n    x = 1\n    def f(self):\n        $0return x$0\n", {"x"}),
        ("def f():\n    x = 1\n    def g():\n        $0return x$0\n    return g\n", set()),
        ("def f():\n    def g():\n        y = 1\n    $0return y$0\n", {"y"}),
        ("def f():\n    $0return x$0\nx = 1\n", set()),
        ("if (x := 1):\n    pass\n$0print(x)$0\n", set()),
        ("@$0gone$0\ndef f():\n    pass\n", {"gone"}),
        ("@$0gone\n@also$0\ndef f():\n    pass\n", {"gone", "also"}),
        ("def f(\n    a=$0gone$0,\n):\n    pass\n", {"gone"}),
        ("x = 1\n$0def f():\n    return x, y$0\n", {"y"}),
        ("for x in ():\n    def f():\n        pass\nelse:\n    $0print(x, y)$0\n", {"y"}),
        ("match 1:\n    case x:\n        $0print(x, y)$0\n", {"y"}),
        ("try:\n    pass\nexcept OSError as e:\n    $0print(e, y)$0\n", {"y"}),
    ],
)
def test_what_is_left_out_binds_nothing_that_is_seen(marked: str, undefined: set[str]) -> None:
    """Bodies of other functions and classes matter only where they bind names outside."""
    before, written, after = marked.split("$0")
    text = before + written + after
    assert _undefined(text, len(before), len(before + written)) == undefined


@pytest.mark.parametrize("module", [argparse, dataclasses, logging, typing])
def test_the_whole_file_has_the_same_undefined_names(module: ModuleType) -> None:
    """Whatever is new, pyflakes says as much of it when it reads all of the file."""
    source = Path(str(module.__file__)).read_text("utf-8")
    statements = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Return) and node.value
    ]
    for node in statements[:: len(statements) // _N_STATEMENTS + 1]:
        assert node.value is not None
        lines = source.splitlines(keepends=True)
        start = len("".join(lines[: node.lineno - 1])) + node.col_offset
        end = start + len(ast.get_source_segment(source, node) or "")
        text = source[:start] + "return gone_since, " + source[start + len("return ") :]
        tree = ast.parse(text)
        whole = {
            str(message.message_args[0])
            for message in checker.Checker(tree).messages
            if isinstance(message, messages.UndefinedName) and message.lineno == node.lineno
        }
        assert "gone_since" in whole
        assert _undefined(text, start, end + len("gone_since, ")) == whole
