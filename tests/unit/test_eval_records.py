"""The record of a run that may be killed at any moment."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_eval.errors import RunError
from model_eval.records import Record

SETTINGS = {"model": "fake", "arms": ("a", "b")}
LINES: list[dict[str, Any]] = [{"case": n, "text": "ä\n\r\u2028" * n} for n in range(4)]


def run(path: Path) -> list[dict[str, Any]]:
    """Write what a record lacks, and return all its lines."""
    record = Record(path, SETTINGS)
    for line in LINES[len(record.lines) :]:
        record.add(line)
    return record.lines


@given(st.data())
def test_a_killed_run_goes_on_to_the_same_record(data: st.DataObject) -> None:
    """Cut off at any byte, a record becomes what it would have been, byte for byte."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "run.jsonl")
        run(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        assert run(path) == LINES
        assert path.read_bytes() == whole


def test_another_runs_record_is_refused(tmp_path: Path) -> None:
    """Samples of different settings are never mixed."""
    path = tmp_path / "run.jsonl"
    run(path)
    with pytest.raises(RunError, match="other settings"):
        Record(path, SETTINGS | {"model": "other"})


@pytest.mark.parametrize("text", ["notes", "notes\n", "{}", "\n"])
def test_a_file_that_is_something_else_stays_as_it_is(tmp_path: Path, text: str) -> None:
    """A mistyped name costs nobody a file."""
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(RunError, match="no record"):
        Record(path, SETTINGS)
    assert path.read_text() == text


def test_a_folder_is_no_record(tmp_path: Path) -> None:
    """What cannot be opened is named in one line."""
    with pytest.raises(RunError, match="cannot be used"):
        Record(tmp_path, SETTINGS)
