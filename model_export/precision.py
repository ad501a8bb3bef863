"""How weights are stored: as floats, or as small integers with scales; pure numpy.

It knows nothing of CodeGen and nothing of ONNX but the layout that MatMulNBits and
GatherBlockQuantized read (onnxruntime, docs/ContribOperators.md).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_export.errors import UnsupportedPrecisionError
from model_export.weights import FloatArray, Weight

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int4")
DEVICES = ("cpu", "cuda")

_INT8_PARAMETERS = 3_000_000_000
"""Up to here ``auto`` is int8 on a CPU; larger models would decode too slowly."""


@dataclass(frozen=True)
class Quantization:
    """Rows are cut into blocks, each of small integers with a scale of its own."""

    bits: int
    block_size: int


@dataclass(frozen=True)
class Precision:
    """What each kind of weight is stored as; None is the float type."""

    name: str
    float_type: str
    products: Quantization | None = None
    embedding: Quantization | None = None


# Chosen by bits per byte and argmax agreement on code that the embedded model never saw,
# and by speed at 350M; benchmarks/precisions.py repeats it, the README has the table.
_INT8 = Quantization(bits=8, block_size=128)
# Smaller blocks lose less (of 32: 1.2 % instead of 1.7), and decode a third more slowly.
_INT4 = Quantization(bits=4, block_size=128)


def choose_precision(name: str, device: str, n_parameters: int) -> Precision:
    """Return the precision of a name on a device; ``auto`` goes by device and size.

    Raises:
        UnsupportedPrecisionError: a word is unknown, or the device lacks the precision.
    """
    if name not in PRECISIONS or device not in DEVICES:
        raise UnsupportedPrecisionError(
            f"precision {name!r} on device {device!r} is unknown; precisions are "
            f"{', '.join(PRECISIONS)} and devices {', '.join(DEVICES)}"
        )
    if name == "auto":
        on_cpu = "int8" if n_parameters <= _INT8_PARAMETERS else "int4"
        name = on_cpu if device == "cpu" else "fp16"
    if (name, device) == ("fp32", "cuda"):
        raise UnsupportedPrecisionError(
            "fp32 has no fused attention on CUDA; use --precision fp16, int8 or int4"
        )
    if (name, device) == ("fp16", "cpu"):
        raise UnsupportedPrecisionError(
            "fp16 is slow on a CPU, which computes in fp32; use --precision int8"
        )
    float_type = "float32" if device == "cpu" else "float16"
    if name == "int8":
        return Precision(name, float_type, products=_INT8, embedding=_INT8)
    if name == "int4":
        return Precision(name, float_type, products=_INT4, embedding=_INT8)
    return Precision(name, float_type)


def without_padding(precision: Precision, width: int) -> Precision:
    """Return the precision for an embedding of this width.

    GatherBlockQuantized returns whole blocks, so rows that end inside one stay floats.
    """
    quantization = precision.embedding
    if quantization is None or width % quantization.block_size == 0:
        return precision
    return replace(precision, embedding=None)


def in_precision(
    weights: Iterable[Weight], precision: Precision, products: frozenset[str], embedding: str
) -> list[Weight]:
    """Return the weights as they are stored, some in several parts.

    ``products`` names the matrices of matrix products, ``embedding`` the one whose rows
    are looked up; all else is stored as floats.
    """
    stored = []
    for weight in weights:
        quantization = None
        if weight.name in products:
            quantization = precision.products
        elif weight.name == embedding:
            quantization = precision.embedding
        if quantization is None:
            stored.append(_as_float(weight, precision.float_type))
        else:
            is_table = weight.name == embedding
            stored += _quantized(weight, quantization, precision.float_type, is_table)
    return stored


def quantize_rows(
    rows: FloatArray, quantization: Quantization
) -> tuple["np.ndarray[Any, np.dtype[np.uint8]]", FloatArray]:
    """Return (rows, blocks, block_size) integers and (rows, blocks) scales.

    Zero is the middle integer; the scale is such that the largest value, whatever its
    sign, is met exactly.
    """
    n_rows, width = rows.shape
    size = quantization.block_size
    n_blocks = -(-width // size)
    padded = np.zeros((n_rows, n_blocks * size), np.float32)
    padded[:, :width] = rows
    blocks = padded.reshape(n_rows, n_blocks, size)
    n_levels = 1 << quantization.bits
    largest = np.abs(blocks).argmax(axis=-1)[..., None]
    scales = np.take_along_axis(blocks, largest, axis=-1)[..., 0] / -(n_levels // 2)
    scales[scales == 0] = 1
    levels = np.rint(blocks / scales[..., None]) + n_levels // 2
    integers = np.clip(levels, 0, n_levels - 1).astype(np.uint8)
    return integers, scales.astype(np.float32)


def _as_float(weight: Weight, float_type: str) -> Weight:
    def blocks() -> Iterator["np.ndarray[Any, Any]"]:
        for block in weight.blocks():
            yield block.astype(float_type, copy=False)

    return replace(weight, dtype=float_type, blocks=blocks)


def _quantized(
    weight: Weight, quantization: Quantization, float_type: str, is_table: bool
) -> list[Weight]:
    """Return the integers and the scales of a matrix as weights.

    The integers stream; the scales, a few percent of them, are kept from that pass for
    their own turn, so the parts are to be written in this order.
    """
    n_rows, width = weight.shape
    bits, size = quantization.bits, quantization.block_size
    n_blocks = -(-width // size)
    block_bytes = size * bits // 8
    kept_scales: list[FloatArray] = []

    def integers() -> Iterator["np.ndarray[Any, Any]"]:
        for rows in weight.blocks():
            levels, scales = quantize_rows(rows, quantization)
            kept_scales.append(scales)
            yield _packed(levels, bits)

    def scales() -> Iterator["np.ndarray[Any, Any]"]:
        while kept_scales:
            yield kept_scales.pop(0).astype(float_type)

    row_shape = (n_blocks * block_bytes,) if is_table else (n_blocks, block_bytes)
    scales_shape = (n_rows, n_blocks) if is_table else (n_rows * n_blocks,)
    quantized, scale = quantized_names(weight.name)
    return [
        Weight(quantized, (n_rows, *row_shape), integers, "uint8"),
        Weight(scale, scales_shape, scales, float_type),
    ]


def quantized_names(name: str) -> tuple[str, str]:
    """Return the names of a weight's integers and scales."""
    return f"{name}.quantized", f"{name}.scales"


def _packed(levels: "np.ndarray[Any, Any]", bits: int) -> "np.ndarray[Any, Any]":
    """Return integers as bytes, two of four bits in one, the first in the lower half."""
    if bits == 8:
        return levels
    packed: np.ndarray[Any, Any] = levels[..., 0::2] | (levels[..., 1::2] << 4)
    return packed
