"""How weights are stored: as floats, or as small integers with scales; pure numpy.

It knows nothing of ONNX but the layout that MatMulNBits and
GatherBlockQuantized read (onnxruntime, docs/ContribOperators.md).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from model_export.architecture import Architecture
from model_export.errors import UnsupportedPrecisionError
from model_export.weights import EMBEDDING, HEAD, FloatArray, Weight, product_names

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int4")
DEVICES = ("cpu", "cuda")

_INT8_PARAMETERS = 3_000_000_000
"""Up to here ``auto`` is int8 on a CPU; larger models would decode too slowly."""
_SMALLEST_BLOCK = 16
"""Of MatMulNBits and GatherBlockQuantized."""


@dataclass(frozen=True)
class Quantization:
    """Rows are cut into blocks, each of small integers with a scale of its own."""

    bits: int
    block_size: int

    def fitted(self, width: int) -> Self:
        """Return it with the largest block that cuts rows of this width without a rest."""
        size = self.block_size
        while size > _SMALLEST_BLOCK and width % size:
            size //= 2
        return self if width % size else replace(self, block_size=size)


@dataclass(frozen=True)
class Precision:
    """What each kind of weight is stored as; None is the float type."""

    name: str
    float_type: str
    products: Quantization | None = None
    embedding: Quantization | None = None

    def for_product(self, width: int) -> Quantization | None:
        """Return how the weight of a matrix product is stored; rows end in whole blocks."""
        return self.products and self.products.fitted(width)

    def for_embedding(self, width: int) -> Quantization | None:
        """Return how the rows that tokens look up are stored.

        GatherBlockQuantized returns whole blocks, so rows that end inside one stay floats.
        """
        quantization = self.embedding and self.embedding.fitted(width)
        return quantization if quantization and width % quantization.block_size == 0 else None


# Chosen by bits per byte and argmax agreement on code that the embedded model never saw,
# and by speed at 350M; `codegen-lsp eval precisions` repeats it, the README has the table.
_INT8 = Quantization(bits=8, block_size=128)
# Smaller blocks lose less (of 32: 1.1 % instead of 1.7), and decode a third more slowly.
# Zero points gain nothing (of 32: 1.4 %), with the range of each block by least squares;
# both were tried on 12 windows.
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


def in_precision(
    weights: Iterable[Weight], precision: Precision, architecture: Architecture
) -> list[Weight]:
    """Return the weights as they are stored, some in several parts.

    Matrices of products and the embedding may be small integers; all else is floats. A
    tied head has the embedding's bytes under another name and shape.
    """
    products = product_names(architecture)
    stored = []
    for weight in weights:
        quantization = None
        if weight.name in products:
            quantization = precision.for_product(weight.shape[1])
        elif weight.name == EMBEDDING:
            quantization = precision.for_embedding(weight.shape[1])
        if quantization is None:
            stored.append(_as_float(weight, precision.float_type))
            continue
        parts = _quantized(weight, quantization, precision.float_type)
        if weight.name == EMBEDDING:
            stored += _as_table(*parts)
            if architecture.has_tied_head:
                stored += _shared(parts)
        else:
            stored += parts
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
    weight: Weight, quantization: Quantization, float_type: str
) -> tuple[Weight, Weight]:
    """Return the integers and the scales of a matrix as weights for MatMulNBits.

    The integers stream; the scales, a few percent of them, are kept from that pass for
    their own turn, so the parts are to be written in this order.
    """
    n_rows, width = weight.shape
    bits, size = quantization.bits, quantization.block_size
    n_blocks = -(-width // size)
    kept_scales: list[FloatArray] = []

    def integers() -> Iterator["np.ndarray[Any, Any]"]:
        for rows in weight.blocks():
            levels, scales = quantize_rows(rows, quantization)
            kept_scales.append(scales)
            yield _packed(levels, bits)

    def scales() -> Iterator["np.ndarray[Any, Any]"]:
        while kept_scales:
            yield kept_scales.pop(0).astype(float_type)

    quantized, scale = quantized_names(weight.name)
    return (
        Weight(quantized, (n_rows, n_blocks, size * bits // 8), integers, "uint8"),
        Weight(scale, (n_rows, n_blocks), scales, float_type),
    )


def _as_table(integers: Weight, scales: Weight) -> tuple[Weight, Weight]:
    """Return the parts of a matrix for GatherBlockQuantized, which has no axis of blocks."""
    n_rows, n_blocks, block_bytes = integers.shape
    return replace(integers, shape=(n_rows, n_blocks * block_bytes)), scales


def _shared(parts: tuple[Weight, Weight]) -> Iterator[Weight]:
    """Yield the parts of the embedding as the head's."""
    for part, name in zip(parts, quantized_names(HEAD), strict=True):
        yield replace(part, name=name, same_as=part.name)


def quantized_names(name: str) -> tuple[str, str]:
    """Return the names of a weight's integers and scales."""
    return f"{name}.quantized", f"{name}.scales"


def _packed(levels: "np.ndarray[Any, Any]", bits: int) -> "np.ndarray[Any, Any]":
    """Return integers as bytes, two of four bits in one, the first in the lower half."""
    if bits == 8:
        return levels
    packed: np.ndarray[Any, Any] = levels[..., 0::2] | (levels[..., 1::2] << 4)
    return packed
