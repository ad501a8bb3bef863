"""Packages to measure on, with pip faked."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from model_eval import packages
from model_eval.errors import PackageError
from model_eval.packages import name_of, package_folder, python_files


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return what pip was asked; it knows every package but ``missing``."""
    asked: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        if "missing==1" in command:
            return subprocess.CompletedProcess(command, 1, b"", b"a\nno such package\n")
        target = Path(command[command.index("--target") + 1])
        (target / "tiny").mkdir(parents=True)
        (target / "typing_extensions.py").write_text("")
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(packages, "user_cache_path", lambda _name: tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_packages_are_fetched_once_and_never_built(calls: list[list[str]]) -> None:
    """Pinned wheels are unpacked, so that no package's code is run."""
    folder = package_folder(("tiny==1",))
    assert package_folder(("tiny==1",)) == folder
    (command,) = calls
    assert "tiny==1" in command
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_what_the_judge_refuses_goes(calls: list[list[str]]) -> None:
    """A module that shadows one of the judge's own would keep it from starting."""
    assert [file.name for file in package_folder(("tiny==1",)).iterdir()] == ["tiny"]


def test_what_cannot_be_fetched_is_an_error(calls: list[list[str]]) -> None:
    """The last thing that pip says is the reason, and nothing is left behind."""
    with pytest.raises(PackageError, match="missing==1: no such package"):
        package_folder(("missing==1",))
    with pytest.raises(PackageError):
        package_folder(("missing==1",))
    assert len(calls) == 2


def test_a_packages_own_files(tmp_path: Path) -> None:
    """Tests and copies of other packages are not what is measured on."""
    for name in ("p/a.py", "p/sub/b.py", "p/tests/c.py", "p/vendor/d.py", "q/e.py", "p/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert python_files(tmp_path, "p") == [tmp_path / "p/a.py", tmp_path / "p/sub/b.py"]


def test_the_folder_of_a_package() -> None:
    """A distribution's dash is an underscore in the name that one imports."""
    assert name_of("Two-Words==1.0") == "two_words"
