"""Perplexity of prompts against passes, with a scripted model and hand-made records."""

import math
import threading
from pathlib import Path
from typing import Any

import pytest

from lsp_server.perplexity import turn_perplexity
from lsp_server.turns import read_turns
from model_eval.executing import digest
from model_eval.mtpb import BLOCK, CLEAN, MULTI, Case, Problem, programs_of, single_prompt
from model_eval.prompt_perplexity import (
    auc,
    best_threshold,
    estimated_hours,
    measure,
    passed_samples,
    perplexity,
    perplexity_figures,
)
from model_eval.records import Record
from model_eval.sandbox import Outcome
from tests.fakes import fake_model, log_probability

PROMPTS = ("Assign {x} to a.", "Add one to a.\n# Print it.")
CASE = Case(Problem("7", PROMPTS, ({"x": 3},), (4,), 64), 0)
TEXTS = ["a = 3", "a += 1\nprint(a)"]


def lines_of(*texts: str) -> tuple[list[dict[str, Any]], dict[str, Outcome]]:
    """Return a record's lines and how its programs ended; each prints 4."""
    lines: list[dict[str, Any]] = []
    outcomes: dict[str, Outcome] = {}
    for number, text in enumerate(texts):
        line: dict[str, Any] = {
            "case": "7.0",
            "sample": number,
            "arm": MULTI,
            "texts": ["a = 3", text],
        }
        _, program = programs_of(CASE, MULTI, CLEAN, line["texts"])[MULTI]
        lines.append(line)
        outcomes[digest(program)] = Outcome(None, ["int", "0x4"])
    return lines, outcomes


def test_passes_are_those_of_the_record() -> None:
    """A program that was run is taken with its verdict; other arms and cases are not."""
    lines, outcomes = lines_of("a += 1\nprint(a)", "print(4)")
    lines += [{**lines[0], "arm": BLOCK}, {**lines[0], "case": "8.0"}, {"program": "x"}]
    samples = passed_samples([CASE], lines, outcomes)
    assert [(sample.number, sample.passed) for sample in samples] == [(0, True), (1, True)]
    assert passed_samples([CASE], lines, {}) == []


def test_the_same_tokens_in_several_turns_and_in_one(tmp_path: Path) -> None:
    """Only the prompts' own words count, without marks and newlines, whatever is between."""
    model = fake_model("")
    lines, outcomes = lines_of("print(4)")
    record = Record(tmp_path / "run.jsonl", {})
    for _ in measure(model, passed_samples([CASE], lines, outcomes), record):
        pass
    (line,) = record.lines
    words = ["Assign 3 to a.", "Add one to a.", "Print it."]
    data = "".join(words).encode()
    expected = -sum(log_probability(byte) for byte in data)
    for turns in ("multi", "single"):
        nats, n_tokens = line[turns]
        assert n_tokens == len(data)
        assert nats == pytest.approx(expected, rel=1e-5)


def test_it_is_the_editors_perplexity(tmp_path: Path) -> None:
    """Of a single turn it is what a hint in the editor shows."""
    model = fake_model("")
    text = single_prompt(CASE, BLOCK)
    lines, outcomes = lines_of("print(4)")
    record = Record(tmp_path / "run.jsonl", {})
    for _ in measure(model, passed_samples([CASE], lines, outcomes), record):
        pass
    turn = read_turns(text)[-1]
    shown = turn_perplexity(model, text, turn, threading.Event())
    assert perplexity(record.lines[0]["single"]) == pytest.approx(shown, rel=1e-5)


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    """What is recorded is not measured again."""
    model = fake_model("")
    lines, outcomes = lines_of("print(4)", "print(2 + 2)")
    samples = passed_samples([CASE], lines, outcomes)
    assert estimated_hours(model, samples) > 0
    for path in (tmp_path / "whole.jsonl", tmp_path / "run.jsonl"):
        steps = measure(model, samples, Record(path, {}))
        next(steps)
        if path.name == "whole.jsonl":
            list(steps)
    list(measure(model, samples, Record(tmp_path / "run.jsonl", {})))
    run, whole = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("run", "whole"))
    assert run == whole


@pytest.mark.parametrize(
    ("passed", "failed", "expected"),
    [([1.0], [2.0], 1.0), ([2.0], [1.0], 0.0), ([1.0], [1.0], 0.5), ([1, 3], [2, 4], 0.75),
     ([1.0], [], None), ([], [1.0], None)],
)  # fmt: skip
def test_auc(passed: list[float], failed: list[float], expected: float | None) -> None:
    """It is how often the failed one has the higher value."""
    values = [(v, True) for v in passed] + [(v, False) for v in failed]
    assert auc(values) == expected


def record_lines(n_problems: int, gap: float) -> list[dict[str, Any]]:
    """Return problems with two passed and two failed samples, the failed ones' higher."""
    return [
        {
            "problem": str(problem),
            "passed": passed,
            "multi": [100 * math.log(4 + 0.1 * sample + gap * (not passed)), 100],
            "single": [100 * math.log(8), 100],
        }
        for problem in range(n_problems)
        for sample in range(2)
        for passed in (True, False)
    ]


def test_a_threshold_where_there_is_evidence() -> None:
    """Where failed prompts are clearly higher, the threshold parts them from the passed."""
    figures = perplexity_figures(record_lines(20, gap=2.0))
    multi, single = figures["rows"]
    assert (multi["auc"], single["auc"]) == (1.0, 0.5)
    assert multi["passed"] == pytest.approx(4.05)
    assert multi["failed"] == pytest.approx(6.05)
    assert figures["is_evidence"]
    assert figures["threshold"] == pytest.approx(4.1)
    assert figures["ratio"] == pytest.approx(0.6186, abs=1e-3)


def test_no_threshold_without_evidence() -> None:
    """Where chance would do as well, few problems tell, or nothing passed, there is none."""
    assert perplexity_figures(record_lines(20, gap=0.0))["threshold"] is None
    assert perplexity_figures(record_lines(9, gap=2.0))["threshold"] is None
    failed = [line | {"passed": False} for line in record_lines(3, gap=1.0)]
    figures = perplexity_figures(failed)
    assert figures["rows"][0]["auc"] is None
    assert not figures["is_evidence"]


def test_each_problem_weighs_the_same() -> None:
    """A problem with many samples does not decide where the threshold lies."""
    many = [(9.0, True)] * 50 + [(9.5, False)] * 50
    few = [[(1.0, True), (2.0, False)] for _ in range(5)]
    assert best_threshold([many, *few]) == 1.0
