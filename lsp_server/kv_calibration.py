"""Decides by measurement whether a model's KV cache may be int8, and finds its scales.

An int8 cache takes a quarter of the memory, and long contexts decode faster. What it
costs is measured once for each model, on text that its scales were not chosen on: our
own source, which no model was trained on. The result is kept in the user's cache.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import cattrs

from lsp_server.engine import Engine
from lsp_server.session import CacheScales
from lsp_server.tokenizer import Tokenizer

_MAX_RISE_PERCENT = 0.5
_LEVELS = 127
_N_CALIBRATION_TOKENS = 512
_N_MEASURED_TOKENS = 2048
_POSITIONS = (0, 512, 1024, 2048)
_FEWEST_TOKENS = 64
"""A mean over fewer says nothing."""

OpenEngine = Callable[[CacheScales | None], Engine]


@dataclass(frozen=True)
class Calibration:
    """Scales, and what they cost."""

    scales: CacheScales
    rise_percent: dict[str, float]
    """By position in the text, how much bits per byte rise against a float cache."""

    @property
    def is_good(self) -> bool:
        """Whether the cache may be int8 without anybody asking for it."""
        rises = self.rise_percent.values()
        return bool(rises) and all(rise <= _MAX_RISE_PERCENT for rise in rises)


def calibrate(
    record: Path, open_engine: OpenEngine, tokenizer: Tokenizer, n_layers: int
) -> Calibration:
    """Return the calibration that ``record`` keeps, or make it.

    ``open_engine`` opens the model with an int8 cache of the given scales, or a float
    cache with None; one engine is alive at a time.

    Raises:
        ModelLoadError: the model cannot be opened.
    """
    calibration = _kept(record)
    if calibration is None or len(calibration.scales.keys) != n_layers:
        calibration = _measured(open_engine, tokenizer)
        _keep(record, calibration)
    return calibration


def _kept(record: Path) -> Calibration | None:
    try:
        return cattrs.structure(json.loads(record.read_text("utf-8")), Calibration)
    # A record that is missing or damaged is made anew.
    except Exception:  # noqa: BLE001  cattrs raises groups of any kind.
        return None


def _measured(open_engine: OpenEngine, tokenizer: Tokenizer) -> Calibration:
    with_floats = open_engine(None)
    largest = with_floats.largest_cached(
        _token_ids("lsp_server", _N_CALIBRATION_TOKENS, with_floats, tokenizer)
    )
    scales = CacheScales(_steps(largest.keys), _steps(largest.values))
    token_ids = _token_ids("model_export", _N_MEASURED_TOKENS, with_floats, tokenizer)
    expected = with_floats.log_probabilities(token_ids, 1)
    del with_floats
    found = open_engine(scales).log_probabilities(token_ids, 1)
    rises = {}
    for start, end in pairwise(_POSITIONS):
        part = slice(start, end)
        if len(expected[part]) >= _FEWEST_TOKENS:
            rise = float(found[part].sum() / expected[part].sum()) - 1
            rises[f"{start}-{end}"] = round(100 * rise, 3)
    return Calibration(scales, rises)


def _steps(largest: list[float]) -> list[float]:
    return [value / _LEVELS or 1.0 for value in largest]


def _token_ids(package: str, n_tokens: int, engine: Engine, tokenizer: Tokenizer) -> list[int]:
    """Return the beginning of a package's source, as long as the context at most."""
    sources = sorted(
        str(file) for file in files(package).iterdir() if file.name.endswith(".py")
    )
    text = "".join(Path(source).read_text("utf-8") for source in sources)
    n_tokens = min(n_tokens, engine.context_length)
    return [engine.eos_token_id, *tokenizer.encode(text).token_ids][:n_tokens]


def _keep(record: Path, calibration: Calibration) -> None:
    partial = record.with_name(f".{record.name}.{os.getpid()}.partial")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(calibration)), "utf-8")
        partial.replace(record)
    # It is made anew next time.
    except OSError:
        with suppress(OSError):
            partial.unlink()
