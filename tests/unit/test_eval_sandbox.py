"""Generated programs are hostile: real attacks on the sandbox, with bubblewrap and without.

Every attack runs with all limits in force, so that the worst that a hole could do to the
machine that runs the tests is small, and each checks that nothing was done, not only that
something was refused.
"""

import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from model_eval.mtpb_answers import PUBLISHED, Rules, is_right
from model_eval.sandbox import OUT_OF_TIME, Limits, Outcome, Sandbox

DEADLINE_S = 30.0
IS_FILTERED = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.fixture(scope="module", params=["bubblewrap", "plain"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Return a sandbox of either kind, with little time and memory."""
    is_wanted = request.param == "bubblewrap"
    limits = Limits(time_s=1, memory_bytes=1 << 29)
    found = Sandbox(limits, bubblewrap="bwrap" if is_wanted else None)
    if found.is_wrapped is not is_wanted:
        pytest.skip("bubblewrap is not installed, or may make no namespaces here")
    return found


def test_a_program_runs_and_its_answer_is_kept(sandbox: Sandbox) -> None:
    """What is printed last counts, and a last value counts as printed."""
    assert sandbox.run("print(1)\nprint([2.5, 'a'], 3)", keeps_print=True) == Outcome(
        None, ["list", [["float", "2.5"], ["str", "a"]]]
    )
    assert sandbox.run("x = {1: None}", keeps_print=True).printed == [
        "dict",
        [[["int", "1"], ["None", None]]],
    ]
    assert sandbox.run("x = 1") == Outcome(None, None)


def test_numpy_is_there(sandbox: Sandbox) -> None:
    """Programs of the benchmarks use it, and its values are read outside as plain ones."""
    outcome = sandbox.run("import numpy as np\nnp.arange(2) / 2", keeps_print=True)
    assert outcome == Outcome(None, ["ndarray", ["list", [["float", "0.0"], ["float", "0.5"]]]])


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax (<program>, line 1)"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("input()", "EOFError: EOF when reading a line"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("class E(Exception):\n  def __str__(self): raise E\nraise E", "E"),
    ],
)
def test_a_program_that_fails_says_how(sandbox: Sandbox, program: str, error: str) -> None:
    """A program's own exit is no success, nor is a message that lies in wait."""
    assert sandbox.run(program).error == error


HARMLESS = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "daemon": "import os\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
    "    import time\n    time.sleep(60)",
    "thread bomb": "import threading\nwhile True: threading.Thread(target=input).start()",
    "subprocess": "import subprocess\nsubprocess.run(['sleep', '60'])",
    "exec": "import os\nos.execv('/bin/sleep', ['sleep', '60'])",
    "memory bomb": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "one large object": "x = 'a' * (1 << 34)",
    "file filler": "n = 0\nwhile True:\n  n += 1\n  open(str(n), 'wb').write(bytes(1 << 20))",
    "its folder": "import os, shutil\nos.rmdir(os.getcwd())",
    "its folder and all in it": "import os, shutil\nshutil.rmtree(os.getcwd())",
    "a signal to the parent": "import os\nos.kill(os.getppid(), 15)",
    "a signal to the group": "import os\nos.killpg(os.getpgid(0), 9)",
    "a signal to all": "import os\nos.kill(-1, 9)",
    "its own end": "import os\nos._exit(0)",
    "a crash": "import faulthandler\nfaulthandler._sigsegv()",
    "more memory": "import resource\n"
    "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "the C library": "import ctypes\nctypes.CDLL(None).fork()",
    "an answer without end": "print([0] * 10**6)",
    "an answer within itself": "x = []\nx.append(x)\nprint(x)\nprint(x)",
}


@pytest.mark.parametrize("attack", HARMLESS)
def test_an_attack_fails(sandbox: Sandbox, attack: str) -> None:
    """It is refused or dies, leaves no process behind, and no answer counts."""
    outcome = sandbox.run(HARMLESS[attack], keeps_print=True)
    assert outcome.error is not None
    assert outcome.printed is None
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.parametrize(
    "program",
    [
        "while True: print('x' * 10_000)",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "10 ** 10 ** 9",
    ],
    ids=["infinite output", "catching the limit", "in C"],
)
def test_a_program_without_end_is_ended(sandbox: Sandbox, program: str) -> None:
    """Its output goes nowhere, and no handler of its own keeps it alive."""
    outcome = sandbox.run(program)
    assert outcome.is_out_of_time, outcome
    assert psutil.Process().children(recursive=True) == []


def test_what_was_printed_before_the_limit_is_kept(sandbox: Sandbox) -> None:
    """The published evaluation lets such a program pass, so it can be told apart."""
    outcome = sandbox.run("print(3)\nwhile True: pass", keeps_print=True)
    assert outcome == Outcome(f"{OUT_OF_TIME}: ", ["int", "3"])


def test_no_connection_is_made(sandbox: Sandbox) -> None:
    """Not even this machine hears of a program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = server.getsockname()
        outcome = sandbox.run(f"import socket\nsocket.create_connection({address!r})")
        assert outcome.error is not None
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_file_is_written_changed_or_removed(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nowhere, whoever owns it."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    attempts = (
        f"open({str(kept)!r}, 'w')",
        f"open({str(kept)!r}, 'r+').truncate(0)",
        f"open({str(tmp_path / 'new')!r}, 'x')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.rename({str(kept)!r}, {str(kept)!r} + '.old')",
        f"import os; os.chmod({str(kept)!r}, 0)",
        f"import os; os.mkdir({str(tmp_path / 'new')!r})",
        f"import os; os.open({str(tmp_path / 'new')!r}, os.O_CREAT | os.O_WRONLY)",
        "open('new', 'w')",
    )
    for attempt in attempts:
        assert sandbox.run(attempt).error is not None, attempt
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_text() == "kept"
    assert os.access(kept, os.R_OK)


def test_the_users_files_are_not_read(sandbox: Sandbox, tmp_path: Path) -> None:
    """What a person owns is none of a program's business; nor is the environment."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for attempt in (
        f"print(open({str(secret)!r}).read())",
        f"import os\nprint(os.read(os.open({str(secret)!r}, os.O_RDONLY), 9))",
        f"import os\nprint(os.listdir({str(Path.home())!r}))",
        f"import os\nprint(os.listdir({str(tmp_path)!r}))",
        "print(open('/etc/passwd').read())",
        "print(open('/proc/self/environ').read())",
        f"import os\nos.chdir({str(tmp_path)!r})\nprint(open('secret').read())",
    ):
        outcome = sandbox.run(attempt, keeps_print=True)
        assert outcome.error is not None, attempt
        assert outcome.printed is None
    found = sandbox.run("import os\nprint(sorted(os.environ))", keeps_print=True)
    assert found.printed is not None
    names = {name for _, name in found.printed[1]}
    assert not names & {"HOME", "USER", "LOGNAME", "VIRTUAL_ENV"}


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("import builtins\nbuiltins.print = lambda *a, **k: None\nprint(1)", ["int", "1"]),
        ("def print(*a): pass\nprint(42)", None),
        ("__builtins__ = {}\nprint(1)", ["int", "1"]),
    ],
)
def test_a_patched_print_changes_no_other_answer(
    sandbox: Sandbox, program: str, printed: object
) -> None:
    """An answer is what went into the ``print`` that the program was given."""
    assert sandbox.run(program, keeps_print=True).printed == printed


def test_a_report_is_not_forged_by_printing(sandbox: Sandbox) -> None:
    """Whatever is written to whatever is open, only the nonce makes a report."""
    program = (
        "import os, sys\n"
        'line = b\'0000 {"error": null, "printed": ["int", "1"], "is_filtered": true}\\n\'\n'
        "for number in range(64):\n"
        "    try: os.write(number, line)\n"
        "    except OSError: pass\n"
        "raise ValueError('real')\n"
    )
    assert sandbox.run(program, keeps_print=True) == Outcome("ValueError: real", None)


@pytest.mark.parametrize(
    "report",
    ['{"error": 5, "printed": null, "is_filtered": true}', "[" * 9000, "{}", "5", "\\xff"],
)
def test_a_forged_report_that_makes_no_sense_counts_for_nothing(
    sandbox: Sandbox, report: str
) -> None:
    """A program that finds the nonce in the interpreter's frames ends no run."""
    program = (
        "import os, sys\n"
        "frame = sys._getframe()\n"
        "while 'reports' not in frame.f_locals: frame = frame.f_back\n"
        "nonce = frame.f_locals['job']['nonce'].encode()\n"
        f"os.write(frame.f_locals['reports'], nonce + b' ' + b'{report}' + b'\\n')\n"
    )
    assert sandbox.run(program) == Outcome("it reported nonsense")


@pytest.mark.parametrize(
    "printed",
    [[], ["int"], ["int", None], ["other", 5], ["numpy", 5], ["dict", [[1]]], [[], []]],
)
def test_a_forged_answer_that_makes_no_sense_is_wrong(printed: list[Any]) -> None:
    """It is neither right nor the end of a run."""
    for answer in (1, "a", [1], 0.5, True, None, {"a": 1}):
        assert not is_right(Outcome(None, printed), answer, Rules())
        assert not is_right(Outcome(None, printed), answer, PUBLISHED)


@pytest.mark.skipif(not IS_FILTERED, reason="system calls are filtered on Linux on x86-64")
def test_the_kernel_refuses_without_python(tmp_path: Path) -> None:
    """The filter alone, without the hook in Python, stops every attack that it is for."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    attempts = f"""
import os, resource, signal, socket, subprocess, sys, threading
from model_eval import guest
assert guest._filter()
kept = {str(kept)!r}
attempts = [
    lambda: os.fork(), lambda: os.forkpty(), lambda: subprocess.run(["true"]),
    lambda: os.posix_spawn("/bin/true", ["true"], {{}}),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: threading.Thread(target=print).start(),
    lambda: socket.socket(), lambda: socket.socketpair(),
    lambda: os.kill(os.getppid(), 0), lambda: os.kill(-1, 0), lambda: os.killpg(0, 0),
    lambda: os.kill(0, 0), lambda: os.kill(1, 0),
    lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)),
    lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
    lambda: os.sched_setaffinity(os.getppid(), {{0}}),
    lambda: open(kept, "w"), lambda: open(kept, "a"), lambda: open(kept + "2", "x"),
    lambda: os.open(".", os.O_TMPFILE | os.O_RDWR),
    lambda: os.truncate(kept, 0), lambda: os.remove(kept), lambda: os.rename(kept, "x"),
    lambda: os.mkdir(kept + "2"), lambda: os.rmdir("."), lambda: os.symlink(kept, "x"),
    lambda: os.link(kept, "x"), lambda: os.mkfifo("x"), lambda: os.chmod(kept, 0),
    lambda: os.chown(kept, 1, 1), lambda: os.utime(kept),
    lambda: os.setxattr(kept, "user.a", b""), lambda: os.pidfd_open(os.getppid()),
    lambda: os.chroot("."), lambda: socket.sethostname("x"),
]
for number, attempt in enumerate(attempts):
    try:
        attempt()
    except (OSError, RuntimeError):
        continue
    os.write(2, b"not refused: %d" % number)
    os._exit(1)
os.kill(os.getpid(), 0)
os.write(1, open(kept, "rb").read())
os._exit(0)
"""
    run = subprocess.run(
        [sys.executable, "-c", attempts],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"kept", b"")
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.skipif(not IS_FILTERED, reason="a parent's death is heard of on Linux")
@pytest.mark.parametrize("bubblewrap", ["bwrap", None])
def test_who_is_killed_takes_programs_along(bubblewrap: str | None) -> None:
    """A run that is broken off leaves nothing running."""
    code = (
        "from model_eval.sandbox import Limits, Sandbox\n"
        f"sandbox = Sandbox(Limits(time_s=100), bubblewrap={bubblewrap!r})\n"
        "print('ready', flush=True)\n"
        "sandbox.run('import time\\ntime.sleep(100)')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        children = _awaited_children(process.pid)
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert alive == []


def _awaited_children(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        children = psutil.Process(pid).children(recursive=True)
        if children and any("guest.py" in " ".join(_command(child)) for child in children):
            return children
        time.sleep(0.01)
    raise AssertionError("no program was started")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_without_bubblewrap_it_says_so() -> None:
    """A record tells how much its programs were bound."""
    plain = Sandbox(bubblewrap=None)
    assert not plain.is_wrapped
    assert plain.isolation.startswith("plain: ")
    assert "inside Python only" in plain.isolation
    assert not Sandbox(bubblewrap="no-such-program").is_wrapped


def test_a_bubblewrap_that_may_not_isolate_is_done_without(tmp_path: Path) -> None:
    """In many containers it is installed and makes no namespaces."""
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    sandbox = Sandbox(bubblewrap=str(refusing))
    assert not sandbox.is_wrapped
    assert sandbox.run("x = 1") == Outcome(None)
