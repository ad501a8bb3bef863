"""Writes small random CodeGen checkpoints in every layout that real ones have."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

EMBEDDED = Path(__file__).parents[1] / "lsp_server/embedded/codegen-tiny"

Layout = Literal["safetensors", "bin"]
Tensors = dict[str, torch.Tensor]

N_TOKENS = 257
"""Tokens of ``byte_tokenizer``: 256 bytes and the end of text."""


def codegen_config(**changes: Any) -> dict[str, Any]:
    """Return the config.json of a very small CodeGen model, with some values changed."""
    config = {
        "model_type": "codegen",
        "architectures": ["CodeGenForCausalLM"],
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "n_embd": 128,
        "n_head": 4,
        "n_layer": 2,
        "n_inner": None,
        "n_positions": 64,
        "rotary_dim": 16,
        "vocab_size": 288,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "tie_word_embeddings": False,
    }
    return config | changes


def random_tensors(
    config: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensors:
    """Return random weights, large enough that every part of the model shows in its logits."""
    width, vocab = config["n_embd"], config["vocab_size"]
    inner = config["n_inner"] or 4 * width
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, mean: float = 0.0, std: float | None = None) -> torch.Tensor:
        values = torch.randn(*shape, generator=random)
        return (mean + values * (std or 1.5 / shape[-1] ** 0.5)).to(dtype)

    tensors = {"transformer.wte.weight": normal(vocab, width, std=1.0)}
    for layer in range(config["n_layer"]):
        name = f"transformer.h.{layer}"
        tensors |= {
            f"{name}.ln_1.weight": normal(width, mean=1.0, std=0.2),
            f"{name}.ln_1.bias": normal(width, std=0.2),
            f"{name}.attn.qkv_proj.weight": normal(3 * width, width),
            f"{name}.attn.out_proj.weight": normal(width, width),
            f"{name}.mlp.fc_in.weight": normal(inner, width),
            f"{name}.mlp.fc_in.bias": normal(inner, std=0.2),
            f"{name}.mlp.fc_out.weight": normal(width, inner),
            f"{name}.mlp.fc_out.bias": normal(width, std=0.2),
        }
    return tensors | {
        "transformer.ln_f.weight": normal(width, mean=1.0, std=0.2),
        "transformer.ln_f.bias": normal(width, std=0.2),
        "lm_head.weight": normal(vocab, width),
        "lm_head.bias": normal(vocab, std=0.2),
    }


def repacked(tensors: Tensors, old: int, new: int) -> Tensors:
    """Return the same model with q, v and k packed in ``new`` groups in place of ``old``."""

    def repack(packed: torch.Tensor) -> torch.Tensor:
        width = packed.shape[1]
        whole = packed.reshape(old, 3, width // old, width).transpose(0, 1)
        groups = whole.reshape(3, new, width // new, width).transpose(0, 1)
        return groups.reshape(3 * width, width).contiguous()

    return {
        name: repack(tensor) if name.endswith("qkv_proj.weight") else tensor
        for name, tensor in tensors.items()
    }


def byte_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: one token a byte, then end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def write_checkpoint(
    folder: Path,
    config: dict[str, Any] | None = None,
    tensors: Tensors | None = None,
    *,
    layout: Layout = "safetensors",
    n_shards: int = 1,
) -> Path:
    """Write a checkpoint as Hugging Face's libraries do and return its folder."""
    config = config or codegen_config()
    tensors = tensors if tensors is not None else random_tensors(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    write_weights(folder, tensors, layout, n_shards)
    return folder


def write_weights(folder: Path, tensors: Tensors, layout: Layout, n_shards: int = 1) -> None:
    """Write tensors into one file, or into several with their index."""
    stem = "model" if layout == "safetensors" else "pytorch_model"
    if n_shards == 1:
        _save(tensors, folder / f"{stem}.{layout}")
        return
    weight_map: dict[str, str] = {}
    for i in range(n_shards):
        shard = f"{stem}-{i + 1:05}-of-{n_shards:05}.{layout}"
        part = dict(_nth_of(tensors.items(), i, n_shards))
        _save(part, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{layout}.index.json").write_text(json.dumps(index), encoding="utf-8")


def _nth_of(
    items: Iterable[tuple[str, torch.Tensor]], place: int, step: int
) -> list[tuple[str, torch.Tensor]]:
    return [item for i, item in enumerate(items) if i % step == place]


def _save(tensors: Tensors, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)
