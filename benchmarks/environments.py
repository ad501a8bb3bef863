"""Makes a virtual environment for each engine that cannot live in ours.

They lie in the user's cache and stay; each has a ``lock.txt`` with all that is in it. An
environment that is of other requirements, or was not finished, is made anew.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

_REQUESTED = "requested.txt"
_LOCK = "lock.txt"
_CONVERTING = ("torch==2.13.0", "transformers==4.57.6")


class EnvironmentFailedError(Exception):
    """pip could not make an environment; the message is its last line."""


@dataclass(frozen=True)
class Environment:
    """What is installed, and what of that is taken out again."""

    name: str
    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    cmake_arguments: str = ""
    """Of what has to be compiled for this machine's processor."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return cache_folder() / "environments" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        return self.folder / scripts / "python"

    @property
    def digest(self) -> str:
        """A short name of what was asked for."""
        return hashlib.sha256(self._requested().encode()).hexdigest()[:12]

    def is_made(self) -> bool:
        """Whether it is there, whole, and of these requirements."""
        try:
            return (self.folder / _REQUESTED).read_text() == self._requested()
        except OSError:
            return False

    def make(self) -> None:
        """Make it, which takes a minute or more, and ten where something is compiled.

        Raises:
            EnvironmentFailedError: something cannot be installed here.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=True)
        # A wheel of the cache may have been compiled with other arguments.
        cache = ["--no-cache-dir"] if self.cmake_arguments else []
        self._pip("install", *cache, *self.requirements)
        if self.unwanted:
            self._pip("uninstall", "--yes", *self.unwanted)
        (self.folder / _LOCK).write_text(self._pip("freeze"))
        # Last, so that what was interrupted is not taken for whole.
        (self.folder / _REQUESTED).write_text(self._requested())

    def _requested(self) -> str:
        lines = [*self.requirements, *(f"without {name}" for name in self.unwanted)]
        if self.cmake_arguments:
            lines.append(self.cmake_arguments)
        return "\n".join([sys.version, *lines])

    def _pip(self, *arguments: str) -> str:
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        environ = {**os.environ, "CMAKE_ARGS": self.cmake_arguments}
        run = subprocess.run(command, capture_output=True, text=True, env=environ)
        if run.returncode:
            reason = last_line(run.stderr) or "pip failed"
            if self.cmake_arguments:
                reason = f"it is compiled here, which takes a C++ compiler: {reason}"
            raise EnvironmentFailedError(reason)
        return run.stdout


CTRANSLATE2 = Environment("ctranslate2", ("ctranslate2==4.8.5", *_CONVERTING))
OPENVINO = Environment(
    "openvino",
    ("openvino==2026.4.1", "nncf==3.4.0", "optimum-intel==2.2.0", *_CONVERTING),
    # optimum-intel asks for it; of another build than torch's it breaks the export.
    unwanted=("torchvision",),
)
LLAMA_CPP = Environment(
    "llama-cpp",
    ("llama-cpp-python==0.3.36",),
    cmake_arguments="-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF",
)


def cache_folder() -> Path:
    """Return where environments and models of the benchmarks lie."""
    return user_cache_path("codegen-lsp") / "bench"


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
