"""Fetches a checkpoint from the Hugging Face Hub; the only module that knows its library.

It takes data files only: never code, never a pickle where safetensors exist. What came is
compared with the hashes that the Hub states for the revision. Downloads go on where they
stopped. Two references of the Hub's own cache say what is ours there: the revision that
is being fetched, and the one that is whole.
"""

import errno
import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_export.errors import (
    DamagedDownloadError,
    DownloadError,
    NoRoomError,
    OutputError,
    UnreachableError,
)

HUB_ID = re.compile(r"(?!\.\.?/)[\w.-]+/(?!\.\.?$)[\w.-]+")

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
_DATA_FILES = ("config.json", "tokenizer_config.json", *_TOKENIZER_FILES)
_WEIGHTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
_WHOLE = "codegen-lsp"
_BEGUN = "codegen-lsp-begun"
_ROOM_TO_SPARE = 64 << 20
_LOOK_S = 0.2
_HASH_CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine and where it came from."""

    path: Path
    name: str
    revision: str = ""
    """The commit of a model of the Hub."""


@dataclass(frozen=True)
class _File:
    """A file of the Hub; ``digest`` is its SHA-256, or git's hash where ``is_git``."""

    name: str
    size: int
    digest: str
    is_git: bool


def download_checkpoint(
    repo_id: str, *, offline: bool = False, progress: Progress | None = None
) -> Fetched:
    """Return a model of the Hub, downloaded where it is not yet here.

    ``progress`` is called with the bytes that are here and those of the whole model, now
    and then and from another thread.

    Raises:
        UnreachableError: the Hub cannot be reached, and the model is not here.
        DamagedDownloadError: what came is not what the Hub states; it is deleted.
        NoRoomError: the disk is too small.
        DownloadError: the Hub has no such model, or it was not fetched whole.
    """
    if offline or is_offline():
        local = local_checkpoint(repo_id)
        if local is None:
            raise UnreachableError(
                f"{repo_id} was never fetched, and without the network it cannot be; try "
                "again without --offline and HF_HUB_OFFLINE"
            )
        return local
    try:
        revision, files = _listed(repo_id)
    except DownloadError:
        local = local_checkpoint(repo_id)
        if local is None:
            raise
        return local
    if _marked(repo_id, _WHOLE) != revision:
        _fetch(repo_id, revision, files, progress)
    return Fetched(_snapshot(repo_id, revision), repo_id, revision)


def local_checkpoint(repo_id: str) -> Fetched | None:
    """Return a model of the Hub that was fetched before, by us or another program."""
    for reference in (_WHOLE, "main"):
        revision = _marked(repo_id, reference)
        folder = _snapshot(repo_id, revision)
        # Another program may have fetched the tokenizer alone.
        with suppress(OSError, DownloadError):
            if revision and _weights(repo_id, {path.name: path for path in folder.iterdir()}):
                return Fetched(folder, repo_id, revision)
    return None


def remove_checkpoint(repo_id: str) -> Path | None:
    """Remove what we fetched of a model; return the folder where that was, if it was.

    A model that another program uses too stays.

    Raises:
        OutputError: it cannot be removed.
    """
    folder = _repository(repo_id)
    references = folder / "refs"
    ours = [references / name for name in (_WHOLE, _BEGUN) if (references / name).is_file()]
    if not ours:
        return None
    is_shared = len(ours) < sum(path.is_file() for path in references.rglob("*"))
    try:
        if not is_shared and not folder.is_symlink():
            shutil.rmtree(folder)
        for reference in ours:
            reference.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be removed: {error.strerror or error}") from error
    return folder


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids the network."""
    return bool(_hub().constants.HF_HUB_OFFLINE)


def _hub() -> Any:
    # Imported here because it takes most of a second, and few exports need it.
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, logging

    # Xet begins anew what broke off.
    constants.HF_HUB_DISABLE_XET = True
    # One line says what happened, and that is ours.
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    return huggingface_hub


def _listed(repo_id: str) -> tuple[str, list[_File]]:
    """Return the newest revision of a model and its files that are wanted."""
    hub = _hub()
    timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
    # The library and its transports raise a dozen kinds.
    try:
        info = hub.HfApi().model_info(repo_id, files_metadata=True, timeout=timeout)
    except Exception as error:
        raise _refusal(repo_id, error) from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names = [name for name in _DATA_FILES if name in siblings] + _weights(repo_id, siblings)
    return info.sha, [_file(repo_id, siblings[name]) for name in names]


def _refusal(repo_id: str, error: Exception) -> DownloadError:
    hub = _hub()
    if isinstance(error, hub.errors.GatedRepoError):
        return DownloadError(
            f"{repo_id} is gated; accept its terms on {hub.constants.ENDPOINT}/{repo_id} and "
            "put a token into HF_TOKEN"
        )
    if isinstance(error, hub.errors.RepositoryNotFoundError | hub.errors.HFValidationError):
        return DownloadError(
            f"the Hub has no model {repo_id}, or it is private; check the name, and HF_TOKEN "
            "where it is private"
        )
    return UnreachableError(
        f"{repo_id} is no folder here and cannot be fetched from the Hub "
        f"({type(error).__name__}); check the name and the network"
    )


def _weights(repo_id: str, names: Mapping[str, Any]) -> list[str]:
    """Return the files of a model's weights, in the one format that is preferred."""
    for stem, suffix in _WEIGHTS:
        whole = f"{stem}{suffix}"
        if whole in names:
            return [whole]
        if f"{whole}.index.json" in names:
            shards = (n for n in names if n.startswith(f"{stem}-") and n.endswith(suffix))
            return [f"{whole}.index.json", *sorted(shards)]
    ggufs = [name for name in names if name.endswith(".gguf") and "/" not in name]
    if len(ggufs) == 1:
        return ggufs
    raise DownloadError(
        f"{repo_id} holds no weights that can be read: {len(ggufs)} .gguf files and none of "
        + ", ".join(f"{stem}{suffix}" for stem, suffix in _WEIGHTS)
    )


def _file(repo_id: str, sibling: Any) -> _File:
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if not digest or sibling.size is None:
        raise DownloadError(f"the Hub states no hash for {sibling.rfilename} of {repo_id}")
    return _File(sibling.rfilename, sibling.size, digest, is_git=not sibling.lfs)


def _fetch(repo_id: str, revision: str, files: list[_File], progress: Progress | None) -> None:
    blobs = _repository(repo_id) / "blobs"
    _check_room(repo_id, sum(file.size - _here(blobs, file) for file in files))
    try:
        _mark(repo_id, _BEGUN, revision)
        with _watched(blobs, files, progress or (lambda _done, _total: None)):
            for file in files:
                _fetch_file(repo_id, revision, file)
        # Another process may fetch the same, and be done first.
        _mark(repo_id, _WHOLE, revision)
        (_repository(repo_id) / "refs" / _BEGUN).unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(f"the disk of {blobs} became full") from error
        place = error.filename or blobs
        raise DownloadError(f"{place} cannot be written: {error.strerror or error}") from error


def _fetch_file(repo_id: str, revision: str, file: _File) -> None:
    partial = _partial(_repository(repo_id) / "blobs", file)
    with suppress(FileNotFoundError):
        # From a longer file there is no going on.
        if partial.stat().st_size > file.size:
            partial.unlink()
    try:
        path = Path(_hub().hf_hub_download(repo_id, file.name, revision=revision))
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        # The list of a gated model's files is public.
        if isinstance(error, _hub().errors.RepositoryNotFoundError):
            raise _refusal(repo_id, error) from error
        raise DownloadError(
            f"{file.name} of {repo_id} did not arrive whole ({type(error).__name__}); the "
            "next try goes on where this one stopped"
        ) from error
    if _digest(path, file.is_git) != file.digest:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise DamagedDownloadError(
            f"{file.name} of {repo_id} is not what the Hub states for {revision[:8]}, and was "
            "deleted; try again"
        )


def _digest(path: Path, is_git: bool) -> str:
    digest = hashlib.sha256()
    if is_git:
        # Git names a file by a hash of its kind, size and bytes.
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_room(repo_id: str, needed: int) -> None:
    folder = Path(_hub().constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _ROOM_TO_SPARE:
        raise NoRoomError(
            f"{folder} has {free / 1e9:.1f} GB free and {repo_id} needs {needed / 1e9:.1f} GB "
            "there; make room, or name another folder in HF_HUB_CACHE"
        )


@contextmanager
def _watched(blobs: Path, files: list[_File], progress: Progress) -> Iterator[None]:
    """Tell ``progress`` how far the files are; the library tells it by file at best."""
    total = sum(file.size for file in files)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_S):
            progress(sum(_here(blobs, file) for file in files), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
    progress(total, total)


def _here(blobs: Path, file: _File) -> int:
    for path in (blobs / file.digest, _partial(blobs, file)):
        with suppress(OSError):
            return min(path.stat().st_size, file.size)
    return 0


def _partial(blobs: Path, file: _File) -> Path:
    return blobs / f"{file.digest}.incomplete"


def _repository(repo_id: str) -> Path:
    """Return the folder that the library's cache has for a model."""
    return Path(_hub().constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"


def _snapshot(repo_id: str, revision: str) -> Path:
    return _repository(repo_id) / "snapshots" / revision


def _marked(repo_id: str, reference: str) -> str:
    try:
        return (_repository(repo_id) / "refs" / reference).read_text().strip()
    except OSError:
        return ""


def _mark(repo_id: str, reference: str, revision: str) -> None:
    path = _repository(repo_id) / "refs" / reference
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(revision)
