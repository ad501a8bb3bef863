"""Fetches a checkpoint from the Hugging Face Hub; the only module that downloads.

It takes data files only: never code, never a pickle where safetensors exist.
"""

from contextlib import suppress
from pathlib import Path

from model_export.errors import DownloadError

_DATA_FILES = ["config.json", "tokenizer.json", "vocab.json", "merges.txt"]
_DATA_FILES += ["added_tokens.json"]


def download_checkpoint(repo_id: str) -> Path:
    """Return the local folder of a Hub repository, downloaded where it is not yet here.

    Raises:
        DownloadError: the repository or the network cannot be reached.
    """
    # Imported here because it takes most of a second, and few exports need it.
    from huggingface_hub import HfApi, snapshot_download

    # The library and its transports raise a dozen kinds.
    try:
        names = HfApi().list_repo_files(repo_id)
        suffix = ".safetensors" if _has_weights(names, ".safetensors") else ".bin"
        stem = "model" if suffix == ".safetensors" else "pytorch_model"
        weights = [f"{stem}{suffix}", f"{stem}-*{suffix}", f"{stem}{suffix}.index.json"]
        return Path(snapshot_download(repo_id, allow_patterns=_DATA_FILES + weights))
    except Exception as error:
        # What was fetched before needs no network.
        with suppress(Exception):
            return Path(snapshot_download(repo_id, local_files_only=True))
        raise DownloadError(
            f"{repo_id} is no folder here and cannot be fetched from the Hub "
            f"({type(error).__name__}); check the name and the network"
        ) from error


def _has_weights(names: list[str], suffix: str) -> bool:
    return any(name.startswith("model") and name.endswith(suffix) for name in names)
