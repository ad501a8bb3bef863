"""Small integers with scales, against the definition and onnxruntime's own kernels."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lsp_server.engine import Engine
from lsp_server.models import embedded_checkpoint
from model_export import export
from model_export.architecture import read_architecture
from model_export.errors import UnsupportedPrecisionError
from model_export.precision import (
    Precision,
    Quantization,
    choose_precision,
    in_precision,
    quantize_rows,
)
from model_export.weights import Weight
from tests.checkpoints import codegen_config

EVERY_KIND = [Quantization(bits, block_size) for bits in (4, 8) for block_size in (16, 32, 128)]


def dequantized(rows: "np.ndarray[Any, Any]", kind: Quantization) -> "np.ndarray[Any, Any]":
    """Return what the integers and scales of some rows stand for."""
    levels, scales = quantize_rows(rows, kind)
    middle = 1 << (kind.bits - 1)
    values: np.ndarray[Any, Any] = (levels.astype(np.float32) - middle) * scales[..., None]
    return values.reshape(len(rows), -1)[:, : rows.shape[1]]


@pytest.mark.parametrize("kind", EVERY_KIND)
@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 200))
def test_no_weight_is_off_by_more_than_its_step(
    kind: Quantization, seed: int, n_rows: int, width: int
) -> None:
    """Rounding errs by about one step of its block, whatever the shape."""
    rows = np.random.default_rng(seed).normal(0, 1, (n_rows, width)).astype(np.float32)
    _, scales = quantize_rows(rows, kind)
    steps = np.repeat(np.abs(scales), kind.block_size, axis=1)[:, :width]
    # One end of the range is a level short.
    assert (np.abs(dequantized(rows, kind) - rows) <= 1.01 * steps).all()


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("value", [0.0, 1e-30, -3.0, 7.5, 1e30])
def test_blocks_of_one_value_stay_finite(kind: Quantization, value: float) -> None:
    """All-zero and constant blocks have scales, and the value comes back."""
    rows = np.full((2, kind.block_size), value, np.float32)
    np.testing.assert_allclose(dequantized(rows, kind), rows, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("width", [128, 200])
def test_onnxruntime_reads_the_layout_as_we_write_it(kind: Quantization, width: int) -> None:
    """MatMulNBits over our bytes is the product with the dequantized weight."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (24, width)).astype(np.float32)
    x = rng.normal(0, 1, (3, width)).astype(np.float32)
    weight = Weight("lm_head.weight", rows.shape, lambda: iter((rows[:10], rows[10:])))
    precision = Precision("test", "float32", products=kind)
    kind = kind.fitted(width)
    stored = in_precision([weight], precision, read_architecture(codegen_config()))
    parts = {part.name: np.concatenate(list(part.blocks())) for part in stored}
    assert {part.name: part.shape for part in stored} == {
        part.name: parts[part.name].reshape(part.shape).shape for part in stored
    }
    node = helper.make_node(
        "MatMulNBits",
        ["x", *(part.name for part in stored)],
        ["y"],
        domain="com.microsoft",
        K=width,
        N=len(rows),
        bits=kind.bits,
        block_size=kind.block_size,
    )
    initializers = [
        numpy_helper.from_array(parts[part.name].reshape(part.shape), part.name)
        for part in stored
    ]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, len(rows)])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, x @ dequantized(rows, kind).T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("width", "block_size"), [(1024, 128), (576, 64), (96, 32), (48, 16), (200, 128), (1, 128)]
)
def test_blocks_shrink_until_rows_end_with_one(width: int, block_size: int) -> None:
    """Padding costs bytes at every token, so it is the last resort."""
    assert Quantization(8, 128).fitted(width) == Quantization(8, block_size)


@pytest.mark.parametrize(
    ("name", "device", "n_parameters", "chosen"),
    [
        ("auto", "cpu", 6_000_000, "int8"),
        ("auto", "cpu", 2_800_000_000, "int8"),
        ("auto", "cpu", 7_000_000_000, "int4"),
        ("auto", "cuda", 350_000_000, "fp16"),
        ("fp32", "cpu", 1, "fp32"),
        ("int4", "cuda", 1, "int4"),
    ],
)
def test_auto_goes_by_device_and_size(
    name: str, device: str, n_parameters: int, chosen: str
) -> None:
    """What nobody chose is chosen by what the device is good at."""
    precision = choose_precision(name, device, n_parameters)
    assert precision.name == chosen
    assert precision.float_type == ("float32" if device == "cpu" else "float16")


@pytest.mark.parametrize(
    ("name", "device"), [("fp32", "cuda"), ("fp16", "cpu"), ("fp8", "cpu"), ("int8", "tpu")]
)
def test_what_a_device_lacks_is_refused(name: str, device: str) -> None:
    """A precision that cannot run well is refused with what to use."""
    with pytest.raises(UnsupportedPrecisionError, match=r"use --precision|precisions are"):
        choose_precision(name, device, 1)


@pytest.mark.parametrize(("name", "agreement"), [("int8", 0.97), ("int4", 0.85)])
def test_small_precisions_predict_what_fp32_predicts(
    name: str, agreement: float, tmp_path: Path
) -> None:
    """On real code the likeliest token is nearly always the same, from fewer bytes."""
    from lsp_server.tokenizer import Tokenizer

    exact = export(embedded_checkpoint(), tmp_path / "fp32", precision="fp32")
    small = export(embedded_checkpoint(), tmp_path / name, precision=name)
    assert small.precision == name
    assert 3 * _size(small) < _size(exact)
    text = Path(export.__code__.co_filename).read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(tmp_path / name / "tokenizer.json")
    token_ids = tokenizer.encode(text).token_ids[:1000]
    best = [
        Engine.open(tmp_path / folder).logits(token_ids).argmax(axis=-1)
        for folder in ("fp32", name)
    ]
    assert (best[0] == best[1]).mean() > agreement


def _size(manifest: Any) -> int:
    return int(manifest.files["model.onnx.data"].size)
