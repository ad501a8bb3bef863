"""Writes a CodeGen checkpoint of 350M shape with random weights, for comparing engines."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.export_memory import SHAPES
from lsp_server.models import embedded_checkpoint

SHAPE = "350m"


def write_checkpoint(folder: Path) -> None:
    """Write a checkpoint of 350M shape, fp16, whose best token depends on the prompt.

    Norms are 1 and all rows differ, unlike in ``export_memory``; equality of best tokens
    would mean little otherwise.
    """
    n_layers, width, n_heads, rotary_dim = SHAPES[SHAPE]
    vocab_size, context = 51200, 2048
    config = {
        "architectures": ["CodeGenForCausalLM"],
        "model_type": "codegen",
        "activation_function": "gelu_new",
        "n_layer": n_layers,
        "n_embd": width,
        "n_head": n_heads,
        "n_positions": context,
        "n_ctx": context,
        "rotary_dim": rotary_dim,
        "vocab_size": vocab_size,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    rng = np.random.default_rng(0)

    def weight(*size: int) -> "np.ndarray[Any, np.dtype[np.float16]]":
        return (0.02 * rng.standard_normal(size, np.float32)).astype(np.float16)

    ones = np.ones(width, np.float16)
    tensors = {"transformer.wte.weight": weight(vocab_size, width)}
    for layer in range(n_layers):
        prefix = f"transformer.h.{layer}"
        tensors |= {
            f"{prefix}.ln_1.weight": ones,
            f"{prefix}.ln_1.bias": weight(width),
            f"{prefix}.attn.qkv_proj.weight": weight(3 * width, width),
            f"{prefix}.attn.out_proj.weight": weight(width, width),
            f"{prefix}.mlp.fc_in.weight": weight(4 * width, width),
            f"{prefix}.mlp.fc_in.bias": weight(4 * width),
            f"{prefix}.mlp.fc_out.weight": weight(width, 4 * width),
            f"{prefix}.mlp.fc_out.bias": weight(width),
        }
    tensors |= {
        "transformer.ln_f.weight": ones,
        "transformer.ln_f.bias": weight(width),
        "lm_head.weight": weight(vocab_size, width),
        "lm_head.bias": weight(vocab_size),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(embedded_checkpoint() / "tokenizer.json", folder)
    # Last, so that a folder with a configuration is whole.
    (folder / "config.json").write_text(json.dumps(config, indent=2))
