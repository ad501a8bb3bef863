"""Figures that tests measure on the way; they are printed at the end of the run."""

from collections.abc import Sequence
from statistics import median

_LINES: list[str] = []


def record(what: str, milliseconds: Sequence[float]) -> None:
    """Keep times in milliseconds for the end of the run."""
    _LINES.append(
        f"{what}: median {median(milliseconds):.0f} ms, "
        f"from {min(milliseconds):.0f} to {max(milliseconds):.0f} (n={len(milliseconds)})"
    )


def lines() -> list[str]:
    """Return what was measured."""
    return _LINES
