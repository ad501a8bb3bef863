"""Ends a piece of work that takes too long, where the system has timers that signal.

Only the processor's time counts, so that a busy machine ends nothing. It knows one thing
of the work: what parso is reading is read to its end. Half a tree would be left in its
memory otherwise, and a file that takes longer than the limit would never be known.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import parso.grammar

_READING = str(Path(parso.grammar.__file__))
_AGAIN_S = 0.02


class OutOfTime(BaseException):
    """The time is over; no error, so that what catches every error lets it through."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise ``OutOfTime`` in what works longer, on the main thread of a Unix; else do nothing.

    Raises:
        OutOfTime: the time is over.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGPROF, _end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def end_when_told() -> None:
    """Let the signal that asks to end (SIGTERM) end the process as soon as parso reads nothing.

    What it reads it also stores, and half a file would be left.
    """
    if hasattr(signal, "setitimer"):
        for told in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(told, _leave)


def _end(_signal: int, frame: FrameType | None) -> None:
    if _is_reading(frame):
        signal.setitimer(signal.ITIMER_PROF, _AGAIN_S)
        return
    raise OutOfTime


def _leave(_signal: int, frame: FrameType | None) -> None:
    if _is_reading(frame):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        return
    os._exit(0)


def _is_reading(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _READING:
            return True
        frame = frame.f_back
    return False
