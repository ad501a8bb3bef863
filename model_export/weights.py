"""Joins a checkpoint's tensors into the weights of the fused graph.

It knows how each family names and packs its tensors, but no file format and nothing of
ONNX. Weights are produced a block of rows at a time, so that memory does not grow with
the model.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_export.architecture import Architecture
from model_export.errors import DamagedCheckpointError
from model_export.stored_tensor import StoredTensor

_BLOCK_BYTES = 32 << 20

# Causal masks and the like, which real files carry and no graph needs.
_BUFFERS = re.compile(r"\.attn\.(causal_mask|bias|masked_bias)$|\.rotary_emb\.inv_freq$")

_FLOAT_DTYPES = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
"""As safetensors and as numpy name them; others are quantized or no weights at all."""

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Weight:
    """One weight of the graph: its name, its shape, and its rows block by block."""

    name: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator["np.ndarray[Any, Any]"]]
    dtype: str = "float32"
    same_as: str = ""
    """The name of a weight before it that has the same bytes, which are stored once."""


@dataclass(frozen=True)
class _Rows:
    """A run of rows, each the concatenation of the same row of every tensor."""

    tensors: tuple[StoredTensor, ...]
    start: int
    stop: int


EMBEDDING = "wte.weight"
HEAD = "lm_head.weight"

_PRODUCTS = {"codegen": ("w1", "w2"), "llama": ("qkv", "o", "gate_up", "down")}


def product_names(architecture: Architecture) -> frozenset[str]:
    """Return the names of the weights of matrix products."""
    layers = (
        f"layers.{layer}.{name}"
        for layer in range(architecture.n_layers)
        for name in _PRODUCTS[architecture.family]
    )
    return frozenset((*layers, HEAD))


def graph_weights(
    tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> list[Weight]:
    """Return the weights of the fused graph, in the order in which it uses them.

    A head that is tied to the embedding is left out: it is the embedding.

    Raises:
        DamagedCheckpointError: a tensor is missing, is unknown, or has another
            shape or no dtype of weights.
    """
    find = _Finder(tensors)
    family = _codegen if architecture.family == "codegen" else _llama
    weights = list(family(find, architecture))
    find.refuse_leftovers()
    return [*weights, *_rotary_tables(architecture)]


def _codegen(find: "_Finder", architecture: Architecture) -> Iterator[Weight]:
    """Yield CodeGen's weights.

    For each layer ``w1`` (7 d_model x d_model) is [Q; K; V; fc_in] and ``w2``
    (d_model x 5 d_model) is [out_proj | fc_out]: two products where CodeGen has four.
    """
    d_model, d_ff = architecture.d_model, architecture.d_ff
    vocab = architecture.vocab_size
    yield _plain(EMBEDDING, find("transformer.wte.weight", vocab, d_model))
    for layer in range(architecture.n_layers):
        source, target = f"transformer.h.{layer}", f"layers.{layer}"
        qkv = find(f"{source}.attn.qkv_proj.weight", 3 * d_model, d_model)
        out = find(f"{source}.attn.out_proj.weight", d_model, d_model)
        fc_in = find(f"{source}.mlp.fc_in.weight", d_ff, d_model)
        fc_out = find(f"{source}.mlp.fc_out.weight", d_model, d_ff)
        w1 = [*_unpacked_qkv(qkv, architecture), _Rows((fc_in,), 0, d_ff)]
        yield _plain(f"{target}.ln.weight", find(f"{source}.ln_1.weight", d_model))
        yield _plain(f"{target}.ln.bias", find(f"{source}.ln_1.bias", d_model))
        yield _joined(f"{target}.w1", w1)
        yield _plain(f"{target}.fc_in.bias", find(f"{source}.mlp.fc_in.bias", d_ff))
        yield _joined(f"{target}.w2", [_Rows((out, fc_out), 0, d_model)])
        yield _plain(f"{target}.fc_out.bias", find(f"{source}.mlp.fc_out.bias", d_model))
    yield _plain("ln_f.weight", find("transformer.ln_f.weight", d_model))
    yield _plain("ln_f.bias", find("transformer.ln_f.bias", d_model))
    yield _plain(HEAD, find("lm_head.weight", vocab, d_model))
    yield _plain("lm_head.bias", find("lm_head.bias", vocab))


def _llama(find: "_Finder", architecture: Architecture) -> Iterator[Weight]:
    """Yield Llama's weights: four products a layer where Llama has seven.

    ``qkv`` is [Q; K; V] and ``gate_up`` is [gate; up]; names are those of transformers'
    modeling_llama.py.
    """
    d_model, d_ff = architecture.d_model, architecture.d_ff
    vocab = architecture.vocab_size
    attended = architecture.n_heads * architecture.head_dim
    kept = architecture.n_kv_heads * architecture.head_dim
    yield _plain(EMBEDDING, find("model.embed_tokens.weight", vocab, d_model))
    for layer in range(architecture.n_layers):
        source, target = f"model.layers.{layer}", f"layers.{layer}"

        def rows(name: str, n_rows: int, width: int, source: str = source) -> _Rows:
            return _Rows((find(f"{source}.{name}.weight", n_rows, width),), 0, n_rows)

        attention_norm = find(f"{source}.input_layernorm.weight", d_model)
        mlp_norm = find(f"{source}.post_attention_layernorm.weight", d_model)
        q = rows("self_attn.q_proj", attended, d_model)
        k = rows("self_attn.k_proj", kept, d_model)
        v = rows("self_attn.v_proj", kept, d_model)
        gate = rows("mlp.gate_proj", d_ff, d_model)
        up = rows("mlp.up_proj", d_ff, d_model)
        yield _plain(f"{target}.attention_norm.weight", attention_norm)
        yield _joined(f"{target}.qkv", [q, k, v])
        yield _joined(f"{target}.o", [rows("self_attn.o_proj", d_model, attended)])
        yield _plain(f"{target}.mlp_norm.weight", mlp_norm)
        yield _joined(f"{target}.gate_up", [gate, up])
        yield _joined(f"{target}.down", [rows("mlp.down_proj", d_model, d_ff)])
    yield _plain("norm.weight", find("model.norm.weight", d_model))
    if architecture.has_tied_head:
        # Some checkpoints hold it twice all the same.
        find.ignore("lm_head.weight")
    else:
        yield _plain(HEAD, find("lm_head.weight", vocab, d_model))


class _Finder:
    """Hands out tensors by name and shape, and knows which nobody asked for."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors
        self._leftover = {name for name in tensors if not _BUFFERS.search(name)}

    def __call__(self, name: str, *shape: int) -> StoredTensor:
        tensor = self._tensors.get(name)
        self._leftover.discard(name)
        if tensor is None:
            raise DamagedCheckpointError(f"the checkpoint lacks the tensor {name}")
        if tensor.shape != shape:
            raise DamagedCheckpointError(
                f"the tensor {name} has shape {list(tensor.shape)}; "
                f"config.json asks for {list(shape)}"
            )
        if tensor.dtype not in _FLOAT_DTYPES:
            raise DamagedCheckpointError(
                f"the tensor {name} is stored as {tensor.dtype}; weights are read from "
                "float64, float32, float16 and bfloat16"
            )
        return tensor

    def ignore(self, name: str) -> None:
        """Know of a tensor that the graph does not need."""
        self._leftover.discard(name)

    def refuse_leftovers(self) -> None:
        """Refuse what the graph would silently leave out, such as an adapter's weights."""
        if self._leftover:
            raise DamagedCheckpointError(
                f"the checkpoint holds {len(self._leftover)} tensors that a model "
                f"of its config.json does not have, such as {min(self._leftover)}"
            )


def _unpacked_qkv(qkv: StoredTensor, architecture: Architecture) -> Iterator[_Rows]:
    """Yield q's rows, then k's, then v's.

    The checkpoint packs them in mp_num groups, each in the order q, v, k
    (transformers' modeling_codegen.py, CodeGenAttention.forward).
    """
    part = architecture.d_model // architecture.mp_num
    for place_in_group in (0, 2, 1):
        for group in range(architecture.mp_num):
            start = (3 * group + place_in_group) * part
            yield _Rows((qkv,), start, start + part)


def _plain(name: str, tensor: StoredTensor) -> Weight:
    return _joined(name, [_Rows((tensor,), 0, tensor.shape[0])])


def _joined(name: str, runs: list[_Rows]) -> Weight:
    n_rows = sum(run.stop - run.start for run in runs)
    first = runs[0].tensors
    # A matrix' rows stand side by side; a vector's are single numbers.
    row_shape = [sum(widths) for widths in zip(*(t.shape[1:] for t in first), strict=True)]
    row_bytes = 4 * math.prod(row_shape)

    def blocks() -> Iterator[FloatArray]:
        step = max(1, _BLOCK_BYTES // row_bytes)
        for run in runs:
            for start in range(run.start, run.stop, step):
                stop = min(start + step, run.stop)
                parts = [t.read(start, stop).astype(np.float32) for t in run.tensors]
                yield parts[0] if len(parts) == 1 else np.hstack(parts)

    return Weight(name, (n_rows, *row_shape), blocks)


def _rotary_tables(architecture: Architecture) -> list[Weight]:
    """Return cosines and sines (context_length x rotary_dim / 2) of the rotary angles.

    They are computed in float32, as the model was trained (RoFormer, section 3.2.2).
    """
    exponents = np.arange(0, architecture.rotary_dim, 2, dtype=np.float32)
    frequencies = np.float32(1) / np.float32(architecture.rotary_base) ** (
        exponents / np.float32(architecture.rotary_dim)
    )
    positions = np.arange(architecture.context_length, dtype=np.float32)
    angles = np.outer(positions, frequencies).astype(np.float32)
    tables = {"rotary.cos": np.cos(angles), "rotary.sin": np.sin(angles)}
    return [
        Weight(name, table.shape, lambda table=table: iter((table,)))  # type: ignore[misc]
        for name, table in tables.items()
    ]
