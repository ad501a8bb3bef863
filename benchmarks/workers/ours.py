"""Our engine, through what the server itself calls: ``open_model`` and ``generate``."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.workers.protocol import Job, Worker, main
from lsp_server.engine import Engine
from lsp_server.errors import ModelLoadError
from lsp_server.loading import open_model
from lsp_server.settings import Settings
from model_export import export


def prepare(job: Job) -> None:
    """Export the checkpoint; for an int8 cache also find its scales, which are kept."""
    export(job.checkpoint, job.folder, precision=job.precision)
    if job.kv_type == "int8":
        # Where it cannot be had, opening the worker says why.
        with suppress(ModelLoadError):
            _open(job)


def open_worker(job: Job) -> Worker:
    """Load the exported folder."""
    return _Ours(_open(job))


def _open(job: Job) -> Engine:
    kv_cache: Literal["int8", "float"] = "int8" if job.kv_type == "int8" else "float"
    settings = Settings(threads=job.n_threads, kv_cache=kv_cache)
    engine = open_model(Path(job.folder), settings).engine
    assert isinstance(engine, Engine)  # noqa: S101  It is what runs exported folders.
    return engine


class _Ours(Worker):
    """Tokens are forced by ``allowed``, so that all engines run the same ones."""

    settings = "the engine as the server runs it"
    packages = ("codegen-lsp", "onnxruntime", "onnxruntime-gpu")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._allowed = np.zeros(engine.vocab_size, np.bool_)

    def best_token(self, token_ids: list[int]) -> int:
        """Take it from the logits, which nothing masks."""
        return int(self._engine.logits(token_ids)[-1].argmax())

    def prefill(self, token_ids: list[int]) -> float:
        """Generate one token; the prompt must be a new one, for the cache is kept."""
        return self._times(token_ids, [token_ids[0]])[0]

    def decode(self, context: list[int], following: list[int]) -> list[float]:
        """Generate after the first token of ``following``."""
        self._times(context, following[:1])
        return self._times([*context, following[0]], [*following[1:], following[0]])

    def block(self, context: list[int], following: list[int]) -> float:
        """Run the first token with the others as a draft; every row has its logits."""
        self._times(context, following[:1])
        first, *draft = following
        tokens = self._engine.generate(
            [*context, first], max_new_tokens=len(following), draft=lambda _: draft
        )
        started = time.perf_counter()
        next(tokens, None)
        return time.perf_counter() - started

    def typed(self, context: list[int], following: list[int]) -> float:
        """Generate one token; the engine finds by itself what of the prompt has run."""
        self._times(context, following[:1])
        return self._times([*context[:-1], *following], following[:1])[0]

    def _times(self, prompt: list[int], chosen: list[int]) -> list[float]:
        """Return the time to each token, where they are to be those of ``chosen``."""

        def allowed(generated: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
            self._allowed[:] = False
            self._allowed[chosen[len(generated)]] = True
            return self._allowed

        times = [time.perf_counter()]
        for _ in self._engine.generate(prompt, max_new_tokens=len(chosen), allowed=allowed):
            times.append(time.perf_counter())
        return np.diff(times).tolist()


if __name__ == "__main__":
    main(prepare, open_worker)
