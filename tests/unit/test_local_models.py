"""What the server asks of the models that are here, with the cache in a temporary folder."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lsp_server import models
from lsp_server.local_models import LocalModels
from lsp_server.settings import Settings
from model_export.manifest import DATA_FILE, read_manifest
from tests.checkpoints import EMBEDDED


class NotWantedError(Exception):
    """What ends an export."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache that the tests use in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(models, "user_cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a checkpoint folder."""
    return shutil.copytree(EMBEDDED, tmp_path / "mine")


def prepared(checkpoint: Path) -> Path:
    """Return the exported folder of a checkpoint."""
    return LocalModels().prepare(Settings(model=str(checkpoint)), lambda _done, _total: None)


def test_an_export_that_nobody_wants_leaves_nothing(checkpoint: Path, cache: Path) -> None:
    """What the report raises ends the export at once, and no half of it stays."""

    def stop(_done: int, _total: int) -> None:
        raise NotWantedError

    with pytest.raises(NotWantedError):
        LocalModels().prepare(Settings(model=str(checkpoint)), stop)
    assert list(cache.glob("*/exports/*")) == []


def test_a_model_has_room_beside_another_if_its_weights_do(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older model need not go where the memory holds both, and goes where it does not."""
    folder = prepared(checkpoint)
    weights = read_manifest(folder).files[DATA_FILE].size

    def with_free(n_bytes: int) -> tuple[bool, bool]:
        free = SimpleNamespace(available=n_bytes)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
        return LocalModels().has_room(folder), LocalModels().has_room(None)

    assert with_free(weights) == (False, False)
    assert with_free(weights + 500_000_000) == (True, False)
    assert with_free(4_000_000_000) == (True, True)


def test_where_a_model_is_damaged_the_memory_is_not_the_matter(tmp_path: Path) -> None:
    """The older model does not go for one that cannot be opened."""
    assert LocalModels().has_room(tmp_path / "nothing")
