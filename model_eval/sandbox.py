"""Runs generated programs, which are hostile, each in a bound process of its own.

With bubblewrap (github.com/containers/bubblewrap) on the path, and where it may make
namespaces, a program sees Python's folders, nothing else of the disk, no network and no
other process. Without it a program sees the files that a person may read, and only Python
keeps it from opening them. What binds it in both is in ``guest``.

A program shares its process with what reports on it, so one that was written to can forge
the report. It does not know the answer that is asked for; see docs/evaluation.md.
"""

import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_eval.errors import SandboxError

OUT_OF_TIME = "OutOfTimeError"
"""How an outcome's error begins where the limit of time ended the program."""
_GUEST = Path(__file__).resolve().with_name("guest.py")
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_REPORT_BYTES = 1 << 16
_STARTING_S = 20.0
"""By the clock, for the process to start and to end, on a busy machine."""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    # No thread can be started, and nobody's order of a set is another's.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",
}


@dataclass(frozen=True)
class Limits:
    """What a program may take."""

    time_s: float = 5.0
    """Of the processor; by the clock four times as much."""
    memory_bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    error: str | None
    """What it raised, or how it died; None where it ran to its end."""
    printed: list[Any] | None = None
    """The first argument of its last ``print``, as ``guest`` encodes values."""

    @property
    def is_out_of_time(self) -> bool:
        """Tell whether the limit of time ended it."""
        return self.error is not None and self.error.startswith(OUT_OF_TIME)


class Sandbox:
    """A way to run programs; several threads may."""

    def __init__(
        self, limits: Limits | None = None, *, bubblewrap: str | None = "bwrap"
    ) -> None:
        """Find out what isolates here, by running an empty program; None: no bubblewrap.

        Raises:
            SandboxError: not even that can be run.
        """
        self._limits = limits or Limits()
        self._python = os.path.realpath(sys.executable)
        paths = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        self._paths = list(dict.fromkeys(os.path.realpath(path) for path in paths))
        prefix = os.path.realpath(sys.base_prefix)
        self._readable = [*_SYSTEM, prefix, *self._paths, str(_GUEST)]
        if sys.platform == "win32":
            raise SandboxError("generated programs are run on Linux and macOS only")
        found = shutil.which(bubblewrap) if bubblewrap else None
        self._bubblewrap = [found, *self._namespaces()] if found else []
        outcome, is_filtered = self._run("", keeps_print=False)
        if outcome.error and self._bubblewrap:
            # Many containers forbid namespaces.
            self._bubblewrap = []
            outcome, is_filtered = self._run("", keeps_print=False)
        if outcome.error:
            raise SandboxError(f"not even an empty program can be run: {outcome.error}")
        self.isolation = _described(is_wrapped=bool(self._bubblewrap), is_filtered=is_filtered)
        """What keeps a program from harm, in words for a record."""

    @property
    def is_wrapped(self) -> bool:
        """Tell whether bubblewrap isolates."""
        return bool(self._bubblewrap)

    def run(self, program: str, *, keeps_print: bool = False) -> Outcome:
        """Run a Python program without input, arguments, environment or a place to write.

        With ``keeps_print`` the value that it printed last is kept, or that of its last
        statement (``guest``).
        """
        return self._run(program, keeps_print=keeps_print)[0]

    def _run(self, program: str, *, keeps_print: bool) -> tuple[Outcome, bool]:
        nonce = secrets.token_hex(16)
        job = {
            "program": program,
            "nonce": nonce,
            "time_s": self._limits.time_s,
            "memory_bytes": self._limits.memory_bytes,
            "readable": self._readable,
            "paths": self._paths,
            "keeps_print": keeps_print,
        }
        # -S: what .pth files would run is nobody's program.
        command = [self._python, "-I", "-S", "-B", "-X", "utf8", str(_GUEST)]
        with tempfile.TemporaryDirectory(
            prefix="codegen-lsp-", ignore_cleanup_errors=True
        ) as f:
            try:
                process = subprocess.Popen(
                    [*self._bubblewrap, *command],
                    cwd=f,
                    env=_ENVIRONMENT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"no program can be started: {error.strerror}") from error
            try:
                data = self._exchanged(process, json.dumps(job).encode())
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        return _read(data, nonce, status)

    def _exchanged(self, process: "subprocess.Popen[bytes]", job: bytes) -> bytes | None:
        """Return what the process reports; None where that takes too long."""
        # They are pipes.
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        data = b""
        deadline = time.monotonic() + 4 * self._limits.time_s + _STARTING_S
        # It stays open: where this process dies, the program's process ends with it.
        with process.stdin, process.stdout, selectors.DefaultSelector() as selector:
            left = job + b"\n"
            with suppress(BrokenPipeError):
                while left:
                    left = left[os.write(process.stdin.fileno(), left) :]
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(data) <= _REPORT_BYTES:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    break
                data += part
        return data

    def _namespaces(self) -> Sequence[str]:
        """Return bubblewrap's options: Python's folders, and nothing else."""
        options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        options += ["--tmpfs", "/tmp", "--dev", "/dev"]  # noqa: S108  Its own, and empty.
        for path in map(Path, self._readable):
            if path.is_symlink():
                options += ["--symlink", str(path.readlink()), str(path)]
            elif path.exists():
                options += ["--ro-bind", str(path), str(path)]
        return [*options, "--remount-ro", "/tmp", "--chdir", "/tmp"]  # noqa: S108


def _described(*, is_wrapped: bool, is_filtered: bool) -> str:
    filtered = (
        "the kernel refuses processes, threads, sockets, signals to others and every write"
        if is_filtered
        else "processes, sockets and writes are refused inside Python only"
    )
    if is_wrapped:
        return f"bubblewrap: only Python's folders are there, and no network; {filtered}"
    return f"plain: {filtered}; to read other files is refused inside Python only"


def _read(data: bytes | None, nonce: str, status: int) -> tuple[Outcome, bool]:
    """Return what a report says; what is no report counts for nothing."""
    if data is None:
        return Outcome(f"{OUT_OF_TIME}: it had to be killed"), False
    if len(data) > _REPORT_BYTES:
        return Outcome("it reported too much"), False
    for line in data.splitlines():
        if line.startswith(nonce.encode()):
            return _reported(line[len(nonce) :])
    if status in (-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGKILL):
        return Outcome(f"{OUT_OF_TIME}: it had to be killed"), False
    return Outcome(f"it ended without a report, with status {status}"), False


def _reported(line: bytes) -> tuple[Outcome, bool]:
    """Return what a line says; a program that found the nonce may have written it."""
    try:
        report = json.loads(line)
        error, printed, is_filtered = (
            report[key] for key in ("error", "printed", "is_filtered")
        )
    except (ValueError, TypeError, LookupError, RecursionError):
        return Outcome("it reported nonsense"), False
    is_sane = isinstance(error, str | None) and isinstance(printed, list | None)
    return Outcome(error, printed) if is_sane else Outcome(
        "it reported nonsense"
    ), is_filtered is True
