"""Measures how fast this machine's memory is read, which bounds how fast a model decodes."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 1 << 30
_PASSES = 10


class MemoryProbe:
    """One GiB that all threads together read; a sum reads each byte once, writes nothing."""

    def __init__(self, n_threads: int) -> None:
        self._parts = np.array_split(np.ones(_BYTES // 8), n_threads)
        # numpy lets go of the interpreter lock while it sums.
        self._pool = ThreadPoolExecutor(n_threads)

    def bytes_per_s(self) -> float:
        """Return the best of ten passes."""
        best = float("inf")
        for _ in range(_PASSES):
            started = time.perf_counter()
            list(self._pool.map(np.sum, self._parts))
            best = min(best, time.perf_counter() - started)
        return _BYTES / best
