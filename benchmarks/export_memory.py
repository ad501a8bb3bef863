"""Measures the peak memory of exporting a CodeGen checkpoint of a given size.

Makes a random-weight checkpoint as the Salesforce repositories hold them (one fp16
``.bin``, buffers included), exports it in a process of its own and prints what that took.
Run as ``.venv/bin/python benchmarks/export_memory.py --shape 2b`` after ``make test``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lsp_server.models import embedded_checkpoint
from model_export import export

# Layers, width, heads and rotary dimension, from the models' config.json.
SHAPES = {
    "350m": (20, 1024, 16, 32),
    "2b": (32, 2560, 32, 64),
    "6b": (33, 4096, 16, 64),
    "16b": (34, 6144, 24, 64),
}
_VOCAB_SIZE = 51200
_CONTEXT = 2048
_PATTERN = 1 << 20


def write_checkpoint(folder: Path, shape: str) -> None:
    """Write ``config.json``, ``pytorch_model.bin`` and a tokenizer."""
    # Imported here, so that the process that is measured does not hold it.
    import torch

    n_layers, width, n_heads, rotary_dim = SHAPES[shape]
    config = {
        "model_type": "codegen",
        "activation_function": "gelu_new",
        "n_layer": n_layers,
        "n_embd": width,
        "n_head": n_heads,
        "n_positions": _CONTEXT,
        "rotary_dim": rotary_dim,
        "vocab_size": _VOCAB_SIZE,
        "layer_norm_epsilon": 1e-5,
        "eos_token_id": 2,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(embedded_checkpoint() / "tokenizer.json", folder)
    pattern = (torch.randn(_PATTERN, generator=torch.manual_seed(0)) * 0.02).half()

    def weight(*size: int) -> "torch.Tensor":
        count = torch.Size(size).numel()
        return pattern.repeat(-(-count // _PATTERN))[:count].reshape(size).clone()

    tensors = {"transformer.wte.weight": weight(_VOCAB_SIZE, width)}
    for layer in range(n_layers):
        prefix = f"transformer.h.{layer}"
        tensors |= {
            f"{prefix}.ln_1.weight": weight(width),
            f"{prefix}.ln_1.bias": weight(width),
            f"{prefix}.attn.causal_mask": torch.ones(
                1, 1, _CONTEXT, _CONTEXT, dtype=torch.uint8
            ),
            f"{prefix}.attn.qkv_proj.weight": weight(3 * width, width),
            f"{prefix}.attn.out_proj.weight": weight(width, width),
            f"{prefix}.mlp.fc_in.weight": weight(4 * width, width),
            f"{prefix}.mlp.fc_in.bias": weight(4 * width),
            f"{prefix}.mlp.fc_out.weight": weight(width, 4 * width),
            f"{prefix}.mlp.fc_out.bias": weight(width),
        }
    tensors |= {
        "transformer.ln_f.weight": weight(width),
        "transformer.ln_f.bias": weight(width),
        "lm_head.weight": weight(_VOCAB_SIZE, width),
        "lm_head.bias": weight(_VOCAB_SIZE),
    }
    torch.save(tensors, folder / "pytorch_model.bin")


def _export(checkpoint: str, output: str, precision: str) -> None:
    """Export and print seconds, peak resident memory and what the folder holds."""
    before = _peak_mib()
    started = time.perf_counter()
    manifest = export(checkpoint, output, precision=precision)
    result = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": _peak_mib(),
        "before_mib": before,
        "exported_gb": round(sum(f.size for f in manifest.files.values()) / 1e9, 2),
    }
    print(json.dumps(result))


def _peak_mib() -> int:
    # Unlike getrusage's, this peak does not begin with that of the parent process.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def main() -> None:
    """Make the checkpoint, export it in a process of its own, and clean up."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="2b")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--folder", type=Path, help="where there is room; default: temp")
    parser.add_argument("--export", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        _export(*options.export)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        checkpoint = Path(scratch) / options.shape
        write_checkpoint(checkpoint, options.shape)
        size = (checkpoint / "pytorch_model.bin").stat().st_size
        print(f"{options.shape}: a checkpoint of {size / 1e9:.2f} GB")
        # In a process that never held the checkpoint, so that the peak is the export's.
        output = Path(scratch) / "out"
        subprocess.run(
            [sys.executable, __file__, "--export", checkpoint, output, options.precision],
            check=True,
        )


if __name__ == "__main__":
    main()
