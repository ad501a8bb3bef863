"""Opening a checkpoint folder: the same tensors from every layout, or one clear line."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.checkpoint import open_checkpoint
from model_export.errors import CheckpointError, DamagedCheckpointError, NotACheckpointError
from tests.checkpoints import (
    Layout,
    codegen_config,
    random_tensors,
    write_checkpoint,
    write_weights,
)

TENSORS = random_tensors(codegen_config(n_embd=16, n_layer=1), dtype=torch.float16)
TENSORS["transformer.wte.weight"] = TENSORS["transformer.wte.weight"].bfloat16()

LAYOUTS: list[tuple[Layout, int]] = [
    ("safetensors", 1),
    ("safetensors", 3),
    ("bin", 1),
    ("bin", 3),
]


def values(folder: Path) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    """Return all tensors of a checkpoint as float32."""
    tensors = open_checkpoint(folder).tensors
    return {n: t.read(0, t.shape[0]).astype(np.float32) for n, t in tensors.items()}


@pytest.mark.parametrize(("layout", "n_shards"), LAYOUTS)
def test_every_layout_gives_the_same_tensors(
    layout: Layout, n_shards: int, tmp_path: Path
) -> None:
    """One model is the same model however its files are laid out."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, layout=layout, n_shards=n_shards)

    got = values(folder)

    assert got.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(got[name], tensor.float().numpy())


@pytest.mark.parametrize(("layout", "n_shards"), LAYOUTS)
def test_rows_are_read_without_the_others(
    layout: Layout, n_shards: int, tmp_path: Path
) -> None:
    """A block of rows is those rows, which is what lets large models be exported."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, layout=layout, n_shards=n_shards)
    name = "transformer.h.0.mlp.fc_in.weight"

    rows = open_checkpoint(folder).tensors[name].read(5, 9)

    np.testing.assert_array_equal(rows, TENSORS[name][5:9].numpy())


def test_the_files_that_were_read_are_listed(tmp_path: Path) -> None:
    """The source's hash is made of the configuration and all weight files, in order."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, layout="bin", n_shards=2)

    names = [path.name for path in open_checkpoint(folder).files]

    assert names == [
        "config.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_safetensors_are_preferred_to_pickles(n_shards: int, tmp_path: Path) -> None:
    """Where both are there, no pickle is opened."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, n_shards=n_shards)
    (folder / "pytorch_model.bin").write_bytes(b"not even a zip")

    assert values(folder).keys() == TENSORS.keys()


def replace(name: str, content: bytes) -> Callable[[Path], None]:
    """Return what writes a file into a checkpoint folder."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def without(*names: str) -> Callable[[Path], None]:
    """Return what removes files from a checkpoint folder."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def cut(name: str) -> Callable[[Path], None]:
    """Return what cuts a file to half its length."""

    def change(folder: Path) -> None:
        os.truncate(folder / name, (folder / name).stat().st_size // 2)

    return change


def config_is_a_folder(folder: Path) -> None:
    """Put a folder where the configuration should be."""
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


SHARD = "model-00002-of-00003.safetensors"
BIN_SHARD = "pytorch_model-00002-of-00003.bin"
INDEX = "model.safetensors.index.json"
NO_WEIGHTS = NotACheckpointError, "no weights"
DAMAGED = DamagedCheckpointError

Broken = tuple[Layout, int, Callable[[Path], None], type[CheckpointError], str]
BROKEN: dict[str, Broken] = {
    "no config": (
        "safetensors",
        1,
        without("config.json"),
        NotACheckpointError,
        "no config.json",
    ),
    "config is a folder": (
        "safetensors",
        1,
        config_is_a_folder,
        NotACheckpointError,
        "no config.json",
    ),
    "config is no JSON": (
        "safetensors",
        1,
        replace("config.json", b"{"),
        DAMAGED,
        "config.json is not JSON",
    ),
    "config is not UTF-8": (
        "safetensors",
        1,
        replace("config.json", b'{"model_type": "\xff"}'),
        DAMAGED,
        "config.json is not JSON",
    ),
    "config is nested too deeply": (
        "safetensors",
        1,
        replace("config.json", b"[" * 100_000),
        DAMAGED,
        "config.json is not JSON",
    ),
    "config is a list": (
        "safetensors",
        1,
        replace("config.json", b"[]"),
        DAMAGED,
        "config.json holds no JSON object",
    ),
    "no weights": ("safetensors", 1, without("model.safetensors"), *NO_WEIGHTS),
    "only shards without an index": (
        "bin",
        2,
        without("pytorch_model.bin.index.json"),
        *NO_WEIGHTS,
    ),
    "missing shard": ("safetensors", 3, without(SHARD), DAMAGED, f"{SHARD} is missing"),
    "missing .bin shard": ("bin", 3, without(BIN_SHARD), DAMAGED, f"{BIN_SHARD} is missing"),
    "truncated": (
        "safetensors",
        1,
        cut("model.safetensors"),
        DAMAGED,
        "model.safetensors is damaged or cut short",
    ),
    "truncated shard": ("safetensors", 3, cut(SHARD), DAMAGED, f"{SHARD} is damaged"),
    "truncated .bin shard": ("bin", 3, cut(BIN_SHARD), DAMAGED, f"{BIN_SHARD} is cut short"),
    "empty weights": (
        "safetensors",
        1,
        replace("model.safetensors", b""),
        DAMAGED,
        "model.safetensors is damaged",
    ),
    "a Git LFS pointer": (
        "safetensors",
        1,
        replace("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        DAMAGED,
        "model.safetensors is damaged",
    ),
    "index is no JSON": (
        "safetensors",
        3,
        replace(INDEX, b"?"),
        DAMAGED,
        f"{INDEX} is not JSON",
    ),
    "index without a map": ("safetensors", 3, replace(INDEX, b"{}"), DAMAGED, "no weight_map"),
    "index with an empty map": (
        "safetensors",
        3,
        replace(INDEX, b'{"weight_map": {}}'),
        DAMAGED,
        "no weight_map",
    ),
}
BROKEN |= {
    f"index names {name!r}": (
        "safetensors",
        3,
        replace(INDEX, f'{{"weight_map": {{"a": "{name}"}}}}'.encode()),
        DAMAGED,
        "names a file elsewhere",
    )
    for name in ("../x", "..", ".", "", "/etc/passwd", "sub/x.bin", "../../x.safetensors")
}


@pytest.mark.parametrize(
    ("layout", "n_shards", "change", "error", "reason"), BROKEN.values(), ids=BROKEN
)
def test_a_broken_checkpoint_is_refused_in_one_line(
    layout: Layout,
    n_shards: int,
    change: Callable[[Path], None],
    error: type[CheckpointError],
    reason: str,
    tmp_path: Path,
) -> None:
    """Whatever is wrong with a folder, its user learns which file and what about it."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, layout=layout, n_shards=n_shards)
    change(folder)

    with pytest.raises(error, match=reason) as caught:
        open_checkpoint(folder)

    assert type(caught.value) is error
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A file, or nothing at all, is no checkpoint."""
    (tmp_path / "file").touch()

    for path in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(NotACheckpointError, match="is neither a folder"):
            open_checkpoint(path)


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_file_that_changes_while_it_is_read_is_refused(
    layout: Layout, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    """A checkpoint that vanishes or shrinks in the middle of an export is a typed error."""
    opened = open_checkpoint(write_checkpoint(tmp_path, tensors=TENSORS, layout=layout))
    harm(opened.files[1])

    with pytest.raises(DamagedCheckpointError, match=opened.files[1].name):
        opened.tensors["lm_head.weight"].read(0, 1)


def test_one_hostile_shard_is_enough_to_refuse(tmp_path: Path) -> None:
    """Every shard is read by the reader that runs nothing."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, layout="bin", n_shards=2)
    torch.save({"x": print}, folder / "pytorch_model-00002-of-00002.bin")

    with pytest.raises(CheckpointError, match=r"00002-of-00002.bin: refused.*print"):
        open_checkpoint(folder)


def test_weights_can_be_written_beside_each_other(tmp_path: Path) -> None:
    """The single .bin file is read where only an index of safetensors is broken away."""
    folder = write_checkpoint(tmp_path, tensors=TENSORS, n_shards=2)
    write_weights(folder, TENSORS, "bin")
    (folder / INDEX).unlink()

    assert open_checkpoint(folder).files[1].name == "pytorch_model.bin"


def test_a_folder_that_may_not_be_entered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forbidden folder is an error of the checkpoint, with its reason."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: Permission denied$"):
        open_checkpoint(tmp_path)
