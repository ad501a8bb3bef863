"""Builds the fused ONNX graph of a model; holds no weights, only references.

Two matrix products a layer of CodeGen and four of Llama, rotary attention fused with an
in-place KV cache (com.microsoft.GroupQueryAttention), and the vocabulary projected only
for the rows that are asked for. Batch size is 1, so activations are 2-D: (tokens, width).
"""

from collections.abc import Iterator, Sequence
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
from model_export.precision import Precision, Quantization, quantized_names
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
    step, less one in the former; ``past_key_i`` and ``past_value_i`` (1, n_kv_heads, T,
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
    parts = _Parts(architecture, precision, has_int8_cache)
    family = _codegen if architecture.family == "codegen" else _llama
    nodes = [
        parts.embedding("x.0"),
        *family(parts),
        _node("Gather", [f"h.{architecture.n_layers}", "row_indices"], ["rows"]),
        parts.head("rows", "head"),
        _node("Cast", ["head"], ["logits"], to=TensorProto.FLOAT),
    ]
    cache: list[int | str] = [1, architecture.n_kv_heads, "T", architecture.head_dim]
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


def _codegen(parts: "_Parts") -> Iterator[NodeProto]:
    """``x + attention(ln(x)) + mlp(ln(x))``, layer after layer, and the last LayerNorm."""
    architecture = parts.architecture
    d_model, d_ff = architecture.d_model, architecture.d_ff
    norms = [f"layers.{layer}.ln" for layer in range(architecture.n_layers)] + ["ln_f"]
    epsilon = architecture.norm_epsilon
    first = ["x.0", f"{norms[0]}.weight", f"{norms[0]}.bias"]
    yield _node("LayerNormalization", first, ["h.0"], axis=-1, epsilon=epsilon)
    for layer in range(architecture.n_layers):
        name = f"layers.{layer}"
        yield parts.product(
            f"h.{layer}", f"{name}.w1", f"{name}.z", d_model, 3 * d_model + d_ff
        )
        split = [f"{name}.qkv", f"{name}.up"]
        yield _node("Split", [f"{name}.z", "split_sizes"], split, axis=1)
        yield from parts.attention(layer, f"{name}.qkv", f"{name}.attended")
        bias = f"{name}.fc_in.bias"
        yield _node("FastGelu", [f"{name}.up", bias], [f"{name}.gelu"], domain=_MICROSOFT)
        joined = [f"{name}.attended", f"{name}.gelu"]
        yield _node("Concat", joined, [f"{name}.joined"], axis=1)
        yield parts.product(
            f"{name}.joined", f"{name}.w2", f"{name}.y", d_model + d_ff, d_model
        )
        norm = [f"{norms[layer + 1]}.weight", f"{norms[layer + 1]}.bias"]
        # The fourth output is the sum itself, which the next layer adds to.
        yield _node(
            "SkipLayerNormalization",
            [f"{name}.y", f"x.{layer}", *norm, f"{name}.fc_out.bias"],
            [f"h.{layer + 1}", "", "", f"x.{layer + 1}"],
            domain=_MICROSOFT,
            epsilon=epsilon,
        )


def _llama(parts: "_Parts") -> Iterator[NodeProto]:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, and the last RMSNorm."""
    architecture = parts.architecture
    d_model, d_ff = architecture.d_model, architecture.d_ff
    attended = architecture.n_heads * architecture.head_dim
    n_qkv = attended + 2 * architecture.n_kv_heads * architecture.head_dim
    n_layers, epsilon = architecture.n_layers, architecture.norm_epsilon
    norms = [f"layers.{layer}.attention_norm.weight" for layer in range(n_layers)]
    norms.append("norm.weight")

    def plus(update: str, x: str, norm: str, normed: str, total: str) -> NodeProto:
        """Add to the residual stream, and normalize it for what comes next."""
        return _node(
            "SkipSimplifiedLayerNormalization",
            [update, x, norm],
            [normed, "", "", total],
            domain=_MICROSOFT,
            epsilon=epsilon,
        )

    yield _node(
        "SimplifiedLayerNormalization", ["x.0", norms[0]], ["h.0"], axis=-1, epsilon=epsilon
    )
    for layer in range(n_layers):
        name = f"layers.{layer}"
        yield parts.product(f"h.{layer}", f"{name}.qkv", f"{name}.z", d_model, n_qkv)
        yield from parts.attention(layer, f"{name}.z", f"{name}.attended")
        yield parts.product(f"{name}.attended", f"{name}.o", f"{name}.y", attended, d_model)
        norm = f"{name}.mlp_norm.weight"
        yield plus(f"{name}.y", f"x.{layer}", norm, f"{name}.m", f"{name}.x")
        yield parts.product(f"{name}.m", f"{name}.gate_up", f"{name}.both", d_model, 2 * d_ff)
        both = [f"{name}.gate", f"{name}.up"]
        yield _node("Split", [f"{name}.both", "split_sizes"], both, axis=1)
        # SiLU is this operator with the factor 1.
        yield _node(
            "QuickGelu", [f"{name}.gate"], [f"{name}.silu"], domain=_MICROSOFT, alpha=1.0
        )
        yield _node("Mul", [f"{name}.silu", f"{name}.up"], [f"{name}.gated"])
        yield parts.product(f"{name}.gated", f"{name}.down", f"{name}.mlp", d_ff, d_model)
        after = (norms[layer + 1], f"h.{layer + 1}", f"x.{layer + 1}")
        yield plus(f"{name}.mlp", f"{name}.x", *after)


@dataclass(frozen=True)
class _Parts:
    """The nodes that the families have in common."""

    architecture: Architecture
    precision: Precision
    has_int8_cache: bool

    def embedding(self, output: str) -> NodeProto:
        """Look up the rows of the tokens."""
        quantization = self.precision.for_embedding(self.architecture.d_model)
        if quantization is None:
            return _node("Gather", [EMBEDDING, "token_ids"], [output])
        integers, scales = quantized_names(EMBEDDING)
        return _node(
            "GatherBlockQuantized",
            [integers, "token_ids", scales],
            [output],
            domain=_MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            bits=quantization.bits,
            block_size=quantization.block_size,
        )

    def head(self, rows: str, output: str) -> NodeProto:
        """Multiply with the vocabulary's weight, which may be the embedding."""
        d_model, vocab = self.architecture.d_model, self.architecture.vocab_size
        if self.architecture.has_tied_head:
            quantization = self.precision.for_embedding(d_model)
            weight = HEAD if quantization else EMBEDDING
            return _product(quantization, rows, weight, output, d_model, vocab)
        bias = "lm_head.bias" if self.architecture.family == "codegen" else ""
        return self.product(rows, HEAD, output, d_model, vocab, bias)

    def product(
        self,
        activations: str,
        weight: str,
        output: str,
        width: int,
        n_rows: int,
        bias: str = "",
    ) -> NodeProto:
        """Multiply activations (S, width) with a weight (n_rows, width), transposed."""
        quantization = self.precision.for_product(width)
        return _product(quantization, activations, weight, output, width, n_rows, bias)

    def attention(self, layer: int, packed: str, output: str) -> Iterator[NodeProto]:
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
        if self.has_int8_cache:
            inputs += ["", "", "", f"key_scale_{layer}", f"value_scale_{layer}"]
            # A scale for each channel is read twice as slowly, and gains nothing.
            quantization = {
                "k_quant_type": "PER_TENSOR",
                "v_quant_type": "PER_TENSOR",
                "kv_cache_bit_width": 8,
            }
        yield _node("Unsqueeze", [packed, "batch_axis"], [f"{name}.packed_qkv"])
        yield _node(
            "GroupQueryAttention",
            inputs,
            [f"{name}.attention", f"present_key_{layer}", f"present_value_{layer}"],
            domain=_MICROSOFT,
            num_heads=self.architecture.n_heads,
            kv_num_heads=self.architecture.n_kv_heads,
            do_rotary=1,
            rotary_interleaved=int(self.architecture.rotary_as_pairs),
            **quantization,
        )
        yield _node("Squeeze", [f"{name}.attention", "batch_axis"], [output])


def _product(
    quantization: Quantization | None,
    activations: str,
    weight: str,
    output: str,
    width: int,
    n_rows: int,
    bias: str = "",
) -> NodeProto:
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


def _constants(architecture: Architecture) -> list[TensorProto]:
    if architecture.family == "codegen":
        sizes = [3 * architecture.d_model, architecture.d_ff]
    else:
        sizes = [architecture.d_ff, architecture.d_ff]
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
