"""Runs a generated program in a process of its own, within limits of time, memory and reach.

The limits keep a program that errs from doing harm. They are no sandbox: they do not hold
a program that was written to break out.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO

_TIME_S = 10
_MEMORY_BYTES = 1 << 30
_MOST_OUTPUT = 100_000
"""Bytes that a program may print."""

_LIMITS = f"""\
import sys
source = sys.stdin.read()
try:
    import resource
except ImportError:  # Windows has no limits of this kind.
    pass
else:
    for kind, most in (
        (resource.RLIMIT_CPU, {_TIME_S}),
        (resource.RLIMIT_AS, {_MEMORY_BYTES}),
        (resource.RLIMIT_FSIZE, {_MOST_OUTPUT}),
    ):
        resource.setrlimit(kind, (most, most))
program = compile(source, "<program>", "exec")
forbidden = ("socket.", "subprocess.", "shutil.", "ctypes.", "winreg.", "pty.")
forbidden += ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill")
forbidden += ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
forbidden += ("os.truncate", "os.chmod", "os.chown", "os.utime")

def refuse(event, arguments):
    opens = event == "open" and len(arguments) > 2
    # Flags tell more than the mode, which os.open has none of.
    writes = opens and isinstance(arguments[2], int) and arguments[2] & 0o1103
    if writes or event.startswith(forbidden):
        raise PermissionError(f"a generated program may not do this: {{event}}")

sys.addaudithook(refuse)
exec(program, {{"__name__": "__main__"}})
"""


@dataclass(frozen=True)
class Run:
    """What a program printed, and the last line of why it failed; empty where it did not."""

    output: str
    failure: str


def run_limited(program: str) -> Run:
    """Run a Python program without input, arguments, environment or packages."""
    with (
        tempfile.TemporaryDirectory(prefix="codegen-lsp-") as folder,
        # Files, because a pipe that is read to its end has no limit.
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        failure = ""
        try:
            status = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _LIMITS],
                cwd=folder,
                # Windows cannot start Python without it.
                env={key: os.environ[key] for key in ("SYSTEMROOT",) if key in os.environ},
                input=program.encode("utf-8", "replace"),
                stdout=output,
                stderr=errors,
                timeout=_TIME_S,
            ).returncode
        except subprocess.TimeoutExpired:
            status, failure = 0, f"it was stopped after {_TIME_S} seconds"
        printed, said = (_text(file) for file in (output, errors))
    if status:
        failure = next(reversed(said.strip().splitlines()), f"it ended with status {status}")
    return Run(printed, failure)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST_OUTPUT).decode("utf-8", "replace").replace("\r\n", "\n")
