"""From a model's name to an exported folder on this machine; never downloads.

A name is an exported folder, a checkpoint folder or file, a name of the catalogue or Hub
id that was pulled, or nothing: the embedded model. Checkpoints are exported to the user's
cache. What was exported there by another version is made anew from what was fetched.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from lsp_server.errors import ModelLoadError, ModelNotFoundError
from model_export.catalogue import MODELS, WheelFile, find_model
from model_export.errors import ExportError, ManifestError, OutputError
from model_export.hub import HUB_ID, Fetched, local_checkpoint, remove_checkpoint
from model_export.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    FileRecord,
    is_exported_folder,
    read_manifest,
)
from model_export.pypi import local_wheel_file

EMBEDDED_MODEL = "codegen-tiny"
TINY = MODELS[0].name
"""What the catalogue calls it."""

_NAME = re.compile(r"(?!\.\.?(/|$))[\w.-]+(/(?!\.\.?$)[\w.-]+)?")
"""A Hub id, or a name without a folder."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
_CHECKPOINT_FILES = ("config.json", "tokenizer_config.json", *_TOKENIZER_FILES)
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".safetensors.index.json", ".bin.index.json")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Origin:
    """What a name stands for: a path on this machine, or where to fetch it."""

    name: str
    """What its export is kept under: for a model of the Hub its id."""
    place: Path | WheelFile | str


@dataclass(frozen=True)
class Export:
    """An exported folder in the cache, perhaps of another version of this program."""

    name: str
    """What ``--model`` calls it; the folder's own name where it has no other."""
    folder: Path
    source: str
    device: str
    precision: str
    can_infill: bool
    size: int
    is_whole: bool
    """Whether this version can run it as it is."""


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
    # Even to ask whether a file is there may be forbidden.
    try:
        for exported_for in ("cpu", "cuda") if device == "auto" else (target,):
            cached = cache_folder(name, exported_for)
            if _NAME.fullmatch(name) and is_exported_folder(cached):
                return _of_this_version(cached, name, exported_for, progress)
        place = origin_of(name).place
        if isinstance(place, Path):
            is_exported = (place / MANIFEST_FILE).is_file()
            return place if is_exported else _exported(place, progress, target)
    except OSError as error:
        raise ModelLoadError(f"{name} cannot be read: {error.strerror or error}") from error
    for export in list_exports():
        if (export.name, export.is_whole) == (name, True) and device in ("auto", export.device):
            return export.folder
    raise ModelNotFoundError(
        f"the model {name} is not on this machine; {_advice(name, target)}"
    )


def origin_of(name: str) -> Origin:
    """Return what a name stands for, whether it is here or not.

    A name of the catalogue goes before a file of that name, and that before a Hub id.

    Raises:
        ModelLoadError: it is a path that cannot be read.
    """
    model = find_model(name)
    if model is not None and "/" not in name:
        return Origin(model.key, model.origin or embedded_checkpoint())
    path = Path(name)
    try:
        with suppress(RuntimeError):  # There may be no such user.
            path = path.expanduser()
        if path.exists():
            return Origin(name, path)
    except OSError as error:
        raise ModelLoadError(f"{name} cannot be read: {error.strerror or error}") from error
    return Origin(model.key, model.key) if model else Origin(name, name)


def embedded_checkpoint() -> Path:
    """Return the folder of the checkpoint that the package carries."""
    return Path(str(files("lsp_server") / "embedded" / EMBEDDED_MODEL))


def cache_folder(name: str, device: str = "cpu") -> Path:
    """Return where ``codegen-lsp pull NAME --device DEVICE`` puts what it exports."""
    model = find_model(name)
    name = model.key if model else name
    safe = _safe(name)
    # No two names share a folder: the Hub has no names with "--".
    if not _NAME.fullmatch(name) or "--" in name or safe != name.replace("/", "--"):
        safe += f"@{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"
    return _exports() / (safe if device == "cpu" else f"{safe}@{device}")


def export_folder(name: str, device: str = "cpu") -> Path:
    """Return where an export without ``--output`` puts a checkpoint, a name or a Hub id.

    A later ``--model`` of the same name finds it there.

    Raises:
        ModelLoadError: the checkpoint is a folder that cannot be read.
    """
    origin = origin_of(name)
    if isinstance(origin.place, Path):
        return _place(origin.place, device)
    return cache_folder(origin.name, device)


def source_folder(file: WheelFile) -> Path:
    """Return where the file of a wheel is kept."""
    return user_cache_path("codegen-lsp") / "sources" / f"{file.package}-{file.version}"


def list_exports() -> list[Export]:
    """Return what is in the cache, ordered by folder."""
    if not _exports().is_dir():
        return []
    entries = (entry for entry in sorted(_exports().iterdir()) if entry.name[0] != ".")
    return [_export_in(entry) for entry in entries if is_exported_folder(entry)]


def remove_model(name: str) -> list[Path]:
    """Remove a model's exports and what was fetched for it; return the folders.

    Nothing outside the caches is touched: the name only chooses among what lies there.

    Raises:
        ModelNotFoundError: there is nothing of that name.
        OutputError: a folder cannot be removed.
    """
    model = find_model(name)
    wanted = model.name if model else name
    doomed = [export.folder for export in list_exports() if export.name == wanted]
    place = model.origin if model else name
    if model is None and Path(name).exists():
        prefix = _place(Path(name), "cpu").name.rpartition("-")[0]
        exports = [export.folder for export in list_exports()]
        doomed += [folder for folder in exports if folder.name.startswith(prefix)]
    fetched = None
    if isinstance(place, WheelFile) and source_folder(place).is_dir():
        doomed.append(source_folder(place))
    elif isinstance(place, str) and HUB_ID.fullmatch(place):
        fetched = remove_checkpoint(place)
    for folder in doomed:
        try:
            _remove(folder)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(
                f"{folder} cannot be removed: {reason}; end the servers that use it"
            ) from error
    if not doomed and fetched is None:
        raise ModelNotFoundError(
            f"nothing of {name} is on this machine; `codegen-lsp models` lists what is"
        )
    return doomed if fetched is None else [*doomed, fetched]


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
    """Return the cache folder of a checkpoint on this machine; no name has the same one.

    A link to a folder is what it leads to; a link to a file has the name that says its kind.
    """
    checkpoint = checkpoint.resolve() if checkpoint.is_dir() else checkpoint.absolute()
    path_hash = hashlib.sha256(os.fsencode(checkpoint)).hexdigest()[:8]
    prefix = f"{_safe(checkpoint.name)}@{path_hash}"
    if device != "cpu":
        prefix += f"@{device}"
    return _exports() / f"{prefix}-{_fingerprint(checkpoint)}"


def _advice(name: str, device: str) -> str:
    if find_model(name) is None and not HUB_ID.fullmatch(name):
        return "`codegen-lsp models` lists the names that can be pulled"
    for_device = " --device cuda" if device == "cuda" else ""
    return f"`codegen-lsp pull {name}{for_device}` gets it"


def _exported(checkpoint: Path, progress: Progress | None, device: str) -> Path:
    folder = _place(checkpoint, device)
    if not _is_whole(folder):
        _export(checkpoint, folder, progress, device)
    _remove_older(folder)
    return folder


def _of_this_version(folder: Path, name: str, device: str, progress: Progress | None) -> Path:
    """Return the folder, made anew without the network where this version cannot run it."""
    if _is_whole(folder):
        return folder
    source = _local_source(name)
    if source is None:
        raise ModelNotFoundError(
            f"the export of {name} is of another version or damaged, and what it was made "
            f"from is not here; {_advice(name, device)} again"
        )
    _export(source, folder, progress, device, _export_in(folder).precision)
    return folder


def _is_whole(folder: Path) -> bool:
    """Tell whether this version can run an exported folder."""
    try:
        read_manifest(folder)
    except ManifestError:
        return False
    return True


def _export(
    source: Path | Fetched,
    folder: Path,
    progress: Progress | None,
    device: str,
    precision: str = "auto",
) -> None:
    # Imported here because it brings onnx, which a cached model does not need.
    from model_export import export

    try:
        export(source, folder, precision=precision, device=device, progress=progress)
    except ExportError as error:
        raise ModelLoadError(str(error)) from error


def _local_source(name: str) -> Fetched | None:
    """Return what was fetched for a model, if it is still here."""
    model = find_model(name)
    key, place = (model.key, model.origin) if model else (name, name)
    if isinstance(place, WheelFile):
        path = local_wheel_file(place, source_folder(place))
        return Fetched(path, key) if path else None
    return local_checkpoint(key) if HUB_ID.fullmatch(key) else None


def _export_in(folder: Path) -> Export:
    # Read apart, because a manifest of another version says this much too.
    record: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    origin = record.get("source")
    source = _text(origin.get("name") if isinstance(origin, dict) else None, folder.name)
    device = _text(record.get("device"), "cpu")
    return Export(
        name=_name_of(folder, source, device),
        folder=folder,
        source=source,
        device=device,
        precision=_text(record.get("precision"), "auto"),
        can_infill=record.get("can_infill") is True,
        size=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        is_whole=_is_whole(folder),
    )


def _text(value: object, default: str) -> str:
    return value if isinstance(value, str) else default


def _name_of(folder: Path, source: str, device: str) -> str:
    embedded = _place(embedded_checkpoint(), device)
    if folder.name.rpartition("-")[0] == embedded.name.rpartition("-")[0]:
        return TINY
    if cache_folder(source, device) != folder:
        return folder.name
    model = find_model(source)
    return model.name if model else source


def _remove_older(folder: Path) -> None:
    """Remove what the checkpoint of ``folder`` was before it changed."""
    prefix = folder.name.rpartition("-")[0] + "-"
    for entry in list(folder.parent.iterdir()):
        is_older = entry.name.startswith(prefix) and entry != folder
        if is_older and is_exported_folder(entry):
            with suppress(OSError):  # Windows keeps what a server uses.
                _remove(entry)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
        return
    # Renamed first, so that nobody takes half of it for an exported folder.
    folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.old"))
    for doomed in folder.parent.glob(".*.old"):
        shutil.rmtree(doomed, ignore_errors=True)


def _fingerprint(checkpoint: Path) -> str:
    """Return a short hash that changes with the checkpoint's files and our version."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {version('codegen-lsp')}".encode())
    try:
        entries = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
        for entry in filter(_is_exported_from, entries):
            state = entry.stat()
            digest.update(f"{entry} {state.st_size} {state.st_mtime_ns}\n".encode())
    except OSError as error:
        raise ModelLoadError(f"{checkpoint} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:12]


def _is_exported_from(file: Path) -> bool:
    is_weights = file.name.endswith(_WEIGHTS) and file.name not in _NO_WEIGHTS
    return is_weights or file.name in _CHECKPOINT_FILES
