"""The command line as a person or a script runs it."""

import ast
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from lsp_server import commands
from lsp_server.models import embedded_checkpoint
from tests.fake_hub import REPO, REVISION, running
from tests.fakes import fake_model

pytestmark = pytest.mark.e2e

_TEXT = "class Point:\n    def __init__(self, x, y):\n        # Store the coordinates.\n"
_DEADLINE_S = 120


def _run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-m", "lsp_server", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=_DEADLINE_S,
    )
    assert run.returncode == status, run.stderr
    return run


def _json(*arguments: str | Path) -> Any:
    """Return the one JSON object that is all of standard output."""
    return json.loads(_run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded model, exported to a folder of its own."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    manifest = _json("export", embedded_checkpoint(), "--output", folder)
    assert manifest == json.loads((folder / "manifest.json").read_text())
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a Python file with one turn that has no program."""
    path = tmp_path / "point.py"
    path.write_text(_TEXT)
    return path


def test_complete_prints_what_the_contract_says(exported: Path, file: Path) -> None:
    """The JSON of a completion has every key that others read, and a checked item."""
    answer = _json(
        "complete", file, "--line", "3", "--character", "0", "--model", exported,
        "--candidates", "3",
    )  # fmt: skip
    assert set(answer) == {"model", "items", "prompt_perplexity", "timing"}
    assert answer["prompt_perplexity"] > 1
    assert 1 <= len(answer["items"]) <= 3
    item = answer["items"][0]
    cursor = {"line": 3, "character": 0}
    assert item["range"] == {"start": cursor, "end": cursor}
    assert item["check"]["verdict"] in ("ok", "repaired", "unchecked", "flagged")
    ast.parse(_TEXT + item["insertText"])
    assert {
        "prompt_tokens",
        "reused_tokens",
        "generated_tokens",
        "first_token_ms",
        "check_ms",
        "total_ms",
    } <= set(answer["timing"])


def test_complete_takes_utf16_characters(exported: Path, tmp_path: Path) -> None:
    """An emoji before the cursor counts two, as editors count it."""
    path = tmp_path / "emoji.py"
    path.write_text("import os\na = '😀'; b = os.", encoding="utf-8")
    answer = _json("complete", path, "--line", "1", "--character", "99", "--model", exported)
    for item in answer["items"]:
        assert item["range"]["start"] == {"line": 1, "character": 17}


def test_synthesize_writes_every_turn_and_the_file(exported: Path, tmp_path: Path) -> None:
    """Each turn has its keys, the text holds every program, and --write changes the file."""
    path = tmp_path / "stack.py"
    text = (
        "class Stack:\n    def __init__(self):\n        # Start with an empty list.\n\n"
        "    def push(self, item):\n        # Append the item.\n"
    )
    path.write_text(text)
    answer = _json("synthesize", path, "--model", exported)
    assert path.read_text() == text
    assert [turn["line"] for turn in answer["turns"]] == [2, 6]
    for turn in answer["turns"]:
        assert set(turn) == {"line", "prompt", "program", "check", "total_ms"}
        assert turn["program"] in answer["text"]
    assert _run("synthesize", path, "--model", exported).stdout.count("\n+") > 1
    _run("synthesize", path, "--model", exported, "--write")
    assert path.read_text() == answer["text"]
    assert _json("synthesize", path, "--model", exported)["turns"] == []
    anew = _json("synthesize", path, "--model", exported, "--stale-from", "0")
    assert anew["text"] == answer["text"]


def test_synthesize_keeps_how_a_file_is_stored(exported: Path, tmp_path: Path) -> None:
    """Line ends, byte-order mark and permissions survive --write."""
    path = tmp_path / "windows.py"
    text = b"\xef\xbb\xbfclass A:\r\n  def __init__(self, path):\r\n    # Store the path.\r\n"
    path.write_bytes(text)
    path.chmod(0o640)
    _run("synthesize", path, "--model", exported, "--write")
    data = path.read_bytes()
    assert data.startswith(text)
    assert len(data) > len(text)
    assert data.count(b"\n") == data.count(b"\r\n")
    assert path.stat().st_mode & 0o777 == 0o640


def test_doctor_reports_in_json_and_in_words(exported: Path) -> None:
    """A machine on which completions work is well, and says with what."""
    report = _json("doctor", "--model", exported)
    assert report["problems"] == []
    assert report["providers"]["CPUExecutionProvider"] == "ok"
    assert report["completion_ms"] > 0
    assert "memory" in _run("doctor", "--model", exported).stdout


def test_doctor_fails_where_the_model_does(tmp_path: Path) -> None:
    """A broken model is a problem with its reason, and the status says so."""
    run = _run("doctor", "--json", "--model", tmp_path, status=1)
    assert any(str(tmp_path) in problem for problem in json.loads(run.stdout)["problems"])


def test_the_demo_changes_a_turn_and_writes_what_is_stale() -> None:
    """The demo works with nothing but the package, and runs the program before and after."""
    output = _run("demo", "--model", "tiny").stdout
    assert "(nothing)" not in output
    first, changed = output.split("One comment is changed")
    for part in (first, changed):
        assert part.count(" ms, check: ok]") == 2
        assert "It prints:\n    home\n" in part
    assert "line 7 is stale" in changed
    assert changed.index("line 7 is stale") < changed.index("# Return the path.")


def test_the_demo_says_so_where_nothing_is_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose programs do not use each other is not shown as if they did."""
    monkeypatch.setattr(commands, "_open_or_pull", lambda _name: fake_model("print(1)\n"))
    assert commands.demo(Namespace(model="fake")) == 0
    output = capsys.readouterr().out
    assert "No later program is stale" in output
    assert "is stale: it uses" not in output


def test_the_demo_falls_back_to_the_embedded_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the network there is a demo too, with a word about what is missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    output = _run("demo").stdout
    assert "The embedded model writes instead" in output
    assert "model: codegen-tiny" in output


def _not_utf8(folder: Path) -> Path:
    path = folder / "latin.py"
    path.write_bytes("é = 1".encode("latin-1"))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["complete", "{missing}", "--line", "0", "--character", "0"], "missing"),
        (["complete", "{latin}", "--line", "0", "--character", "0"], "not UTF-8"),
        (["complete", "{file}", "--line", "99", "--character", "0"], "no line 99"),
        (["complete", "{file}", "--line", "0", "--character", "0", "--model", "{empty}"],
         "config.json"),
        (["complete", "{file}", "--line", "0", "--character", "0", "--model", "no/model"],
         "codegen-lsp pull no/model"),
        (["export", "{empty}", "--output", "{out}"], "config.json"),
        (["export", "{missing}", "--output", "{out}"], "neither a folder nor a Hub id"),
        (["export", "{tiny}", "--output", "{folder}"], "no exported folder"),
        (["export", "{tiny}", "--output", "{file}/x"], "cannot be written"),
        (["export", "{tiny}", "--output", "{out}", "--precision", "fp16"], "int8"),
        (["export", "{tiny}", "--output", "{out}", "--device", "cuda", "--precision", "fp32"],
         "CUDA"),
        (["synthesize", "{missing}"], "missing"),
        (["pull", "{missing}"], "neither a folder nor a Hub id"),
        (["pull", "nothing"], "codegen-lsp models"),
        (["pull", "../model"], "codegen-lsp models"),
        (["pull", "{empty}"], "config.json"),
        (["models", "remove", "nothing"], "nothing of nothing is on this machine"),
        (["models", "remove", "{folder}"], "codegen-lsp models"),
    ],
)  # fmt: skip
def test_what_fails_says_so_in_one_line(
    arguments: list[str], message: str, file: Path, tmp_path: Path
) -> None:
    """Status 1, one line on standard error that names the thing, nothing on output."""
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {
        "missing": tmp_path / "missing",
        "latin": _not_utf8(tmp_path),
        "file": file,
        "empty": empty,
        "out": tmp_path / "out",
        "tiny": embedded_checkpoint(),
        "folder": tmp_path,
    }
    run = _run(*(argument.format_map(places) for argument in arguments), status=1)
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert message in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["complete", "x.py"], ["complete", "x.py", "--line", "-1", "--character", "0"],
     ["serve", "--tcp", "99999"], ["export", "x", "--precision", "fp8"], ["pull"],
     ["models", "remove"], ["models", "delete", "x"]],
)  # fmt: skip
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    """Wrong words are told apart from failures."""
    assert _run(*arguments, status=2).stdout == ""


def test_a_checkpoint_folder_is_exported_to_the_cache_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint can be named as a model, and its export is kept."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    checkpoint = tmp_path / "mine"
    shutil.copytree(embedded_checkpoint(), checkpoint)
    position = ("--line", "3", "--character", "0")
    for _ in range(2):
        assert _json("complete", file, *position, "--model", checkpoint)["model"] == "mine"
    assert len(list((cache / "codegen-lsp/exports").iterdir())) == 1


def test_the_diff_is_one_that_tools_read(exported: Path, tmp_path: Path) -> None:
    """A line without an end is marked, and only line ends of LSP part lines."""
    path = tmp_path / "last.py"
    code = b"class A:\n    def __init__(self, path):\n        # Store the path."
    path.write_bytes(b"x = 'a\x0cb'\n" + code)
    lines = _run("synthesize", path, "--model", exported).stdout.split("\n")
    last = "        # Store the path."
    mark = "\\ No newline at end of file"
    at = lines.index("-" + last)
    assert lines[at + 1 : at + 3] == [mark, "+" + last]
    assert " x = 'a\x0cb'" in lines
    assert lines.count(mark) == 1


@pytest.mark.parametrize(
    ("name", "n_turns"), [("words.py", 4), ("words.js", 4), ("temperature.go", 3)]
)
def test_the_examples_are_synthesized(exported: Path, name: str, n_turns: int) -> None:
    """Each has its turns, in each language, and the text holds what was written."""
    path = Path(__file__).parents[2] / "examples" / name
    answer = _json("synthesize", path, "--model", exported)
    assert len(answer["turns"]) == n_turns
    for turn in answer["turns"]:
        assert turn["prompt"] in answer["text"].split("\n")[turn["line"]]
        is_written = turn["check"]["verdict"] != "flagged"
        assert not is_written or turn["program"] in answer["text"]
        assert turn["check"]["verdict"] == "unchecked" or path.suffix == ".py"


def test_turns_of_other_languages_are_written_anew(exported: Path, tmp_path: Path) -> None:
    """A diff of what is stale shows comments as the language writes them, and no others."""
    path = tmp_path / "sum.js"
    path.write_text("// Add.\nold(1);\n\n// Print the sum.\nold(2);\n")
    shown = _run("synthesize", path, "--model", exported, "--stale-from", "3").stdout
    assert shown.startswith("// Print the sum.\n")
    assert "\n old(1);\n" in shown
    assert "\n-old(2);\n" in shown


@pytest.mark.parametrize("name", ["page.html", "notes.txt", "script"])
def test_files_without_turns_are_refused(name: str, tmp_path: Path) -> None:
    """A file of a language that is not read stays as it is, and the message names those."""
    path = tmp_path / name
    path.write_text(_TEXT)
    run = _run("synthesize", path, "--write", status=1)
    assert (run.stdout, run.stderr.count("\n")) == ("", 1)
    assert str(path) in run.stderr
    assert ".py, " in run.stderr
    assert path.read_text() == _TEXT


def test_other_languages_are_not_checked_as_python(exported: Path, tmp_path: Path) -> None:
    """Whatever a file of another name holds is completed without a verdict."""
    path = tmp_path / "page.js"
    path.write_text(_TEXT + "        self.x = ")
    answer = _json("complete", path, "--line", "3", "--character", "99", "--model", exported)
    assert answer["items"]
    assert {item["check"]["verdict"] for item in answer["items"]} == {"unchecked"}


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that has all caches, which are empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "caches/huggingface"))
    return tmp_path / "caches"


def test_a_model_of_the_hub_is_pulled_used_and_removed(
    caches: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a broken download to a completion, and nothing of it is left in the end."""
    files = {path.name: path.read_bytes() for path in embedded_checkpoint().iterdir()}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.cut_after["model.safetensors"] = 1_000_000
        run = _run("pull", REPO, status=1)
        assert (run.stdout, run.stderr.count("\n")) == ("", 1)
        assert not (caches / "codegen-lsp").exists()
        hub.cut_after.clear()
        pulled = _json("pull", REPO)
        assert (pulled["name"], pulled["revision"]) == (REPO, REVISION)
        asked = len(hub.asked)
        assert "is already here" in _run("pull", REPO).stdout
        assert len(hub.asked) == asked
        assert _json("pull", REPO, "--precision", "int4")["precision"] == "int4"
    assert _json("pull", REPO, "--offline", "--precision", "int8")["precision"] == "int8"
    position = ("--line", "3", "--character", "0")
    assert _json("complete", file, *position, "--model", REPO)["model"] == REPO
    assert REPO in _run("models").stdout
    removed = _json("models", "remove", REPO)
    assert removed["name"] == REPO
    assert len(removed["removed"]) == 2
    assert not list((caches / "codegen-lsp/exports").iterdir())
    assert not list(caches.glob("huggingface/hub/models--*"))
    _run("models", "remove", REPO, status=1)


def test_models_lists_what_there_is(caches: Path) -> None:
    """Each model has every key that others read; a size is real once the model is here."""
    models = {model["name"]: model for model in _json("models")["models"]}
    assert len(models) == 20
    for model in models.values():
        assert set(model) == {
            "name", "parameters", "license", "size_mb", "good_at", "source", "is_here",
            "can_infill", "precision", "device", "folder",
        }  # fmt: skip
        assert set(model["size_mb"]) == {"fp32", "int8", "int4"}
        assert model["is_here"] == (model["name"] == "tiny")
    assert models["codegen2-1b"]["can_infill"]
    folder = _json("pull", "tiny")["folder"]
    assert _run("models", "--json", "--offline").stdout.count("\n") == 1
    tiny = _json("models")["models"][0]
    assert (tiny["folder"], tiny["precision"], tiny["device"]) == (folder, "int8", "cpu")
    table = _run("models").stdout.splitlines()
    assert len(table) == 1 + 20
    assert all(name in line for name, line in zip(models, table[1:], strict=True))
    assert json.loads(_run("models", "--json", "remove", "tiny").stdout)["removed"] == [folder]
    assert not Path(folder).exists()


def test_a_folder_can_be_pulled(caches: Path, file: Path) -> None:
    """A checkpoint folder is exported where ``--model`` looks for it."""
    pulled = _json("pull", embedded_checkpoint(), "--precision", "fp32")
    position = ("--line", "3", "--character", "0", "--model", embedded_checkpoint())
    assert _json("complete", file, *position)["items"]
    assert list((caches / "codegen-lsp/exports").iterdir()) == [Path(pulled["folder"])]
    assert _json("models")["models"][0]["precision"] == "fp32"
