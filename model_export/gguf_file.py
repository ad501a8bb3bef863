"""Reads a GGUF file of the Llama architecture as if it were a Hugging Face checkpoint.

Its metadata become a ``config.json``, its tensors get transformers' names and are
dequantized as they are read. It knows nothing of graphs; the library gguf does the
decoding (ggml-org/llama.cpp, gguf-py).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from model_export.architecture import ROTARY_AS_PAIRS
from model_export.errors import DamagedCheckpointError, UnsupportedArchitectureError
from model_export.stored_tensor import StoredTensor
from model_export.tokenizer import TokenizerTables

# GGUF's key, below its architecture's name, and transformers' (convert_hf_to_gguf.py).
_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}
_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_FLOATS = {"F32": np.float32, "F16": np.float16, "F64": np.float64}

Contents = tuple[dict[str, Any], dict[str, StoredTensor], TokenizerTables]


def read_gguf(path: Path) -> Contents:
    """Return the configuration, the tensors and the tokenizer's tables of a GGUF file.

    Raises:
        DamagedCheckpointError: it is no GGUF file, is cut short, or lacks what a model needs.
        UnsupportedArchitectureError: the model is not of the Llama architecture.
    """
    try:
        reader = gguf.GGUFReader(path)
        values = {name: field.contents() for name, field in reader.fields.items()}
    except OSError:
        raise
    # The library reads counts and offsets as they come, and trips over wrong ones anyhow.
    except Exception as error:  # noqa: BLE001
        raise DamagedCheckpointError(
            f"{path} is no GGUF file, or is damaged or cut short "
            f"({type(error).__name__}: {error}); fetch it again"
        ) from None
    config = _config(path, values)
    tensors = {stored.name: stored for stored in _tensors(path, reader)}
    config["vocab_size"] = _n_rows(path, tensors, "model.embed_tokens.weight")
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    return config, tensors, _tables(path, values)


def _config(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    name = values.get("general.architecture")
    if name != "llama":
        raise UnsupportedArchitectureError(
            f"{path.name} is a model of the architecture {name!r}; of GGUF files only "
            "'llama' is supported"
        )
    for key in ("llama.rope.scaling.type", "llama.expert_count"):
        if values.get(key, "none") not in ("none", 0):
            raise UnsupportedArchitectureError(
                f"{path.name} has {key} {values[key]!r}, which is not supported"
            )
    config: dict[str, Any] = {
        "model_type": "llama",
        # llama.cpp stores q and k for rotary embedding of neighbouring numbers.
        ROTARY_AS_PAIRS: True,
        "eos_token_id": values.get("tokenizer.ggml.eos_token_id"),
    }
    for key, theirs in _SIZES.items():
        if f"llama.{key}" in values:
            config[theirs] = values[f"llama.{key}"]
    rotary_dim = values.get("llama.rope.dimension_count")
    n_heads, d_model = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(n_heads, int) and isinstance(d_model, int) and n_heads > 0:
        head_dim = config.get("head_dim", d_model // n_heads)
        if rotary_dim not in (None, head_dim):
            raise UnsupportedArchitectureError(
                f"{path.name} rotates {rotary_dim} of {head_dim} numbers of a head, which is "
                "not supported"
            )
    return config


def _tensors(path: Path, reader: gguf.GGUFReader) -> Iterator[StoredTensor]:
    for tensor in reader.tensors:
        layer = _LAYER_TENSOR.fullmatch(tensor.name)
        name = _OUTER_NAMES.get(tensor.name, tensor.name)
        if layer and layer[2] in _LAYER_NAMES:
            name = f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.weight"
        yield _stored_tensor(path, name, tensor)


def _stored_tensor(path: Path, name: str, tensor: gguf.ReaderTensor) -> StoredTensor:
    # GGUF names the sizes of its axes from the innermost out.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    if not shape or 0 in shape:
        raise DamagedCheckpointError(f"{path}: the tensor {tensor.name} is empty")
    row_bytes = tensor.n_bytes // shape[0]
    kind, start_of_data = tensor.tensor_type, int(tensor.data_offset)
    if not _can_read(kind):
        raise DamagedCheckpointError(
            f"{path.name} stores {tensor.name} as {kind.name}, which the library gguf cannot "
            "read; get the model in another quantization"
        )

    def read(start: int, stop: int) -> "np.ndarray[Any, Any]":
        # Read and not mapped, so that pages that were read are given back.
        try:
            data = np.fromfile(
                path,
                np.uint8,
                (stop - start) * row_bytes,
                offset=start_of_data + start * row_bytes,
            )
            rows = data.reshape(stop - start, row_bytes)
        except (OSError, ValueError) as error:
            raise DamagedCheckpointError(
                f"{path} was changed while it was read ({error})"
            ) from None
        if kind.name in _FLOATS:
            values = rows.view(_FLOATS[kind.name])
        else:
            values = gguf.dequantize(rows, kind)
        return values.reshape(stop - start, *shape[1:])

    return StoredTensor(name, shape, "F32", read)


def _can_read(kind: gguf.GGMLQuantizationType) -> bool:
    if kind.name in _FLOATS:
        return True
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    try:
        return bool(gguf.dequantize(np.zeros((1, n_bytes), np.uint8), kind).size == n_values)
    except NotImplementedError:
        return False


def _n_rows(path: Path, tensors: dict[str, StoredTensor], name: str) -> int:
    if name not in tensors:
        raise DamagedCheckpointError(f"{path} holds no embedding of its tokens")
    return tensors[name].shape[0]


def _tables(path: Path, values: dict[str, Any]) -> TokenizerTables:
    found = {
        key: values.get(f"tokenizer.ggml.{key}") for key in ("tokens", "merges", "token_type")
    }
    model = values.get("tokenizer.ggml.model")
    is_table = all(isinstance(value, list) for value in found.values())
    texts = [*(found["tokens"] or []), *(found["merges"] or [])] if is_table else []
    if model != "gpt2" or not is_table or not all(isinstance(text, str) for text in texts):
        raise UnsupportedArchitectureError(
            f"{path.name} has a tokenizer of the kind {model!r}; of GGUF files only 'gpt2', "
            "byte-level BPE, is supported"
        )
    return TokenizerTables(
        tokens=found["tokens"] or [],
        merges=found["merges"] or [],
        pre_tokenizer=str(values.get("tokenizer.ggml.pre")),
        token_types=found["token_type"] or [],
    )
