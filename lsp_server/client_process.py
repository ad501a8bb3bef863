"""Whether the editor that started the server still runs; knows no LSP."""

import asyncio

import psutil

_LOOK_S = 5.0


async def until_gone(process_id: int) -> None:
    """Return once the process has ended; never where it is not there to begin with.

    The number of a client in another container, or on another machine, means nothing here.
    """
    try:
        process = psutil.Process(process_id)
    except (psutil.Error, ValueError):  # The latter is of numbers that no process has.
        await asyncio.Event().wait()
        return
    while _runs(process):
        await asyncio.sleep(_LOOK_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        # What may not be looked at is there.
        return True
