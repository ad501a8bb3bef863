"""Writes small random checkpoints in every layout that real ones have."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
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


def llama_config(**changes: Any) -> dict[str, Any]:
    """Return the config.json of a very small Llama model, with some values changed."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": 288,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "tie_word_embeddings": False,
    }
    return config | changes


def random_tensors(
    config: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensors:
    """Return random weights, large enough that every part of the model shows in its logits."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, mean: float = 0.0, std: float | None = None) -> torch.Tensor:
        values = torch.randn(*shape, generator=random)
        return (mean + values * (std or 1.5 / shape[-1] ** 0.5)).to(dtype)

    is_llama = config["model_type"] == "llama"
    return _llama_tensors(config, normal) if is_llama else _codegen_tensors(config, normal)


def _llama_tensors(config: dict[str, Any], normal: Callable[..., torch.Tensor]) -> Tensors:
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    attended = head * config["num_attention_heads"]
    kept = head * config["num_key_value_heads"]
    # As a head, too, it should give logits of a usual size.
    std = None if config["tie_word_embeddings"] else 1.0
    tensors = {"model.embed_tokens.weight": normal(config["vocab_size"], width, std=std)}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        tensors |= {
            f"{name}.input_layernorm.weight": normal(width, mean=1.0, std=0.2),
            f"{name}.self_attn.q_proj.weight": normal(attended, width),
            f"{name}.self_attn.k_proj.weight": normal(kept, width),
            f"{name}.self_attn.v_proj.weight": normal(kept, width),
            f"{name}.self_attn.o_proj.weight": normal(width, attended),
            f"{name}.post_attention_layernorm.weight": normal(width, mean=1.0, std=0.2),
            f"{name}.mlp.gate_proj.weight": normal(inner, width),
            f"{name}.mlp.up_proj.weight": normal(inner, width),
            f"{name}.mlp.down_proj.weight": normal(width, inner),
        }
    tensors["model.norm.weight"] = normal(width, mean=1.0, std=0.2)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(config["vocab_size"], width)
    return tensors


def _codegen_tensors(config: dict[str, Any], normal: Callable[..., torch.Tensor]) -> Tensors:
    width, vocab = config["n_embd"], config["vocab_size"]
    inner = config["n_inner"] or 4 * width
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


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    config: dict[str, Any],
    tensors: Tensors,
    *,
    matrices_as: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    **metadata: Any,
) -> Path:
    """Write a Llama model as llama.cpp's convert_hf_to_gguf.py does; returns the path."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_token_list([*alphabet, "<|endoftext|>", alphabet[0] + alphabet[1]])
    writer.add_token_types([1] * 256 + [3, 1])
    writer.add_token_merges([f"{alphabet[0]} {alphabet[1]}"])
    writer.add_eos_token_id(config["eos_token_id"])
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in tensors.items():
        # The library turns its own copy, and only of arrays that lie in order.
        values = np.ascontiguousarray(_as_pairs(name, tensor, config).float().numpy())
        if values.ndim == 2:
            data = gguf.quantize(values, matrices_as)
            writer.add_tensor(_gguf_name(name), data, raw_dtype=matrices_as)
        else:
            writer.add_tensor(_gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_pairs(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Return q's and k's rows such that rotary embedding turns neighbouring ones."""
    if "q_proj" not in name and "k_proj" not in name:
        return tensor
    n_heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
    halves = tensor.reshape(n_heads, 2, tensor.shape[0] // n_heads // 2, tensor.shape[1])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _GGUF_NAMES:
        return f"{_GGUF_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.weight"
