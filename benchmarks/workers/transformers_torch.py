"""transformers on torch, fp32: eager, which is the only attention CodeGen has there."""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

import torch
from transformers import CodeGenForCausalLM, DynamicCache

from benchmarks.workers.protocol import CachedWorker, Job, Worker, main


def prepare(job: Job) -> None:
    """Do nothing: it reads the checkpoint."""


def open_worker(job: Job) -> Worker:
    """Load the checkpoint as fp32."""
    torch.set_num_threads(job.n_threads)
    model = CodeGenForCausalLM.from_pretrained(job.checkpoint, dtype=torch.float32)
    return _Transformers(model.eval())


class _Transformers(CachedWorker):
    settings = (
        "eager attention (it offers CodeGen no other), DynamicCache, inference_mode, "
        "logits of the last position only; StaticCache was slower up to 1,024 tokens"
    )
    packages = ("transformers", "torch")

    def __init__(self, model: CodeGenForCausalLM) -> None:
        super().__init__()
        self._model = model
        self._cache = DynamicCache()

    def forget(self) -> None:
        self._cache = DynamicCache()

    def rewind(self, n_tokens: int) -> None:
        self._cache.crop(n_tokens)

    @torch.inference_mode()
    def step(self, n_cached: int, token_ids: list[int]) -> int:
        hidden = self._model.transformer(
            input_ids=torch.tensor([token_ids]), past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        return int(self._model.lm_head(hidden[0, -1]).argmax())


if __name__ == "__main__":
    main(prepare, open_worker)
