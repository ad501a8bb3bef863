"""Whether prompts that surprise the model are those it fails at: perplexity and passes.

The perplexity is that of Nijkamp et al., 2022, section 4.3: over the tokens of a problem's
prompts, without comment marks and newlines, each given all prompts and programs before it.
In a single turn the same tokens stand in one block of comments. It is the editor's: each
prompt's share comes from ``lsp_server.completion``. Programs and passes are those of a
record of the Multi-Turn Programming Benchmark.
"""

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lsp_server.perplexity import prompt_log_probabilities
from lsp_server.serving_model import Model
from lsp_server.turns import Turn
from model_eval.executing import digest
from model_eval.generating import begin_case
from model_eval.mtpb import (
    BLOCK,
    CLEAN,
    MULTI,
    Case,
    programs_of,
    single_prompt,
    text_before_turn,
)
from model_eval.mtpb_answers import Rules, is_right
from model_eval.records import Record
from model_eval.sandbox import Outcome
from model_eval.scores import bootstrap_interval

LEAST_AUC = 0.6
"""The lower bound of the AUC's interval must exceed it for a threshold to mean anything."""
_FEWEST_PROBLEMS = 10
"""With both passed and failed programs; the interval of fewer is no better than a guess."""

_TRIED = 2
"""Samples that tell how long all of them take."""


@dataclass(frozen=True)
class Sample:
    """One multi-turn program of a record."""

    case: Case
    number: int
    texts: Sequence[str]
    passed: bool


def passed_samples(
    cases: Sequence[Case], lines: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Outcome]
) -> list[Sample]:
    """Return the multi-turn samples of a record that were run."""
    by_name = {case.name: case for case in cases}
    found = []
    for line in lines:
        if line.get("arm") != MULTI or line["case"] not in by_name:
            continue
        case = by_name[line["case"]]
        written, program = programs_of(case, MULTI, CLEAN, line["texts"])[MULTI]
        outcome = outcomes.get(digest(program))
        if outcome is not None:
            passed = bool(written.strip()) and is_right(outcome, case.answer, Rules())
            found.append(Sample(case, line["sample"], line["texts"], passed))
    return found


def measure(model: Model, samples: Sequence[Sample], record: Record) -> Iterator[None]:
    """Write what the record lacks; yields after each sample."""
    done = {(line["case"], line["sample"]) for line in record.lines}
    singles = {line["case"]: line["single"] for line in record.lines}
    for sample in samples:
        name = sample.case.name
        if (name, sample.number) not in done:
            if name not in singles:
                singles[name] = _single_sums(model, sample.case)
            record.add(
                {
                    "case": name,
                    "problem": sample.case.problem.id,
                    "sample": sample.number,
                    "passed": sample.passed,
                    "multi": _multi_sums(model, sample),
                    "single": singles[name],
                }
            )
        yield


def estimated_hours(model: Model, samples: Sequence[Sample]) -> float:
    """Return about how long so many samples take, from a few of them."""
    tried = samples[:_TRIED]
    started = time.perf_counter()
    for sample in tried:
        _multi_sums(model, sample)
    each_s = (time.perf_counter() - started) / max(1, len(tried))
    return len(samples) * each_s / 3600


def perplexity(sums: Sequence[float]) -> float:
    """Return the perplexity of nats and a number of tokens."""
    nats, n_tokens = sums
    return math.exp(nats / n_tokens) if n_tokens else math.nan


def perplexity_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the perplexities say; every figure is a mean over problems.

    An AUC is how often, of a passed and a failed program of the same problem, the failed
    one's prompts have the higher perplexity; problems without both have none.
    """
    problems: dict[str, list[tuple[float, float, bool]]] = {}
    for line in lines:
        values = (perplexity(line["multi"]), perplexity(line["single"]), line["passed"])
        problems.setdefault(line["problem"], []).append(values)
    rows = [
        {
            "turns": name,
            **_row([[(own[place], own[2]) for own in p] for p in problems.values()]),
        }
        for place, name in enumerate(("multi", "single"))
    ]
    multi, single = (
        [fmean(math.log(own[place]) for own in p) for p in problems.values()]
        for place in range(2)
    )
    differences = [ours - theirs for ours, theirs in zip(multi, single, strict=True)]
    low, high = bootstrap_interval([[value] for value in differences])
    pooled = [[(own[0], own[2]) for own in p] for p in problems.values()]
    is_evidence = (
        rows[0]["n_mixed"] >= _FEWEST_PROBLEMS and rows[0]["auc_interval"][0] > LEAST_AUC
    )
    return {
        "n_problems": len(problems),
        "n_samples": len(lines),
        "rows": rows,
        # Of logarithms, so it is the ratio of the two that is compared with 1.
        "ratio": math.exp(fmean(differences)),
        "ratio_interval": (math.exp(low), math.exp(high)),
        "is_evidence": is_evidence,
        "threshold": best_threshold(pooled) if is_evidence else None,
    }


def _row(problems: Sequence[Sequence[tuple[float, bool]]]) -> dict[str, Any]:
    areas = [area for own in problems if (area := auc(own)) is not None]
    passed = [fmean(v) for own in problems if (v := [p for p, passes in own if passes])]
    failed = [fmean(v) for own in problems if (v := [p for p, passes in own if not passes])]
    return {
        "perplexity": fmean(fmean(p for p, _ in own) for own in problems),
        "passed": fmean(passed) if passed else None,
        "n_passed": sum(passes for own in problems for _, passes in own),
        "failed": fmean(failed) if failed else None,
        "auc": fmean(areas) if areas else None,
        "auc_interval": bootstrap_interval([[area] for area in areas]) if areas else None,
        "n_mixed": len(areas),
    }


def auc(values: Sequence[tuple[float, bool]]) -> float | None:
    """Return how often a failed one has the higher value than a passed one; ties are half."""
    passed = [value for value, passes in values if passes]
    failed = [value for value, passes in values if not passes]
    if not passed or not failed:
        return None
    wins = sum((f > p) + 0.5 * (f == p) for p in passed for f in failed)
    return wins / (len(passed) * len(failed))


def best_threshold(problems: Sequence[Sequence[tuple[float, bool]]]) -> float:
    """Return what parts passed from failed samples best, each problem weighing the same.

    It maximizes the share of the failed above it less that of the passed (Youden, 1950).
    """
    weighted = [(v, passes, 1 / len(own)) for own in problems for v, passes in own]
    total = {
        kind: sum(w for _, passes, w in weighted if passes is kind) for kind in (True, False)
    }
    best, gain, sum_so_far = weighted[0][0], -math.inf, 0.0
    for value, passes, weight in sorted(weighted):
        sum_so_far += weight / total[passes] * (1 if passes else -1)
        if sum_so_far > gain:
            best, gain = value, sum_so_far
    return best


def _multi_sums(model: Model, sample: Sample) -> tuple[float, int]:
    begin_case(model)
    prompts, values = sample.case.prompts, []
    for index, prompt in enumerate(prompts):
        text = text_before_turn(prompts, list(sample.texts[:index]))
        turn = _turn(text, len(text) - len(f"# {prompt}\n"))
        values += prompt_log_probabilities(model, text, turn, threading.Event())
    return -sum(values), len(values)


def _single_sums(model: Model, case: Case) -> tuple[float, int]:
    begin_case(model)
    text = single_prompt(case, BLOCK)
    turn = _turn(text, len(text) - sum(len(f"# {prompt}\n") for prompt in case.prompts))
    values = prompt_log_probabilities(model, text, turn, threading.Event())
    return -sum(values), len(values)


def _turn(text: str, start: int) -> Turn:
    """Return the turn that a text ends with, a program not being there yet."""
    spans = []
    for line in text[start:].removesuffix("\n").split("\n"):
        end = start + len(line)
        spans.append((end - len(line.removeprefix("# ")), end))
        start = end + 1
    return Turn(spans[0][0], len(text), len(text), "", "", tuple(spans), has_program=False)
