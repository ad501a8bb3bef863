"""Where a project's environment keeps its packages: a look at folders, nothing is run."""

from pathlib import Path

_ENVIRONMENTS = (".venv", "venv", "env")
_PACKAGES = ("lib/python3*/site-packages", "Lib/site-packages")


def package_paths(project: Path) -> tuple[str, ...]:
    """Return the site-packages folders of the environment inside a project's folder."""
    for name in _ENVIRONMENTS:
        folder = project / name
        if (folder / "pyvenv.cfg").is_file():
            return tuple(str(found) for pattern in _PACKAGES for found in folder.glob(pattern))
    return ()
