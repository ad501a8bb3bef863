"""A project's own files, and its tests in a copy of it."""

import sys
from pathlib import Path

import pytest

from model_eval.errors import ProjectError
from model_eval.project import ProjectTests, source_files

CODE = "def double(x):\n    return 2 * x\n"
CHECK = "import os, shapes\nassert shapes.double(2) == 4\nassert 'SECRET' not in os.environ\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with a src layout, whose check is ``check.py``."""
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "shapes.py").write_text(CODE)
    (folder / "check.py").write_text(CHECK)
    return folder


def test_a_projects_own_files(project: Path) -> None:
    """Tests, environments, hidden and generated files are not what is measured on."""
    for name in (
        "tests/test_a.py",
        "src/test_b.py",
        "src/c_test.py",
        "conftest.py",
        ".venv/d.py",
        "build/e.py",
        "src/vendor/f.py",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(CODE)
    (project / "src" / "latin.py").write_bytes(b"# \xe9\n")
    (project / "src" / "empty.py").write_text("\n")
    (project / "src" / "long.py").write_text("x = 1\n" * 50_000)
    assert source_files(project) == {"check.py": CHECK, "src/shapes.py": CODE}


def test_a_folder_without_python_is_an_error(tmp_path: Path) -> None:
    """A mistyped folder is named, not measured as if it were empty."""
    with pytest.raises(ProjectError, match="no Python files"):
        source_files(tmp_path / "nothing")


def test_the_copy_is_what_is_tested(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A src layout is imported from the copy, which is restored; the project stays."""
    monkeypatch.setenv("SECRET", "1")
    with ProjectTests(project, f"{sys.executable} check.py") as tests:
        assert tests.pass_with("src/shapes.py", "def double(x):\n    return x + x\n")
        assert not tests.pass_with("src/shapes.py", "def double(x):\n    return x\n")
        assert tests.pass_with("src/shapes.py", CODE)
    assert (project / "src" / "shapes.py").read_text() == CODE


def test_what_never_ends_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless loop is killed after a few times what the tests take as they are."""
    monkeypatch.setattr("model_eval.project._LEAST_S", 0.2)
    with ProjectTests(project, f"{sys.executable} check.py") as tests:
        tests.seconds = 0.2
        assert not tests.pass_with("src/shapes.py", "while True:\n    pass\n")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (f"{sys.executable} -c 'print(1); raise SystemExit(3)'", "fail as they are: 1"),
        ("no-such-command -q", "no command 'no-such-command'"),
        ("", "no command ''"),
    ],
)
def test_tests_that_fail_as_they_are_say_nothing(
    project: Path, command: str, reason: str
) -> None:
    """They are refused before anything is asked for, with what they said last."""
    with pytest.raises(ProjectError, match=reason), ProjectTests(project, command):
        pass
