"""Downloads from a Hub on loopback, into a cache in a temporary folder."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download

from model_export import export
from model_export.errors import (
    DamagedDownloadError,
    DownloadError,
    NoRoomError,
    UnreachableError,
)
from model_export.hub import download_checkpoint, local_checkpoint, remove_checkpoint
from tests.fake_hub import REPO, REVISION, FakeHub, running

_WEIGHTS = bytes(range(256)) * 400
_FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": _WEIGHTS}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache that the library uses in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def fake_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Yield the Hub that the library asks."""
    with running(dict(_FILES)) as found:
        use(found.url, monkeypatch)
        yield found


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library ask the Hub at this address."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def holds(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_comes_whole_and_with_its_revision(fake_hub: FakeHub) -> None:
    """The files, the name and the commit are known, and progress ends at the whole."""
    told: list[tuple[int, int]] = []
    fetched = download_checkpoint(REPO, progress=lambda *told_now: told.append(told_now))
    assert (fetched.name, fetched.revision) == (REPO, REVISION)
    assert holds(fetched.path) == _FILES
    total = sum(map(len, _FILES.values()))
    assert told[-1] == (total, total)
    fake_hub.asked.clear()
    assert download_checkpoint(REPO) == fetched
    assert len(fake_hub.asked) == 1


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (
            ["model.safetensors", "pytorch_model.bin", "modeling_codegen.py", "a/config.json"],
            ["model.safetensors"],
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json", "model.gguf", "tokenizer_config.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json", "tokenizer_config.json"],
        ),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "setup.py"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
        (["a.msgpack", "pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (["small.gguf", "README.md"], ["small.gguf"]),
    ],
)  # fmt: skip
def test_only_data_is_taken(files: list[str], taken: list[str], fake_hub: FakeHub) -> None:
    """Weights come in one format, as safetensors where possible; no code is ever fetched."""
    del fake_hub.files["model.safetensors"]
    fake_hub.files |= {name: name.encode() for name in files}
    fetched = download_checkpoint(REPO)
    assert set(holds(fetched.path)) == {*taken, "config.json", "tokenizer.json"}
    assert {path.rpartition("/")[2] for path in fake_hub.fetched()} - {"model?blobs=True"} == {
        *taken,
        "config.json",
        "tokenizer.json",
    }


@pytest.mark.parametrize("files", [["a.gguf", "b.gguf"], ["model.h5"]])
def test_a_model_without_weights_is_refused(files: list[str], fake_hub: FakeHub) -> None:
    """What cannot be exported is not fetched either."""
    del fake_hub.files["model.safetensors"]
    fake_hub.files |= dict.fromkeys(files, b"")
    with pytest.raises(DownloadError, match=r"^some/model holds no weights that can be read"):
        download_checkpoint(REPO)
    assert len(fake_hub.asked) == 1


def test_a_broken_download_goes_on_where_it_stopped(fake_hub: FakeHub) -> None:
    """A connection that breaks is one line, and the second try asks for the rest alone."""
    fake_hub.cut_after["model.safetensors"] = 5_000
    with pytest.raises(DownloadError, match=r"^model.safetensors of some/model did not arrive"):
        download_checkpoint(REPO)
    assert local_checkpoint(REPO) is None
    fake_hub.cut_after.clear()
    fake_hub.asked.clear()
    assert holds(download_checkpoint(REPO).path) == _FILES
    assert fake_hub.asked[-1].endswith("bytes=5000-")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_hash_is_deleted(name: str, fake_hub: FakeHub, cache: Path) -> None:
    """A file that is not what the Hub states stays nowhere, and a second try works."""
    fake_hub.sent[name] = bytes(len(fake_hub.files[name]))
    with pytest.raises(DamagedDownloadError, match=rf"^{name} of some/model is not what"):
        download_checkpoint(REPO)
    assert not [path for path in cache.rglob("*") if path.name in (name, fake_hub.etag(name))]
    assert local_checkpoint(REPO) is None
    fake_hub.sent.clear()
    assert holds(download_checkpoint(REPO).path) == _FILES


def test_what_was_damaged_before_the_break_is_noticed(fake_hub: FakeHub) -> None:
    """A file is compared as a whole, whenever its parts came."""
    fake_hub.sent["model.safetensors"] = bytes(len(_WEIGHTS))
    fake_hub.cut_after["model.safetensors"] = 5_000
    with pytest.raises(DownloadError, match="did not arrive"):
        download_checkpoint(REPO)
    fake_hub.sent.clear()
    fake_hub.cut_after.clear()
    with pytest.raises(DamagedDownloadError):
        download_checkpoint(REPO)
    assert holds(download_checkpoint(REPO).path) == _FILES


def test_more_than_the_file_is_dropped(fake_hub: FakeHub) -> None:
    """There is no going on after the end of a file, so the next try begins anew."""
    fake_hub.sent["model.safetensors"] = _WEIGHTS + b"more"
    with pytest.raises(DownloadError, match="did not arrive"):
        download_checkpoint(REPO)
    fake_hub.sent.clear()
    assert holds(download_checkpoint(REPO).path) == _FILES


def test_a_gated_model_says_what_to_do(fake_hub: FakeHub) -> None:
    """The message names the page with the terms and where the token goes."""
    fake_hub.is_gated = True
    with pytest.raises(DownloadError, match=rf"gated.*{fake_hub.url}/some/model.*HF_TOKEN$"):
        download_checkpoint(REPO)


def test_an_unknown_model_is_one_line(fake_hub: FakeHub) -> None:
    """A wrong name is told apart from a missing network."""
    with pytest.raises(DownloadError, match=r"^the Hub has no model some/other") as error:
        download_checkpoint("some/other")
    assert not isinstance(error.value, UnreachableError)


def test_a_full_disk_is_seen_before_the_download(
    fake_hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room for the files, none is fetched."""
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(NoRoomError, match="HF_HUB_CACHE"):
        download_checkpoint(REPO)
    assert len(fake_hub.asked) == 1
    assert not cache.exists()


def test_a_hub_that_cannot_be_reached_is_one_clear_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the message names the model and the reason, in one line."""
    use("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(UnreachableError, match=r"^some/model .*ConnectionError.* the network$"):
        export("some/model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_fetched_before_needs_no_network(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in the Hub's cache is found where the Hub cannot be reached."""
    fetched = download_checkpoint(REPO)
    use("http://127.0.0.1:9", monkeypatch)
    assert download_checkpoint(REPO) == fetched


@pytest.mark.parametrize("is_asked", [True, False])
def test_offline_nothing_is_asked(
    is_asked: bool, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--offline`` and HF_HUB_OFFLINE keep from the network, with and without the model."""
    fetched = download_checkpoint(REPO)

    def refuse(*_arguments: Any) -> None:
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not is_asked)
    assert download_checkpoint(REPO, offline=is_asked) == fetched
    with pytest.raises(UnreachableError, match=r"^some/other was never fetched"):
        download_checkpoint("some/other", offline=is_asked)


def test_what_another_program_fetched_is_used(cache: Path) -> None:
    """A whole model of another program is found; its tokenizer alone is no model."""
    folder = cache / "models--some--model"
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(REVISION)
    (snapshot / "tokenizer.json").write_text("{}")
    assert local_checkpoint(REPO) is None
    (snapshot / "model.safetensors").write_text("")
    found = local_checkpoint(REPO)
    assert found is not None
    assert found.path == snapshot
    assert remove_checkpoint(REPO) is None
    assert snapshot.is_dir()


def test_what_was_fetched_is_removed(fake_hub: FakeHub, cache: Path) -> None:
    """Whole or begun, a model leaves the Hub's cache, and only once."""
    fake_hub.cut_after["model.safetensors"] = 10
    for _ in range(2):
        with pytest.raises(DownloadError):
            download_checkpoint(REPO)
    assert remove_checkpoint(REPO) == cache / "models--some--model"
    fake_hub.cut_after.clear()
    download_checkpoint(REPO)
    assert remove_checkpoint(REPO) == cache / "models--some--model"
    assert not (cache / "models--some--model").exists()
    assert remove_checkpoint(REPO) is None


def test_what_another_program_uses_too_is_not_removed(fake_hub: FakeHub, cache: Path) -> None:
    """The Hub's cache is everybody's: what has another's mark stays."""
    fetched = download_checkpoint(REPO)
    (cache / "models--some--model/refs/main").write_text(REVISION)
    assert remove_checkpoint(REPO) is not None
    assert holds(fetched.path) == _FILES
    assert remove_checkpoint(REPO) is None
