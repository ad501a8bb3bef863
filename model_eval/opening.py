"""Opens the model that is measured, and says what tells its runs from all others.

It knows nothing of what is measured.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lsp_server.engine import default_threads
from lsp_server.loading import open_chosen
from lsp_server.models import exported_folder
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.terminal import progress_bar
from model_export.manifest import DATA_FILE, Manifest, read_manifest

_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers")


def open_model(name: str | None, threads: int | None = None) -> tuple[Model, dict[str, Any]]:
    """Return a model, as it serves the editor, and the beginning of a record's header.

    Numbers may differ in their last bits with the number of threads, so it is in the header.

    Raises:
        ServingError: there is no such model here, or it cannot be run.
    """
    folder, header = export_of(name, threads)
    model = open_chosen(folder, Settings(model=name, threads=threads))
    return model, {
        **header,
        "kv_cache": model.engine.cache_type,
        "context_length": model.engine.context_length,
    }


def export_of(name: str | None, threads: int | None = None) -> tuple[Path, dict[str, Any]]:
    """Return a model's exported folder, and what a header says of it before it is opened.

    Raises:
        ServingError: there is no such model here.
    """
    with progress_bar("exporting") as progress:
        folder = exported_folder(name, progress, Settings().device)
    return folder, header_of(read_manifest(folder), threads)


def header_of(manifest: Manifest, threads: int | None = None) -> dict[str, Any]:
    """Return what tells runs of an exported folder from those of others, on this machine."""
    return {
        "codegen_lsp_version": version("codegen-lsp"),
        "model": manifest.source.name,
        "precision": manifest.precision,
        "device": manifest.device,
        "threads": threads or default_threads(),
        "source_sha256": manifest.source.sha256,
        "weights_sha256": manifest.files[DATA_FILE].sha256,
        "versions": {"python": platform.python_version(), **versions_of(_LIBRARIES)},
    }


def versions_of(libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those libraries that are here."""
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
