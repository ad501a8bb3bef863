"""Where `make editors` puts the editors, and what happens where one is missing."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDITORS = ROOT / ".editors"


def installed(path: Path) -> Path:
    """Return the path of a part of an editor; skips where it is missing, fails in CI."""
    if not path.exists():
        message = f"{path} is not installed; run `make editors`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
