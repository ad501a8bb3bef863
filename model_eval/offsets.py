"""Python's own positions in a text, as offsets of code points: pure."""

import ast

from lsp_server.positions import LINE_END


class Offsets:
    """Python's positions, lines from 1 on and columns in UTF-8 bytes, as offsets."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in LINE_END.finditer(text))]

    def start(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node starts."""
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node ends."""
        return self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def line_start(self, node: ast.stmt) -> int:
        """Return where the first line of a statement starts, decorators included."""
        line = node.lineno
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            line = min([line, *(decorator.lineno for decorator in node.decorator_list)])
        return self._starts[line - 1]

    def at(self, line: int, column: int) -> int:
        """Return the offset of a line, from 1 on, and a column in code points."""
        return self._starts[line - 1] + column

    def _offset(self, line: int, column: int) -> int:
        start = self._starts[line - 1]
        head = self._text[start : start + column].encode()[:column]
        return start + len(head.decode("utf-8", "ignore"))
