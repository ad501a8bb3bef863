"""Packages to measure on: fetched from PyPI by name and version, unpacked, never run."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from platformdirs import user_cache_path

from model_eval.errors import PackageError

HELD_OUT = (
    "arrow==1.3.0", "cattrs==24.1.2", "click==8.1.7", "httpx==0.27.2", "invoke==2.2.0",
    "loguru==0.7.2", "requests==2.32.3", "structlog==24.4.0", "tinydb==4.8.2", "tqdm==4.66.4",
)  # fmt: skip
"""None of them is in the embedded model's training list; what others saw, nobody knows."""

# mypy refuses folders in which these lie.
_SHADOWING = ("typing_extensions.py", "mypy_extensions.py")


def package_folder(requirements: tuple[str, ...] = HELD_OUT) -> Path:
    """Return a folder with the packages and what they need, fetched where it is not there.

    Raises:
        PackageError: pip cannot fetch them.
    """
    name = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:16]
    folder = user_cache_path("codegen-lsp") / "packages" / name
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # Wheels alone: building from source would run a package's own code.
    options = ["--target", str(partial), "--only-binary", ":all:", "--no-compile"]
    run = subprocess.run([*pip, *options, *requirements], capture_output=True, check=False)
    if run.returncode:
        reasons = run.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason"]
        raise PackageError(f"pip cannot fetch {', '.join(requirements)}: {reasons[-1]}")
    for shadowing in _SHADOWING:
        (partial / shadowing).unlink(missing_ok=True)
    partial.rename(folder)
    return folder


def python_files(folder: Path, package: str) -> list[Path]:
    """Return a package's Python files, without tests and copies of other packages."""
    return sorted(
        file
        for file in (folder / package).rglob("*.py")
        if not {"tests", "vendor"} & set(file.relative_to(folder).parts)
    )


def name_of(requirement: str) -> str:
    """Return the folder of the package that a requirement pins."""
    return requirement.partition("==")[0].replace("-", "_").lower()
