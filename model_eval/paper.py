"""What the paper reports, where a stored source says so and the protocol is ours: pure.

Nijkamp et al., 2022 (arXiv 2203.13474): tables 1 and 4. Only figures that were read in a
source are here, none from memory; none of single turns, whose code was never published.
"""

from collections.abc import Mapping
from typing import Any

from model_eval.humaneval import PAPER_SAMPLES, PAPER_TEMPERATURES

PAPER = "Nijkamp et al., 2022"

_HUMANEVAL: dict[str, dict[int, float]] = {
    "codegen-350M-mono": {1: 0.1276, 10: 0.2311, 100: 0.3519},
    "codegen-2B-mono": {1: 0.2370, 10: 0.3664, 100: 0.5701},
    "codegen-6B-mono": {1: 0.2613, 10: 0.4229, 100: 0.6582},
    "codegen-16B-mono": {1: 0.2928, 10: 0.4986, 100: 0.7500},
}
_SEVERAL_TURNS: dict[str, float] = {
    "codegen-350M-mono": 0.1698,
    "codegen-2B-mono": 0.3872,
    "codegen-6B-mono": 0.4352,
    "codegen-16B-mono": 0.4734,
}
_N_FUNCTIONS, _N_PROBLEMS = 164, 115


def pass_at_k(settings: Mapping[str, Any]) -> dict[int, float]:
    """Return the paper's pass@k on HumanEval, for a run of all problems as in the paper."""
    is_published = (
        settings.get("evaluation") == "humaneval"
        and settings.get("problems") == _N_FUNCTIONS
        and tuple(settings.get("temperatures", ())) == PAPER_TEMPERATURES
        and (settings.get("samples"), settings.get("top_p")) == (PAPER_SAMPLES, 0.95)
    )
    return _HUMANEVAL.get(_model(settings), {}) if is_published else {}


def pass_rate(settings: Mapping[str, Any]) -> float | None:
    """Return the paper's pass rate in several turns, for a run of the published protocol."""
    is_published = (
        settings.get("evaluation") == "mtpb"
        and settings.get("mode") == "faithful"
        and settings.get("problems") == _N_PROBLEMS
        and (settings.get("temperature"), settings.get("top_p")) == (0.2, 0.95)
    )
    return _SEVERAL_TURNS.get(_model(settings)) if is_published else None


def _model(settings: Mapping[str, Any]) -> str:
    name = str(settings.get("model", "")).rpartition("/")[2].lower()
    return next((known for known in _HUMANEVAL if known.lower() == name), name)
