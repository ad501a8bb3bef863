"""From a name to an exported folder, with the user's cache in a temporary folder."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

import model_export
from lsp_server import models
from lsp_server.errors import ModelLoadError, ModelNotFoundError
from lsp_server.models import (
    cache_folder,
    embedded_checkpoint,
    export_folder,
    exported_folder,
    list_exports,
    remove_model,
    source_folder,
)
from model_export.catalogue import WheelFile, find_model
from model_export.errors import OutputError
from model_export.hub import Fetched
from model_export.manifest import FORMAT_VERSION, MANIFEST_FILE, read_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache that the tests use in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(models, "user_cache_path", lambda name: folder / name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded model, exported once for all tests."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    model_export.export(embedded_checkpoint(), folder)
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


def make_export(tiny: Path, name: str, device: str = "cpu", **changed: object) -> Path:
    """Put an export of a name into the cache; ``changed`` is other than in its manifest."""
    model = find_model(name)
    folder = shutil.copytree(tiny, cache_folder(name, device))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["source"]["name"] = model.key if model else name
    manifest |= {"device": device, **changed}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def make_source(name: str) -> Path:
    """Make the file of a wheel look fetched."""
    model = find_model(name)
    assert model is not None
    assert isinstance(model.origin, WheelFile)
    path = source_folder(model.origin) / Path(model.origin.member).name
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(model.origin.size)
    return path


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


def test_a_damaged_export_is_made_anew(checkpoint: Path) -> None:
    """A file that is missing from the cache costs an export and no model."""
    folder = exported_folder(str(checkpoint))
    (folder / "model.onnx").unlink()
    assert exported_folder(str(checkpoint)) == folder
    assert read_manifest(folder)


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


@pytest.mark.parametrize(
    "name",
    ["Salesforce/codegen-350M-mono", "codegen-350m-mono", "CodeGen-350M-mono",
     "salesforce/codegen-350m-mono"],
)  # fmt: skip
def test_a_name_and_its_hub_id_are_one_model(name: str, tiny: Path) -> None:
    """However a model of the catalogue is spelled, its export is found."""
    folder = make_export(tiny, "Salesforce/codegen-350M-mono")
    assert exported_folder(name) == folder == export_folder(name)
    assert [export.name for export in list_exports()] == ["codegen-350m-mono"]


@pytest.mark.parametrize("name", ["tiny", "Tiny"])
def test_tiny_is_the_embedded_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name means the same as none, whatever lies in the workspace."""
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path / name)
    assert exported_folder(name) == exported_folder(None) == export_folder(name)
    assert [export.name for export in list_exports()] == ["tiny"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Salesforce/codegen-350M-mono", "codegen-lsp pull Salesforce/codegen-350M-mono"),
        ("smollm2-135m", "codegen-lsp pull smollm2-135m"),
        ("some/model", "codegen-lsp pull some/model"),
        ("nothing", "codegen-lsp models"),
        ("./no/such", "codegen-lsp models"),
        ("~x/y", "codegen-lsp models"),
    ],
)
def test_an_unknown_name_says_what_gets_it(name: str, advice: str, cache: Path) -> None:
    """Nothing is downloaded; the message has the command to type."""
    with pytest.raises(ModelNotFoundError, match=rf"^the model {name} is not .*`{advice}`"):
        exported_folder(name)
    assert not cache.exists()


def test_an_unknown_name_for_cuda_is_pulled_for_cuda(tiny: Path) -> None:
    """The command to type gets what was asked for."""
    make_export(tiny, "some/model")
    with pytest.raises(ModelNotFoundError, match="pull some/model --device cuda"):
        exported_folder("some/model", device="cuda")


def _fail(*_arguments: object, **_options: object) -> None:
    raise AssertionError("this must not be exported")


def test_an_export_of_another_version_is_made_anew(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched makes it, in its precision and for its device, in the same place."""
    source = make_source("smollm2-135m")
    folder = make_export(tiny, "smollm2-135m", format_version=1, precision="int4")
    made = []

    def export(source: Fetched, output: Path, **options: object) -> None:
        shutil.rmtree(output)
        shutil.copytree(tiny, output)
        made.append((source, output, options["precision"], options["device"]))

    monkeypatch.setattr(model_export, "export", export)
    assert exported_folder("smollm2-135m") == folder
    assert made == [(Fetched(source, "smollm2-135m"), folder, "int4", "cpu")]
    assert read_manifest(folder).format_version == FORMAT_VERSION
    monkeypatch.setattr(model_export, "export", _fail)
    assert exported_folder("smollm2-135m") == folder


def test_a_model_of_the_hub_is_made_anew_without_the_network(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the Hub's cache makes a damaged export good again, with its revision."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = tmp_path / "hub/models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/codegen-lsp").write_text("abc")
    shutil.copytree(embedded_checkpoint(), repository / "snapshots/abc")
    folder = make_export(tiny, "some/model")
    (folder / "model.onnx").unlink()
    assert exported_folder("some/model") == folder
    source = read_manifest(folder).source
    assert (source.name, source.revision) == ("some/model", "abc")


@pytest.mark.parametrize("name", ["smollm2-135m", "some/model"])
def test_what_cannot_be_made_anew_is_pulled_again(
    name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the source is gone, one line says what to do, and the old export stays."""
    folder = make_export(tiny, name, format_version=1)
    monkeypatch.setattr(model_export, "export", _fail)
    with pytest.raises(ModelNotFoundError, match=f"`codegen-lsp pull {name}` gets it again$"):
        exported_folder(name)
    assert folder.is_dir()
    assert not list_exports()[0].is_whole


def test_what_is_in_the_cache_is_listed(
    tiny: Path, checkpoint: Path, tmp_path: Path, cache: Path
) -> None:
    """Each export has the name that --model takes, or else its folder's."""
    make_export(tiny, "codegen-350m-mono")
    make_export(tiny, "codegen-350m-mono", "cuda", precision="fp16")
    make_export(tiny, "some/model", can_infill=True)
    of_folder = exported_folder(str(checkpoint))
    (cache / "codegen-lsp/exports/foreign").mkdir()
    assert {(export.name, export.device, export.precision) for export in list_exports()} == {
        ("codegen-350m-mono", "cpu", "int8"),
        ("codegen-350m-mono", "cuda", "fp16"),
        ("some/model", "cpu", "int8"),
        (of_folder.name, "cpu", "int8"),
    }
    assert [export.can_infill for export in list_exports()].count(True) == 1
    assert all(export.is_whole and export.size > 1e6 for export in list_exports())


def test_a_model_is_removed_with_what_was_fetched(tiny: Path, cache: Path) -> None:
    """Exports for all devices and the source go, others stay, and a second time says so."""
    source = make_source("smollm2-135m")
    doomed = [make_export(tiny, "smollm2-135m"), make_export(tiny, "smollm2-135m", "cuda")]
    other = make_export(tiny, "some/model")
    assert remove_model("SmolLM2-135M") == [*doomed, source.parent]
    assert list((cache / "codegen-lsp/exports").iterdir()) == [other]
    assert not source.exists()
    with pytest.raises(ModelNotFoundError, match="nothing of smollm2-135m is on this machine"):
        remove_model("smollm2-135m")


def test_every_name_that_is_listed_can_be_removed(tiny: Path, checkpoint: Path) -> None:
    """Folders' exports and the embedded model's too; the latter is made anew when needed."""
    exported_folder(str(checkpoint))
    exported_folder(None)
    make_export(tiny, "some/model")
    for export in list_exports():
        assert remove_model(export.name) == [export.folder]
    assert not list_exports()
    assert checkpoint.is_dir()
    assert exported_folder("tiny").is_dir()


@pytest.mark.parametrize(
    "name", ["..", "../exports", "../../hub", ".", "", "/", "{elsewhere}", "a/..", "~", "*"]
)
def test_nothing_outside_the_cache_is_removed(
    name: str, tiny: Path, tmp_path: Path, cache: Path
) -> None:
    """A name is compared with what is in the cache, and never followed."""
    elsewhere = shutil.copytree(tiny, tmp_path / "elsewhere")
    kept = make_export(tiny, "some/model")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelNotFoundError):
        remove_model(name.format(elsewhere=elsewhere))
    assert sorted(tmp_path.rglob("*")) == before
    link = cache_folder("some/link")
    link.symlink_to(elsewhere)
    remove_model(link.name)
    assert not link.is_symlink()
    assert elsewhere.is_dir()
    assert kept.is_dir()


def test_a_folder_in_use_is_one_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system keeps what a server uses, the message says so, and all stays."""
    folder = make_export(tiny, "some/model")

    def refuse(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match=r"cannot be removed: Access is denied; end the ser"):
        remove_model("some/model")
    assert read_manifest(folder)


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
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was exported under a name is meant by it, whatever lies in the workspace."""
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path / name)
    assert exported_folder(name) == Path(name)
    cached = make_export(tiny, name)
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


def test_a_single_file_is_a_checkpoint_too(tmp_path: Path) -> None:
    """A .gguf file has a place of its own in the cache, and a new one when it changes."""
    file = tmp_path / "small.gguf"
    file.write_bytes(b"one")
    before = export_folder(str(file))
    assert before.name.startswith("small.gguf@")
    os.utime(file, ns=(1, 1))
    assert export_folder(str(file)) != before


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
