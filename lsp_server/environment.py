"""Where a project's environment keeps its packages: a look at files, nothing is run."""

import re
from dataclasses import dataclass
from pathlib import Path

_ENVIRONMENTS = (".venv", "venv", "env")
_PACKAGES = ("lib/python3*/site-packages", "Lib/site-packages")
_VERSION = re.compile(r"^version(?:_info)?\s*=\s*(3)\.(\d+)", re.MULTILINE)
_FOLDER_OF_VERSION = re.compile(r"python(3)\.(\d+)$")


@dataclass(frozen=True)
class Environment:
    """What is known of an environment by its files."""

    packages: tuple[str, ...] = ()
    """Its site-packages folders."""
    version: tuple[int, int] | None = None
    """Of its Python."""


def find_environment(project: Path | None, named: Path | None = None) -> Environment:
    """Return the environment that is named, else the one inside a project's folder.

    A relative name is one of the project.
    """
    if named is not None:
        return _read(project / named if project else named)
    folders = [project / name for name in _ENVIRONMENTS] if project else []
    for folder in folders:
        if (folder / "pyvenv.cfg").is_file():
            return _read(folder)
    return Environment()


def _read(folder: Path) -> Environment:
    packages = [found for pattern in _PACKAGES for found in sorted(folder.glob(pattern))]
    found = _VERSION.search(_text(folder / "pyvenv.cfg"))
    for path in packages:
        found = found or _FOLDER_OF_VERSION.search(path.parent.name)
    version = (int(found[1]), int(found[2])) if found else None
    return Environment(tuple(map(str, packages)), version)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
