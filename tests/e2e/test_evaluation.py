"""A run of an evaluation is killed and goes on: the real command, model and sandbox."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROBLEMS = ROOT / "tests" / "data" / "problems.jsonl"
DEADLINE_S = 120.0

pytestmark = pytest.mark.e2e


def start(record: Path) -> "subprocess.Popen[bytes]":
    """Begin a run, or go on with one."""
    arguments = ["eval", "mtpb", "--problems", str(PROBLEMS), "--limit", "3", "--inputs", "1"]
    arguments += ["--temperature", "1", "--record", str(record), "--json"]
    command = [sys.executable, "-m", "lsp_server", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ))


def finished(record: Path) -> tuple[list[Any], Any]:
    """Return the samples and the figures of a run to its end."""
    with start(record) as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    samples = [line for line in lines if "arm" in line]
    for line in samples:
        del line["seconds"]
    return samples, json.loads(output)


def test_a_run_that_is_killed_goes_on_to_the_same_results(tmp_path: Path) -> None:
    """Samples of a resumed run are those of an unbroken one, drawn by a real model."""
    broken = tmp_path / "broken.jsonl"
    with start(broken) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not broken.exists() or broken.read_bytes().count(b"\n") < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        process.kill()
    samples, report = finished(broken)
    unbroken, expected = finished(tmp_path / "unbroken.jsonl")
    assert samples == unbroken
    assert report == expected
    assert any(text for line in samples for text in line["texts"])
