"""What a run of the Multi-Turn Programming Benchmark says: rates, differences, tables; pure.

Every figure is over the cases that are done in all arms, so that a run that was broken off
says something fair. A pass rate is that of a problem, over its cases and samples, and their
mean is over problems.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_eval.executing import digest
from model_eval.mtpb import (
    ARMS,
    DIFFERENCES,
    MULTI,
    SINGLES,
    Case,
    is_left_out,
    programs_of,
)
from model_eval.mtpb_answers import PUBLISHED, Rules, is_right
from model_eval.sandbox import Outcome
from model_eval.scores import Difference, bootstrap_interval, paired_difference

JUDGING = {
    "it failed after printing": Rules(failing_may_pass=True),
    "no dict, no None": Rules(few_types=True),
    "lists of floats exact": Rules(exact_lists=True),
}
"""Differences of the published evaluation, each on its own, over the same programs."""
_TURNS = {
    "1 to 4 turns": range(1, 5),
    "5 or 6 turns": range(5, 7),
    "7 turns or more": range(7, 100),
}
_EASY, _HARD = 0.7, 0.3
"""Shares of passes from which on, and below which, a problem counts as easy and as hard."""


@dataclass(frozen=True)
class Result:
    """What came of one program."""

    case: Case
    sample: int
    label: str
    written: str
    outcome: Outcome

    def passed(self, rules: Rules) -> bool:
        """Tell whether it is right; an empty answer never is."""
        return bool(self.written.strip()) and is_right(self.outcome, self.case.answer, rules)


Rates = dict[str, float]
"""A share of passes for each problem, by its id."""


def make_report(
    cases: Sequence[Case],
    mode: str,
    lines: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcome],
    sha256: str,
) -> dict[str, Any]:
    """Return all figures of a record's lines."""
    done = _done(cases, mode, lines, outcomes)
    results = _results(cases, mode, done, outcomes)
    counted = [r for r in results if not is_left_out(r.case.problem.id, sha256)]
    labels = list(dict.fromkeys(result.label for result in results))
    report: dict[str, Any] = {
        "n_cases": len({name for name, _ in done}),
        "n_problems": len({result.case.problem.id for result in counted}),
        "n_samples": len(done),
        "arms": [_arm(label, counted) for label in labels],
        "problems": _problems(counted, labels),
        "turns": _turns(cases, done),
    }
    if not results:
        return report
    if mode == "clean":
        return report | _against_single(counted)
    return report | {"differences": _differences(results, counted)}


def _done(
    cases: Sequence[Case],
    mode: str,
    lines: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcome],
) -> dict[tuple[str, int], dict[str, Mapping[str, Any]]]:
    """Return the lines of the samples that are written and run in all arms."""
    by_name = {case.name: case for case in cases}
    found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        if "arm" in line and line["case"] in by_name:
            programs = _programs(by_name[line["case"]], mode, line).values()
            if all(digest(program) in outcomes for _, program in programs):
                found.setdefault((line["case"], line["sample"]), {})[line["arm"]] = line
    return {key: arms for key, arms in found.items() if arms.keys() == ARMS[mode].keys()}


def _programs(case: Case, mode: str, line: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return programs_of(case, line["arm"], ARMS[mode][line["arm"]], line["texts"])


def _results(
    cases: Sequence[Case],
    mode: str,
    done: Mapping[tuple[str, int], Mapping[str, Mapping[str, Any]]],
    outcomes: Mapping[str, Outcome],
) -> list[Result]:
    by_name = {case.name: case for case in cases}
    return [
        Result(by_name[name], sample, label, written, outcomes[digest(program)])
        for (name, sample), lines in done.items()
        for arm in ARMS[mode]
        for label, (written, program) in _programs(by_name[name], mode, lines[arm]).items()
    ]


def _rates(results: Sequence[Result], label: str, rules: Rules = Rules()) -> Rates:  # noqa: B008
    passes: dict[str, list[bool]] = {}
    for result in results:
        if result.label == label:
            passes.setdefault(result.case.problem.id, []).append(result.passed(rules))
    return {name: sum(own) / len(own) for name, own in sorted(passes.items())}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _arm(label: str, results: Sequence[Result]) -> dict[str, Any]:
    own = [result for result in results if result.label == label]
    rates = list(_rates(results, label).values())
    errors = [result.outcome.error or "" for result in own]
    missing = sorted({e for e in errors if e.startswith("ModuleNotFoundError")})
    return {
        "arm": label,
        "pass_rate": _mean(rates),
        "interval": bootstrap_interval([[rate] for rate in rates]) if rates else (0.0, 0.0),
        "n_passed": sum(result.passed(Rules()) for result in own),
        "n": len(own),
        "non_empty": _mean([bool(result.written.strip()) for result in own]),
        "mean_characters": _mean([len(result.written) for result in own]),
        "raised": _mean([bool(error) for error in errors]),
        "out_of_time": _mean([result.outcome.is_out_of_time for result in own]),
        "missing_modules": missing,
    }


def _problems(results: Sequence[Result], labels: Sequence[str]) -> list[dict[str, Any]]:
    rates = {label: _rates(results, label) for label in labels}
    cases = {result.case.problem.id: result.case for result in results}
    return [
        {
            "problem": name,
            "n_turns": len(cases[name].prompts),
            "pass_rates": {label: rates[label][name] for label in labels},
        }
        for name in sorted(cases, key=lambda name: (len(name), name))
    ]


def _turns(
    cases: Sequence[Case], done: Mapping[tuple[str, int], Mapping[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return what each turn was worth, by its place in the problem; of our own turns."""
    by_place: dict[int, list[tuple[str, str, int]]] = {}
    for lines in done.values():
        line = lines[MULTI]
        turns = zip(line["texts"], line["ends"], line["tokens"], strict=True)
        for place, turn in enumerate(turns, 1):
            by_place.setdefault(place, []).append(turn)
    return [
        {
            "turn": place,
            "n": len(own),
            "non_empty": _mean([bool(text.strip()) for text, _, _ in own]),
            "parses": _mean([_parses(text) for text, _, _ in own]),
            "mean_characters": _mean([len(text) for text, _, _ in own]),
            "mean_tokens": _mean([n_tokens for _, _, n_tokens in own]),
            "at_limit": _mean([end == "limit" for _, end, _ in own]),
        }
        for place, own in sorted(by_place.items())
    ]


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(text.strip())


def _against_single(results: Sequence[Result]) -> dict[str, Any]:
    """Compare several turns with the single turns, and with the best of these."""
    multi = _rates(results, MULTI)
    singles = {label: _rates(results, label) for label in SINGLES}
    best = max(SINGLES, key=lambda label: _mean(list(singles[label].values())))
    pooled = {name: (multi[name] + singles[best][name]) / 2 for name in multi}
    n_turns = {result.case.problem.id: len(result.case.prompts) for result in results}
    groups = {
        label: [name for name in multi if n_turns[name] in turns]
        for label, turns in _TURNS.items()
    }
    groups |= {
        "hard": [name for name in multi if pooled[name] < _HARD],
        "medium": [name for name in multi if _HARD <= pooled[name] <= _EASY],
        "easy": [name for name in multi if pooled[name] > _EASY],
    }
    return {
        "baseline": best,
        "against": [{"arm": label, **_difference(multi, singles[label])} for label in SINGLES],
        "groups": [
            {
                "group": group,
                "n_problems": len(names),
                MULTI: _mean([multi[name] for name in names]),
                "single": _mean([singles[best][name] for name in names]),
                **_difference(
                    {name: multi[name] for name in names},
                    {name: singles[best][name] for name in names},
                ),
            }
            for group, names in groups.items()
        ],
    }


def _difference(ours: Rates, theirs: Rates) -> dict[str, Any]:
    found = paired_difference(list(ours.values()), [theirs[name] for name in ours])
    return {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "is_evidence": found.is_evidence,
    }


def _differences(results: Sequence[Result], counted: Sequence[Result]) -> list[dict[str, Any]]:
    """Return what each way of the published scripts changes on its own, and all of them."""
    rows = [_changed(name, counted, name, Rules()) for name in DIFFERENCES]
    rows += [_changed(name, counted, MULTI, rules) for name, rules in JUDGING.items()]
    everything = _rates(results, MULTI)
    rows.append(
        {
            "difference_of": "all problems",
            "rate": _mean(list(everything.values())),
            "n_gained": sum(r.passed(Rules()) for r in results if r.label == MULTI)
            - sum(r.passed(Rules()) for r in counted if r.label == MULTI),
            "n_lost": 0,
        }
    )
    rows.append(_changed("all but the problems", counted, "faithful", PUBLISHED))
    faithful = list(_rates(results, "faithful", PUBLISHED).values())
    rows.append({"difference_of": "faithful", "rate": _mean(faithful)})
    return rows


def _changed(name: str, results: Sequence[Result], label: str, rules: Rules) -> dict[str, Any]:
    """Compare programs of one arm under rules with ours under our own."""

    def passes(label: str, rules: Rules) -> dict[tuple[str, int], bool]:
        own = [result for result in results if result.label == label]
        return {(r.case.name, r.sample): r.passed(rules) for r in own}

    ours, theirs = passes(MULTI, Rules()), passes(label, rules)
    rates = _rates(results, label, rules)
    return {
        "difference_of": name,
        "rate": _mean(list(rates.values())),
        "n_gained": sum(theirs[key] and not ours[key] for key in ours),
        "n_lost": sum(ours[key] and not theirs[key] for key in ours),
        **_difference(rates, _rates(results, MULTI)),
    }


Table = tuple[str, list[str], list[list[str]]]
"""A title, a header and rows."""


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return what the command line shows."""
    found: list[Table] = [
        (
            "Programs that print the answer, in % of a problem's cases, mean over problems",
            ["arm", "pass rate", "95 %", "passed", "non-empty", "characters", "raised",
             "out of time"],
            [
                [
                    row["arm"],
                    _percent(row["pass_rate"]),
                    " to ".join(map(_percent, row["interval"])),
                    f"{row['n_passed']} of {row['n']}",
                    _percent(row["non_empty"]),
                    f"{row['mean_characters']:.0f}",
                    _percent(row["raised"]),
                    _percent(row["out_of_time"]),
                ]
                for row in report["arms"]
            ],
        )
    ]  # fmt: skip
    if "against" in report:
        found.append(
            (
                f"Several turns less a single one; the baseline is {report['baseline']!r}",
                ["single turn", "difference, points [95 %]"],
                [[row["arm"], _shown(row)] for row in report["against"]],
            )
        )
        found.append(
            (
                "Several turns against the baseline, by problem",
                ["problems", "n", "several", "single", "difference, points [95 %]"],
                [
                    [
                        row["group"],
                        str(row["n_problems"]),
                        _percent(row[MULTI]),
                        _percent(row["single"]),
                        _shown(row) if row["n_problems"] else "",
                    ]
                    for row in report["groups"]
                ],
            )
        )
    if "differences" in report:
        found.append(
            (
                "What each way of the published scripts changes, alone",
                ["way", "pass rate", "passes gained", "lost", "difference, points [95 %]"],
                [
                    [
                        row["difference_of"],
                        _percent(row["rate"]),
                        str(row.get("n_gained", "")),
                        str(row.get("n_lost", "")),
                        _shown(row) if "low" in row else "",
                    ]
                    for row in report["differences"]
                ],
            )
        )
    found.append(
        (
            "Turn by turn, in %",
            ["turn", "n", "non-empty", "parses", "characters", "tokens", "at the limit"],
            [
                [
                    str(row["turn"]),
                    str(row["n"]),
                    _percent(row["non_empty"]),
                    _percent(row["parses"]),
                    f"{row['mean_characters']:.0f}",
                    f"{row['mean_tokens']:.0f}",
                    _percent(row["at_limit"]),
                ]
                for row in report["turns"]
            ],
        )
    )
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _shown(row: Mapping[str, Any]) -> str:
    return Difference(row["difference"], row["low"], row["high"]).text()
