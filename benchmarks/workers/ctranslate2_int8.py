"""CTranslate2, int8 weights and activations; its KV cache is fp32."""

# mypy: disable-error-code="import-not-found, import-untyped, misc"

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import ctranslate2
from ctranslate2.converters import TransformersConverter

from benchmarks.workers.protocol import Job, Worker, main


def prepare(job: Job) -> None:
    """Convert the checkpoint; the driver's tokens are ids, so words are made from ids."""
    config = json.loads(Path(job.checkpoint, "config.json").read_text())
    _Converter(job.checkpoint, config["vocab_size"]).convert(
        job.folder, quantization=job.precision, force=True
    )


def open_worker(job: Job) -> Worker:
    """Load the converted model."""
    return _CTranslate2(
        ctranslate2.Generator(
            job.folder,
            device="cpu",
            compute_type=job.precision,
            inter_threads=1,
            intra_threads=job.n_threads,
        )
    )


def _word(token_id: int) -> str:
    return f"t{token_id}"


class _Words:
    """A tokenizer as far as the converter asks for one."""

    bos_token = eos_token = unk_token = _word(2)

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words

    def get_vocab(self) -> dict[str, int]:
        return {_word(token_id): token_id for token_id in range(self._n_words)}


class _Converter(TransformersConverter):
    def __init__(self, checkpoint: str, n_words: int) -> None:
        super().__init__(checkpoint)
        self._words = _Words(n_words)

    def load_tokenizer(self, *_: object, **__: object) -> _Words:
        return self._words


class _CTranslate2(Worker):
    """It has no cache to go on from but an exact ``static_prompt``: each visit prefills."""

    packages = ("ctranslate2",)

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.settings = (
            f"compute type {generator.compute_type}, oneDNN or MKL as it chooses; greedy, "
            "so it decodes its own tokens; every new prompt is prefilled whole"
        )

    def best_token(self, token_ids: list[int]) -> int:
        """Generate one token."""
        return self._generate(token_ids, 1)[1][0]

    def prefill(self, token_ids: list[int]) -> float:
        """Generate one token."""
        return self._generate(token_ids, 1)[0][0]

    def decode(self, context: list[int], following: list[int]) -> list[float]:
        """Generate; the first token's time is that of the prompt and is left out."""
        return self._generate(context, len(following) + 1)[0][1:]

    def typed(self, context: list[int], following: list[int]) -> float:
        """Generate one token, with no help from what ran before."""
        return self.prefill([*context[:-1], *following])

    def _generate(self, token_ids: list[int], n_tokens: int) -> tuple[list[float], list[int]]:
        """Return the time to each token, and the tokens."""
        times = [time.perf_counter()]
        found: list[int] = []

        def note(result: Any) -> bool:
            times.append(time.perf_counter())
            found.append(result.token_id)
            return False

        self._generator.generate_batch(
            [[_word(token_id) for token_id in token_ids]],
            max_length=n_tokens,
            min_length=n_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=note,
        )
        return [end - start for start, end in pairwise(times)], found


if __name__ == "__main__":
    main(prepare, open_worker)
