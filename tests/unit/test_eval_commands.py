"""The command ``codegen-lsp eval steering``, with a scripted model and a tiny package."""

import json
from pathlib import Path
from typing import Any

import pytest

from lsp_server.__main__ import main
from lsp_server.errors import ModelNotFoundError
from model_eval import commands
from tests.fakes import fake_model

TEXT = """\
class Shape:
    def __init__(self):
        self.width = 1

    def area(self):
        return self.width
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the record goes; every package is the same tiny one."""
    folder = tmp_path / "packages"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "__init__.py").write_text(TEXT)
    opened = {"model": "fake", "precision": "fp32", "weights_sha256": "0" * 64}
    monkeypatch.setattr(commands, "package_folder", lambda _requirements: folder)
    monkeypatch.setattr(commands, "open_model", lambda *_: (fake_model("wilth\n"), opened))
    monkeypatch.setattr(commands, "user_cache_path", lambda _name: tmp_path / "cache")
    return tmp_path / "out" / "run.jsonl"


def run(record: Path, *arguments: str) -> int:
    """Run the command on the tiny package."""
    common = ["--packages", "tiny==1", "--samples", "2", "--record", str(record)]
    return main(["eval", "steering", *common, *arguments])


def test_it_measures_writes_and_prints(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names steer, mypy judges, and the figures come as JSON, in a file and as a plot."""
    assert run(record, "--json") == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["settings"]["packages"] == ["tiny==1"]
    assert report["settings"]["exposure"].startswith("unknown")
    assert report["n_cases"] == {"reads": 1, "stores": 1, "all": 2}
    assert [(g["rejected_plain"], g["rejected"]) for g in report["goals"]] == [(1.0, 0.0)] * 4
    assert json.loads(record.with_suffix(".json").read_text()) == report
    assert "<svg" in record.with_suffix(".svg").read_text()


def test_a_finished_run_is_only_reported(
    record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded is not written again, and the tables say what is not known."""
    assert run(record) == 0
    recorded = record.read_bytes()
    assert run(record) == 0
    assert record.read_bytes() == recorded
    printed = capsys.readouterr().out
    assert "exposure to these packages is unknown" in printed
    assert "What is to be reached" in printed


def test_a_package_without_methods_is_an_error(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package whose folder has another name is not silently left out."""
    assert run(record, "--packages", "other==1") == 1
    assert "other==1 has no folder of its name" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["tiny", "../x==1", "-r==1", "a @ file:///x==1"])
def test_only_pinned_packages_of_an_index(record: Path, package: str) -> None:
    """A package is a name and a version, so that a run can be repeated."""
    with pytest.raises(SystemExit) as error:
        run(record, f"--packages={package}")
    assert error.value.code == 2


def test_a_model_that_is_not_here_is_an_error(
    record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out before anything is recorded."""

    def refuse(name: str | None, _threads: int | None) -> Any:
        raise ModelNotFoundError("there is no such model")

    monkeypatch.setattr(commands, "open_model", refuse)
    assert run(record) == 1
    assert not record.exists()
    assert "no such model" in capsys.readouterr().err
