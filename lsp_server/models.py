"""From a model's name to an exported folder on this machine; never downloads.

A name is an exported folder, a checkpoint folder, a name or Hub id that was exported
before, or nothing: the embedded model. Checkpoints are exported to the user's cache.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from platformdirs import user_cache_path

from lsp_server.errors import ModelLoadError, ModelNotFoundError
from model_export.errors import ExportError
from model_export.manifest import FORMAT_VERSION, MANIFEST_FILE

EMBEDDED_MODEL = "codegen-tiny"

Progress = Callable[[int, int], None]


def exported_folder(name: str | None, progress: Progress | None = None) -> Path:
    """Return the exported folder of a model, exporting a checkpoint where need be.

    Raises:
        ModelNotFoundError: the name stands for nothing on this machine.
        ModelLoadError: it is a checkpoint that cannot be exported.
    """
    if not name:
        return _exported(embedded_checkpoint(), progress)
    folder = Path(name)
    with suppress(RuntimeError):  # There may be no such user.
        folder = folder.expanduser()
    if (folder / MANIFEST_FILE).is_file():
        return folder
    if folder.exists():
        return _exported(folder, progress)
    cached = cache_folder(name)
    if (cached / MANIFEST_FILE).is_file():
        return cached
    raise ModelNotFoundError(
        f"the model {name} is not on this machine; `codegen-lsp export {name}` gets it, "
        "if it is a Hub id"
    )


def embedded_checkpoint() -> Path:
    """Return the folder of the checkpoint that the package carries."""
    return Path(str(files("lsp_server") / "embedded" / EMBEDDED_MODEL))


def cache_folder(name: str) -> Path:
    """Return where ``codegen-lsp export NAME`` puts a model without ``--output``."""
    safe = re.sub(r"[^\w.-]+", "--", name).strip("-.") or "model"
    return user_cache_path("codegen-lsp") / "exports" / safe


def _exported(checkpoint: Path, progress: Progress | None) -> Path:
    checkpoint = checkpoint.resolve()
    folder = cache_folder(f"{checkpoint.name}-{_fingerprint(checkpoint)}")
    if not (folder / MANIFEST_FILE).is_file():
        # Imported here because it brings onnx, which a cached model does not need.
        from model_export import export

        try:
            export(checkpoint, folder, progress=progress)
        except ExportError as error:
            raise ModelLoadError(str(error)) from error
    return folder


def _fingerprint(checkpoint: Path) -> str:
    """Return a short hash that changes with the checkpoint's files and our version."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {version('codegen-lsp')}".encode())
    try:
        entries = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
        for entry in entries:
            state = entry.stat()
            digest.update(f"{entry} {state.st_size} {state.st_mtime_ns}\n".encode())
    except OSError as error:
        raise ModelLoadError(f"{checkpoint} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:12]
