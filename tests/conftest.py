"""What every test shares."""

import os
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

# Tests that run onnxruntime themselves call nobody either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# What the servers of tests count is not what their user accepted.
_STATE = TemporaryDirectory()
os.environ["XDG_STATE_HOME"] = _STATE.name

# How long an example takes depends on the machine, and is nothing to fail for.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="module")
def _forget_trees() -> Iterator[None]:
    """Drop the trees of the files that jedi read; each collection would walk through them."""
    yield
    if cache := sys.modules.get("parso.cache"):
        cache.parser_cache.clear()
