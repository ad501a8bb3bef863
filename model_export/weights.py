"""Joins a CodeGen checkpoint's tensors into the weights of the fused graph.

It knows how CodeGen packs its tensors, but no file format and nothing of ONNX. Weights
are produced a block of rows at a time, so that memory does not grow with the model.
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
_ROTARY_BASE = 10000.0

# Causal masks and the like, which real files carry and no graph needs.
_BUFFERS = re.compile(r"\.attn\.(causal_mask|bias|masked_bias)$")

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


@dataclass(frozen=True)
class _Rows:
    """A run of rows, each the concatenation of the same row of every tensor."""

    tensors: tuple[StoredTensor, ...]
    start: int
    stop: int


EMBEDDING = "wte.weight"
HEAD = "lm_head.weight"


def product_names(n_layers: int) -> frozenset[str]:
    """Return the names of the weights of matrix products."""
    layers = (f"layers.{layer}.{name}" for layer in range(n_layers) for name in ("w1", "w2"))
    return frozenset((*layers, HEAD))


def graph_weights(
    tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> list[Weight]:
    """Return the weights of the fused graph, in the order in which it uses them.

    For each layer ``w1`` (7 d_model x d_model) is [Q; K; V; fc_in] and ``w2``
    (d_model x 5 d_model) is [out_proj | fc_out]: two products where CodeGen has four.

    Raises:
        DamagedCheckpointError: a tensor is missing, is unknown, or has another
            shape or no dtype of weights.
    """
    find = _Finder(tensors)
    d_model, d_ff = architecture.d_model, architecture.d_ff
    vocab = architecture.vocab_size
    weights = [_plain(EMBEDDING, find("transformer.wte.weight", vocab, d_model))]
    for layer in range(architecture.n_layers):
        source = f"transformer.h.{layer}"
        qkv = find(f"{source}.attn.qkv_proj.weight", 3 * d_model, d_model)
        out = find(f"{source}.attn.out_proj.weight", d_model, d_model)
        fc_in = find(f"{source}.mlp.fc_in.weight", d_ff, d_model)
        fc_out = find(f"{source}.mlp.fc_out.weight", d_model, d_ff)
        target = f"layers.{layer}"
        weights += [
            _plain(f"{target}.ln.weight", find(f"{source}.ln_1.weight", d_model)),
            _plain(f"{target}.ln.bias", find(f"{source}.ln_1.bias", d_model)),
            _joined(
                f"{target}.w1",
                [*_unpacked_qkv(qkv, architecture), _Rows((fc_in,), 0, d_ff)],
            ),
            _plain(f"{target}.fc_in.bias", find(f"{source}.mlp.fc_in.bias", d_ff)),
            _joined(f"{target}.w2", [_Rows((out, fc_out), 0, d_model)]),
            _plain(f"{target}.fc_out.bias", find(f"{source}.mlp.fc_out.bias", d_model)),
        ]
    weights += [
        _plain("ln_f.weight", find("transformer.ln_f.weight", d_model)),
        _plain("ln_f.bias", find("transformer.ln_f.bias", d_model)),
        _plain(HEAD, find("lm_head.weight", vocab, d_model)),
        _plain("lm_head.bias", find("lm_head.bias", vocab)),
    ]
    find.refuse_leftovers()
    return [*weights, *_rotary_tables(architecture)]


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

    def refuse_leftovers(self) -> None:
        """Refuse what the graph would silently leave out, such as an adapter's weights."""
        if self._leftover:
            raise DamagedCheckpointError(
                f"the checkpoint holds {len(self._leftover)} tensors that a CodeGen model "
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
    frequencies = np.float32(1) / np.float32(_ROTARY_BASE) ** (
        exponents / np.float32(architecture.rotary_dim)
    )
    positions = np.arange(architecture.context_length, dtype=np.float32)
    angles = np.outer(positions, frequencies).astype(np.float32)
    tables = {"rotary.cos": np.cos(angles), "rotary.sin": np.sin(angles)}
    return [
        Weight(name, table.shape, lambda table=table: iter((table,)))  # type: ignore[misc]
        for name, table in tables.items()
    ]
