"""Checkpoint to exported folder, whole or not at all; memory does not grow with the model."""

import errno
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
from tokenizers import Tokenizer

from model_export.architecture import end_of_text_id, read_architecture
from model_export.checkpoint import Checkpoint, open_checkpoint
from model_export.errors import (
    DamagedCheckpointError,
    NoRoomError,
    NotACheckpointError,
    OutputError,
)
from model_export.graph import StoredWeight, build_graph
from model_export.hub import HUB_ID, Fetched, download_checkpoint
from model_export.manifest import (
    DATA_FILE,
    FORMAT_VERSION,
    GRAPH_FILE,
    INT8_CACHE_GRAPH_FILE,
    TOKENIZER_FILE,
    FileRecord,
    Manifest,
    Source,
    file_sha256,
    is_exported_folder,
    write_manifest,
)
from model_export.precision import choose_precision, in_precision
from model_export.tokenizer import (
    can_infill,
    end_token_ids,
    read_tokenizer,
    special_token_ids,
    tokenizer_of_tables,
)
from model_export.weights import Weight, graph_weights

_ALIGNMENT = 4096
"""Weights start on a page, so that the engine can map them."""
_ROOM_TO_SPARE = 64 << 20

Progress = Callable[[int, int], None]


def export(
    checkpoint: str | Path | Fetched,
    output: str | Path,
    *,
    precision: str = "auto",
    device: str = "cpu",
    mp_num: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Export a checkpoint folder, .gguf file or Hub id into the folder ``output``.

    The folder is written beside its place and renamed, so it is whole or absent; an
    exported folder that stands there already is replaced. ``progress`` is called with
    the bytes of weights that are written and those to write.

    Raises:
        ExportError: one of its subclasses, with a message for a person.
    """
    choose_precision(precision, device, 0)
    source = _source(checkpoint)
    opened = open_checkpoint(source.path)
    architecture = read_architecture(opened.config, mp_num)
    weights = graph_weights(opened.tensors, architecture)
    tokenizer = _tokenizer(opened)
    eos_token_id = end_of_text_id(opened.config)
    n_tokens = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    if max(n_tokens - 1, eos_token_id) >= architecture.vocab_size:
        raise DamagedCheckpointError(
            f"the tokenizer has {n_tokens} tokens and {eos_token_id} ends a text, but the "
            f"model knows {architecture.vocab_size}; they are of different models"
        )
    n_parameters = sum(math.prod(weight.shape) for weight in weights)
    chosen = choose_precision(precision, device, n_parameters)
    weights = in_precision(weights, chosen, architecture)
    stored = list(_layout(weights))
    with _replaced(Path(output)) as folder:
        _check_room(folder, stored[-1].offset + stored[-1].length)
        data_hash = _write_weights(folder / DATA_FILE, weights, stored, progress)
        graph = build_graph(architecture, chosen, stored, DATA_FILE)
        (folder / GRAPH_FILE).write_bytes(graph.SerializeToString())
        small_files = [GRAPH_FILE, TOKENIZER_FILE]
        # On CUDA the fastest kernel reads a float cache only.
        if device == "cpu":
            graph = build_graph(architecture, chosen, stored, DATA_FILE, has_int8_cache=True)
            (folder / INT8_CACHE_GRAPH_FILE).write_bytes(graph.SerializeToString())
            small_files.append(INT8_CACHE_GRAPH_FILE)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            codegen_lsp_version=version("codegen-lsp"),
            architecture=architecture,
            precision=chosen.name,
            device=device,
            kv_cache_type=chosen.float_type,
            context_length=architecture.context_length,
            eos_token_id=eos_token_id,
            end_token_ids=end_token_ids(tokenizer, eos_token_id),
            special_token_ids=special_token_ids(tokenizer),
            n_tokens=n_tokens,
            can_infill=can_infill(tokenizer),
            source=Source(source.name, file_sha256(*opened.files), source.revision),
            files={
                DATA_FILE: FileRecord((folder / DATA_FILE).stat().st_size, data_hash),
                **{name: _record(folder / name) for name in small_files},
            },
        )
        write_manifest(manifest, folder)
    return manifest


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    if checkpoint.tokenizer_tables is not None:
        return tokenizer_of_tables(checkpoint.tokenizer_tables)
    return read_tokenizer(checkpoint.folder, model_type=checkpoint.config["model_type"])


def _source(checkpoint: str | Path | Fetched) -> Fetched:
    if isinstance(checkpoint, Fetched):
        return checkpoint
    path = Path(checkpoint)
    try:
        if path.exists():
            return Fetched(path, path.resolve().name)
    except OSError as error:
        raise NotACheckpointError(
            f"{checkpoint} cannot be read: {error.strerror or error}"
        ) from error
    if HUB_ID.fullmatch(str(checkpoint)):
        return download_checkpoint(str(checkpoint))
    raise NotACheckpointError(f"{checkpoint} is neither a folder nor a Hub id")


def _layout(weights: list[Weight]) -> Iterator[StoredWeight]:
    offset = 0
    places: dict[str, int] = {}
    for weight in weights:
        length = math.prod(weight.shape) * np.dtype(weight.dtype).itemsize
        place = places.setdefault(weight.same_as or weight.name, offset)
        yield StoredWeight(weight.name, weight.dtype, weight.shape, place, length)
        if not weight.same_as:
            offset += -(-length // _ALIGNMENT) * _ALIGNMENT


def _write_weights(
    path: Path,
    weights: list[Weight],
    stored: list[StoredWeight],
    progress: Progress | None,
) -> str:
    """Write the weights at their places and return the SHA-256 of the file."""
    digest = hashlib.sha256()
    total = stored[-1].offset + stored[-1].length
    written = 0
    with path.open("wb") as file:
        for weight, place in zip(weights, stored, strict=True):
            if weight.same_as:
                continue
            padding = bytes(place.offset - written)
            file.write(padding)
            digest.update(padding)
            written = place.offset
            for block in weight.blocks():
                data = block.tobytes()
                file.write(data)
                digest.update(data)
                written += len(data)
                if progress is not None:
                    progress(written, total)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, file_sha256(path))


@contextmanager
def _replaced(output: Path) -> Iterator[Path]:
    """Yield a folder to write that takes the place of ``output`` if all goes well."""
    try:
        # A link to a folder stays, and what it leads to is replaced.
        output = output.resolve()
        _refuse_foreign(output)
    except (OSError, RuntimeError) as error:  # The latter is a link to itself.
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{output} cannot be written: {reason}") from error
    prefix = f".{output.name}.partial-"
    partial = output.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(output.parent, prefix)
        partial.mkdir()
        yield partial
        _swap(partial, output)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(f"the disk of {output.parent} became full") from error
        place = error.filename or output
        raise OutputError(f"{place} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_foreign(output: Path) -> None:
    if not output.exists() or is_exported_folder(output):
        return
    if not output.is_dir() or any(output.iterdir()):
        raise OutputError(f"{output} exists and is no exported folder; name another folder")


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove what exports of the same folder left that were killed."""
    for entry in parent.iterdir():
        pid = entry.name.removeprefix(prefix).partition("-")[0]
        is_ours = entry.name.startswith(prefix) and pid.isdecimal()
        if is_ours and not psutil.pid_exists(int(pid)):
            shutil.rmtree(entry, ignore_errors=True)


def _swap(partial: Path, output: Path) -> None:
    old = partial.with_name(f"{partial.name}-old")
    with suppress(FileNotFoundError):
        output.rename(old)
    try:
        partial.rename(output)
    except BaseException:
        with suppress(FileNotFoundError):
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _ROOM_TO_SPARE:
        raise NoRoomError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and the export needs "
            f"{needed / 1e9:.1f} GB; make room or name a folder on another disk"
        )
