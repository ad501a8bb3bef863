"""optimum's own export on onnxruntime, fp32."""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

from typing import Any

import onnxruntime
import torch
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM

from benchmarks.workers.protocol import CachedWorker, Job, Worker, main


def prepare(job: Job) -> None:
    """Export with a KV cache."""
    main_export(
        job.checkpoint,
        job.folder,
        task="text-generation-with-past",
        do_validation=False,
        dtype="fp32",
    )


def open_worker(job: Job) -> Worker:
    """Load the export."""
    torch.set_num_threads(job.n_threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.n_threads
    options.log_severity_level = 3
    model = ORTModelForCausalLM.from_pretrained(
        job.folder,
        provider="CPUExecutionProvider",
        session_options=options,
        use_io_binding=True,
    )
    return _Optimum(model)


class _Optimum(CachedWorker):
    settings = "its own export and ORTModelForCausalLM with IO binding and all graph passes"
    packages = ("optimum-onnx", "onnxruntime", "onnxruntime-gpu")

    def __init__(self, model: ORTModelForCausalLM) -> None:
        super().__init__()
        self._model = model
        self._past: Any = None

    def forget(self) -> None:
        self._past = None

    def rewind(self, n_tokens: int) -> None:
        self._past = tuple(
            tuple(part[:, :, :n_tokens].contiguous() for part in layer) for layer in self._past
        )

    def step(self, n_cached: int, token_ids: list[int]) -> int:
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([token_ids]),
                attention_mask=torch.ones((1, n_cached + len(token_ids)), dtype=torch.int64),
                past_key_values=self._past,
                use_cache=True,
            )
        self._past = output.past_key_values
        return int(output.logits[0, -1].argmax())


if __name__ == "__main__":
    main(prepare, open_worker)
