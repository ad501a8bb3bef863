"""Compares our graph with optimum's export and with transformers; needs ``[reference]``.

Run as ``python -m model_export.reference CHECKPOINT``. It is the only module here that
imports torch, transformers or optimum, and neither exporting nor serving needs it.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Its wheels call home unless this is set before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
import torch
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import CodeGenForCausalLM

from model_export.exporting import export
from model_export.manifest import GRAPH_FILE, read_manifest

Logits = np.ndarray[Any, np.dtype[np.float32]]

_N_TOKENS = 256


@dataclass(frozen=True)
class Parity:
    """How far two rows of logits are apart, and how often they agree on the best token."""

    largest_difference: float
    argmax_agreement: float


@dataclass(frozen=True)
class ParityReport:
    """Ours against each reference, and the references against each other."""

    n_tokens: int
    ours_and_transformers: Parity
    ours_and_optimum: Parity
    optimum_and_transformers: Parity


def compare(checkpoint: Path, token_ids: Sequence[int] | None = None) -> ParityReport:
    """Export a checkpoint both ways in fp32 and compare the logits of one prompt.

    Without ``token_ids`` the prompt is random, with a fixed seed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ours_folder, optimum_folder = Path(scratch, "ours"), Path(scratch, "optimum")
        manifest = export(checkpoint, ours_folder, precision="fp32")
        if token_ids is None:
            n_tokens = min(_N_TOKENS, manifest.context_length)
            rng = np.random.default_rng(0)
            token_ids = rng.integers(0, manifest.n_tokens, n_tokens).tolist()
        ours = ours_logits(ours_folder, token_ids)
        optimum_export(checkpoint, optimum_folder)
        optimum = optimum_logits(optimum_folder, token_ids)
        transformers = transformers_logits(checkpoint, token_ids)
    return ParityReport(
        n_tokens=len(token_ids),
        ours_and_transformers=_parity(ours, transformers),
        ours_and_optimum=_parity(ours, optimum),
        optimum_and_transformers=_parity(optimum, transformers),
    )


def ours_logits(folder: Path, token_ids: Sequence[int]) -> Logits:
    """Return our graph's logits (len(token_ids), vocab_size) for one prompt."""
    manifest = read_manifest(folder)
    architecture = manifest.architecture
    session = onnxruntime.InferenceSession(
        folder / GRAPH_FILE, providers=["CPUExecutionProvider"]
    )
    shape = (1, architecture.n_kv_heads, manifest.context_length, architecture.head_dim)
    n_tokens = len(token_ids)
    inputs: dict[str, Any] = {
        f"past_{kind}_{layer}": np.zeros(shape, np.float32)
        for kind in ("key", "value")
        for layer in range(architecture.n_layers)
    }
    inputs["token_ids"] = np.array(token_ids, np.int64)
    inputs["row_indices"] = np.arange(n_tokens)
    inputs["seqlens_k"] = np.array([n_tokens - 1], np.int32)
    inputs["total_sequence_length"] = np.array(n_tokens, np.int32)
    logits: Logits = session.run(["logits"], inputs)[0]
    return logits


def optimum_export(checkpoint: Path, folder: Path) -> None:
    """Export a checkpoint with optimum, as its users do."""
    main_export(
        str(checkpoint),
        str(folder),
        task="text-generation-with-past",
        do_validation=False,
    )


def optimum_logits(folder: Path, token_ids: Sequence[int]) -> Logits:
    """Return the logits of optimum's own export and runtime."""
    model = ORTModelForCausalLM.from_pretrained(folder, use_cache=True)
    tokens = torch.tensor([list(token_ids)])
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return np.asarray(logits[0], np.float32)


def transformers_logits(checkpoint: Path, token_ids: Sequence[int]) -> Logits:
    """Return transformers' logits in fp32."""
    model = CodeGenForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([list(token_ids)])).logits[0]
    return np.asarray(logits, np.float32)


def _parity(first: Logits, second: Logits) -> Parity:
    agreement = (first.argmax(axis=-1) == second.argmax(axis=-1)).mean()
    return Parity(float(np.abs(first - second).max()), float(agreement))


def main() -> int:
    """Print the parity report of a checkpoint folder as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    report = compare(parser.parse_args().checkpoint)
    json.dump(asdict(report), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
