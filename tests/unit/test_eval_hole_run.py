"""A run over holes, with an editor that knows the answers."""

from pathlib import Path

import pytest

from model_eval.editor import Item
from model_eval.hole_run import ask, chosen_again, estimated_seconds, run_holes
from model_eval.hole_scores import EXACT, NAMES, PARSES
from model_eval.holes import LINE, STATEMENT, Hole, choose_holes
from model_eval.records import Record

TEXT = "import os\n\n\ndef f(a, b):\n    total = a + b\n    return total * len(os.name)\n"


class Oracle:
    """Gives back what stood in a text; or nothing, or a line too many."""

    def __init__(self, text: str = TEXT) -> None:
        self.text = text
        self.n_asked = 0
        self.dies_after = 10**9

    def complete(self, path: Path, text: str, offset: int) -> Item:
        """Answer with what is missing."""
        if self.n_asked == self.dies_after:
            raise KeyboardInterrupt
        self.n_asked += 1
        n_cut = len(self.text) - len(text)
        return Item(self.text[offset : offset + n_cut], offset, offset, 0.1)


def run(oracle: Oracle, record: Record, holes: list[Hole], folder: Path) -> None:
    """Run to the end."""
    for _ in run_holes(oracle, folder, {"a.py": TEXT}, holes, record, None):
        pass


@pytest.fixture
def holes() -> list[Hole]:
    """Return all holes of the text."""
    return choose_holes({"a.py": TEXT}, 99, seed=0)


def test_what_stood_there_is_right_everywhere(tmp_path: Path, holes: list[Hole]) -> None:
    """With the true answers every measure is at its best, and the same ones come twice."""
    record = Record(tmp_path / "run.jsonl", {})
    run(Oracle(), record, holes, tmp_path)
    judged = [line for line in record.lines if "hole" in line]
    assert {line["hole"] for line in judged} == {hole.name for hole in holes}
    assert all(line[EXACT] and line[PARSES] and line[NAMES] for line in judged)
    repeats = [line for line in record.lines if "repeated" in line]
    assert len(repeats) == len(chosen_again(holes))
    assert all(line["is_same"] for line in repeats)


def test_nothing_succeeds_nowhere(tmp_path: Path, holes: list[Hole]) -> None:
    """Even where the file holds without an answer, an empty one is no success."""
    oracle = Oracle()
    oracle.text = ""
    record = Record(tmp_path / "run.jsonl", {})
    run(oracle, record, holes, tmp_path)
    judged = [line for line in record.lines if "hole" in line]
    assert any(line["empty"][PARSES] for line in judged)
    assert not any(line[EXACT] or line[PARSES] or line[NAMES] for line in judged)


def test_a_broken_off_run_goes_on(tmp_path: Path, holes: list[Hole]) -> None:
    """Whatever was asked is not asked again, and the record is that of an unbroken run."""
    whole = Record(tmp_path / "whole.jsonl", {})
    run(Oracle(), whole, holes, tmp_path)
    dying = Oracle()
    dying.dies_after = 3
    with pytest.raises(KeyboardInterrupt):
        run(dying, Record(tmp_path / "run.jsonl", {}), holes, tmp_path)
    resumed, record = Oracle(), Record(tmp_path / "run.jsonl", {})
    run(resumed, record, holes, tmp_path)
    assert record.lines == whole.lines
    assert resumed.n_asked == len(whole.lines) - 3


def test_of_the_rest_of_a_line_a_line_counts(tmp_path: Path) -> None:
    """What an item writes below the line is not accepted; of a statement all is."""
    oracle = Oracle(TEXT.replace("a + b\n", "a + b\n    a = 1\n"))
    start = TEXT.index("a + b\n")
    for kind, expected in ((LINE, "a + b"), (STATEMENT, "a + b\n    a = 1")):
        hole = Hole("a.py", kind, start, start + len("a + b"), "pass")
        answer = ask(oracle, tmp_path, TEXT, hole)
        assert answer.inserted.rstrip() == expected
        assert answer.filled == hole.filled(TEXT, answer.inserted)


def test_an_estimate_records_nothing(tmp_path: Path, holes: list[Hole]) -> None:
    """A few holes are asked about to tell how long all take."""
    oracle = Oracle()
    assert estimated_seconds(oracle, tmp_path, {"a.py": TEXT}, holes, None) > 0
    assert oracle.n_asked == 3
