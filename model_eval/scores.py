"""Scores of several samples, and how sure a mean or a ratio is; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

_FEWEST = 6
"""Problems that can be evidence; 2 ** (1 - 6) is less than 5 %."""


def best_of(values: Sequence[float], k: int) -> float:
    """Return the expected greatest of ``k`` values drawn from all of them without return.

    For values of 0 and 1 it is pass@k (Chen et al., 2021, section 2.1).
    """
    n = len(values)
    if not 1 <= k <= n:
        raise ValueError(f"of {n} samples one cannot draw {k}")
    ordered = sorted(values, reverse=True)
    return sum(v * comb(n - i, k - 1) for i, v in enumerate(ordered, 1)) / comb(n, k)


def bootstrap_interval(
    groups: Sequence[Sequence[float]], *, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the mean of all values, whole groups being drawn anew.

    Values of one group, such as a file's, are alike, so they come and go together.
    """
    return ratio_interval([[(v, 1.0) for v in group] for group in groups], level=level)


def ratio_interval(
    groups: Sequence[Sequence[tuple[float, float]]],
    *,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of the sum of all first values over that of all second ones.

    Whole groups are drawn anew.
    """
    rng = np.random.default_rng(seed)
    sums = np.array([np.sum(group, axis=0) for group in groups], float)
    draws = rng.integers(len(groups), size=(n_draws, len(groups)))
    above, below = np.moveaxis(sums[draws].sum(axis=1), -1, 0)
    # A draw without anything below says nothing.
    ratios = above[below > 0] / below[below > 0]
    if not len(ratios):
        return 0.0, 0.0
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A mean difference with its interval of 95 %."""

    mean: float
    low: float
    high: float

    @property
    def is_evidence(self) -> bool:
        """Tell whether 0 lies outside the interval."""
        return not self.low <= 0.0 <= self.high

    def text(self, unit: str = "") -> str:
        """Return it for a table of per cent, with its interval or with what it lacks."""
        shown = f"{100 * self.mean:+.1f}{unit} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return shown if self.is_evidence else f"{shown} no evidence"


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], *, n_draws: int = 10_000, seed: int = 0
) -> Difference:
    """Return how much the first values exceed the second ones on the same problems.

    There is a value for each problem; problems are drawn anew, both values of one together
    (Efron and Tibshirani, 1993, section 8.3). Of fewer than six problems the interval
    always holds 0: that five differ in one direction is no evidence to a sign test either.
    """
    differences = np.subtract(ours, theirs, dtype=float)
    if not len(differences):
        return Difference(0.0, 0.0, 0.0)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(differences), size=(n_draws, len(differences)))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    if len(differences) < _FEWEST:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(float(differences.mean()), float(low), float(high))
