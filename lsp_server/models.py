"""From a model's name to an exported folder on this machine; never downloads.

A name is an exported folder, a checkpoint folder, a name or Hub id that was exported
before, or nothing: the embedded model. Checkpoints are exported to the user's cache.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from platformdirs import user_cache_path

from lsp_server.errors import ModelLoadError, ModelNotFoundError
from model_export.errors import ExportError
from model_export.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    FileRecord,
    is_exported_folder,
)

EMBEDDED_MODEL = "codegen-tiny"

_NAME = re.compile(r"(?!\.\.?(/|$))[\w.-]+(/(?!\.\.?$)[\w.-]+)?")
"""A Hub id, or a name without a folder."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
_CHECKPOINT_FILES = ("config.json", *_TOKENIZER_FILES)
_WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")

Progress = Callable[[int, int], None]


def exported_folder(
    name: str | None, progress: Progress | None = None, device: str = "auto"
) -> Path:
    """Return the exported folder of a model, exporting a checkpoint where need be.

    ``auto`` is the CPU, or CUDA for what was exported for that alone.

    What was exported under a name goes before a folder of that name, because a folder
    that happens to lie in a workspace must not take the place of a model.

    Raises:
        ModelNotFoundError: the name stands for nothing on this machine.
        ModelLoadError: it is a checkpoint that cannot be exported.
    """
    target = "cuda" if device == "cuda" else "cpu"
    if not name:
        return _exported(embedded_checkpoint(), progress, target)
    folder = Path(name)
    with suppress(RuntimeError):  # There may be no such user.
        folder = folder.expanduser()
    # Even to ask whether a file is there may be forbidden.
    try:
        for exported_for in ("cpu", "cuda") if device == "auto" else (target,):
            cached = cache_folder(name, exported_for)
            if _NAME.fullmatch(name) and (cached / MANIFEST_FILE).is_file():
                return cached
        if (folder / MANIFEST_FILE).is_file():
            return folder
        if folder.exists():
            return _exported(folder, progress, target)
    except OSError as error:
        raise ModelLoadError(f"{name} cannot be read: {error.strerror or error}") from error
    raise ModelNotFoundError(
        f"the model {name} is not on this machine; `codegen-lsp export {name}"
        f"{' --device cuda' if target == 'cuda' else ''}` gets it, if it is a Hub id"
    )


def embedded_checkpoint() -> Path:
    """Return the folder of the checkpoint that the package carries."""
    return Path(str(files("lsp_server") / "embedded" / EMBEDDED_MODEL))


def cache_folder(name: str, device: str = "cpu") -> Path:
    """Return where ``codegen-lsp export NAME --device DEVICE`` puts a model of the Hub."""
    safe = _safe(name)
    # No two names share a folder: the Hub has no names with "--".
    if not _NAME.fullmatch(name) or "--" in name or safe != name.replace("/", "--"):
        safe += f"@{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"
    return _exports() / (safe if device == "cpu" else f"{safe}@{device}")


def export_folder(checkpoint: str, device: str = "cpu") -> Path:
    """Return where an export without ``--output`` puts a checkpoint folder or Hub id.

    A later ``--model`` of the same name finds it there.

    Raises:
        ModelLoadError: the checkpoint is a folder that cannot be read.
    """
    try:
        if Path(checkpoint).exists():
            return _place(Path(checkpoint).resolve(), device)
    except OSError as error:
        reason = error.strerror or error
        raise ModelLoadError(f"{checkpoint} cannot be read: {reason}") from error
    return cache_folder(checkpoint, device)


def scales_record(files: Mapping[str, FileRecord]) -> Path:
    """Return where the scales of an int8 KV cache are kept for a folder of these files."""
    hashes = "".join(files[name].sha256 for name in sorted(files))
    name = hashlib.sha256(hashes.encode()).hexdigest()[:16]
    return user_cache_path("codegen-lsp") / "kv-scales" / f"{name}.json"


def _exports() -> Path:
    return user_cache_path("codegen-lsp") / "exports"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "--", name).strip("-.") or "model"


def _place(checkpoint: Path, device: str) -> Path:
    """Return the cache folder of a checkpoint folder; no name has the same one."""
    path_hash = hashlib.sha256(os.fsencode(checkpoint)).hexdigest()[:8]
    prefix = f"{_safe(checkpoint.name)}@{path_hash}"
    if device != "cpu":
        prefix += f"@{device}"
    return _exports() / f"{prefix}-{_fingerprint(checkpoint)}"


def _exported(checkpoint: Path, progress: Progress | None, device: str) -> Path:
    checkpoint = checkpoint.resolve()
    folder = _place(checkpoint, device)
    if not (folder / MANIFEST_FILE).is_file():
        # Imported here because it brings onnx, which a cached model does not need.
        from model_export import export

        try:
            export(checkpoint, folder, device=device, progress=progress)
        except ExportError as error:
            raise ModelLoadError(str(error)) from error
    _remove_older(folder)
    return folder


def _remove_older(folder: Path) -> None:
    """Remove what the checkpoint of ``folder`` was before it changed."""
    prefix = folder.name.rpartition("-")[0] + "-"
    for entry in list(folder.parent.iterdir()):
        is_older = entry.name.startswith(prefix) and entry != folder
        if is_older and is_exported_folder(entry):
            # Renamed first, so that nobody takes half of it for an exported folder.
            doomed = entry.with_name(f".{entry.name}.{os.getpid()}.old")
            with suppress(OSError):  # Windows keeps what a server uses.
                entry.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def _fingerprint(checkpoint: Path) -> str:
    """Return a short hash that changes with the checkpoint's files and our version."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {version('codegen-lsp')}".encode())
    try:
        entries = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else []
        for entry in filter(_is_exported_from, entries):
            state = entry.stat()
            digest.update(f"{entry} {state.st_size} {state.st_mtime_ns}\n".encode())
    except OSError as error:
        raise ModelLoadError(f"{checkpoint} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:12]


def _is_exported_from(file: Path) -> bool:
    is_weights = file.name.endswith(_WEIGHTS) and file.name not in _NO_WEIGHTS
    return is_weights or file.name in _CHECKPOINT_FILES
