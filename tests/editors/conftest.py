"""Prints what the tests measured in the editors."""

import pytest

from tests.editors import figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures, if there are any."""
    if lines := figures.lines():
        terminalreporter.section("measured in the editors")
        for line in lines:
            terminalreporter.write_line(line)
