"""Opens a model for completing; imports onnxruntime, so whoever needs it imports it late."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from lsp_server.engine import Engine, check_memory
from lsp_server.errors import DeviceError, ModelLoadError
from lsp_server.kv_calibration import calibrate
from lsp_server.models import Progress, exported_folder, scales_record
from lsp_server.serving_model import Model
from lsp_server.session import CacheScales
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from model_export.errors import ManifestError
from model_export.manifest import (
    INT8_CACHE_GRAPH_FILE,
    TOKENIZER_FILE,
    Manifest,
    read_manifest,
)

_EXPORT_BYTES = 1_000_000_000
"""So much memory an export may take; `benchmarks/export_memory.py` shows a third of it."""


def load_model(settings: Settings, progress: Progress | None = None) -> Model:
    """Return the model that the settings name, exporting a checkpoint where need be.

    Raises:
        ServingError: there is no such model here, or it cannot be run.
    """
    folder = exported_folder(settings.model, progress, settings.device)
    return open_chosen(folder, settings)


def open_chosen(folder: Path, settings: Settings) -> Model:
    """Return the model that the settings name, on the CPU where CUDA cannot be used.

    ``folder`` is its exported folder for the device that they name.

    Raises:
        ServingError: it cannot be run here.
    """
    try:
        return open_model(folder, settings)
    except DeviceError as error:
        folder = exported_folder(settings.model, device="cpu")
        model = open_model(folder, replace(settings, device="auto"))
        return replace(model, notice=f"{error}; the model runs on the CPU")


def has_room(folder: Path | None) -> bool:
    """Tell whether a model fits beside what the memory holds; None: an export.

    Nobody tells how much of a GPU is free, so there it does not fit.
    """
    if folder is None:
        return psutil.virtual_memory().available > _EXPORT_BYTES
    try:
        manifest = read_manifest(folder)
        check_memory(folder, manifest)
    except ManifestError:
        return True  # Opening it tells what is wrong.
    except ModelLoadError:
        return False
    return manifest.device == "cpu"


def open_model(folder: Path, settings: Settings | None = None) -> Model:
    """Return the model of an exported folder.

    Raises:
        ModelLoadError: the folder cannot be run here.
    """
    settings = settings or Settings()
    open_engine = partial(Engine.open, folder, settings.device, n_threads=settings.threads)
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        raise ModelLoadError(str(error)) from error
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
    scales = _cache_scales(folder, manifest, settings.kv_cache, open_engine, tokenizer)
    cache_bytes = settings.cache_megabytes * 1_000_000
    engine = open_engine(cache_scales=scales, cache_bytes=cache_bytes)
    return Model(
        manifest.source.name,
        engine,
        tokenizer,
        notice=engine.notice,
        infill_tokens=tokenizer.infill_tokens if manifest.can_infill else None,
        perplexity_threshold=manifest.perplexity_threshold,
    )


def _cache_scales(
    folder: Path,
    manifest: Manifest,
    kv_cache: str,
    open_engine: Callable[..., Engine],
    tokenizer: Tokenizer,
) -> CacheScales | None:
    """Return the scales of an int8 cache; None where it is to hold floats."""
    # Whoever keeps the weights as floats wants them exact.
    is_tried = manifest.device == "cpu" and manifest.precision in ("int8", "int4")
    if kv_cache == "float" or (kv_cache == "auto" and not is_tried):
        return None
    if INT8_CACHE_GRAPH_FILE not in manifest.files:
        raise ModelLoadError(
            f"{folder} was exported for {manifest.device} and has no graph with an int8 KV "
            'cache; set kvCache to "auto"'
        )
    calibration = calibrate(
        scales_record(manifest.files),
        lambda found: open_engine(cache_scales=found),
        tokenizer,
        manifest.architecture.n_layers,
    )
    is_wanted = kv_cache == "int8" or calibration.is_good
    return calibration.scales if is_wanted else None
