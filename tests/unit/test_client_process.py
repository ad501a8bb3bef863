"""Whether the editor's process still runs."""

import asyncio
import subprocess
import sys

import pytest

from lsp_server import client_process
from lsp_server.client_process import until_gone

_DEADLINE_S = 30


async def test_the_end_of_a_process_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch ends once the process has, and not before."""
    monkeypatch.setattr(client_process, "_LOOK_S", 0.01)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch = asyncio.ensure_future(until_gone(process.pid))
        await asyncio.wait({watch}, timeout=0.05)
        assert not watch.done()
        process.kill()
        await asyncio.wait_for(watch, _DEADLINE_S)


@pytest.mark.parametrize("number", [-1, 2**22 + 1])
async def test_a_number_of_no_process_is_no_end(number: int) -> None:
    """A client elsewhere, or one that says nonsense, is not taken for gone."""
    watch = asyncio.ensure_future(until_gone(number))
    await asyncio.wait({watch}, timeout=0.05)
    assert not watch.done()
    watch.cancel()
