"""Downloads, with a Hub that the test makes up."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from model_export import export
from model_export.errors import DownloadError
from model_export.hub import download_checkpoint


@pytest.mark.parametrize(
    ("files", "taken", "left"),
    [
        (
            ["model.safetensors", "pytorch_model.bin", "modeling_codegen.py"],
            ["model.safetensors"],
            ["pytorch_model.bin", "modeling_codegen.py"],
        ),
        (
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
            ["model.safetensors"],
        ),
        (["a.msgpack", "pytorch_model.bin"], ["pytorch_model.bin"], ["a.msgpack"]),
    ],
)  # fmt: skip
def test_only_data_is_taken(
    files: list[str],
    taken: list[str],
    left: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights come as safetensors where there are some; no code is ever fetched."""
    asked: list[str] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        assert repo_id == "some/model"
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda _api, _repo: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_checkpoint("some/model") == tmp_path
    names = [Path(name) for name in (*taken, "config.json", "tokenizer.json")]
    assert all(any(name.match(pattern) for pattern in asked) for name in names)
    assert not any(Path(name).match(pattern) for name in left for pattern in asked)


def test_a_hub_that_cannot_be_reached_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the message names the model and the reason, in one line."""

    def refuse(*_arguments: Any) -> None:
        raise ConnectionError("a long story\nof many lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)
    with pytest.raises(DownloadError, match=r"^some/model .*ConnectionError.* the network$"):
        export("some/model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_fetched_before_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in the Hub's cache is exported offline."""

    def refuse(*_arguments: Any) -> None:
        raise ConnectionError

    def snapshot_download(_repo_id: str, *, local_files_only: bool) -> str:
        assert local_files_only
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_checkpoint("some/model") == tmp_path
