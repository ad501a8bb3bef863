"""From a name to an exported folder, with the user's cache in a temporary folder."""

import errno
import os
import shutil
from pathlib import Path

import pytest

import model_export
from lsp_server import models
from lsp_server.errors import ModelLoadError, ModelNotFoundError
from lsp_server.models import (
    cache_folder,
    embedded_checkpoint,
    export_folder,
    exported_folder,
)
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
        ("../../etc", "etc@"),
        ("..", "model@"),
        ("C:\\models\\x", "C--models--x@"),
        ("a b", "a--b@"),
        ("a--b", "a--b@"),
    ],
)
def test_a_cache_folder_stays_in_the_cache(name: str, folder: str, cache: Path) -> None:
    """No name leads out of the cache."""
    found = cache_folder(name)
    assert found.parent == cache / "codegen-lsp" / "exports"
    assert found.name == folder or (folder.endswith("@") and found.name.startswith(folder))


@pytest.mark.parametrize("name", ["some/model", "model"])
def test_a_folder_in_the_workspace_does_not_replace_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was exported under a name is meant by it, whatever lies in the workspace."""
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path / name)
    assert exported_folder(name) == Path(name)
    cached = make_manifest(cache_folder(name))
    assert exported_folder(name) == cached
    assert exported_folder(f"./{name}") == Path(name)


def test_an_export_goes_where_its_name_is_looked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder a/b and the Hub's a/b never share a place in the cache."""
    monkeypatch.chdir(checkpoint.parent.parent)
    name = f"{checkpoint.parent.name}/{checkpoint.name}"
    assert export_folder("no/folder") == cache_folder("no/folder")
    assert export_folder(name) != cache_folder(name)
    assert export_folder(name) == exported_folder(name)
    assert len({cache_folder(name) for name in ("a/b", "a--b", "a b", "./a/b")}) == 4


def test_only_what_the_export_reads_makes_it_anew(checkpoint: Path) -> None:
    """A note or a training state beside the weights is no other model."""
    before = exported_folder(str(checkpoint))
    for name in ("README.md", "optimizer.bin"):
        (checkpoint / name).write_text("new")
    assert exported_folder(str(checkpoint)) == before


def test_the_export_of_an_older_state_is_removed(checkpoint: Path) -> None:
    """A checkpoint that changes every day does not fill the cache; other folders stay."""
    before = exported_folder(str(checkpoint))
    foreign = before.with_name(f"{before.name}x")
    foreign.mkdir()
    os.utime(checkpoint / "config.json", ns=(1, 1))
    after = exported_folder(str(checkpoint))
    assert set(after.parent.iterdir()) == {after, foreign}


def test_a_folder_that_may_not_be_entered_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a forbidden folder nor an impossible name gives a traceback."""
    stat = Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if "private" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    for find in (exported_folder, export_folder):
        with pytest.raises(ModelLoadError, match=r"private cannot be read: Permission denied$"):
            find(str(tmp_path / "private"))
        with pytest.raises(ModelLoadError, match=r"x cannot be read: File name too long$"):
            find("x" * 300)
