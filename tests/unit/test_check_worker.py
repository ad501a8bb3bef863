"""The worker process and its handle."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsp_server import check_worker
from lsp_server.check_worker import CheckWorker
from lsp_server.known_names import NamesRequest
from lsp_server.verdict import UNCHECKED, CheckRequest, VerdictKind

_DEADLINE_S = 60
_GOOD = CheckRequest("x = 1\n", 6, "y = x")
_BAD = CheckRequest("x = 1\n", 6, "y = z")


@pytest.fixture
def worker() -> Iterator[CheckWorker]:
    """Yield a worker that is ended afterwards."""
    worker = CheckWorker()
    yield worker
    worker.close()


def _pid(worker: CheckWorker) -> int:
    process = worker._process
    assert process is not None
    return process.pid


def test_verdicts_come_from_another_process(worker: CheckWorker) -> None:
    """Requests are answered one after the other, by one process that is not ours."""
    futures = [worker.submit(_BAD), worker.submit(_GOOD)]
    verdicts = [future.result(_DEADLINE_S).verdict for future in futures]
    assert verdicts == [VerdictKind.FLAGGED, VerdictKind.OK]
    assert _pid(worker) != os.getpid()


def test_a_worker_that_was_killed_costs_one_verdict(worker: CheckWorker) -> None:
    """A dead worker means unchecked, and the next request gets a new one."""
    worker.submit(_GOOD).result(_DEADLINE_S)
    os.kill(_pid(worker), signal.SIGKILL)
    assert worker.submit(_BAD).result(_DEADLINE_S) == UNCHECKED
    assert worker.submit(_BAD).result(_DEADLINE_S).verdict is VerdictKind.FLAGGED


def test_a_stuck_worker_is_replaced(
    worker: CheckWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that never ends is given up when another one comes much later."""
    worker.submit(_GOOD).result(_DEADLINE_S)
    os.kill(_pid(worker), signal.SIGSTOP)
    stuck = worker.submit(_GOOD)
    while worker._busy_since is None:
        assert not stuck.done()
    monkeypatch.setattr(check_worker, "_STUCK_AFTER_S", -1.0)
    later = worker.submit(_BAD)
    assert stuck.result(_DEADLINE_S) == UNCHECKED
    assert later.result(_DEADLINE_S).verdict is VerdictKind.FLAGGED


_SLOW = """
import lsp_server.name_lookup
from lsp_server import check_worker

def never(request):
    while True:
        try:
            while True:
                pass
        except Exception:
            pass

lsp_server.name_lookup.known_names = never
check_worker._NAMES_WITHIN_S = check_worker._FIRST_WITHIN_S = 0.2
check_worker._CHECK_WITHIN_S = 20.0
check_worker.main()
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer that signals")
def test_a_question_that_never_ends_is_given_up(
    worker: CheckWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An analyser that is slow costs its own answer, in the same process, and no other."""
    real = subprocess.Popen

    def slow(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return real([command[0], "-c", _SLOW], **options)

    monkeypatch.setattr(subprocess, "Popen", slow)
    assert worker.known_names(NamesRequest("x.", 2)).result(_DEADLINE_S) is None
    pid = _pid(worker)
    assert worker.submit(_BAD).result(_DEADLINE_S).verdict is VerdictKind.FLAGGED
    assert _pid(worker) == pid


def test_a_cancelled_request_is_not_checked(worker: CheckWorker) -> None:
    """Who no longer waits costs the worker nothing."""
    worker.submit(_GOOD).result(_DEADLINE_S)
    os.kill(_pid(worker), signal.SIGSTOP)
    first, second = worker.submit(_GOOD), worker.submit(_BAD)
    assert second.cancel()
    os.kill(_pid(worker), signal.SIGCONT)
    assert first.result(_DEADLINE_S).verdict is VerdictKind.OK
    assert worker.submit(_BAD).result(_DEADLINE_S).verdict is VerdictKind.FLAGGED


def test_closing_ends_the_process(worker: CheckWorker) -> None:
    """Nothing is left running, and what was still asked is unchecked."""
    worker.submit(_GOOD).result(_DEADLINE_S)
    process = psutil.Process(_pid(worker))
    os.kill(process.pid, signal.SIGSTOP)
    pending = worker.submit(_GOOD)
    worker.close()
    assert pending.result(_DEADLINE_S) == UNCHECKED
    assert not process.is_running()


def test_closing_gives_the_backlog_up(worker: CheckWorker) -> None:
    """What was queued is unchecked at once, no new process starts, and more is taken."""
    worker.submit(_GOOD).result(_DEADLINE_S)
    pid = _pid(worker)
    os.kill(pid, signal.SIGSTOP)
    backlog = [worker.submit(_GOOD) for _ in range(20)]
    worker.close()
    assert [future.result(0) for future in backlog] == [UNCHECKED] * 20
    assert worker._process is None
    assert worker.submit(_GOOD).result(0) == UNCHECKED


@pytest.mark.parametrize("n_left", [0, 100])
def test_a_stored_module_that_was_half_written_is_made_again(
    worker: CheckWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_left: int
) -> None:
    """A process that is killed while it stores a module costs no later verdict."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = CheckRequest("import json\n", 12, "json.lods('1')")
    first = worker.submit(request).result(_DEADLINE_S)
    assert first.verdict is VerdictKind.FLAGGED
    os.kill(_pid(worker), signal.SIGKILL)
    worker.submit(_GOOD).result(_DEADLINE_S)
    stored = list(tmp_path.rglob("*.pkl"))
    assert stored
    for path in stored:
        os.truncate(path, n_left)
    assert worker.submit(request).result(_DEADLINE_S) == first


def test_what_a_file_imports_is_read_once_and_behind_all_else(worker: CheckWorker) -> None:
    """An opened file's modules are questions of their own, which nothing waits for."""
    worker.submit(_GOOD).result(_DEADLINE_S)
    os.kill(_pid(worker), signal.SIGSTOP)
    first = worker.submit(_GOOD)
    while worker._busy_since is None:
        assert not first.done()
    text = "import json as j, os\nfrom os.path import join\nfrom . import a\nx = 'import b'\n"
    for _ in range(2):
        worker.load_imports(NamesRequest(text, 0, path="/a/b.py", project="/a"))
    usual, urgent = worker.submit(_BAD), worker.known_names(NamesRequest("''.", 3))
    waiting = [worker._queue.get()[-1] for _ in range(4)]
    os.kill(_pid(worker), signal.SIGCONT)
    assert first.result(_DEADLINE_S).verdict is VerdictKind.OK
    futures = [work.future for work in waiting if work]
    assert futures[:2] == [urgent, usual]
    places = [work.request.offset for work in waiting[2:] if work]
    assert [text[:place].split()[-1] for place in places] == ["json", "os.path"]


def test_closing_ends_a_worker_at_once_and_gently(
    worker: CheckWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is writing, a stored module perhaps, becomes whole; what it works on does not."""
    monkeypatch.setattr(check_worker, "_GRACE_S", _DEADLINE_S)
    worker.submit(_GOOD).result(_DEADLINE_S)
    worker.submit(_GOOD)
    process = worker._process
    assert process is not None
    worker.close()
    assert process.returncode == 0


def test_a_very_large_file_is_unchecked_at_once(worker: CheckWorker) -> None:
    """A check is not asked about files that would take it minutes."""
    request = CheckRequest("x = 1\n" * 200_000, 0, "y = 1")
    assert worker.submit(request).result(0) == UNCHECKED


def test_text_that_is_no_unicode_survives_the_way(worker: CheckWorker) -> None:
    """A lone surrogate, which JSON can carry, costs a verdict and no more."""
    request = CheckRequest("x = '\ud800'\n", 10, "y = 1")
    assert worker.submit(request).result(_DEADLINE_S).verdict in VerdictKind
    assert worker.submit(_BAD).result(_DEADLINE_S).verdict is VerdictKind.FLAGGED


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"class C{i}(C{i + 1}): pass\n" for i in range(400)) + "class C400(C0): pass\n",
        "x = " + "f(" * 90 + ")" * 90 + "\n",
        "x0 = y\n" + "".join(f"x{i} = x{i - 1}.a(x{i - 1})\n" for i in range(1, 300)),
    ],
)
def test_code_that_makes_jedi_recurse_costs_no_error(worker: CheckWorker, text: str) -> None:
    """Whatever a file does to jedi, it is answered, and so is the next one."""
    request = CheckRequest(text, len(text), "C0().a.b(1)\nx299.a(1).b\n")
    assert worker.submit(request).result(_DEADLINE_S).verdict in VerdictKind
    assert worker.submit(_BAD).result(_DEADLINE_S).verdict is VerdictKind.FLAGGED


def test_a_long_file_is_answered_and_the_next_one_too(worker: CheckWorker) -> None:
    """Twenty thousand lines cost no error and no later verdict."""
    text = "".join(f"def f{i}(a):\n    return a.b{i}(a)\n" for i in range(10_000))
    request = CheckRequest(text, len(text), "f1(1, 2)")
    assert worker.submit(request).result(_DEADLINE_S).verdict in VerdictKind
    assert worker.submit(_BAD).result(_DEADLINE_S).verdict is VerdictKind.FLAGGED


def test_nothing_of_a_project_runs_when_it_is_looked_at(
    worker: CheckWorker, tmp_path: Path
) -> None:
    """Checks and names of a project's modules run none of them, nor its interpreter."""
    mark = tmp_path / "mark"
    leave_mark = f"open({str(mark)!r}, 'a').write(__name__)\ndef known(): ...\n"
    packages = tmp_path / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / ".venv/pyvenv.cfg").write_text("home = /nowhere\n")
    (packages / "evil.pth").write_text(f"import sys; {leave_mark}")
    interpreter = tmp_path / ".venv/bin/python"
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {mark}\n")
    interpreter.chmod(0o755)
    modules = ("sitecustomize", "usercustomize", "conftest", "jedi", "lsp_server", "audioop")
    for name in modules:
        (tmp_path / f"{name}.py").write_text(leave_mark)
        (packages / f"{name}_of_environment.py").write_text(leave_mark)
    path, project = str(tmp_path / "a.py"), str(tmp_path)
    for name in (*modules, *(f"{name}_of_environment" for name in modules)):
        text = f"import {name}\nfrom {name} import *\n{name}."
        check = CheckRequest(
            text[:-1] + "\n", len(text), f"{name}.known(1)\nnope", path, project
        )
        request = NamesRequest(text, len(text), path=path, project=project)
        verdict = worker.submit(check).result(_DEADLINE_S)
        names = worker.known_names(request).result(_DEADLINE_S)
        assert verdict.verdict is VerdictKind.FLAGGED
        assert names is not None
        assert "known" in names.names
    assert not mark.exists()
