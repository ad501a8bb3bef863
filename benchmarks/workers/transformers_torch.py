"""transformers on torch, fp32; for CodeGen it has eager attention only, for Llama torch's."""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from benchmarks.workers.protocol import CachedWorker, Job, Worker, main


def prepare(job: Job) -> None:
    """Write what is in a GGUF file as a folder; other checkpoints are folders already."""
    file = Path(job.checkpoint)
    AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).save_pretrained(job.folder)


def open_worker(job: Job) -> Worker:
    """Load the checkpoint as fp32."""
    torch.set_num_threads(job.n_threads)
    model = AutoModelForCausalLM.from_pretrained(job.folder, dtype=torch.float32)
    return _Transformers(model.eval())


class _Transformers(CachedWorker):
    packages = ("transformers", "torch")

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._model = model
        self._cache = DynamicCache()
        # It offers CodeGen no other than eager.
        attention = model.config._attn_implementation
        self.settings = (
            f"{attention} attention, DynamicCache, inference_mode, logits of the last "
            "position only; StaticCache was slower for CodeGen up to 1,024 tokens"
        )

    def forget(self) -> None:
        self._cache = DynamicCache()

    def rewind(self, n_tokens: int) -> None:
        self._cache.crop(n_tokens)

    def step(self, n_cached: int, token_ids: list[int]) -> int:
        with torch.inference_mode():
            hidden = self._model.base_model(
                input_ids=torch.tensor([token_ids]), past_key_values=self._cache, use_cache=True
            ).last_hidden_state
            return int(self._model.get_output_embeddings()(hidden[0, -1]).argmax())


if __name__ == "__main__":
    main(prepare, open_worker)
