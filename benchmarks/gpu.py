"""Checks that CUDA computes what the CPU does, and how near decoding comes to its memory.

Makes random-weight checkpoints of published shapes, exports each precision for CUDA, and
times prefill and decode as a caller of the engine sees them. The embedded model, which is
trained, and the 350M shape are compared with their fp32 export on the CPU. How fast the
device's memory is, is measured in the same run. Needs a CUDA device and room for about
three times the largest checkpoint (2B: 5.7 GB); run after ``make test`` as
``.venv/bin/python benchmarks/gpu.py --json figures.json``.
"""

import argparse
import inspect
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

# Its wheels call home unless this is set before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from benchmarks.export_memory import SHAPES, write_checkpoint
from lsp_server.engine import Engine
from lsp_server.models import embedded_checkpoint
from lsp_server.sampling import FloatArray, log_softmax
from lsp_server.session import providers
from lsp_server.tokenizer import Tokenizer
from model_export import export
from model_export.architecture import Architecture
from model_export.manifest import GRAPH_FILE, TOKENIZER_FILE
from model_export.weights import EMBEDDING

_CUDA = "CUDAExecutionProvider"
_EMBEDDED = "embedded"
_COMPARED = (_EMBEDDED, "350m")
_PRECISIONS = ("fp16", "int8", "int4")
_PREFILLS = (512, 1900)
_CONTEXTS = (100, 512, 1900)
_COMPARED_TOKENS = 256
_STEPPED_TOKENS = 32
"""How many of those are read one by one, which other kernels do."""
_DECODED_TOKENS = 48
_REPETITIONS = 5
_SEED = 0
_LARGEST_DIFFERENCE = {"fp16": 0.05, "int8": 0.3, "int4": 2.0}
"""In standard deviations of the logits. onnxruntime's CPU provider, which computes mostly
in fp32, is 0.006, 0.10 and 1.15 from fp32 with the same graphs of the embedded model."""

_PROBE_ELEMENTS = 1 << 28
_PROBE_NODES = 8


@dataclass(frozen=True)
class Agreement:
    """How near logits are to the reference's."""

    difference: float
    """The largest, in standard deviations of the reference's logits."""
    stepped_difference: float
    """The same of log-probabilities, for tokens that are read one by one."""
    same_best: float
    """The share of rows with the same best token."""

    def is_near(self, precision: str) -> bool:
        """Return whether rounding can explain the differences; NaN is explained by none."""
        limit = _LARGEST_DIFFERENCE[precision]
        return self.difference <= limit and self.stepped_difference <= limit


@dataclass(frozen=True)
class Result:
    """The figures of one model in one precision; times by number of tokens."""

    shape: str
    precision: str
    weight_bytes: int
    """Of what each token reads, so without the embedding's other rows."""
    agreement: Agreement | None
    prefill_ms: dict[int, float] = field(default_factory=dict)
    decode_ms: dict[int, float] = field(default_factory=dict)
    """For one token after so many; its choice is included."""
    bandwidth_share: dict[int, float] = field(default_factory=dict)


def weight_bytes(graph: Any) -> int:
    """Return the bytes of a graph's weights that every token reads."""
    total = 0
    for tensor in graph.graph.initializer:
        if not tensor.name.startswith((EMBEDDING, "rotary.")):
            total += sum(int(e.value) for e in tensor.external_data if e.key == "length")
    return total


def cache_bytes(architecture: Architecture, n_past: int) -> int:
    """Return the bytes of an fp16 KV cache that a token after ``n_past`` others reads."""
    width = architecture.n_heads * architecture.head_dim
    return 2 * 2 * architecture.n_layers * width * n_past


def bandwidth_share(n_bytes: int, ms: float, bandwidth: float) -> float:
    """Return which share of ``bandwidth`` (bytes/s) reading so much in so long makes."""
    return n_bytes / (ms / 1e3) / bandwidth


def agreement(
    logits: FloatArray,
    reference: FloatArray,
    stepped: "np.ndarray[Any, Any]",
    stepped_reference: "np.ndarray[Any, Any]",
) -> Agreement:
    """Compare logits (n_tokens, vocab_size), and log-probabilities from single steps."""
    spread = float(reference.std())
    return Agreement(
        difference=float(np.abs(logits - reference).max()) / spread,
        stepped_difference=float(np.abs(stepped - stepped_reference).max()) / spread,
        same_best=float((logits.argmax(-1) == reference.argmax(-1)).mean()),
    )


def prompt(n_tokens: int, n_ids: int, first: int = 0) -> list[int]:
    """Return random ids; prompts with another first one have no common prefix."""
    ids = np.random.default_rng(_SEED).integers(0, n_ids, n_tokens).tolist()
    return [first, *ids[1:]]


def code(folder: Path) -> list[int]:
    """Return token ids of Python, by the tokenizer of an exported folder."""
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
    return tokenizer.encode(inspect.getsource(argparse)).token_ids[:_COMPARED_TOKENS]


def measure_bandwidth() -> float:
    """Return the bytes/s at which the device reads and writes 1 GiB, the best of some runs."""
    names = [f"x.{i}" for i in range(_PROBE_NODES + 1)]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [_PROBE_ELEMENTS])
        for name in (names[0], names[-1])
    ]
    nodes = [helper.make_node("Neg", [names[i]], [names[i + 1]]) for i in range(_PROBE_NODES)]
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[_CUDA])
    binding = session.io_binding()
    for name, bind in (
        (names[0], binding.bind_ortvalue_input),
        (names[-1], binding.bind_ortvalue_output),
    ):
        bind(
            name,
            ort.OrtValue.ortvalue_from_shape_and_type([_PROBE_ELEMENTS], np.float32, "cuda", 0),
        )
    times = [_seconds(lambda: session.run_with_iobinding(binding)) for _ in range(8)]
    return _PROBE_NODES * 2 * 4 * _PROBE_ELEMENTS / min(times)


def _seconds(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure_prefill(engine: Engine, n_tokens: int, n_ids: int) -> float:
    """Return the median milliseconds of reading a prompt into an empty cache."""

    def read(first: int) -> None:
        engine.log_probabilities(prompt(n_tokens + 1, n_ids, first), n_tokens)

    read(0)
    times = [_seconds(lambda i=i: read(i)) for i in range(1, _REPETITIONS + 1)]
    return 1e3 * statistics.median(times)


def measure_decode(engine: Engine, n_past: int, n_ids: int) -> float:
    """Return the median milliseconds of one more token after so many."""
    goes_on = np.arange(engine.vocab_size) != engine.eos_token_id
    # Half of the tokens lie before n_past and half behind.
    tokens = engine.generate(
        prompt(n_past - _DECODED_TOKENS // 2, n_ids),
        max_new_tokens=_DECODED_TOKENS,
        allowed=lambda _: goes_on,
    )
    next(tokens)
    times, started = [], time.perf_counter()
    for _ in tokens:
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
    return 1e3 * statistics.median(times)


def compare(engine: Engine, token_ids: list[int], reference: FloatArray) -> Agreement:
    """Compare one prompt as a whole, and its last tokens one by one."""
    starts = range(len(token_ids) - _STEPPED_TOKENS, len(token_ids))
    logits = engine.logits(token_ids)
    # Another prompt is read between, so that the steps do not find what is compared above.
    engine.log_probabilities([token_ids[1], *token_ids[1:]], 1)
    stepped = [engine.log_probabilities(token_ids[: n + 1], n)[0] for n in starts]
    expected = log_softmax(reference)[np.array(starts) - 1, token_ids[starts.start :]]
    return agreement(logits, reference, np.array(stepped), expected)


def measure(
    shape: str, checkpoint: Path, scratch: Path, bandwidth: float, console: Console
) -> Iterable[Result]:
    """Export a checkpoint in each precision, compare it and time it."""
    reference: FloatArray | None = None
    if shape in _COMPARED:
        folder = scratch / "fp32"
        export(checkpoint, folder, precision="fp32")
        compared_ids = code(folder)
        reference = Engine.open(folder, device="cpu").logits(compared_ids)
        shutil.rmtree(folder)
    for precision in _PRECISIONS:
        console.print(f"{shape} {precision} …")
        folder = scratch / precision
        manifest = export(checkpoint, folder, precision=precision, device="cuda")
        graph = onnx.load(folder / GRAPH_FILE, load_external_data=False)
        engine = Engine.open(folder, device="cuda")
        if engine.notice:
            sys.exit(engine.notice)
        n_bytes, n_ids = weight_bytes(graph), manifest.n_tokens
        result = Result(
            shape,
            precision,
            n_bytes,
            None if reference is None else compare(engine, compared_ids, reference),
        )
        for n_tokens in _PREFILLS:
            result.prefill_ms[n_tokens] = measure_prefill(engine, n_tokens, n_ids)
        for n_past in _CONTEXTS:
            ms = measure_decode(engine, n_past, n_ids)
            n_read = n_bytes + cache_bytes(manifest.architecture, n_past)
            result.decode_ms[n_past] = ms
            result.bandwidth_share[n_past] = bandwidth_share(n_read, ms, bandwidth)
        yield result
        del engine
        shutil.rmtree(folder)


def table(results: Sequence[Result]) -> Table:
    """Return the figures for people."""
    shown = Table(
        *("model", "in", "MB", "apart", "same"),
        *(f"read {n:,}" for n in _PREFILLS),
        *(f"+1 at {n:,}" for n in _CONTEXTS),
        caption="MB: what each token reads. Apart: furthest from fp32, in standard deviations "
        "of the logits. Same: rows with the same best token. Read: prefill, ms. +1: one more "
        "token, ms and share of the memory's bandwidth.",
    )
    for result in results:
        near = result.agreement
        furthest = same_best = ""
        if near is not None:
            furthest = f"{max(near.difference, near.stepped_difference):.3f}"
            furthest += "" if near.is_near(result.precision) else " too far"
            same_best = f"{100 * near.same_best:.1f} %"
        shown.add_row(
            *(result.shape, result.precision, f"{result.weight_bytes / 1e6:,.0f}"),
            *(furthest, same_best),
            *(f"{result.prefill_ms[n]:.1f}" for n in _PREFILLS),
            *(
                f"{result.decode_ms[n]:.2f}, {100 * result.bandwidth_share[n]:.0f} %"
                for n in _CONTEXTS
            ),
        )
    return shown


def device_name() -> str | None:
    """Return what NVIDIA's own tool calls the device and its driver, where it is there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def main() -> None:
    """Print a table, and write the same as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--shape", nargs="+", choices=[_EMBEDDED, *SHAPES], default=[_EMBEDDED, "350m", "2b"]
    )
    parser.add_argument("--folder", type=Path, help="where there is room; default: temp")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    # cuBLAS reads it when it is first used; nothing of fp32 is rounded to TF32 then.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    reason = providers()[_CUDA]
    if reason != "ok":
        print(f"no usable CUDA device: {reason}")
        sys.exit(1)
    console = Console()
    bandwidth = measure_bandwidth()
    results: list[Result] = []
    for shape in options.shape:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            checkpoint = embedded_checkpoint()
            if shape != _EMBEDDED:
                checkpoint = Path(scratch, "checkpoint")
                write_checkpoint(checkpoint, shape)
            results += measure(shape, checkpoint, Path(scratch), bandwidth, console)
    name = device_name()
    console.print(f"{name or 'CUDA'}, onnxruntime {ort.__version__}")
    console.print(f"its memory: {bandwidth / 1e9:,.0f} GB/s, read and written together")
    console.print(table(results))
    if options.json:
        figures = {
            "device": name,
            "onnxruntime": ort.__version__,
            "bandwidth": bandwidth,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if any(r.agreement and not r.agreement.is_near(r.precision) for r in results):
        print("CUDA computes something else than the CPU does")
        sys.exit(1)


if __name__ == "__main__":
    main()
