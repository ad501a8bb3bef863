"""Where packages are looked for, without running anything."""

from pathlib import Path

import pytest

from lsp_server.environment import Environment, find_environment


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
    assert [Path(path) for path in find_environment(tmp_path).packages] == [folder]


def test_the_first_environment_counts(tmp_path: Path) -> None:
    """Only one environment's packages can be imported at a time."""
    made(tmp_path, "venv", "lib/python3.11/site-packages")
    folder = made(tmp_path, ".venv", "lib/python3.12/site-packages")
    assert find_environment(tmp_path) == Environment((str(folder),), (3, 12))


def test_a_folder_that_is_no_environment(tmp_path: Path) -> None:
    """A folder of that name alone is not believed, nor is a missing project."""
    made(tmp_path, "env", "lib/python3.11/site-packages", is_environment=False)
    assert find_environment(tmp_path) == Environment()
    assert find_environment(tmp_path / "missing") == Environment()
    assert find_environment(None) == Environment()


def test_an_environment_that_is_named_counts_before_all_others(tmp_path: Path) -> None:
    """A person may name any folder, by its whole path or by that in the project."""
    made(tmp_path, ".venv", "lib/python3.11/site-packages")
    folder = made(tmp_path, "other", "lib/python3.12/site-packages", is_environment=False)
    found = Environment((str(folder),), (3, 12))
    assert find_environment(tmp_path, Path("other")) == found
    assert find_environment(None, tmp_path / "other") == found
    assert find_environment(tmp_path, Path("missing")) == Environment()


@pytest.mark.parametrize("key", ["version", "version_info"])
def test_the_version_is_read_from_the_file(tmp_path: Path, key: str) -> None:
    """Whatever made the environment says of which Python it is."""
    folder = made(tmp_path, ".venv", "Lib/site-packages").parents[1]
    folder.joinpath("pyvenv.cfg").write_text(f"home = /x\n{key} = 3.13.1.final.0\n")
    assert find_environment(tmp_path).version == (3, 13)
