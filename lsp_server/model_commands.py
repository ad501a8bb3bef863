"""The commands that list, fetch and remove models; nothing else here downloads."""

import argparse
from pathlib import Path
from typing import Any

from lsp_server.errors import ModelNotFoundError
from lsp_server.models import (
    Export,
    export_folder,
    list_exports,
    origin_of,
    remove_model,
    source_folder,
)
from lsp_server.terminal import print_json, print_table, progress_bar
from model_export.catalogue import MODELS, CatalogueModel, WheelFile
from model_export.errors import ManifestError
from model_export.hub import HUB_ID, Fetched, download_checkpoint, is_offline
from model_export.manifest import Manifest, read_manifest
from model_export.pypi import download_wheel_file

_HEADER = (
    "name",
    "parameters",
    "licence",
    "MB fp32",
    "int8",
    "int4",
    "good at",
    "from",
    "here",
)


def list_models(options: argparse.Namespace) -> int:
    """Print the catalogue and what else is in the cache."""
    exports = list_exports()
    listed = []
    for model in MODELS:
        here = [export for export in exports if export.name == model.name]
        listed += [_listed(model.name, model, export) for export in here]
        if not here:
            listed.append(_listed(model.name, model, None))
    names = {model.name for model in MODELS}
    others = [export for export in exports if export.name not in names]
    listed += [_listed(export.name, None, export) for export in others]
    if options.json:
        print_json({"models": listed})
    else:
        print_table(_HEADER, [_row(entry) for entry in listed])
    return 0


def pull(options: argparse.Namespace) -> int:
    """Fetch and export a model, unless it is here."""
    name, precision, device = options.name, options.precision, options.device
    folder = export_folder(name, device)
    manifest = _manifest_of(folder, precision)
    state = "is ready" if manifest is None else "is already here"
    if manifest is None:
        manifest = pulled(name, precision=precision, device=device, offline=options.offline)
    size_mb = round(sum(record.size for record in manifest.files.values()) / 1e6)
    if options.json:
        print_json(
            {
                "name": name,
                "folder": str(folder),
                "precision": manifest.precision,
                "size_mb": size_mb,
                "source": manifest.source.name,
                "revision": manifest.source.revision,
            }
        )
    else:
        print(f"{name} {state}: {manifest.precision}, {size_mb} MB in {folder}")
    return 0


def remove(options: argparse.Namespace) -> int:
    """Remove a model's exports and what was fetched for it."""
    removed = [str(folder) for folder in remove_model(options.name)]
    if options.json:
        print_json({"name": options.name, "removed": removed})
    else:
        print(f"{options.name} is removed: {', '.join(removed)}")
    return 0


def pulled(
    name: str, *, precision: str = "auto", device: str = "cpu", offline: bool = False
) -> Manifest:
    """Fetch a model where need be and export it to where ``--model`` looks for it.

    Raises:
        ServingError: the name stands for nothing that can be fetched.
        ExportError: it cannot be fetched or exported; UnreachableError without a network.
    """
    # Imported here because it brings onnx, which a model that is here does not need.
    from model_export import export

    source = fetched(name, offline=offline)
    with progress_bar("exporting") as progress:
        return export(
            source,
            export_folder(name, device),
            precision=precision,
            device=device,
            progress=progress,
        )


def fetched(name: str, *, offline: bool = False) -> Path | Fetched:
    """Return a model's checkpoint on this machine, downloaded with a bar where need be.

    Raises:
        ModelNotFoundError: the name is no name, no path and no Hub id.
        DownloadError: it cannot be fetched.
    """
    origin = origin_of(name)
    if isinstance(origin.place, Path):
        return origin.place
    with progress_bar("fetching") as progress:
        if isinstance(origin.place, WheelFile):
            folder = source_folder(origin.place)
            path = download_wheel_file(
                origin.place, folder, offline=offline or is_offline(), progress=progress
            )
            return Fetched(path, origin.name)
        if not HUB_ID.fullmatch(origin.place):
            raise ModelNotFoundError(
                f"{name} is neither a folder nor a Hub id, nor a name that `codegen-lsp "
                "models` lists"
            )
        return download_checkpoint(origin.place, offline=offline, progress=progress)


def _manifest_of(folder: Path, precision: str) -> Manifest | None:
    """Return the manifest of an export that is whole and of this precision."""
    try:
        manifest = read_manifest(folder)
    except ManifestError:
        return None
    return manifest if precision in ("auto", manifest.precision) else None


def _listed(name: str, model: CatalogueModel | None, export: Export | None) -> dict[str, Any]:
    size_mb = model.size_mb() if model else {}
    if export is not None:
        size_mb[export.precision] = round(export.size / 1e6)
    return {
        "name": name,
        "parameters": model.n_parameters if model else None,
        "license": model.license if model else None,
        "size_mb": size_mb,
        "good_at": model.good_at if model else None,
        "source": _source(model, export),
        "is_here": export.is_whole if export else model is not None and model.origin is None,
        "can_infill": export.can_infill if export else bool(model and model.can_infill),
        "precision": export.precision if export else None,
        "device": export.device if export else None,
        "folder": str(export.folder) if export else None,
    }


def _source(model: CatalogueModel | None, export: Export | None) -> str:
    if model is None:
        return export.source if export else ""
    if isinstance(model.origin, WheelFile):
        return f"PyPI: {model.origin.package} {model.origin.version}"
    return model.origin or "embedded"


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    sizes = (str(entry["size_mb"].get(precision, "")) for precision in ("fp32", "int8", "int4"))
    here = "yes" if entry["is_here"] else "no"
    if entry["folder"]:
        here = f"{entry['precision']} for {entry['device']}"
        if not entry["is_here"]:
            here += ", of another version"
    return (
        entry["name"],
        _parameters(entry["parameters"]),
        entry["license"] or "",
        *sizes,
        entry["good_at"] or "",
        entry["source"],
        here,
    )


def _parameters(n: int | None) -> str:
    if n is None:
        return ""
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.0f}M"
