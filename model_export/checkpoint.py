"""Opens a checkpoint: its configuration and its tensors, whatever files hold them.

It must not know what the tensors mean, nor hold the data of more than one of them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from model_export.errors import DamagedCheckpointError, NotACheckpointError
from model_export.gguf_file import read_gguf
from model_export.stored_tensor import StoredTensor
from model_export.tokenizer import TokenizerTables
from model_export.torch_bin import read_bin

# safetensors asks numpy for "bfloat16" by name, which ml_dtypes makes known to it.
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened. Reading a tensor may raise DamagedCheckpointError."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]
    """The files that hold the configuration and the tensors."""
    tokenizer_tables: TokenizerTables | None = None
    """The vocabulary, where it lies in the same file."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file, or the checkpoint in a folder.

    In a folder safetensors are preferred to ``.bin``, and both to a GGUF file, which
    counts where it is the only one.

    Raises:
        NotACheckpointError: there is no configuration or no weights.
        DamagedCheckpointError: a file is missing, truncated or not what it should be.
        UnsafePickleError: a ``.bin`` file asks for more than tensors.
    """
    # Even to ask whether a file is there may be forbidden.
    try:
        gguf_path = _gguf_file(path)
        if gguf_path is not None:
            config, tensors, tables = read_gguf(gguf_path)
            return Checkpoint(gguf_path.parent, config, tensors, (gguf_path,), tables)
        return _open_folder(path)
    except OSError as error:
        raise DamagedCheckpointError(
            f"{error.filename or path} cannot be read: {error.strerror or error}"
        ) from error


def _gguf_file(path: Path) -> Path | None:
    if path.is_file() and path.suffix.lower() == ".gguf":
        return path
    others = (path / f"{name}{index}" for name in _SINGLE_FILES for index in ("", _INDEX))
    if not path.is_dir() or any(other.is_file() for other in others):
        return None
    found = list(path.glob("*.gguf"))
    if len(found) > 1:
        raise NotACheckpointError(f"{path} holds {len(found)} GGUF files; name one of them")
    return found[0] if found else None


def _open_folder(folder: Path) -> Checkpoint:
    config_path = folder / "config.json"
    if not folder.is_dir():
        raise NotACheckpointError(f"{folder} is neither a folder nor a GGUF file")
    if not config_path.is_file():
        raise NotACheckpointError(
            f"{folder} is no checkpoint: it holds no config.json that can be read, and no "
            "GGUF file"
        )
    config = _read_json(config_path)
    weight_files = _weight_files(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files:
        read = _read_safetensors if path.suffix == ".safetensors" else read_bin
        tensors |= read(path)
    return Checkpoint(folder, config, tensors, (config_path, *weight_files))


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for name in _SINGLE_FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}{_INDEX}"
        if index.is_file():
            return tuple(_shards(index))
    raise NotACheckpointError(
        f"{folder} holds no weights: none of "
        + ", ".join(f"{name}, {name}{_INDEX}" for name in _SINGLE_FILES)
    )


def _shards(index: Path) -> Iterator[Path]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedCheckpointError(f"{index} has no weight_map")
    for name in sorted(set(map(str, weight_map.values()))):
        shard = index.parent / name
        if shard.parent != index.parent or name == "..":
            raise DamagedCheckpointError(f"{index} names a file elsewhere: {name}")
        if not shard.is_file():
            raise DamagedCheckpointError(f"{shard} is missing; fetch the model again")
        yield shard


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise DamagedCheckpointError(f"{path} is not JSON") from None
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path} holds no JSON object")
    return value


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _stored_tensor(path, name, file) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedCheckpointError(
            f"{path} is damaged or cut short ({error}); fetch it again"
        ) from None


def _stored_tensor(path: Path, name: str, file: Any) -> StoredTensor:
    description = file.get_slice(name)

    def read(start: int, stop: int) -> np.ndarray[Any, Any]:
        # Opened anew each time, so that pages that were read are given back.
        try:
            with safe_open(path, framework="numpy") as opened:
                rows: np.ndarray[Any, Any] = opened.get_slice(name)[start:stop]
                return rows
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpointError(
                f"{path} was changed while it was read ({error})"
            ) from None

    shape = tuple(description.get_shape())
    return StoredTensor(name, shape, description.get_dtype(), read)
