"""What the scored samples of a run say: means, paired differences and what is to be reached.

Pure: scores in, plain JSON values and rows of tables out. Where the true text reads the
name after the dot is the headline. Where it assigns to it the name may be new, and those
places are reported apart; the exact line is to hold over both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lsp_server.known_names import NameKind
from model_eval.scores import best_of, bootstrap_interval, ratio_interval
from model_eval.steering import (
    ARMS,
    METRICS,
    NAME_EXISTS,
    SAME_LINE,
    TEMPERATURES,
    Case,
    Score,
)

_T = TypeVar("_T")

PLAIN, *STEERED = ARMS
_LARGEST_K = 6
_MARGIN = 0.01
"""So much less often the exact line may come, one-sided, at 95 %."""
_LEAST_FALL = 0.5
_ONE_SIDED = 0.90

Scores = Mapping[tuple[str, str, float], Sequence[Score]]
"""Of each sample, by the case's name, arm and temperature."""

PLACES: dict[str, Callable[[Case], bool]] = {
    "reads": lambda case: not case.dereference.is_stored,
    "stores": lambda case: case.dereference.is_stored,
    "all": lambda _case: True,
}


def make_report(cases: Sequence[Case], scores: Scores, n_samples: int) -> dict[str, Any]:
    """Return all that the command says, for cases that have all their samples."""
    ks = range(1, min(_LARGEST_K, n_samples) + 1)
    chosen = {place: [c for c in cases if is_in(c)] for place, is_in in PLACES.items()}
    return {
        "n_files": len({case.file for case in cases}),
        "n_cases": {place: len(own) for place, own in chosen.items()},
        "unjudged": {place: _unjudged(own, scores) for place, own in chosen.items()},
        "results": [
            {"places": place, **result}
            for place, own in chosen.items()
            for result in _results(own, scores, ks)
        ],
        "goals": [goal for t in TEMPERATURES for goal in _goals(chosen, scores, t)],
        "packages": [
            {"package": package, **result}
            for package in dict.fromkeys(case.package for case in cases)
            for result in _results(
                [c for c in chosen["reads"] if c.package == package], scores, ks[:1]
            )
        ],
    }


def _values(
    case: Case, scores: Scores, arm: str, temperature: float, metric: str
) -> list[float]:
    """Return a metric's values of the samples that have one."""
    samples = scores[case.name, arm, temperature]
    return [float(value) for sample in samples if (value := sample[metric]) is not None]


def _comparable(
    cases: Sequence[Case], scores: Scores, temperature: float, metric: str, k: int
) -> dict[str, list[tuple[Case, list[float]]]]:
    """Return by arm the values of the cases of which each arm has ``k`` at least."""
    by_case = [
        (case, {arm: _values(case, scores, arm, temperature, metric) for arm in ARMS})
        for case in cases
    ]
    kept = [(case, own) for case, own in by_case if min(map(len, own.values())) >= k]
    return {arm: [(case, own[arm]) for case, own in kept] for arm in ARMS}


def _results(
    cases: Sequence[Case], scores: Scores, ks: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for temperature in TEMPERATURES:
        for metric in METRICS:
            compared = _comparable(cases, scores, temperature, metric, max(ks))
            n_cases = len(compared[PLAIN])
            best = {
                arm: [[best_of(values, k) for k in ks] for _, values in own]
                for arm, own in compared.items()
            }
            for arm in ARMS if n_cases else ():
                columns = zip(*best[arm], strict=True)
                result = {
                    "temperature": temperature,
                    "metric": metric,
                    "arm": arm,
                    "n_cases": n_cases,
                    "best_of": [sum(column) / n_cases for column in columns],
                }
                if arm != PLAIN:
                    pairs = zip(best[arm], best[PLAIN], strict=True)
                    differences = [a[0] - b[0] for a, b in pairs]
                    files = [case.file for case, _ in compared[arm]]
                    result["difference"] = sum(differences) / n_cases
                    result["interval"] = bootstrap_interval(_grouped(files, differences))
                yield result


def _goals(
    chosen: Mapping[str, Sequence[Case]], scores: Scores, temperature: float
) -> Iterator[dict[str, Any]]:
    """Yield what each arm that steers names is to reach."""
    judged = _comparable(chosen["reads"], scores, temperature, NAME_EXISTS, 1)
    lines = _comparable(chosen["all"], scores, temperature, SAME_LINE, 1)
    for arm in (arm for arm in STEERED if NameKind.ATTRIBUTE in ARMS[arm]):
        rejected = [
            (1 - _mean(own), 1 - _mean(plain))
            for (_, own), (_, plain) in zip(judged[arm], judged[PLAIN], strict=True)
        ]
        goal: dict[str, Any] = {"temperature": temperature, "arm": arm}
        if rejected:
            files = [case.file for case, _ in judged[arm]]
            steered, plain = (sum(side) / len(rejected) for side in zip(*rejected, strict=True))
            low, high = ratio_interval(_grouped(files, rejected))
            goal |= {"rejected": steered, "rejected_plain": plain}
            if plain:
                goal |= {"fall": 1 - steered / plain, "fall_interval": (1 - high, 1 - low)}
                goal["fall_is_reached"] = goal["fall"] >= _LEAST_FALL
        differences = [
            _mean(own) - _mean(plain)
            for (_, own), (_, plain) in zip(lines[arm], lines[PLAIN], strict=True)
        ]
        if not differences:
            yield goal
            continue
        files = [case.file for case, _ in lines[arm]]
        least, _ = bootstrap_interval(_grouped(files, differences), level=_ONE_SIDED)
        goal |= {"line_difference": _mean(differences), "line_at_least": least}
        yield goal | {"line_is_reached": least >= -_MARGIN}


def _unjudged(cases: Sequence[Case], scores: Scores) -> float:
    """Return the share of samples of which the judge says nothing."""
    values = [
        sample[NAME_EXISTS]
        for case in cases
        for arm in ARMS
        for temperature in TEMPERATURES
        for sample in scores[case.name, arm, temperature]
    ]
    return sum(value is None for value in values) / max(1, len(values))


def _grouped(keys: Sequence[str], values: Sequence[_T]) -> list[list[_T]]:
    groups: dict[str, list[_T]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(value)
    return list(groups.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def result_rows(report: Mapping[str, Any], places: str) -> list[list[str]]:
    """Return a table, header first, of all metrics in some places."""
    own = [result for result in report["results"] if result["places"] == places]
    n_ks = max((len(result["best_of"]) for result in own), default=0)
    rows = [
        ["T", "metric", "arm", "cases", *(f"k={k + 1}" for k in range(n_ks)), "k=1 less plain"]
    ]
    for result in own:
        difference = ""
        if "difference" in result:
            low, high = result["interval"]
            difference = (
                f"{100 * result['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            )
        rows.append(
            [
                str(result["temperature"]),
                result["metric"],
                result["arm"],
                str(result["n_cases"]),
                *(_percent(value) for value in result["best_of"]),
                difference,
            ]
        )
    return rows


def goal_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a table, header first, of what is to be reached."""
    rows = [
        [
            *("T", "arm", "rejected, plain", "rejected, steered", "fall (>= 50)", ""),
            *("exact line less plain", "at least, 95 % (>= -1)", "", "s a sample"),
        ]
    ]
    for goal in report["goals"]:
        fall = ""
        if "fall" in goal:
            low, high = goal["fall_interval"]
            fall = f"{_percent(goal['fall'])} [{_percent(low)}, {_percent(high)}]"
        seconds = {(s["arm"], s["temperature"]): s["median"] for s in report["seconds"]}
        times = [seconds[arm, goal["temperature"]] for arm in (PLAIN, goal["arm"])]
        rows.append(
            [
                str(goal["temperature"]),
                goal["arm"],
                *(
                    _percent(goal[name]) if name in goal else ""
                    for name in ("rejected_plain", "rejected")
                ),
                fall,
                _reached(goal.get("fall_is_reached")),
                f"{100 * goal['line_difference']:+.2f}",
                f"{100 * goal['line_at_least']:+.2f}",
                _reached(goal["line_is_reached"]),
                f"{times[0]:.3f} -> {times[1]:.3f}",
            ]
        )
    return rows


def package_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a table, header first: what the fullest arm changes in each package."""
    arms = (PLAIN, STEERED[-1])
    shown = (NAME_EXISTS, SAME_LINE)
    header = ["package", "T"]
    for metric in shown:
        header += [f"{metric}: cases", *arms]
    by_key = {
        (r["package"], r["temperature"], r["metric"], r["arm"]): r for r in report["packages"]
    }
    rows = [header]
    for package in dict.fromkeys(result["package"] for result in report["packages"]):
        for temperature in TEMPERATURES:
            row = [package, str(temperature)]
            for metric in shown:
                found = [by_key.get((package, temperature, metric, arm)) for arm in arms]
                row.append(str(found[0]["n_cases"]) if found[0] else "0")
                row += [_percent(result["best_of"][0]) if result else "" for result in found]
            rows.append(row)
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _reached(is_reached: bool | None) -> str:
    return {None: "", True: "reached", False: "not reached"}[is_reached]
