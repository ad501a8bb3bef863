"""What takes too long is ended, and what parso is reading is not."""

import signal
import subprocess
import sys

import parso
import pytest

from lsp_server.time_limit import OutOfTime, at_most

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="there is no timer that signals"
)


def _work_for_ever() -> None:
    while True:
        try:
            while True:
                pass
        except Exception:  # noqa: BLE001, S110  What is to be shown: it catches nothing here.
            pass


def test_work_ends_though_it_catches_every_error() -> None:
    """No handler of errors keeps the work alive."""
    with pytest.raises(OutOfTime), at_most(0.05):
        _work_for_ever()


def test_no_signal_comes_after_the_work() -> None:
    """What was done in time leaves no timer and the handler that was there."""
    before = signal.getsignal(signal.SIGPROF)
    with at_most(60):
        pass
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGPROF) is before


def test_a_file_that_is_read_is_read_to_its_end() -> None:
    """A limit far below what parsing takes gives a whole tree, and ends what comes then."""
    read = []

    def read_and_work_on() -> None:
        read.append(parso.parse("x = [1]\n" * 2000))
        _work_for_ever()

    with pytest.raises(OutOfTime), at_most(0.001):
        read_and_work_on()
    assert read[0].get_last_leaf().start_pos[0] == 2001


def test_who_is_told_to_end_reads_to_the_end_first() -> None:
    """A process that parso reads for stores a whole tree, and works on nothing else."""
    code = (
        "import os, signal, parso\n"
        "from lsp_server.time_limit import end_when_told\n"
        "end_when_told()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001)\n"
        "tree = parso.parse('x = [1]\\n' * 2000)\n"
        "print(tree.get_last_leaf().start_pos[0], flush=True)\n"
        "while True: pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "2001\n")
