"""A Python project on disk: its own source files, and its tests run in a copy of it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from model_eval.errors import ProjectError

_NO_SOURCE = frozenset(
    [
        *("build", "dist", "docs", "doc", "env", "examples", "node_modules", "site-packages"),
        *("test", "testing", "tests", "vendor", "_vendor", "venv", "__pycache__"),
    ]
)
_MOST_BYTES = 200_000
"""Longer files are data, or were written by programs."""
_MOST_S = 600.0
"""The tests may take so long as they are."""
_STARTING_S = 10.0
_MARGIN, _LEAST_S = 3.0, 5.0
"""With something else in a hole, so many times as long and so much more."""
_TAIL_BYTES = 2000
_LIMITED = """\
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
os.execv(sys.argv[1], sys.argv[1:])
"""


def source_files(folder: Path) -> dict[str, str]:
    """Return the texts of a project's own Python files, without tests, by relative path.

    Raises:
        ProjectError: there are none.
    """
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if _NO_SOURCE & set(parts) or any(part.startswith(".") for part in parts):
            continue
        if path.name.startswith(("test_", "conftest")) or path.name.endswith("_test.py"):
            continue
        with suppress(OSError, UnicodeDecodeError):
            data = path.read_bytes()
            if data.strip() and len(data) <= _MOST_BYTES:
                found["/".join(parts)] = data.decode("utf-8")
    if not found:
        raise ProjectError(f"{folder} has no Python files; name the folder of a project")
    return found


class ProjectTests:
    """A copy of a project in which its tests are run; a context manager.

    With bubblewrap the tests write into the copy alone and have no network. Without it they
    may do what a person may, so what they are run for has to be trusted. Either way they
    have an environment of their own, the copy comes first on Python's path, and what they
    started is killed with them.
    """

    def __init__(self, folder: Path, command: str) -> None:
        """Take a project and the command that runs its tests there.

        Raises:
            ProjectError: there is no such command, or nothing here that could end it.
        """
        if sys.platform == "win32":
            raise ProjectError("tests are run on Linux and macOS only")
        words = shlex.split(command) or [""]
        program = shutil.which(words[0])
        if program is None:
            raise ProjectError(f"there is no command {words[0]!r} to run the tests with")
        # A virtual environment is found by its own path, so links are kept.
        tests = [str(Path(program).absolute()), *words[1:]]
        self._command = [sys.executable, "-I", "-S", "-c", _LIMITED, *tests]
        self._folder = folder
        self._scratch = Path()
        self.seconds = _MOST_S
        """How long the tests take as they are."""
        self.isolation = "plain: the tests may do what a person may"
        """What keeps the tests from harm, in words for a record."""

    def __enter__(self) -> Self:
        """Return it once the copy is made and the tests pass there.

        Raises:
            ProjectError: they fail as they are.
        """
        self._temporary = tempfile.TemporaryDirectory(
            prefix="codegen-lsp-", ignore_cleanup_errors=True
        )
        self._scratch = Path(self._temporary.name).resolve()
        (self._scratch / "home").mkdir()
        shutil.copytree(
            self._folder,
            self._copy,
            symlinks=True,
            ignore=shutil.ignore_patterns(".*", "__pycache__", "node_modules", "venv"),
        )
        isolating = _bubblewrapped(self._scratch)
        if self._run([*isolating, "true"], _STARTING_S) is None:
            self.isolation = "bubblewrap: the tests write into a copy alone, and no network"
            self._command = [*isolating, *self._command]
        started = time.monotonic()
        failure = self._run(self._command, _MOST_S)
        if failure is not None:
            self._temporary.cleanup()
            raise ProjectError(f"the tests of {self._folder} fail as they are: {failure}")
        self.seconds = time.monotonic() - started
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Remove the copy."""
        self._temporary.cleanup()

    @property
    def _copy(self) -> Path:
        return self._scratch / "project"

    def pass_with(self, file: str, text: str) -> bool:
        """Tell whether the tests pass with another text of a file; the copy is restored.

        They may take several times what they take as they are.
        """
        path = self._copy / file
        before = path.read_bytes()
        path.write_bytes(text.encode("utf-8", "replace"))
        try:
            return self._run(self._command, _MARGIN * self.seconds + _LEAST_S) is None
        finally:
            path.write_bytes(before)

    def _run(self, command: Sequence[str], limit_s: float) -> str | None:
        """Run a command in the copy; return why it failed, None where it did not."""
        sources = [path for path in (self._copy / "src", self._copy) if path.is_dir()]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._scratch / "home"),
            "TMPDIR": str(self._scratch / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            # A file that changes twice within a second looks the same to its bytecode.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        }
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self._copy,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return str(error)
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return f"they took more than {limit_s:.0f} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if not status:
                return None
            output.seek(max(0, output.tell() - _TAIL_BYTES))
            lines = output.read().decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else f"status {status}"


def _bubblewrapped(scratch: Path) -> list[str]:
    """Return what runs a command with the disk read-only, but for a folder, and no network."""
    options = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    options += ["--bind", str(scratch), str(scratch), "--unshare-all", "--die-with-parent"]
    return ["bwrap", *options, "--chdir", str(scratch / "project")]
