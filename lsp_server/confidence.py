"""Whether a candidate is sure enough to be shown to somebody who did not ask: pure.

The thresholds are in ``confidence.toml``, which ``benchmarks/confidence.py`` finds by
measurement, for each model that was measured.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lsp_server.completion import Candidate
from lsp_server.plan import Rule

FILE = "confidence.toml"
EAGER = "eager"
"""The level that asks for nothing."""


@dataclass(frozen=True)
class Thresholds:
    """The least natural log-probabilities of what is shown."""

    mean: float = -math.inf
    """Of the mean of a candidate's tokens."""
    first: float = -math.inf
    """Of its first token."""

    def let_through(self, candidate: Candidate) -> bool:
        """Tell whether a candidate is as sure as that."""
        return (
            candidate.mean_log_probability >= self.mean
            and candidate.first_log_probability >= self.first
        )


def is_worth_showing(candidate: Candidate, model_name: str, level: str) -> bool:
    """Tell whether a model is sure enough of a candidate for a level of the settings.

    A comment's program is: who writes such a comment asks for it, and how probable a
    program is says nothing of whether it does what the comment says. So is all that a model
    writes that was not calibrated.
    """
    if level == EAGER or candidate.rule is None or candidate.rule is Rule.TURN:
        return True
    return thresholds(model_name, level, candidate.rule).let_through(candidate)


def thresholds(model_name: str, level: str, rule: Rule) -> Thresholds:
    """Return those that a model was calibrated to; none where it was not."""
    return Thresholds(**_calibrated().get(model_name, {}).get(level, {}).get(rule.value, {}))


@cache
def _calibrated() -> dict[str, Any]:
    return tomllib.loads((files("lsp_server") / FILE).read_text(encoding="utf-8"))
