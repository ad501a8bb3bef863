"""Every node of a graph for CUDA has a CUDA kernel; read off a table, so no GPU is needed."""

import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from lsp_server.models import embedded_checkpoint
from model_export import export
from model_export.manifest import GRAPH_FILE
from tests.checkpoints import codegen_config, llama_config, write_checkpoint

KERNELS = Path(__file__).parents[1] / "data/cuda_kernels.toml"
PRECISIONS = ("fp16", "int8", "int4")
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Kernel:
    """A kernel for the operator's versions ``first`` to ``last``, and for some types."""

    first: int
    types: dict[str, list[str]]
    last: int | None = None

    def is_for(self, version: int) -> bool:
        """Return whether onnxruntime takes it for a node of an operator's version.

        A kernel without an end is for one version, the latest when it was written.
        """
        return (
            version == self.first if self.last is None else self.first <= version <= self.last
        )


@dataclass(frozen=True)
class Operator:
    """What the table says of an operator."""

    inputs: list[str]
    outputs: list[str]
    kernels: list[Kernel]
    cpu_inputs: list[int]


def read_table() -> dict[tuple[str, str], Operator]:
    """Return the operators of the table by domain and name."""
    table = tomllib.loads(KERNELS.read_text(encoding="utf-8"))
    return {
        (row["domain"], row["name"]): Operator(
            row["inputs"],
            row["outputs"],
            [Kernel(**kernel) for kernel in row["kernel"]],
            row.get("cpu_inputs", []),
        )
        for row in table["operator"]
    }


OPERATORS = read_table()


def type_name(element_type: int) -> str:
    """Return a type as onnxruntime's pages call it."""
    return str(onnx.TensorProto.DataType.Name(element_type)).lower()


def operator_version(node: Any, opsets: dict[str, int]) -> int:
    """Return the version of its operator that a node means; onnx knows its own domain only."""
    if node.domain == MICROSOFT:
        return 1
    if node.op_type == "SimplifiedLayerNormalization":
        return 1  # It is onnxruntime's own, in ONNX's domain.
    schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    return int(schema.since_version)


def types_of_constraints(
    node: Any, operator: Operator, types: dict[str, str]
) -> dict[str, str]:
    """Return the type of each constraint of a node, told by its inputs.

    Raises:
        ValueError: two inputs of one constraint differ.
    """
    found: dict[str, str] = {}
    for place, name in enumerate(node.input):
        if name:
            constraint = operator.inputs[min(place, len(operator.inputs) - 1)]
            if found.setdefault(constraint, types[name]) != types[name]:
                raise ValueError(f"{constraint} is {found[constraint]} and {types[name]}")
    if node.op_type == "Cast":
        found["T2"] = type_name(node.attribute[0].i)
    return found


def why_none_fits(kernels: list[Kernel], found: dict[str, str]) -> str | None:
    """Return why no kernel is for these types, or None where one is."""
    # A type that stands in the place of a constraint is the only one allowed there.
    allowed = [{c: kernel.types.get(c, [c]) for c in found} for kernel in kernels]
    if any(all(found[c] in types[c] for c in found) for types in allowed):
        return None
    for constraint, type_ in found.items():
        known = sorted({known for types in allowed for known in types[constraint]})
        if type_ not in known:
            return f"{constraint} = {type_} ({', '.join(known)})"
    return " with ".join(f"{constraint} = {type_}" for constraint, type_ in found.items())


def missing_kernels(model: Any) -> list[str]:
    """Return a line for each node that CUDA has no kernel for, ending where types end."""
    graph = model.graph
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    types = {value.name: type_name(value.type.tensor_type.elem_type) for value in graph.input}
    types |= {tensor.name: type_name(tensor.data_type) for tensor in graph.initializer}
    not_computed = set(types)
    problems: list[str] = []
    for node in graph.node:
        who = f"{node.name}: {node.op_type}"
        operator = OPERATORS.get((node.domain, node.op_type))
        if operator is None:
            return [*problems, f"{who} is not in {KERNELS.name}"]
        try:
            found = types_of_constraints(node, operator, types)
        except ValueError as error:
            return [*problems, f"{who}: {error}"]
        version = operator_version(node, opsets)
        kernels = [kernel for kernel in operator.kernels if kernel.is_for(version)]
        if not kernels:
            problems.append(f"{who} has no kernel for version {version}")
        elif (types_without := why_none_fits(kernels, found)) is not None:
            problems.append(f"{who} has no kernel for {types_without}")
        for place in operator.cpu_inputs:
            if node.input[place] not in not_computed:
                problems.append(
                    f"{who} reads {node.input[place]} on the CPU; a node computes it"
                )
        for place, name in enumerate(node.output):
            if name:
                types[name] = found[operator.outputs[min(place, len(operator.outputs) - 1)]]
    for value in graph.output:
        declared = type_name(value.type.tensor_type.elem_type)
        if types[value.name] != declared:
            problems.append(f"{value.name} is {types[value.name]}, and said to be {declared}")
    return problems


def exported_graph(folder: Path, checkpoint: Path, precision: str, device: str) -> Any:
    """Export a checkpoint and return its graph, without weights."""
    export(checkpoint, folder, precision=precision, device=device)
    return onnx.load(folder / GRAPH_FILE, load_external_data=False)


@pytest.fixture(scope="module", params=["embedded", "small", "llama"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a checkpoint with real sizes, and one with other ones."""
    if request.param == "embedded":
        return embedded_checkpoint()
    config = llama_config() if request.param == "llama" else codegen_config()
    return write_checkpoint(tmp_path_factory.mktemp(request.param), config)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_node_has_a_cuda_kernel(precision: str, checkpoint: Path, tmp_path: Path) -> None:
    """A graph for CUDA runs there from end to end; nothing falls back to the CPU in silence."""
    graph = exported_graph(tmp_path / "exported", checkpoint, precision, "cuda")

    assert missing_kernels(graph) == []


def test_the_table_lists_what_the_graphs_use_and_no_more(tmp_path: Path) -> None:
    """A row that no graph needs would be believed and never be checked."""
    used = set()
    llama = write_checkpoint(tmp_path / "llama", llama_config())
    for checkpoint, precision in product((embedded_checkpoint(), llama), PRECISIONS):
        graph = exported_graph(tmp_path / "exported", checkpoint, precision, "cuda")
        used |= {(node.domain, node.op_type) for node in graph.graph.node}

    assert used == set(OPERATORS)


def test_attention_in_fp32_has_no_cuda_kernel(tmp_path: Path) -> None:
    """The check can fail: of the fp32 graph it refuses attention, by name, and nothing else."""
    graph = exported_graph(tmp_path / "exported", embedded_checkpoint(), "fp32", "cpu")

    problems = missing_kernels(graph)

    n_layers = sum(node.op_type == "GroupQueryAttention" for node in graph.graph.node)
    assert problems == [
        f"layers.{layer}.attention: GroupQueryAttention has no kernel for "
        "T = float (bfloat16, float16)"
        for layer in range(n_layers)
    ]
    assert problems


@pytest.fixture
def graph(tmp_path: Path) -> Any:
    """Return a graph for CUDA that a test may spoil."""
    return exported_graph(tmp_path / "exported", embedded_checkpoint(), "int4", "cuda")


def first_node(graph: Any, op_type: str) -> Any:
    """Return the first node of an operator."""
    return next(node for node in graph.graph.node if node.op_type == op_type)


def test_a_computed_length_is_refused(graph: Any) -> None:
    """Attention reads the total length in CPU memory; computed on the GPU, each layer waits."""
    attention = first_node(graph, "GroupQueryAttention")
    attention.input[6] = "computed"
    concat = helper.make_node("Concat", ["total_sequence_length"], ["computed"], axis=0)
    graph.graph.node.insert(0, concat)

    assert missing_kernels(graph) == [
        "layers.0.attention: GroupQueryAttention reads computed on the CPU; a node computes it"
    ]


def test_a_cache_of_another_type_is_refused(graph: Any) -> None:
    """Each type may have a kernel, and still not the two of them together."""
    for value in graph.graph.input:
        if value.name.startswith("past_"):
            value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16

    assert "no kernel for T = float16 with T_CACHE = bfloat16" in missing_kernels(graph)[0]


def test_inputs_that_disagree_are_refused(graph: Any) -> None:
    """A weight that stayed in another float type stops the graph from loading."""
    scales = first_node(graph, "MatMulNBits").input[2]
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == scales)
    tensor.data_type = onnx.TensorProto.FLOAT

    assert missing_kernels(graph) == ["layers.0.z: MatMulNBits: T1 is float16 and float"]


def test_a_newer_opset_is_refused_where_the_table_ends(graph: Any) -> None:
    """Raising the opset asks for other kernels, and so for another look at the table."""
    graph.opset_import[0].version = 24

    problems = missing_kernels(graph)

    assert "layers.0.packed_qkv: Unsqueeze has no kernel for version 24" in problems


def test_an_operator_that_is_not_in_the_table_is_refused(graph: Any) -> None:
    """A new operator in the graph asks for its kernels first."""
    first_node(graph, "FastGelu").op_type = "BiasGelu"

    assert missing_kernels(graph) == ["layers.0.gelu: BiasGelu is not in cuda_kernels.toml"]
