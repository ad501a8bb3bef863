"""One tensor of a checkpoint, still on the disk; knows no file format."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RowReader = Callable[[int, int], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read a few rows at a time, so that no model has to fit in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: RowReader
    """``read(start, stop)`` returns rows of the first axis in the stored dtype."""
