"""``codegen-lsp serve`` with a clock on its event loop.

Its arguments are a file for the delays, 32-bit floats in milliseconds, and the command line.
Every few milliseconds a task asks to be woken; how much later it wakes is how long a key
would have waited.
"""

import asyncio
import sys
import time
from array import array
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pygls import io_

from lsp_server.__main__ import main as run_command

PERIOD_S = 0.005


async def _sample(delays: "array[float]") -> None:
    while True:
        due = time.perf_counter() + PERIOD_S
        await asyncio.sleep(PERIOD_S)
        delays.append(1e3 * max(0.0, time.perf_counter() - due))


def main() -> int:
    """Serve until the client leaves, then write the delays."""
    delays = array("f")
    serve_messages = io_.run_async

    async def serve_sampled(*arguments: Any, **options: Any) -> None:
        sampling = asyncio.ensure_future(_sample(delays))
        try:
            await serve_messages(*arguments, **options)
        finally:
            sampling.cancel()

    file, _program, *arguments = sys.argv[1:]
    try:
        with patch("pygls.server.run_async", serve_sampled):
            return run_command(arguments)
    finally:
        Path(file).write_bytes(delays.tobytes())


if __name__ == "__main__":
    sys.exit(main())
