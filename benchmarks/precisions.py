"""Measures what smaller precisions cost in quality, on code that the model never saw.

Exports a checkpoint in each precision, and reports bits per byte and argmax agreement
with fp32 on windows of two packages that the embedded model's card names as held out; what
other models saw, nobody knows. Run as ``.venv/bin/python -m benchmarks.precisions`` after
``make test``, with ``--checkpoint`` for a folder, a GGUF file or the name of a model that
was pulled; it fetches the two packages from PyPI.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import find_checkpoint
from lsp_server.engine import Engine
from lsp_server.loading import open_model
from lsp_server.models import TINY
from lsp_server.sampling import log_softmax
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from model_export import export
from model_export.checkpoint import open_checkpoint

_PACKAGES = ("click==8.1.7", "tqdm==4.66.4")
_PRECISIONS = ("fp32", "int8", "int4")
_WINDOW = 512
_LONG_WINDOW = 2048
_POSITIONS = ((0, 512), (512, 1024), (1024, 2047))
_SEED = 0
_FEW_BITS = 8


def held_out_files(folder: Path) -> list[str]:
    """Return the Python files of the held-out packages."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--dest", folder),
            *_PACKAGES,
        ],
        check=True,
    )
    texts = []
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".py"))
            texts += [archive.read(name).decode("utf-8") for name in names]
    return texts


def windows(
    texts: list[str], tokenizer: Tokenizer, eos: int, n: int, length: int = _WINDOW
) -> list[list[int]]:
    """Return ``n`` windows of token ids, each after the end-of-text id."""
    found = []
    for text in texts:
        token_ids = tokenizer.encode(text).token_ids
        for start in range(0, len(token_ids) - length + 1, length - 1):
            found.append([eos, *token_ids[start : start + length - 1]])
    order = np.random.default_rng(_SEED).permutation(len(found))[:n]
    return [found[index] for index in order]


def bits_per_weight(checkpoint: Path) -> float:
    """Return how many bits a weight of a checkpoint has, the mean of all."""
    opened = open_checkpoint(checkpoint)
    n_weights = sum(math.prod(tensor.shape) for tensor in opened.tensors.values())
    return 8 * sum(file.stat().st_size for file in opened.files) / n_weights


def cache_costs(folder: Path, texts: list[str]) -> list[float]:
    """Return by how many percent an int8 KV cache raises bits per byte, by position."""
    nats = []
    for kv_cache in ("float", "int8"):
        model = open_model(folder, Settings(kv_cache=kv_cache))
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
        chosen = windows(texts, tokenizer, model.engine.eos_token_id, 1000, _LONG_WINDOW)
        values = [model.engine.log_probabilities(window, 1) for window in chosen]
        nats.append([sum(float(v[a:b].sum()) for v in values) for a, b in _POSITIONS])
    return [100 * (ours / floats - 1) for floats, ours in zip(*nats, strict=True)]


def main() -> None:
    """Print a table of the precisions."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", default=TINY)
    parser.add_argument("--windows", type=int, default=200)
    options = parser.parse_args()
    checkpoint = find_checkpoint(options.checkpoint)
    bits_stored = bits_per_weight(checkpoint)
    table = Table("precision", "MB", "bits per byte", "against fp32", "same best token")
    with tempfile.TemporaryDirectory() as scratch:
        texts = held_out_files(Path(scratch))
        base_bits, base_best = math.nan, np.empty(0)
        for precision in _PRECISIONS:
            folder = Path(scratch, precision)
            manifest = export(checkpoint, folder, precision=precision)
            engine = Engine.open(folder)
            tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
            chosen = windows(texts, tokenizer, engine.eos_token_id, options.windows)
            n_bytes = sum(len(tokenizer.decode_bytes(window[1:])) for window in chosen)
            nats, best = 0.0, []
            for window in chosen:
                logits = engine.logits(window)
                rows = np.arange(len(window) - 1)
                nats -= float(log_softmax(logits)[rows, window[1:]].sum())
                best.append(logits.argmax(axis=-1))
            bits, all_best = nats / math.log(2) / n_bytes, np.concatenate(best)
            if precision == "fp32":
                base_bits, base_best = bits, all_best
            table.add_row(
                precision,
                f"{sum(f.size for f in manifest.files.values()) / 1e6:.1f}",
                f"{bits:.4f}",
                f"{100 * (bits / base_bits - 1):+.2f} %",
                f"{100 * (all_best == base_best).mean():.1f} %",
            )
        costs = cache_costs(Path(scratch, "int8"), texts)
    Console().print(table)
    if bits_stored < _FEW_BITS:
        print(
            f"The checkpoint itself has {bits_stored:.1f} bits a weight: this shows what "
            "repacking costs, and not what quantising the original weights would."
        )
    for (start, end), cost in zip(_POSITIONS, costs, strict=True):
        print(f"int8 with an int8 KV cache, positions {start} to {end}: {cost:+.3f} %")


if __name__ == "__main__":
    main()
