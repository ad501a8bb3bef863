"""OpenVINO: optimum-intel's stateful export, weights compressed by NNCF."""

# mypy: disable-error-code="import-not-found, import-untyped"

from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from openvino import opset13
from optimum.exporters.openvino import main_export

from benchmarks.workers.protocol import CachedWorker, Job, Worker, main

_MODEL = "openvino_model.xml"
_KV_TYPES = {"float32": "f32", "float16": "f16", "int8": "u8"}
_ROTARY_TABLE = nncf.IgnoredScope(patterns=[".*attn/aten::index/Gather.*"], validate=False)
"""Of CodeGen; its rows are shorter than a group of int4."""
_SMALLER_GROUPS = nncf.AdvancedCompressionParameters(
    group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
)
"""Where 128 does not divide a row."""


def prepare(job: Job) -> None:
    """Export once for all precisions, then compress all weights, the head's too."""
    exported = Path(job.folder).parent / "openvino"
    if not exported.exists():
        partial = exported.with_suffix(".partial")
        main_export(
            job.checkpoint,
            partial,
            task="text-generation-with-past",
            library_name="transformers",
            stateful=True,
            convert_tokenizer=False,
        )
        partial.rename(exported)
    model = openvino.Core().read_model(exported / _MODEL)
    if job.precision == "int8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    else:
        model = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=128,
            ratio=1.0,
            all_layers=True,
            ignored_scope=_ROTARY_TABLE,
            advanced_parameters=_SMALLER_GROUPS,
        )
    openvino.save_model(model, Path(job.folder, _MODEL), compress_to_fp16=False)


def open_worker(job: Job) -> Worker:
    """Compile the model for the CPU."""
    core = openvino.Core()
    model = core.read_model(Path(job.folder, _MODEL))
    _keep_last_row(model)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": job.n_threads,
        "KV_CACHE_PRECISION": _KV_TYPES[job.kv_type],
        # A quarter faster in prefill than its default of 32, and the same in decode.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128,
    }
    return _OpenVino(core.compile_model(model, "CPU", options))


def _keep_last_row(model: Any) -> None:
    """Project only the last position on the vocabulary, as OpenVINO GenAI does."""
    node = model.get_results()[0]
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    last = opset13.constant(np.array([-1], np.int64))
    rows = opset13.gather(node.input_value(0), last, opset13.constant(np.int64(1)))
    node.input(0).replace_source_output(rows.output(0))
    model.validate_nodes_and_infer_types()


class _OpenVino(CachedWorker):
    packages = ("openvino", "optimum-intel", "nncf")

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self._request = compiled.create_infer_request()
        names = ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
        chosen = [f"{name} {_text(compiled.get_property(name))}" for name in names]
        self.settings = (
            "LATENCY, one stream, stateful, logits of the last position only, int8_asym by "
            "channel or int4_sym in groups of 128 or fewer, head included; "
            + ", ".join(chosen).lower().replace("_", " ")
        )

    def forget(self) -> None:
        self._request.reset_state()

    def rewind(self, n_tokens: int) -> None:
        for variable in self._request.query_state():
            state = variable.state.data
            variable.state = openvino.Tensor(np.ascontiguousarray(state[:, :, :n_tokens]))

    def step(self, n_cached: int, token_ids: list[int]) -> int:
        total = n_cached + len(token_ids)
        outputs = self._request.infer(
            {
                "input_ids": np.array([token_ids], np.int64),
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(n_cached, total, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            },
            share_inputs=True,
            share_outputs=True,
        )
        return int(outputs[0][0, -1].argmax())


def _text(value: Any) -> str:
    return value.get_type_name() if isinstance(value, openvino.Type) else str(value)


if __name__ == "__main__":
    main(prepare, open_worker)
