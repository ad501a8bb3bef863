"""What an answer in a hole is worth, and what all of a run's are: pure.

Parses, names and tests are counted only of holes that fail when they stay empty, each by its
own measure; elsewhere they say nothing of the answer. An empty answer is never a success.
"""

import ast
import warnings
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from pyflakes import checker, messages

from model_eval.holes import KINDS, Hole
from model_eval.scores import bootstrap_interval

EXACT, SIMILARITY, PARSES, NAMES, TESTS = METRICS = (
    "exact match",
    "edit similarity",
    "parses",
    "names resolve",
    "tests pass",
)
JUDGED = (PARSES, NAMES, TESTS)
"""They are counted where the empty hole fails."""
_ROWS = (*KINDS, "all")


class FileJudge:
    """Judges what a file becomes with something else in a hole."""

    def __init__(self, text: str) -> None:
        """Take the file as it is; its own undefined names are nobody's fault."""
        self._text = text
        self._known = undefined_names(text) or set()

    def judge(self, filled: str) -> dict[str, bool]:
        """Tell whether a filled file parses, and then names nothing new that is undefined."""
        undefined = undefined_names(filled)
        return {
            PARSES: undefined is not None,
            NAMES: undefined is not None and undefined <= self._known,
        }

    def match(self, hole: Hole, inserted: str, filled: str) -> dict[str, float]:
        """Compare an answer with what stood there, and the file with what it was."""
        cut = hole.cut(self._text)
        return {
            EXACT: float(bool(inserted.strip()) and _plain(filled) == _plain(self._text)),
            SIMILARITY: similarity(_plain(inserted), _plain(cut)),
            "accepted": n_accepted(inserted, cut),
        }


def undefined_names(text: str) -> set[str] | None:
    """Return the names of a module that nothing binds; None where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
            found = checker.Checker(tree).messages
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    wanted = (messages.UndefinedName, messages.UndefinedLocal)
    return {str(m.message_args[0]) for m in found if isinstance(m, wanted)}


def similarity(ours: str, theirs: str) -> float:
    """Return 1 less the edit distance (Levenshtein, 1966) by the longer text's length."""
    longer = max(len(ours), len(theirs))
    return 1 - edit_distance(ours, theirs) / longer if longer else 1.0


def edit_distance(ours: str, theirs: str) -> int:
    """Return the fewest characters to insert, delete or replace."""
    columns = np.arange(len(theirs) + 1)
    letters = np.array([ord(character) for character in theirs], np.int64)
    row = columns
    for character in ours:
        below = np.append(
            row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (letters != ord(character)))
        )
        # Insertions go along the row, each costs one more than its neighbour.
        row = np.minimum.accumulate(below - columns) + columns
    return int(row[-1])


def n_accepted(answer: str, cut: str) -> int:
    """Return how many of an answer's first characters stood there, blanks aside."""
    ours, theirs = "".join(answer.split()), "".join(cut.split())
    pairs = zip(ours, theirs, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def hole_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by kind, and for all, each metric of the answers and of the stub ``pass``."""
    holes = [line for line in lines if "hole" in line]
    repeats = [line["is_same"] for line in lines if "repeated" in line]
    kinds = [
        (kind, [line for line in holes if kind in (line["kind"], "all")]) for kind in _ROWS
    ]
    return {
        "kinds": [_kind_figures(kind, own) for kind, own in kinds if own],
        "n_repeated": len(repeats),
        "n_same": sum(repeats),
        "by_hole": {line["hole"]: _values(line) for line in holes},
    }


def _kind_figures(kind: str, own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    metrics = []
    for metric in METRICS:
        counted = [line for line in own if is_counted(line, metric)]
        if counted:
            metrics.append(
                {
                    "metric": metric,
                    "n_holes": len(counted),
                    "mean": fmean(float(line[metric]) for line in counted),
                    "interval": _interval(counted, metric),
                    "stub": _stub_mean(counted, metric),
                }
            )
    return {
        "kind": kind,
        "n_holes": len(own),
        "non_empty": fmean(bool(line["inserted"].strip()) for line in own),
        "accepted_characters": fmean(line["accepted"] for line in own),
        "n_late": sum(line["is_late"] for line in own),
        "median_seconds": median(line["seconds"] for line in own),
        "metrics": metrics,
    }


def _values(line: Mapping[str, Any]) -> dict[str, float]:
    """Return what other runs' values for the same hole are compared with."""
    return {m: float(line[m]) for m in METRICS if is_counted(line, m)}


def is_counted(line: Mapping[str, Any], metric: str) -> bool:
    """Tell whether a hole counts for a metric: it was judged, and fails when it is empty."""
    return metric not in JUDGED or line["empty"].get(metric) is False


def _interval(lines: Iterable[Mapping[str, Any]], metric: str) -> tuple[float, float]:
    by_file: dict[str, list[float]] = {}
    for line in lines:
        by_file.setdefault(line["file"], []).append(float(line[metric]))
    return bootstrap_interval(list(by_file.values()))


def _stub_mean(lines: Iterable[Mapping[str, Any]], metric: str) -> float | None:
    values = [float(line["stub"][metric]) for line in lines if metric in line["stub"]]
    return fmean(values) if values else None


def _plain(text: str) -> str:
    """Return a text without blanks at its lines' ends, and around it."""
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).strip()
