"""Where packages are looked for, without running anything."""

from pathlib import Path

import pytest

from lsp_server.environment import package_paths


def made(project: Path, name: str, packages: str, *, is_environment: bool = True) -> Path:
    """Make an environment's folders and return that of its packages."""
    folder = project / name / packages
    folder.mkdir(parents=True)
    if is_environment:
        (project / name / "pyvenv.cfg").write_text("home = /nowhere\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [".venv", "venv", "env"])
@pytest.mark.parametrize("packages", ["lib/python3.11/site-packages", "Lib/site-packages"])
def test_an_environment_is_found(tmp_path: Path, name: str, packages: str) -> None:
    """The usual names and both systems' folders are known."""
    folder = made(tmp_path, name, packages)
    assert [Path(path) for path in package_paths(tmp_path)] == [folder]


def test_the_first_environment_counts(tmp_path: Path) -> None:
    """Only one environment's packages can be imported at a time."""
    made(tmp_path, "venv", "lib/python3.11/site-packages")
    folder = made(tmp_path, ".venv", "lib/python3.12/site-packages")
    assert package_paths(tmp_path) == (str(folder),)


def test_a_folder_that_is_no_environment(tmp_path: Path) -> None:
    """A folder of that name alone is not believed, nor is a missing project."""
    made(tmp_path, "env", "lib/python3.11/site-packages", is_environment=False)
    assert package_paths(tmp_path) == ()
    assert package_paths(tmp_path / "missing") == ()
