"""``codegen-lsp eval perplexity``, ``holes`` and ``precisions``, with the embedded model."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lsp_server.__main__ import main
from lsp_server.loading import open_model
from lsp_server.models import exported_folder
from model_eval import bits, source_commands
from model_eval.executing import digest
from model_eval.hole_scores import EXACT, METRICS, TESTS
from model_eval.mtpb import CLEAN, MULTI, Case, programs_of, read_problems
from model_eval.precisions import RUNGS, ladder_tables
from model_eval.prompt_perplexity import perplexity_figures
from model_export.manifest import DATA_FILE, MANIFEST_FILE, read_manifest

pytestmark = pytest.mark.e2e

CODE = '''\
"""Numbers of shapes."""

import math


class Circle:
    """A circle."""

    def __init__(self, radius):
        self.radius = radius

    def area(self):
        """Return the area."""
        return math.pi * self.radius**2


def total(shapes):
    result = 0
    for shape in shapes:
        result += shape.area()
    return result
'''
CHECK = "import shapes\nassert shapes.total([shapes.Circle(1), shapes.Circle(2)]) > 15\n"
PROBLEM = {
    "id": "1",
    "prompts": ["Assign {x} to a.", "Print a."],
    "inputs": [{"x": 1}, {"x": 2}],
    "outputs": [1, 2],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of one module, whose check is a script."""
    folder = tmp_path / "project"
    (folder / "tests").mkdir(parents=True)
    (folder / "shapes.py").write_text(CODE)
    (folder / "tests" / "check.py").write_text(CHECK)
    return folder


def figures(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run an evaluation, and return what it prints as JSON."""
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_bits_of_a_folder(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All bytes of the sources are scored, and a broken-off run ends as an unbroken one."""
    (project / "more.py").write_text(CODE.replace("radius", "side"))
    record = tmp_path / "run.jsonl"
    arguments = ("perplexity", project, "--window", 128, "--stride", 32, "--record", record)
    report = figures(capsys, *arguments)
    row = report["bits"]["positions"][0]
    assert row["n_bytes"] == len(CODE) + len((project / "more.py").read_bytes())
    assert 0.2 < row["bits_per_byte"] < 4
    assert report["settings"]["weights_sha256"]
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) * 2 // 3])
    assert figures(capsys, *arguments) == report
    assert record.read_bytes() == whole


def test_who_breaks_a_run_off_gets_what_is_done(
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C ends with the figures of the files that were read, or with none at all."""
    (project / "more.py").write_text(CODE)
    known, n_left = bits.score_text, [1]

    def score_text(*arguments: Any, **options: Any) -> Any:
        if not n_left[0]:
            raise KeyboardInterrupt
        n_left[0] -= 1
        return known(*arguments, **options)

    monkeypatch.setattr(source_commands, "score_text", score_text)
    arguments = ("perplexity", project, "--window", 128, "--record")
    report = figures(capsys, *arguments, tmp_path / "run.jsonl")
    assert report["bits"]["positions"][0]["n_files"] == 1
    assert main(["eval", *map(str, arguments), str(tmp_path / "none.jsonl")]) == 130


def test_holes_through_the_real_server(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server answers in each hole, the tests run in a copy, and the project stays."""
    command = f"{sys.executable} tests/check.py"
    record = tmp_path / "run.jsonl"
    arguments = ("holes", project, "--limit", 1, "--run-tests", command, "--record", record)
    report = figures(capsys, *arguments)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    holes = [line for line in lines if "hole" in line]
    assert [line["kind"] for line in holes] == ["line", "statement", "body"]
    assert all(isinstance(line["empty"][TESTS], bool) for line in holes)
    assert report["settings"]["server_settings"]["steering"] is False
    every = report["holes"]["kinds"][-1]
    assert {row["metric"] for row in every["metrics"]} <= set(METRICS)
    assert every["metrics"][0]["metric"] == EXACT
    assert (project / "shapes.py").read_text() == CODE
    # A run that is at its end starts no server.
    assert figures(capsys, *arguments) == report


def test_a_ladder_of_precisions(
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the CPU has is measured and compared with fp32; what it lacks is named."""
    # A rung less is a few seconds less.
    monkeypatch.setattr("model_eval.source_commands.RUNGS", RUNGS[:4])
    record = tmp_path / "run.jsonl"
    report = figures(capsys, "precisions", "tiny", "--source", project, "--record", record)
    rungs = [rung["rung"] for rung in report["rungs"]]
    assert rungs == ["fp32", "int8", "int8, int8 cache"]
    assert [row["precision"] for row in report["unavailable"]] == ["fp16"]
    assert report["is_claim"]
    assert not report["rungs"][0]["costs"]
    assert report["rungs"][1]["megabytes"] < report["rungs"][0]["megabytes"]
    assert 0.9 < report["rungs"][1]["same_best"] <= report["rungs"][0]["same_best"] == 1
    assert 0 < abs(report["rungs"][1]["costs"][0]["rise"]) < 0.05
    assert [title for title, _, _ in ladder_tables(report)][-1] == "Not measured"
    assert main(["eval", "report", str(record), "--output", str(tmp_path / "page.html")]) == 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of the embedded model's exported folder."""
    folder = tmp_path / "model"
    shutil.copytree(exported_folder(None), folder)
    return folder


@pytest.fixture
def programs(tmp_path: Path, model: Path) -> list[str]:
    """Return the arguments that name a record of programs, half of which pass."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps(PROBLEM) + "\n")
    header = {
        "evaluation": "mtpb",
        "mode": "clean",
        "model": "codegen-tiny",
        "problems_sha256": hashlib.sha256(problems.read_bytes()).hexdigest(),
        "weights_sha256": read_manifest(model).files[DATA_FILE].sha256,
        "samples": 1,
        "temperature": 0.2,
        "top_p": 0.95,
        "seed": 0,
    }
    lines: list[dict[str, Any]] = [header]
    (problem,) = read_problems(problems, whole=True)[0]
    for index in range(2):
        texts = ["a = 1", "print(a)"]
        case = Case(problem, index)
        _, program = programs_of(case, MULTI, CLEAN, texts)[MULTI]
        lines.append({"case": case.name, "sample": 0, "arm": MULTI, "texts": texts})
        lines.append({"program": digest(program), "error": None, "printed": ["int", "0x1"]})
    record = tmp_path / "mtpb.jsonl"
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--mtpb", str(record), str(problems), f"--model={model}"]


def test_prompts_of_recorded_programs(
    programs: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are the model's own; without evidence there is no threshold."""
    record = tmp_path / "run.jsonl"
    report = figures(capsys, "perplexity", *programs, "--calibrate", "--record", record)
    multi, single = report["prompts"]["rows"]
    assert multi["n_passed"] == 1
    assert multi["perplexity"] > 1 < single["perplexity"]
    assert not report["prompts"]["is_evidence"]
    assert "no evidence" in report["calibrated"]
    assert read_manifest(model).perplexity_threshold is None


def test_a_threshold_stays_with_the_model(
    programs: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With evidence it is in the manifest, which the server reads; older ones have none."""

    def certain(lines: Any) -> dict[str, Any]:
        return perplexity_figures(lines) | {"is_evidence": True, "threshold": 7.5}

    monkeypatch.setattr("model_eval.source_commands.perplexity_figures", certain)
    record = str(tmp_path / "run.jsonl")
    assert main(["eval", "perplexity", *programs, "--calibrate", "--record", record]) == 0
    assert open_model(model).perplexity_threshold == 7.5
    manifest = json.loads((model / MANIFEST_FILE).read_text())
    del manifest["perplexity_threshold"]
    (model / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert read_manifest(model).perplexity_threshold is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "faithful"}, "is no record"),
        ({"problems_sha256": "0"}, "on other problems"),
        ({"weights_sha256": "0"}, "of another model"),
    ],
)
def test_a_record_of_something_else_is_refused(
    programs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    """Perplexities of one model never stand beside the passes of another."""
    path = tmp_path / "mtpb.jsonl"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | change), *lines, ""]))
    assert main(["eval", "perplexity", *programs, "--record", str(tmp_path / "a.jsonl")]) == 1
    assert message in capsys.readouterr().err


def test_a_stride_that_leaves_gaps_is_an_error(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is recorded."""
    assert main(["eval", "perplexity", str(project), "--window=64", "--stride=64"]) == 1
    assert "cannot begin" in capsys.readouterr().err
