"""What a worker and its driver say to each other: JSON, one object a line.

Each engine's own environment imports it, so it needs the standard library only. A worker
answers ``Job`` with a ``loaded`` object and each ``Visit`` with ``seconds``, with
``cannot`` or with ``failed``; it ends when its standard input does.
"""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from random import Random
from typing import Literal, TextIO

_STREAM_TOKENS = 2048
PLAIN_IDS = range(32, 5000)
"""Ids that every tokenizer has and none gives a special meaning."""
_CHECKED_TOKENS = 100
"""Length of the prompts after which the engines' best tokens are compared."""
_CHECKED_SEEDS = range(1000, 1008)
_WARM_UP_TOKENS = 64

Measure = Literal["prefill", "decode", "block", "typed"]


@dataclass(frozen=True)
class Job:
    """What a worker runs: a model in ``folder``, made from ``checkpoint``."""

    checkpoint: str
    folder: str
    precision: str
    kv_type: str
    n_threads: int
    has_flash_attention: bool = False
    """Where the engine leaves the choice."""


@dataclass(frozen=True)
class Visit:
    """One measure, after the first ``context`` ids of the stream of ``seed``."""

    measure: Measure
    seed: int
    context: int
    n_tokens: int


class CannotError(Exception):
    """The engine has no way to do what was asked."""


class Worker(ABC):
    """An engine with a model loaded; all times are in seconds."""

    settings: str
    """What a reader should know of how the engine was set up."""
    packages: tuple[str, ...]
    """Distributions whose versions belong to the result."""
    bytes_per_weight: float | None = None
    """The mean of what is loaded, where only the engine knows it."""

    @abstractmethod
    def best_token(self, token_ids: list[int]) -> int:
        """Return the id with the largest logit after a prompt."""

    @abstractmethod
    def prefill(self, token_ids: list[int]) -> float:
        """Time a prompt from an empty cache to its first token."""

    @abstractmethod
    def decode(self, context: list[int], following: list[int]) -> list[float]:
        """Time each token of ``following``, run one by one after ``context``."""

    def block(self, context: list[int], following: list[int]) -> float:
        """Time ``following``, run at once after ``context``."""
        raise CannotError("its interface takes no several tokens after a cached context")

    @abstractmethod
    def typed(self, context: list[int], following: list[int]) -> float:
        """Time ``following`` where the last id of ``context``, which has run, is gone."""


class CachedWorker(Worker):
    """An engine whose cache is driven from outside, one step after another."""

    def __init__(self) -> None:
        self._cached: list[int] = []

    @abstractmethod
    def forget(self) -> None:
        """Empty the cache."""

    @abstractmethod
    def rewind(self, n_tokens: int) -> None:
        """Keep the first positions of the cache."""

    @abstractmethod
    def step(self, n_cached: int, token_ids: list[int]) -> int:
        """Run ids after what is cached and return the best next token."""

    def best_token(self, token_ids: list[int]) -> int:
        """Run the prompt from an empty cache."""
        self._forget()
        return self._step(token_ids)

    def prefill(self, token_ids: list[int]) -> float:
        """Run the prompt from an empty cache in one step."""
        self._forget()
        return self._timed_step(token_ids)

    def decode(self, context: list[int], following: list[int]) -> list[float]:
        """Run each token in a step of its own."""
        self._reach(context)
        return [self._timed_step([token_id]) for token_id in following]

    def block(self, context: list[int], following: list[int]) -> float:
        """Run all tokens in one step."""
        self._reach(context)
        return self._timed_step(following)

    def typed(self, context: list[int], following: list[int]) -> float:
        """Rewind the cache by one position, and run the tokens in one step."""
        self._reach(context)
        started = time.perf_counter()
        self.rewind(len(context) - 1)
        del self._cached[-1]
        self._step(following)
        return time.perf_counter() - started

    def _reach(self, context: list[int]) -> None:
        """Bring the cache to ``context``, with as little work as it allows."""
        if self._cached[: len(context)] == context:
            self.rewind(len(context))
            self._cached = context
        elif context[: len(self._cached)] != self._cached:
            self._forget()
        if len(self._cached) < len(context):
            self._step(context[len(self._cached) :])

    def _forget(self) -> None:
        self.forget()
        self._cached = []

    def _step(self, token_ids: list[int]) -> int:
        best = self.step(len(self._cached), token_ids)
        self._cached = self._cached + token_ids
        return best

    def _timed_step(self, token_ids: list[int]) -> float:
        started = time.perf_counter()
        self._step(token_ids)
        return time.perf_counter() - started


Prepare = Callable[[Job], None]
Open = Callable[[Job], Worker]


def main(prepare: Prepare, open_worker: Open) -> None:
    """Run a worker's command line: ``prepare`` or ``serve``, and a job."""
    answers = _take_standard_output()
    job = Job(**json.loads(sys.argv[2]))
    if sys.argv[1] == "prepare":
        prepare(job)
    else:
        _serve(job, open_worker, answers)


def _take_standard_output() -> TextIO:
    """Return standard output, and let libraries that print use standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _serve(job: Job, open_worker: Open, answers: TextIO) -> None:
    def answer(values: dict[str, object]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    started = time.perf_counter()
    worker = open_worker(job)
    load_s = time.perf_counter() - started
    worker.prefill(_stream(0)[:_WARM_UP_TOKENS])
    prompts = [_stream(seed)[:_CHECKED_TOKENS] for seed in _CHECKED_SEEDS]
    answer(
        {
            "load_s": load_s,
            "best_tokens": [worker.best_token(prompt) for prompt in prompts],
            "settings": worker.settings,
            "versions": _versions(worker.packages),
            "bytes_per_weight": worker.bytes_per_weight,
        }
    )
    for line in sys.stdin:
        try:
            answer({"seconds": _visit(worker, Visit(**json.loads(line)))})
        except CannotError as error:
            answer({"cannot": str(error)})
        except Exception as error:  # noqa: BLE001  Engines raise what they like.
            answer({"failed": f"{type(error).__name__}: {error}"})


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        # onnxruntime has another name where it has no CUDA.
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _visit(worker: Worker, visit: Visit) -> list[float]:
    stream = _stream(visit.seed)
    context = stream[: visit.context]
    following = stream[visit.context : visit.context + visit.n_tokens]
    if visit.measure == "decode":
        return worker.decode(context, following)
    if visit.measure == "block":
        return [worker.block(context, following)]
    if visit.measure == "typed":
        return [worker.typed(context, following)]
    return [worker.prefill(context)]


@lru_cache
def _stream(seed: int) -> list[int]:
    return Random(seed).choices(PLAIN_IDS, k=_STREAM_TOKENS)  # noqa: S311  No secret.


def to_json(job_or_visit: Job | Visit) -> str:
    """Return one line for a worker."""
    return json.dumps(asdict(job_or_visit))
