"""The buffer with a completion in it, and which part of it is new.

It knows Python's own parser and no analyser.
"""

import ast
import re
import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from functools import cached_property

from lsp_server.positions import LINE_END, position_at
from lsp_server.verdict import CheckRequest, Fault, Problem

# CPython's PyCF_ALLOW_INCOMPLETE_INPUT, which its own codeop uses.
_ALLOW_INCOMPLETE_INPUT = 0x4000
_IPYTHON_NAMES = ("display", "get_ipython", "In", "Out", "_", "__", "___", "_dh", "_ih", "_oh")


class CheckedBuffer:
    """The text of a file after the insertion; offsets are in it."""

    def __init__(self, request: CheckRequest) -> None:
        """Insert the text."""
        self.path = request.path or "(none)"
        self.start = request.offset
        self.end = request.offset + len(request.insert_text)
        self.text = (
            request.text[: self.start] + request.insert_text + request.text[self.start :]
        )
        # A stub may use names before it defines them.
        self.may_define_later = (request.path or "").endswith(".pyi")
        """Whether the text after the new one may define its names."""
        self.builtins = _IPYTHON_NAMES if (request.path or "").endswith(".ipynb") else None
        """Names that are there and that nobody defines."""
        ends = [match.end() for match in LINE_END.finditer(self.text)]
        self._line_starts = [0, *ends]

    @cached_property
    def old_text(self) -> str:
        """The text that was there before, with a gap where the new one is."""
        return f"{self.text[: self.start]}\n\n{self.text[self.end :]}"

    def place(self, lineno: int, utf8_column: int) -> tuple[int, int]:
        """Return the line and the character, as jedi counts, of the parser's position."""
        offset = self.offset(lineno, utf8_column)
        return lineno, offset - self._line_starts[min(lineno, len(self._line_starts)) - 1]

    def offset(self, lineno: int, utf8_column: int) -> int:
        """Return the offset of a position of Python's parser: 1-based line, bytes."""
        start = self._line_starts[min(lineno, len(self._line_starts)) - 1]
        line = self.text[start : start + utf8_column]
        column = line.encode("utf-8", "replace")[:utf8_column]
        return start + len(column.decode("utf-8", "ignore"))

    def is_new(self, offset: int) -> bool:
        """Tell whether a name that starts at the offset reaches into the new text."""
        if self.start <= offset < self.end:
            return True
        # Of a name that was half typed only the end is new.
        head = self.text[offset : self.start]
        return offset < self.start and head.isidentifier()

    def new_nodes(self, tree: ast.AST) -> Iterator[ast.AST]:
        """Yield what reaches into the lines of the new text, after what it stands in."""
        waiting = deque([tree])
        while waiting:
            node = waiting.popleft()
            yield node
            waiting += filter(self.reaches_new_lines, ast.iter_child_nodes(node))

    def reaches_new_lines(self, node: ast.AST) -> bool:
        """Tell whether a node, or something in it, may stand on a line of the new text."""
        first, last = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
        if first is None or last is None:
            return True
        decorators = getattr(node, "decorator_list", [])
        first = min([first, *(decorator.lineno for decorator in decorators)])
        new_first, new_last = self._new_lines
        return bool(first <= new_last and last >= new_first)

    @cached_property
    def _new_lines(self) -> tuple[int, int]:
        """The first and the last line of the new text, from 1."""
        starts = self._line_starts
        return bisect_right(starts, self.start), bisect_right(starts, self.end)

    def touches_new_text(self, node: ast.expr) -> bool:
        """Tell whether a node and the new text overlap."""
        assert node.end_lineno is not None and node.end_col_offset is not None  # noqa: S101, PT018
        return (
            self.offset(node.lineno, node.col_offset) < self.end
            and self.offset(node.end_lineno, node.end_col_offset) > self.start
        )

    def reaches_new_text(self, error: SyntaxError) -> bool:
        """Tell whether an error is the new text's, and not one of the code before it."""
        if is_incomplete(error):
            return False
        line, column = error.lineno or 1, error.offset or 1
        if error.end_lineno and error.end_offset and error.end_offset > 0:
            line, column = error.end_lineno, error.end_offset
        elif isinstance(error, IndentationError):
            # Python only tells the line.
            start = self._offset_in(line, 1)
            code = self.text[start:].lstrip(" \t\f")
            return self.start <= len(self.text) - len(code)
        return self.start < self._offset_in(line, column)

    def syntax_problem(self, error: SyntaxError) -> Problem:
        """Return the problem that an error of Python's parser is."""
        offset = self._offset_in(error.lineno or 1, 1)
        return self.problem(offset, Fault.SYNTAX, f"the code does not parse: {error.msg}")

    def _offset_in(self, lineno: int, column: int) -> int:
        """Return the offset of a 1-based line and character."""
        line = min(lineno, len(self._line_starts)) - 1
        return self._line_starts[line] + max(0, column - 1)

    def code_of(self, node: ast.stmt) -> str:
        """Return the lines that a statement stands on, without its decorators."""
        start, last = self._line_starts[node.lineno - 1], node.end_lineno or node.lineno
        is_followed = last < len(self._line_starts)
        return self.text[start : self._line_starts[last] if is_followed else len(self.text)]

    def mentions_later(self, name: str) -> bool:
        """Tell whether the text after the new one has a name that it may define."""
        return (
            self.may_define_later
            and re.search(rf"\b{re.escape(name)}\b", self.text[self.end :]) is not None
        )

    def problem(self, offset: int, code: str, message: str) -> Problem:
        """Return a problem at an offset."""
        line, character = position_at(self.text, min(offset, len(self.text)))
        return Problem(line, character, code, message)


def is_incomplete(error: SyntaxError) -> bool:
    """Tell whether a text that may go on only lacks its end."""
    return "incomplete input" in error.msg


def parse(text: str, *, may_go_on: bool = False) -> ast.Module | SyntaxError | None:
    """Return the tree, why there is none, or None where Python itself gives up.

    With ``may_go_on`` a text that only lacks its end fails with "incomplete input".
    """
    flags = ast.PyCF_ONLY_AST | (_ALLOW_INCOMPLETE_INPUT if may_go_on else 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = compile(text, "<buffer>", "exec", flags)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.Module) else None
