"""The record of an exported folder, and the only bridge from export to serving.

It must stay cheap to import: the server reads it, and nothing else of this package.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cattrs

from model_export.architecture import Architecture
from model_export.errors import ManifestError

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
INT8_CACHE_GRAPH_FILE = "model.int8cache.onnx"
"""The same model with a KV cache of int8; folders for the CPU have it."""
DATA_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"

FORMAT_VERSION = 3
"""Raised whenever an older engine could not run a newer folder, or the reverse."""

_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file of the folder."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where the weights came from; the hash covers configuration and weight files."""

    name: str
    sha256: str
    revision: str = ""
    """The commit of a model of the Hub."""


@dataclass(frozen=True)
class Manifest:
    """Everything that the engine needs to know of an exported folder."""

    format_version: int
    codegen_lsp_version: str
    architecture: Architecture
    precision: str
    device: str
    kv_cache_type: str
    """Of ``GRAPH_FILE``."""
    context_length: int
    eos_token_id: int
    end_token_ids: list[int]
    """Each of them ends a text; the id above is one of them."""
    special_token_ids: list[int]
    """They stand for no text and are never generated."""
    n_tokens: int
    """Ids from here to vocab_size are padding that no text has; never sampled."""
    can_infill: bool
    source: Source
    files: dict[str, FileRecord]
    perplexity_threshold: float | None = None
    """Prompts above it are unclear to the model; where an evaluation found one."""

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        return asdict(self)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json`` into ``folder``, where an older one stays until it is whole."""
    text = json.dumps(manifest.to_json(), indent=2) + "\n"
    partial = folder / f".{MANIFEST_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / MANIFEST_FILE)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an exported folder whose files all have their sizes.

    Raises:
        ManifestError: there is none, it is of another version, or a file is missing
            or has another size.
    """
    path = folder / MANIFEST_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{folder} is not an exported folder: it has no {MANIFEST_FILE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{folder} has format version {version!r}, this program reads "
            f"{FORMAT_VERSION}; export the checkpoint again"
        )
    try:
        manifest = cattrs.structure(data, Manifest)
    except Exception as error:  # noqa: BLE001  cattrs raises groups of any kind.
        raise ManifestError(
            f"{path} is not a manifest of this version ({type(error).__name__}); "
            "export the checkpoint again"
        ) from None
    for name in (GRAPH_FILE, DATA_FILE, TOKENIZER_FILE):
        file, record = folder / name, manifest.files.get(name)
        if not record or not file.is_file() or file.stat().st_size != record.size:
            raise ManifestError(f"{file} is missing or damaged; export the checkpoint again")
    return manifest


def is_exported_folder(folder: Path) -> bool:
    """Tell whether some version of this program wrote ``folder``, damaged or not.

    Others write a manifest.json too, so it has to name this program.
    """
    try:
        data = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "codegen_lsp_version" in data


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 of the files' bytes, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
