"""Prints what the tests measured in the editors."""

import pytest

from tests.editors import figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures, if there are any."""
    reports = (report for some in terminalreporter.stats.values() for report in some)
    if lines := figures.lines(reports):
        terminalreporter.section("measured in the editors")
        for line in lines:
            terminalreporter.write_line(line)
