"""What runs in the sandbox's process: binds itself, runs one program, reports.

It is started by ``sandbox`` as a file of its own, imports nothing but the standard library,
and takes its job, one line of JSON, from standard input:

- ``program``: Python source; ``nonce``: begins the report, one line of JSON;
- ``time_s``: of the processor, with four times as much by the clock; ``memory_bytes``;
- ``readable``: folders and files that may be opened; ``paths``: where packages are;
- ``keeps_print``: give the program a ``print`` whose last first argument is reported, and
  print the value of a last statement that does not.

The report says how the program ended (``error``: null where it ran to its end), what was
printed last (``printed``: an encoded value or null) and whether the kernel filters
(``is_filtered``). Everything that a program prints goes nowhere. What binds it:

- on Linux standard input: whoever gave the job holds its other end, and with that the
  process ends;
- limits of time, memory, open files; no file may grow;
- on Linux on x86-64 a filter of system calls: no process or thread is started, no program
  executed, no socket opened, nothing is written, renamed or removed anywhere, and no other
  process is signalled, traced or limited. A filter cannot be taken back;
- a hook that refuses the same inside Python, wherever that runs, and to open what is not
  readable.
"""

import ast
import ctypes
import fcntl
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

_DEPTH, _ITEMS = 30, 5_000
"""Nested containers and values in all that an answer may have."""
_MESSAGE = 200
_WAITING = 4
"""How many times the processor's time a program may take by the clock."""

# The numbers of asm/unistd_64.h.
_NEVER = (
    *(57, 58, 56, 59, 322),  # fork, vfork, clone, execve, execveat
    *(41, 53, 425, 426, 427),  # socket, socketpair, io_uring_*
    *(200, 129, 297, 424, 434, 438),  # tkill, rt_*sigqueueinfo, pidfd_*
    *(101, 310, 311, 440),  # ptrace, process_vm_*, process_madvise
    *(141, 142, 144, 203, 251, 314),  # setpriority, sched_set*, ioprio_set
    *(272, 308, 155, 161, 165, 166),  # unshare, setns, pivot_root, chroot, mount, umount2
    *(428, 429, 430, 431, 432, 433, 442),  # open_tree, move_mount, fs*, mount_setattr
    *(298, 321, 323, 248, 249, 250),  # perf_event_open, bpf, userfaultfd, keys
    *(103, 159, 163, 164, 167, 168, 169, 170, 171, 172, 173, 179, 227, 305),  # the machine
    *(175, 176, 246, 313, 320),  # modules, kexec
    *(29, 64, 68, 240),  # shared memory, semaphores, message queues
    *(85, 76, 77, 285, 303, 304),  # creat, truncate, ftruncate, fallocate, handles
    *(82, 264, 316, 83, 258, 84, 87, 263),  # rename, mkdir, rmdir, unlink
    *(86, 265, 88, 266, 133, 259),  # link, symlink, mknod
    *(90, 91, 268, 452, 92, 93, 94, 260),  # chmod, chown
    *(132, 235, 261, 280, 188, 189, 190, 197, 198, 199),  # utime, attributes
)
_CLONE3, _OPENAT2 = 435, 437
"""What the C library does without where the kernel does not know them."""
_OPEN, _OPENAT, _KILL, _TGKILL, _PRLIMIT, _FCNTL = 2, 257, 62, 234, 302, 72
_F_SETSIG = 10
_SET_OWNER = (8, _F_SETSIG, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: ways to have the kernel signal others."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026
"""SECCOMP_RET_ALLOW, and SECCOMP_RET_ERRNO with EPERM and ENOSYS."""
_X86_64, _X32 = 0xC000003E, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

_FORBIDDEN = (
    *("socket.", "subprocess.", "shutil.", "ctypes.", "pty.", "sqlite3.", "winreg."),
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chdir"),
    *("os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr"),
    *("resource.prlimit", "signal.pthread_kill", "mmap.", "fcntl."),
)


class OutOfTimeError(Exception):
    """The program took too long; a program that catches it is ended soon after."""


def main() -> NoReturn:
    """Do the one job; the process ends here."""
    job = json.loads(sys.stdin.readline())
    lifeline, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.path += job["paths"]
    is_filtered = _bind(job, lifeline)
    error, printed = _run(job["program"], job["time_s"], keeps_print=job["keeps_print"])
    report = {"error": error, "printed": printed, "is_filtered": is_filtered}
    try:
        line = json.dumps(report)
    except (ValueError, RecursionError):
        line = json.dumps(report | {"error": "the answer is no value", "printed": None})
    data = f"{job['nonce']} {line}\n".encode()
    while data:
        data = data[os.write(reports, data) :]
    os._exit(0)


def _bind(job: dict[str, Any], lifeline: int) -> bool:
    """Set all limits; tells whether the kernel filters system calls."""
    time_s = int(job["time_s"])
    for kind, most in (
        (resource.RLIMIT_CPU, time_s + 2),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (most, most))
    is_linux = sys.platform == "linux"
    if is_linux:
        _end_with(lifeline)
    is_filtered = is_linux and platform.machine() == "x86_64" and _filter()
    sys.addaudithook(_refusal(job["readable"]))
    return is_filtered


def _end_with(lifeline: int) -> None:
    """Have the kernel kill the process when the other end of a pipe closes.

    A signal at the parent's death (PR_SET_PDEATHSIG, and what bubblewrap makes of it)
    misses a parent that dies while processes still start.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    end = select.poll()
    end.register(lifeline, 0)
    if end.poll(0):
        os._exit(1)


def _filter() -> bool:
    """Install the filter of system calls; tells whether it holds."""
    own = os.getpid()
    rules = [
        _rule(_OPEN, _unless(1, _ANY_BIT, _WRITES)),
        _rule(_OPENAT, _unless(2, _ANY_BIT, _WRITES)),
        _rule(_KILL, _only(0, own)),
        _rule(_TGKILL, _only(0, own)),
        _rule(_PRLIMIT, _only(0, 0)),
        _rule(_FCNTL, b"".join(_unless(1, _EQUAL, command, b"") for command in _SET_OWNER)
              + _step(_RETURN, _ALLOW)),
        *(_rule(number, _step(_RETURN, _UNKNOWN)) for number in (_CLONE3, _OPENAT2)),
        *(_rule(number, _step(_RETURN, _REFUSE)) for number in _NEVER),
    ]  # fmt: skip
    program = (
        _step(_LOAD, 4)
        + _step(_EQUAL, _X86_64, 1, 0)
        + _step(_RETURN, _REFUSE)
        + _step(_LOAD, 0)
        + _step(_AT_LEAST, _X32, 0, 1)
        + _step(_RETURN, _REFUSE)
        + b"".join(rules)
        + _step(_RETURN, _ALLOW)
    )
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    # No capability is left to root either (capset, version 3), nor can one be gained.
    libc.syscall(126, struct.pack("II", 0x20080522, 0), bytes(24))
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        return False
    return not libc.prctl(22, 2, described, 0, 0)  # PR_SET_SECCOMP, a filter


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _rule(number: int, body: bytes) -> bytes:
    """Return what is done with one system call; the body returns."""
    return _step(_EQUAL, number, 0, len(body) // 8) + body


def _argument(index: int) -> bytes:
    return _step(_LOAD, 16 + 8 * index)


def _unless(index: int, test: int, value: int, otherwise: bytes | None = None) -> bytes:
    """Return the body that refuses where an argument passes the test."""
    after = _step(_RETURN, _ALLOW) if otherwise is None else otherwise
    return _argument(index) + _step(test, value, 0, 1) + _step(_RETURN, _REFUSE) + after


def _only(index: int, value: int) -> bytes:
    """Return the body that refuses where an argument is not the value."""
    allowed = _step(_RETURN, _ALLOW)
    return _argument(index) + _step(_EQUAL, value, 0, 1) + allowed + _step(_RETURN, _REFUSE)


def _refusal(readable: Iterable[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return the hook that refuses inside Python; for what the filter does not see, too."""
    roots = tuple(os.path.realpath(path) for path in (*readable, os.devnull, "/dev/urandom"))
    roots += tuple(root.rstrip("/") + "/" for root in roots)
    resolved = os.path.realpath

    def is_readable(path: object) -> bool:
        if isinstance(path, int):
            return True
        if not isinstance(path, str | bytes):
            return False
        real = resolved(os.fsdecode(path))
        return real in roots or real.startswith(roots[len(roots) // 2 :])

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        refused = event.startswith(_FORBIDDEN)
        if event == "open":
            path, _, flags = arguments
            refused = bool(isinstance(flags, int) and flags & _WRITES) or not is_readable(path)
        elif event in ("os.listdir", "os.scandir"):
            refused = not is_readable(arguments[0] or ".")
        if refused:
            raise PermissionError(f"a generated program may not do this: {event}")

    return refuse


def _run(
    source: str, time_s: float, *, keeps_print: bool
) -> tuple[str | None, list[Any] | None]:
    """Return how the program ended and what it printed last."""
    kept: list[object] = []
    names: dict[str, Any] = {"__name__": "program"}
    if keeps_print:
        really_print = print

        def keeping_print(*values: object, **options: Any) -> None:
            kept[:] = values[:1]
            really_print(*values, **options)

        names |= {"__name__": "__main__", "print": keeping_print}

    def end(*_: object) -> None:
        raise OutOfTimeError

    error: str | None = None
    try:
        program = _printing_the_last(source) if keeps_print else source
        code = compile(program, "<program>", "exec")
        for kind, timer, limit_s in (
            (signal.SIGPROF, signal.ITIMER_PROF, time_s),
            (signal.SIGALRM, signal.ITIMER_REAL, _WAITING * time_s),
        ):
            signal.signal(kind, end)
            signal.setitimer(timer, limit_s)
        exec(code, names)  # noqa: S102  This is what the process is for.
    # A program may end itself, or raise what it made up.
    except BaseException as raised:  # noqa: BLE001
        error = type(raised).__name__
        # Even its message is the program's.
        with suppress(BaseException):
            error = f"{error}: {raised}"[:_MESSAGE].encode("utf-8", "replace").decode()
    try:
        for kind in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(kind, signal.SIG_IGN)
        printed = _encoded(kept[0], [0], _DEPTH) if kept else None
    except BaseException:  # noqa: BLE001  So is what it printed.
        return error or "the answer is no value", None
    return error, printed


def _printing_the_last(source: str) -> str:
    """Return a program that prints the value of its last statement, if that has one.

    A last call of a name that begins with ``print`` stands. As in salesforce/CodeGen,
    codegen1/benchmark/mtpb_exec.py, ``rewrite_ast_with_print``: also the value that is
    assigned last is printed, and what cannot be rewritten stays.
    """
    try:
        tree = ast.parse(source)
        last = tree.body[-1]
        value = getattr(last, "value", None)
        is_print = (
            isinstance(value, ast.Call)
            and isinstance(value.func, ast.Name)
            and value.func.id.startswith("print")
        )
        if is_print or not isinstance(value, ast.expr):
            return source
        name = ast.Name(id="print", ctx=ast.Load())
        last.value = ast.Call(func=name, args=[value], keywords=[])  # type: ignore[attr-defined]
        return ast.unparse(ast.fix_missing_locations(tree))
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return source


def _encoded(value: object, count: list[int], depth: int) -> list[Any]:
    """Return a value as JSON that says its type, so that it can be compared outside."""
    count[0] += 1
    if depth == 0 or count[0] > _ITEMS:
        raise ValueError("the answer is too large")
    kind = type(value)
    if value is None:
        return ["None", None]
    if kind is bool or kind is str:
        return [kind.__name__, value]
    if kind is int:
        return ["int", format(value, "x")]
    if kind is float:
        return ["float", repr(value)]

    def parts(values: Iterable[object]) -> list[Any]:
        return [_encoded(part, count, depth - 1) for part in values]

    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, parts(value)]  # type: ignore[arg-type]
    if kind is dict:
        return ["dict", [parts(pair) for pair in value.items()]]  # type: ignore[attr-defined]
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and kind is numpy.ndarray:
        return ["ndarray", _encoded(value.tolist(), count, depth - 1)]  # type: ignore[attr-defined]
    if numpy is not None and isinstance(value, numpy.generic):
        inner = _encoded(value.item(), count, depth - 1)
        return ["numpy", [kind.__name__, inner]]
    if pandas is not None and kind is pandas.Series:
        values = value.to_numpy().tolist()  # type: ignore[attr-defined]
        return ["Series", _encoded(values, count, depth - 1)]
    casts = {}
    for cast in (str, int, float, list):
        try:
            casts[cast.__name__] = _encoded(_bounded(cast, value), count, depth - 1)
        except Exception:  # noqa: BLE001, S112  What cannot be cast has no cast.
            continue
    return ["other", casts]


def _bounded(cast: Callable[[Any], object], value: Any) -> object:
    if cast is not list:
        return cast(value)
    values = []
    for part in value:
        values.append(part)
        if len(values) > _ITEMS:
            raise ValueError("the answer is too large")
    return values


if __name__ == "__main__":
    main()
