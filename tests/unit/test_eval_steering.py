"""Samples with steering and without, written by a scripted model."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.known_names import KnownNames, NamesRequest, Receiver
from lsp_server.serving_model import Model
from model_eval.judge import Judgement, Question
from model_eval.records import Record
from model_eval.report import Scores, goal_rows, make_report, package_rows, result_rows
from model_eval.steering import (
    ARMS,
    TEMPERATURES,
    Case,
    estimated_seconds,
    find_cases,
    first_name,
    sample,
    score,
)
from tests.fakes import ScriptedEngine, fake_model

TEXT = """\
class Shape:
    def __init__(self):
        self.width = 1

    def area(self):
        return self.width

    def grow(self):
        return self.area() + 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two packages, one of them with a file that is no Python."""
    for name, text in (("one/a.py", TEXT), ("two/a.py", TEXT), ("two/b.py", "print 1\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


class Analyser:
    """Knows two names everywhere, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[NamesRequest] = []

    def ask(self, request: NamesRequest) -> "Future[KnownNames | None]":
        """Return the names."""
        self.requests.append(request)
        future: Future[KnownNames | None] = Future()
        future.set_result(KnownNames(("area", "width"), (Receiver.OWN,)))
        return future


def without_times(record: Record) -> list[dict[str, Any]]:
    """Return the lines of a record but for how long each took."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in record.lines]


def sampled(path: Path, cases: list[Case], model: Model | None = None) -> Record:
    """Return the record of a run, gone on with where there is one."""
    record = Record(path, {})
    for _ in sample(model or fake_model("wildth\n"), cases, Analyser().ask, record, 2):
        pass
    return record


def test_cases_are_the_same_every_time(folder: Path) -> None:
    """Each package gives as many, in an order that has nothing to do with the text."""
    cases = find_cases(folder, ["one", "two"], 2)
    assert [case.package for case in cases] == ["one", "one", "two", "two"]
    assert [case.name for case in cases] == [
        case.name for case in find_cases(folder, ["one", "two"], 2)
    ]
    assert {case.name for case in find_cases(folder, ["one"], 1)} < {c.name for c in cases}


def test_a_case_lacks_all_from_the_dot_to_the_methods_end(folder: Path) -> None:
    """What the model and the analyser see does not tell them the answer."""
    (case,) = [c for c in find_cases(folder, ["one"], 9) if c.dereference.name == "area"]
    assert case.before.endswith("        return self.")
    assert (case.truth, case.after) == ("area() + 1", "\n")


def test_each_arm_writes_with_what_it_knows(folder: Path, tmp_path: Path) -> None:
    """Without steering the script stands; with it the next name is a known one."""
    (case,) = [c for c in find_cases(folder, ["one"], 9) if c.dereference.name == "area"]
    record = sampled(tmp_path / "run.jsonl", [case])
    assert [(line["arm"], line["temperature"]) for line in record.lines] == [
        (arm, temperature) for arm in ARMS for temperature in TEMPERATURES
    ]
    texts = {line["arm"]: line["texts"] for line in record.lines}
    assert texts["plain"] == ["wildth"] * 2
    assert texts["attributes"] == texts["all"] == ["width"] * 2


def test_all_arms_have_the_same_seeds(folder: Path, tmp_path: Path) -> None:
    """What differs between the arms is not the draw."""
    model = fake_model("width\n")
    sampled(tmp_path / "run.jsonl", find_cases(folder, ["one"], 1), model)
    assert isinstance(model.engine, ScriptedEngine)
    reading, *written = model.engine.calls
    assert reading.max_new_tokens == 1
    calls = [(call.seed, call.temperature) for call in written]
    assert calls == [(seed, t) for _ in ARMS for t in TEMPERATURES for seed in (0, 1)]


def test_one_text_is_asked_about_once(folder: Path, tmp_path: Path) -> None:
    """The samples of a case share what the analyser said."""
    analyser = Analyser()
    record = Record(tmp_path / "run.jsonl", {})
    cases = find_cases(folder, ["one"], 1)
    for _ in sample(fake_model("width\n"), cases, analyser.ask, record, 3):
        pass
    assert len(analyser.requests) == len(set(analyser.requests)) == 1


@settings(max_examples=20)
@given(data=st.data())
def test_a_killed_run_goes_on_to_the_same_samples(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Broken off anywhere, a run ends with the record of one that was not."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "one").mkdir()
    (folder / "one" / "a.py").write_text(TEXT)
    cases = find_cases(folder, ["one"], 2)
    path = folder / "run.jsonl"
    unbroken = without_times(sampled(path, cases))
    whole = path.read_bytes()
    # Times differ from run to run, and so does the length.
    share = data.draw(st.floats(0, 1))
    path.write_bytes(whole[: int(share * len(whole))])
    assert without_times(sampled(path, cases)) == unbroken
    assert without_times(Record(path, {})) == unbroken


def test_the_estimate_grows_with_the_samples(folder: Path) -> None:
    """Time is estimated from a few cases: each is read once and written once."""
    model = fake_model("width\n")
    assert estimated_seconds(model, find_cases(folder, ["one", "two"], 2), 5) > 0
    assert isinstance(model.engine, ScriptedEngine)
    assert len(model.engine.calls) <= 2 * 4


@pytest.mark.parametrize(
    ("text", "name"),
    [("area()", "area"), ("ä1.b", "ä1"), ("1a", ""), ("(x)", ""), ("if x", ""), ("", "")],
)
def test_the_next_name(text: str, name: str) -> None:
    """Only an identifier is a name."""
    assert first_name(text) == name


JUDGED = {"area": Judgement.EXISTS, "wilth": Judgement.MISSING, "odd": Judgement.UNKNOWN}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("area() + 1", (True, True, 1.0, True, True, True)),
        ("area() + 2", (True, True, 1.0, False, True, True)),
        ("area(x)", (True, True, 1.0, False, True, False)),
        ("wilth", (False, False, 0.0, False, True, True)),
        ("odd()", (None, False, 0.0, False, True, True)),
        ("(1", (False, False, 0.0, False, False, False)),
    ],
)
def test_scores_of_a_sample(folder: Path, text: str, expected: tuple[Any, ...]) -> None:
    """Each metric of one sample, as a table."""
    (case,) = [c for c in find_cases(folder, ["one"], 9) if c.dereference.name == "area"]
    judgements = {
        Question(case.path, case.dereference, name): judgement
        for name, judgement in JUDGED.items()
    }
    assert tuple(score(case, text, judgements).values()) == expected


@pytest.mark.parametrize(
    ("text", "exists"), [("new = 2", None), ("new: int = 2", None), ("new == 2", False)]
)
def test_a_name_that_a_sample_assigns_to_may_be_new(
    folder: Path, text: str, exists: bool | None
) -> None:
    """A new attribute is no invented one."""
    (case,) = [c for c in find_cases(folder, ["one"], 9) if c.dereference.is_stored]
    judgements = {
        Question(case.path, case.dereference, "width"): Judgement.EXISTS,
        Question(case.path, case.dereference, "new"): Judgement.MISSING,
    }
    assert score(case, text, judgements)["name exists"] is exists


def reported(cases: list[Case], plain: str, steered: str) -> dict[str, Any]:
    """Return the report where one arm writes one thing and the others another."""
    scores: Scores = {
        (case.name, arm, temperature): [
            score(
                case,
                plain if arm == "plain" else steered,
                {
                    Question(case.path, case.dereference, name): judgement
                    for name, judgement in [
                        (case.dereference.name, Judgement.EXISTS),
                        ("wilth", Judgement.MISSING),
                        ("odd", Judgement.UNKNOWN),
                    ]
                },
            )
        ]
        * 3
        for case in cases
        for arm in ARMS
        for temperature in TEMPERATURES
    }
    seconds = [{"arm": a, "temperature": t, "median": 0.5} for a in ARMS for t in TEMPERATURES]
    return make_report(cases, scores, 3) | {"seconds": seconds}


def test_a_report_of_a_change(folder: Path) -> None:
    """Where each invented name becomes a true one all of them are gone, and it says so."""
    (case,) = [c for c in find_cases(folder, ["one"], 9) if c.dereference.name == "area"]
    report = reported([case], "wilth", "area() + 1")
    for goal in report["goals"]:
        assert (goal["rejected_plain"], goal["rejected"], goal["fall"]) == (1, 0, 1)
        assert goal["fall_is_reached"]
        assert goal["line_difference"] == goal["line_at_least"] == 1
    assert json.loads(json.dumps(report))["n_cases"] == {"reads": 1, "stores": 0, "all": 1}


def test_a_report_of_a_loss(folder: Path) -> None:
    """Where lines are lost it says so."""
    (case,) = [c for c in find_cases(folder, ["one"], 9) if c.dereference.name == "area"]
    report = reported([case], "area() + 1", "wilth")
    assert not any(goal["line_is_reached"] for goal in report["goals"])
    results = {
        (r["places"], r["metric"], r["arm"], r["temperature"]): r for r in report["results"]
    }
    lost = results["reads", "same line", "all", 0.2]
    assert lost["best_of"] == [0, 0, 0]
    assert (lost["difference"], lost["interval"]) == (-1, (-1, -1))


def test_the_tables_have_a_column_for_each_title(folder: Path) -> None:
    """Every row of every table is as wide as its header, whatever is missing."""
    cases = find_cases(folder, ["one", "two"], 9)
    report = reported(cases, "wilth", "odd")
    for rows in (
        goal_rows(report),
        package_rows(report),
        result_rows(report, "reads"),
        result_rows(report, "stores"),
    ):
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
