"""What commands show: JSON on standard output, progress on standard error, tables."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_PIPED_WIDTH = 240
"""Columns; nothing is folded where another program reads."""


def print_json(value: object) -> None:
    """Print one JSON object in one line."""
    print(json.dumps(value))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as wide as the terminal, the first column whole; plain where piped."""
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    table = Table(box=None, pad_edge=False)
    for title in header:
        # What a person types is never cut.
        table.add_column(title, no_wrap=title == header[0], overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=width, highlight=False, markup=False).print(table)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows progress on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
