"""Builds the fused ONNX graph of a CodeGen model; holds no weights, only references.

Two matrix products a layer, rotary attention fused with an in-place KV cache
(com.microsoft.GroupQueryAttention), and the vocabulary projected only for the rows
that are asked for. Batch size is 1, so activations are 2-D: (tokens, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from model_export.architecture import Architecture
from model_export.precision import Precision, quantized_names
from model_export.weights import EMBEDDING, HEAD

_ONNX_OPSET = 21
_ONNX_IR_VERSION = 10
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class StoredWeight:
    """Where a weight lies in the data file; offset and length are bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


_ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
}
_INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level; without it 8-bit weights are unpacked at every call."""


def build_graph(
    architecture: Architecture,
    precision: Precision,
    weights: Sequence[StoredWeight],
    data_file: str,
    *,
    has_int8_cache: bool = False,
) -> ModelProto:
    """Return the graph; its weights are those of ``graph_weights``, in ``data_file``.

    Inputs: ``token_ids`` int64 (S,), ``row_indices`` int64 (R,), ``seqlens_k`` int32 (1,)
    and ``total_sequence_length`` int32 (), the number of valid positions after this
    step, less one in the former; ``past_key_i`` and ``past_value_i`` (1, n_heads, T,
    head_dim) of the precision's float type, where T is what the caller has room for. With
    ``has_int8_cache`` they are int8, and ``key_scale_i`` and ``value_scale_i`` float32
    (1,) say what 1 stands for. Outputs: ``logits`` float32 (R, vocab_size) for the rows
    asked for, and ``present_*``, to be bound to the same memory as ``past_*``.
    """
    model: ModelProto = helper.make_model(
        _graph(architecture, precision, weights, data_file, has_int8_cache),
        opset_imports=[
            helper.make_opsetid("", _ONNX_OPSET),
            helper.make_opsetid(_MICROSOFT, 1),
        ],
        ir_version=_ONNX_IR_VERSION,
        producer_name="codegen-lsp",
    )
    return model


def _graph(
    architecture: Architecture,
    precision: Precision,
    weights: Sequence[StoredWeight],
    data_file: str,
    has_int8_cache: bool,
) -> GraphProto:
    layers = range(architecture.n_layers)
    nodes = [
        _embedding(precision),
        _node(
            "LayerNormalization",
            ["x.0", "layers.0.ln.weight", "layers.0.ln.bias"],
            ["h.0"],
            axis=-1,
            epsilon=architecture.layer_norm_epsilon,
        ),
    ]
    for layer in layers:
        nodes += _layer(architecture, precision, layer, has_int8_cache)
    last = architecture.n_layers
    nodes += [
        _node("Gather", [f"h.{last}", "row_indices"], ["rows"]),
        _product(
            precision,
            "rows",
            HEAD,
            "head",
            width=architecture.d_model,
            n_rows=architecture.vocab_size,
            bias="lm_head.bias",
        ),
        _node("Cast", ["head"], ["logits"], to=TensorProto.FLOAT),
    ]
    cache: list[int | str] = [1, architecture.n_heads, "T", architecture.head_dim]
    inputs = [
        _value("token_ids", TensorProto.INT64, ["S"]),
        _value("row_indices", TensorProto.INT64, ["R"]),
        _value("seqlens_k", TensorProto.INT32, [1]),
        _value("total_sequence_length", TensorProto.INT32, []),
    ]
    outputs = [_value("logits", TensorProto.FLOAT, ["R", architecture.vocab_size])]
    cache_type = _ELEMENT_TYPES["int8" if has_int8_cache else precision.float_type]
    for layer in layers:
        for kind in ("key", "value"):
            inputs.append(_value(f"past_{kind}_{layer}", cache_type, cache))
            if has_int8_cache:
                inputs.append(_value(f"{kind}_scale_{layer}", TensorProto.FLOAT, [1]))
            outputs.append(_value(f"present_{kind}_{layer}", cache_type, cache))
    initializers = [_external(weight, data_file) for weight in weights]
    graph: GraphProto = helper.make_graph(
        nodes, "codegen", inputs, outputs, [*initializers, *_constants(architecture)]
    )
    return graph


def _embedding(precision: Precision) -> NodeProto:
    """Look up the rows of the tokens."""
    quantization = precision.embedding
    if quantization is None:
        return _node("Gather", [EMBEDDING, "token_ids"], ["x.0"])
    integers, scales = quantized_names(EMBEDDING)
    return _node(
        "GatherBlockQuantized",
        [integers, "token_ids", scales],
        ["x.0"],
        domain=_MICROSOFT,
        gather_axis=0,
        quantize_axis=1,
        bits=quantization.bits,
        block_size=quantization.block_size,
    )


def _product(
    precision: Precision,
    activations: str,
    weight: str,
    output: str,
    *,
    width: int,
    n_rows: int,
    bias: str = "",
) -> NodeProto:
    """Multiply activations (S, width) with a weight (n_rows, width), transposed."""
    quantization = precision.products
    if quantization is None:
        inputs = [activations, weight, bias] if bias else [activations, weight]
        return _node("Gemm", inputs, [output], transB=1)
    integers, scales = quantized_names(weight)
    return _node(
        "MatMulNBits",
        [activations, integers, scales, *(["", "", bias] if bias else [])],
        [output],
        domain=_MICROSOFT,
        K=width,
        N=n_rows,
        bits=quantization.bits,
        block_size=quantization.block_size,
        accuracy_level=_INT8_ACTIVATIONS,
    )


def _layer(
    architecture: Architecture, precision: Precision, layer: int, has_int8_cache: bool
) -> list[NodeProto]:
    """``x + attention(ln(x)) + mlp(ln(x))``, and the LayerNorm of the layer after."""
    name = f"layers.{layer}"
    d_model, d_ff = architecture.d_model, architecture.d_ff
    is_last = layer == architecture.n_layers - 1
    next_norm = "ln_f" if is_last else f"layers.{layer + 1}.ln"
    return [
        _product(
            precision,
            f"h.{layer}",
            f"{name}.w1",
            f"{name}.z",
            width=d_model,
            n_rows=3 * d_model + d_ff,
        ),
        _node(
            "Split",
            [f"{name}.z", "split_sizes"],
            [f"{name}.qkv", f"{name}.up"],
            axis=1,
        ),
        _node("Unsqueeze", [f"{name}.qkv", "batch_axis"], [f"{name}.packed_qkv"]),
        _attention(architecture, layer, has_int8_cache),
        _node("Squeeze", [f"{name}.attention", "batch_axis"], [f"{name}.attended"]),
        _node(
            "FastGelu",
            [f"{name}.up", f"{name}.fc_in.bias"],
            [f"{name}.gelu"],
            domain=_MICROSOFT,
        ),
        _node("Concat", [f"{name}.attended", f"{name}.gelu"], [f"{name}.joined"], axis=1),
        _product(
            precision,
            f"{name}.joined",
            f"{name}.w2",
            f"{name}.y",
            width=d_model + d_ff,
            n_rows=d_model,
        ),
        # The fourth output is the sum itself, which the next layer adds to.
        _node(
            "SkipLayerNormalization",
            [
                f"{name}.y",
                f"x.{layer}",
                f"{next_norm}.weight",
                f"{next_norm}.bias",
                f"{name}.fc_out.bias",
            ],
            [f"h.{layer + 1}", "", "", f"x.{layer + 1}"],
            domain=_MICROSOFT,
            epsilon=architecture.layer_norm_epsilon,
        ),
    ]


def _attention(architecture: Architecture, layer: int, has_int8_cache: bool) -> NodeProto:
    """Rotate q and k, append k and v to the cache, and attend to all of it."""
    name = f"layers.{layer}"
    inputs = [
        f"{name}.packed_qkv",
        "",
        "",
        f"past_key_{layer}",
        f"past_value_{layer}",
        "seqlens_k",
        "total_sequence_length",
        "rotary.cos",
        "rotary.sin",
    ]
    quantization: dict[str, str | int] = {}
    if has_int8_cache:
        inputs += ["", "", "", f"key_scale_{layer}", f"value_scale_{layer}"]
        # A scale for each channel is read twice as slowly, and gains nothing.
        quantization = {
            "k_quant_type": "PER_TENSOR",
            "v_quant_type": "PER_TENSOR",
            "kv_cache_bit_width": 8,
        }
    return _node(
        "GroupQueryAttention",
        inputs,
        [f"{name}.attention", f"present_key_{layer}", f"present_value_{layer}"],
        domain=_MICROSOFT,
        num_heads=architecture.n_heads,
        kv_num_heads=architecture.n_heads,
        do_rotary=1,
        rotary_interleaved=1,
        **quantization,
    )


def _constants(architecture: Architecture) -> list[TensorProto]:
    sizes = [3 * architecture.d_model, architecture.d_ff]
    return [
        helper.make_tensor("split_sizes", TensorProto.INT64, [2], sizes),
        helper.make_tensor("batch_axis", TensorProto.INT64, [1], [0]),
    ]


def _external(weight: StoredWeight, data_file: str) -> TensorProto:
    tensor = TensorProto(
        name=weight.name,
        data_type=_ELEMENT_TYPES[weight.dtype],
        dims=weight.shape,
        data_location=TensorProto.EXTERNAL,
    )
    place = {
        "location": data_file,
        "offset": str(weight.offset),
        "length": str(weight.length),
    }
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _node(
    operator: str,
    inputs: list[str],
    outputs: list[str],
    domain: str = "",
    **attributes: int | float | str,
) -> NodeProto:
    node: NodeProto = helper.make_node(
        operator, inputs, outputs, name=outputs[0], domain=domain, **attributes
    )
    return node


def _value(name: str, element_type: int, shape: Sequence[int | str]) -> ValueInfoProto:
    value: ValueInfoProto = helper.make_tensor_value_info(name, element_type, shape)
    return value
