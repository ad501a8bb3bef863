"""A generated program runs, and what it may not do it does not."""

import sys
from pathlib import Path

import pytest

from lsp_server.limited_run import Run, run_limited


def test_a_program_prints() -> None:
    """What a finished program prints is what a person wants to see."""
    assert run_limited("print('é', sum(range(5)))\n") == Run("é 10\n", "")


def test_a_failing_program_says_why() -> None:
    """What it printed before stays, and the reason is one line."""
    run = run_limited("print(1)\nprint(1 / 0)\n")

    assert run == Run("1\n", "ZeroDivisionError: division by zero")


def test_broken_code_is_no_crash() -> None:
    """A model writes what does not parse."""
    assert run_limited("def f(:\n").failure.startswith("SyntaxError")


FORBIDDEN = {
    "files": "open('{mark}', 'w')",
    "files without a mode": "import os; os.open('{mark}', os.O_CREAT | os.O_RDWR)",
    "pathlib": "import pathlib; pathlib.Path('{mark}').touch()",
    "folders": "import os; os.mkdir('{mark}')",
    "processes": "import subprocess; subprocess.run(['touch', '{mark}'])",
    "a shell": "import os; os.system('touch {mark}')",
    "forks": "import os; os.fork(); open('{mark}', 'w')",
    "the network": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "removal": "import os; os.remove('{victim}')",
}


@pytest.mark.parametrize("program", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_it_may_not_do_leaves_no_trace(program: str, tmp_path: Path) -> None:
    """A program that errs writes nothing, removes nothing, starts nothing and calls nobody."""
    mark, victim = tmp_path / "mark", tmp_path / "victim"
    victim.touch()

    run = run_limited(program.format(mark=mark, victim=victim))

    assert "may not do this" in run.failure
    assert victim.exists()
    assert not mark.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of this kind")
def test_memory_has_a_limit() -> None:
    """A list that grows for ever ends the program and not the machine."""
    assert "MemoryError" in run_limited("x = [0] * (1 << 31)").failure


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of this kind")
def test_endless_output_has_a_limit() -> None:
    """A loop that prints for ever fills neither the memory nor the disk."""
    run = run_limited("while True: print('x' * 50)")

    assert "File too large" in run.failure
    assert 10_000 < len(run.output) <= 100_000


def test_nothing_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets stand in the environment of many shells."""
    monkeypatch.setenv("SECRET", "word")

    assert run_limited("import os; print(os.environ.get('SECRET'))").output == "None\n"
