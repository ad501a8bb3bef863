"""Figures that tests measure on the way; they are printed at the end of the run."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import pytest

RecordProperty = Callable[[str, object], None]
"""pytest's fixture; what it keeps comes from every process that runs tests."""
_MEASURED = "measured"


def record(keep: RecordProperty, what: str, milliseconds: Sequence[float]) -> None:
    """Keep times in milliseconds for the end of the run."""
    line = (
        f"{what}: median {median(milliseconds):.0f} ms, "
        f"from {min(milliseconds):.0f} to {max(milliseconds):.0f} (n={len(milliseconds)})"
    )
    keep(_MEASURED, line)


def lines(reports: Iterable[object]) -> list[str]:
    """Return what was measured."""
    return [
        str(value)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _MEASURED
    ]
