"""From a name to an exported folder, with the user's cache in a temporary folder."""

import os
import shutil
from pathlib import Path

import pytest

import model_export
from lsp_server import models
from lsp_server.errors import ModelLoadError, ModelNotFoundError
from lsp_server.models import cache_folder, embedded_checkpoint, exported_folder
from model_export.manifest import MANIFEST_FILE, read_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache that the tests use in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(models, "user_cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a copy of the embedded checkpoint."""
    return shutil.copytree(embedded_checkpoint(), tmp_path / "mine")


def make_manifest(folder: Path) -> Path:
    """Make a folder look exported."""
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [None, ""])
def test_the_embedded_model_is_exported_once(
    name: str | None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start exports into the cache and tells how far it is; the next reuses it."""
    told: list[tuple[int, int]] = []
    folder = exported_folder(name, lambda done, total: told.append((done, total)))
    assert folder.is_relative_to(cache)
    assert read_manifest(folder).source.name == "codegen-tiny"
    assert told[-1][0] == told[-1][1] > 0

    monkeypatch.setattr(model_export, "export", None)
    assert exported_folder(name) == folder


def test_a_changed_checkpoint_is_exported_again(checkpoint: Path) -> None:
    """A cached export is never used for weights that it does not hold."""
    before = exported_folder(str(checkpoint))
    assert exported_folder(str(checkpoint)) == before
    weights = checkpoint / "model.safetensors"
    changed_ns = weights.stat().st_mtime_ns + 1_000_000_000
    os.utime(weights, ns=(changed_ns, changed_ns))
    after = exported_folder(str(checkpoint))
    assert after != before
    assert (after / MANIFEST_FILE).is_file()


def test_two_checkpoints_of_one_name_are_kept_apart(checkpoint: Path, tmp_path: Path) -> None:
    """The cache tells checkpoints apart by more than their folder's name."""
    other = shutil.copytree(checkpoint, tmp_path / "elsewhere" / checkpoint.name)
    assert exported_folder(str(checkpoint)) != exported_folder(str(other))


def test_an_exported_folder_is_used_as_it_is(tmp_path: Path) -> None:
    """A folder with a manifest needs no cache."""
    folder = make_manifest(tmp_path / "exported")
    assert exported_folder(str(folder)) == folder


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read by no shell, so ``~`` is ours to read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = make_manifest(tmp_path / "exported")
    assert exported_folder("~/exported") == folder


def test_a_hub_id_that_was_exported_is_found() -> None:
    """``export`` without an output and a later name mean the same folder."""
    folder = make_manifest(cache_folder("Salesforce/codegen-350M-mono"))
    assert exported_folder("Salesforce/codegen-350M-mono") == folder


@pytest.mark.parametrize(
    "name", ["Salesforce/codegen-350M-mono", "nothing", "./no/such", "~x/y"]
)
def test_an_unknown_name_says_what_gets_it(name: str, cache: Path) -> None:
    """Nothing is downloaded; the message has the command to type."""
    with pytest.raises(ModelNotFoundError, match=f"codegen-lsp export {name}"):
        exported_folder(name)
    assert not cache.exists()


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    """A folder or file of something else is one clear error and leaves nothing behind."""
    (checkpoint / "config.json").unlink()
    for path in (checkpoint, checkpoint / "tokenizer.json"):
        with pytest.raises(ModelLoadError) as error:
            exported_folder(str(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob(MANIFEST_FILE))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Salesforce/codegen-350M-mono", "Salesforce--codegen-350M-mono"),
        ("../../etc", "etc"),
        ("..", "model"),
        ("C:\\models\\x", "C--models--x"),
        ("a b", "a--b"),
    ],
)
def test_a_cache_folder_stays_in_the_cache(name: str, folder: str, cache: Path) -> None:
    """No name leads out of the cache."""
    assert cache_folder(name) == cache / "codegen-lsp" / "exports" / folder
