"""The engine's two caches, its memory, and what it says where it cannot run; real models."""

import argparse
import gc
import inspect
import json
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from lsp_server.completion import complete, warm_up
from lsp_server.drafting import PromptLookup
from lsp_server.engine import Draft, Engine
from lsp_server.errors import DeviceError, ModelLoadError
from lsp_server.known_names import KnownNames, Receiver
from lsp_server.plan import Snapshot
from lsp_server.sampling import FloatArray, log_softmax
from lsp_server.serving_model import Model
from lsp_server.session import CacheScales, Session
from lsp_server.steering import KINDS, NameSource, Steering
from lsp_server.tokenizer import Tokenizer
from model_export import export
from model_export.manifest import DATA_FILE, FileRecord, Manifest, read_manifest
from tests.checkpoints import (
    EMBEDDED,
    N_TOKENS,
    codegen_config,
    random_tensors,
    write_checkpoint,
)

DEADLINE_S = 120.0
CONTEXT = 256
SOURCE = inspect.getsource(argparse)

# Texts of the small model; each begins with a token of its own.
_IDS = np.random.default_rng(7).integers(0, N_TOKENS - 1, 1200).tolist()
A, B, C, D = ([first, *_IDS[100 * first : 100 * first + 99]] for first in range(4))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported random model whose tokens are bytes."""
    path = tmp_path_factory.mktemp("small")
    tensors = random_tensors(codegen_config(), seed=3)
    tensors["lm_head.bias"][N_TOKENS - 1] -= 20  # It does not end its texts.
    config = codegen_config(n_positions=CONTEXT)
    export(
        write_checkpoint(path / "checkpoint", config, tensors), path / "fp32", precision="fp32"
    )
    return path / "fp32"


@pytest.fixture(scope="module")
def cuda_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that was exported for CUDA."""
    path = tmp_path_factory.mktemp("cuda")
    checkpoint = write_checkpoint(path / "checkpoint", codegen_config(n_positions=CONTEXT))
    export(checkpoint, path / "exported", precision="fp16", device="cuda")
    return path / "exported"


@pytest.fixture
def engine(small: Path) -> Engine:
    """Return an engine with empty caches."""
    return Engine.open(small)


@dataclass
class Runs:
    """What the model was run on."""

    n_tokens: int = 0
    sizes: list[int] = field(default_factory=list)
    most_rows: int = 0
    after_each: Callable[[], object] = lambda: None


@pytest.fixture
def runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return the runs of the engine, from now on."""
    return watched(engine, monkeypatch)


def watched(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Count what an engine runs."""
    runs, run = Runs(), engine._session.run

    def counted(
        cache: Any, chunk: Sequence[int], n_past: int, rows: Sequence[int], stop: Any = None
    ) -> FloatArray | None:
        logits = run(cache, chunk, n_past, rows, stop)
        runs.n_tokens += len(chunk)
        runs.sizes.append(len(chunk))
        runs.most_rows = max(runs.most_rows, len(rows))
        runs.after_each()
        return logits

    monkeypatch.setattr(engine._session, "run", counted)
    return runs


def greedy(
    engine: Engine, prompt: Sequence[int], n_new: int = 8, draft: Draft | None = None
) -> list[int]:
    """Return the likeliest continuation."""
    tokens = engine.generate(prompt, max_new_tokens=n_new, draft=draft)
    return [token_id for token_id, _ in tokens]


def n_run(runs: Runs, use: Callable[[], object]) -> int:
    """Return how many tokens the model runs for something."""
    before = runs.n_tokens
    use()
    return runs.n_tokens - before


def never() -> threading.Event:
    """Return an event that nobody sets."""
    return threading.Event()


@pytest.fixture(scope="module")
def alone(small: Path) -> Callable[[list[int]], list[int]]:
    """Return what an engine that ran nothing else generates."""
    return lambda prompt: greedy(Engine.open(small), prompt)


def test_two_texts_that_take_turns_keep_their_caches(
    engine: Engine, runs: Runs, alone: Callable[[list[int]], list[int]]
) -> None:
    """Who works in two files waits for neither of them to be read again."""
    assert n_run(runs, lambda: greedy(engine, A, 1)) == len(A)
    assert n_run(runs, lambda: greedy(engine, B, 1)) == len(B)
    for text in (A, B, A, B):
        assert n_run(runs, lambda text=text: greedy(engine, text, 1)) == 1  # type: ignore[misc]
        assert engine.reused_tokens == len(text) - 1
    assert greedy(engine, A) == alone(A)
    assert greedy(engine, B) == alone(B)


def test_what_was_forgotten_is_read_again(engine: Engine, runs: Runs) -> None:
    """A case of an evaluation begins as if nothing had run before it."""
    greedy(engine, A, 1)
    greedy(engine, B, 1)
    engine.forget()
    assert n_run(runs, lambda: greedy(engine, A, 1)) == len(A)
    assert engine.reused_tokens == 0
    assert n_run(runs, lambda: greedy(engine, B, 1)) == len(B)


def test_a_third_text_takes_the_place_of_the_least_recently_used(
    engine: Engine, runs: Runs, alone: Callable[[list[int]], list[int]]
) -> None:
    """What was left longest ago is what is least likely to be come back to."""
    for text in (A, B, A, C):
        greedy(engine, text, 1)
    assert n_run(runs, lambda: greedy(engine, A, 1)) == 1
    assert n_run(runs, lambda: greedy(engine, C, 1)) == 1
    assert n_run(runs, lambda: greedy(engine, B, 1)) == len(B)
    assert [greedy(engine, text) for text in (A, B, C)] == [alone(t) for t in (A, B, C)]


@pytest.mark.parametrize("kept", [60, 99])
def test_rewinding_keeps_the_cache(
    kept: int, engine: Engine, runs: Runs, alone: Callable[[list[int]], list[int]]
) -> None:
    """Deleting costs nothing, typing anew only what is new, and the other text nothing."""
    greedy(engine, B, 1)
    greedy(engine, A, 1)
    assert n_run(runs, lambda: greedy(engine, A[:kept], 1)) == 1
    anew = [*A[:kept], 7, 8, 9]
    assert n_run(runs, lambda: greedy(engine, anew, 1)) == 3
    assert n_run(runs, lambda: greedy(engine, B, 1)) == 1
    assert greedy(engine, anew) == alone(anew)


READS: dict[str, Callable[[Engine, list[int]], object]] = {
    "generate": lambda engine, text: greedy(engine, text, 1),
    "prefill": lambda engine, text: engine.prefill(text, never()),
    "log_probabilities": lambda engine, text: engine.log_probabilities(text, 1),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("n_shared", [1, 20, 40, 80, 140])
def test_texts_that_begin_alike_keep_their_caches(
    n_shared: int, read: Callable[[Engine, list[int]], object], engine: Engine, runs: Runs
) -> None:
    """A licence that stands at the head of two files does not make one lose the other."""
    head = _IDS[:n_shared]
    first = (head + _IDS[400:])[: max(100, 2 * n_shared + 10)][:250]
    second = (head + _IDS[800:])[: max(100, 2 * n_shared + 10)][:250]
    greedy(engine, first, 1)
    read(engine, second)
    if 2 * n_shared < len(first):  # Else the texts are one that was edited.
        assert n_run(runs, lambda: greedy(engine, first, 1)) == 1
        assert n_run(runs, lambda: greedy(engine, second, 1)) == 1


def test_a_short_text_that_begins_alike_leaves_a_long_one(engine: Engine, runs: Runs) -> None:
    """Two tokens of a new file are not worth the cache of a whole one."""
    greedy(engine, A, 1)
    greedy(engine, [A[0], 7], 1)
    assert n_run(runs, lambda: greedy(engine, A, 1)) == 1


def test_a_read_that_was_stopped_at_once_costs_no_text_its_cache(
    engine: Engine, runs: Runs
) -> None:
    """An empty cache is taken before one that holds something."""
    greedy(engine, A, 1)
    stop = threading.Event()
    stop.set()
    engine.prefill(B, stop)
    greedy(engine, [A[0], *C], 1)
    assert n_run(runs, lambda: greedy(engine, A, 1)) == 1


def test_what_was_read_ahead_is_not_read_again(
    engine: Engine, runs: Runs, alone: Callable[[list[int]], list[int]]
) -> None:
    """After a prefill a generation runs the prompt's last token and what is new."""
    assert n_run(runs, lambda: engine.prefill(A, never())) == len(A)
    assert n_run(runs, lambda: engine.prefill(A, never())) == 0
    assert n_run(runs, lambda: engine.prefill(A[:50], never())) == 0
    assert n_run(runs, lambda: greedy(engine, A, 1)) == 1
    assert engine.reused_tokens == len(A) - 1
    assert greedy(engine, A) == alone(A)


@pytest.mark.parametrize("n_tokens", [1, 31, 32, 33, 64, CONTEXT])
def test_any_length_can_be_read_ahead(n_tokens: int, engine: Engine, runs: Runs) -> None:
    """A prompt shorter than a chunk and one as long as the context are read to their end."""
    assert n_run(runs, lambda: engine.prefill(_IDS[:n_tokens], never())) == n_tokens
    assert engine.prefill_ms(_IDS[:n_tokens]) == 0.0
    engine.prefill([], never())


def test_a_read_that_is_stopped_halfway_keeps_what_it_read(
    engine: Engine,
    runs: Runs,
    alone: Callable[[list[int]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The work of an idle moment is not lost when somebody types, and nothing is wrong."""
    monkeypatch.setattr("lsp_server.engine._PREFILL_CHUNK", 64)
    stop = threading.Event()
    calls = iter([None, stop.set])

    def stop_after_two() -> None:
        if (call := next(calls, None)) is not None:
            call()

    runs.after_each = stop_after_two
    text = _IDS[:200]
    n_read = n_run(runs, lambda: engine.prefill(text, stop))
    assert 0 < n_read < len(text)
    assert n_run(runs, lambda: greedy(engine, text, 1)) == len(text) - n_read
    assert greedy(engine, text) == alone(text)


def test_reading_ahead_in_one_thread_and_generating_in_another(
    engine: Engine, alone: Callable[[list[int]], list[int]]
) -> None:
    """Steps of both take turns and neither spoils the other's cache."""
    ahead = [[n, *_IDS[:230]] for n in range(20, 26)]
    over = threading.Event()

    def read() -> None:
        try:
            for text in ahead:
                engine.prefill(text, never())
        finally:
            over.set()

    found: list[tuple[list[int], list[int]]] = []
    with ThreadPoolExecutor() as executor:
        reading = executor.submit(read)
        while not over.is_set() or not found:
            found += [(text, greedy(engine, text)) for text in (A, B)]
        reading.result(DEADLINE_S)
    expected = {0: alone(A), 1: alone(B)}
    assert [tokens for _, tokens in found] == [expected[text[0]] for text, _ in found]
    assert greedy(engine, ahead[-1]) == alone(ahead[-1])


def test_the_time_to_read_counts_what_is_in_no_cache(engine: Engine) -> None:
    """What either cache holds is free, and the rest has the measured speed."""
    assert engine.prefill_ms(A) > 0
    for text in (A, B):
        engine.prefill(text, never())
    engine._tokens_per_s = 1000.0
    assert engine.prefill_ms([]) == 0
    assert engine.prefill_ms(A) == engine.prefill_ms(B[:50]) == 0
    assert engine.prefill_ms([*A, 1, 2, 3]) == pytest.approx(3)
    assert engine.prefill_ms(B[:50] + C[:20]) == pytest.approx(20)
    assert engine.prefill_ms(C) == pytest.approx(len(C))


def test_more_time_reads_no_less(engine: Engine) -> None:
    """A window grows with the budget and the speed, and is never more than the context."""
    engine._tokens_per_s = 100.0
    windows = [engine.n_tokens_within(ms) for ms in range(0, 4000, 10)]
    assert windows == sorted(windows)
    assert windows[0] == 64
    assert windows[-1] == CONTEXT
    # Few windows, so that a prompt's start stays where it was.
    assert len(set(windows)) < 10
    for ms, window in zip(range(0, 4000, 10), windows, strict=True):
        assert window <= max(64, ms / 10)
    engine._tokens_per_s = 1e6
    assert engine.n_tokens_within(100) == CONTEXT


def test_two_caches_fit_exactly(small: Path) -> None:
    """A bound that holds two caches of the whole context costs nothing."""
    whole = Engine.open(small)._session.cache_bytes(CONTEXT)
    engine = Engine.open(small, cache_bytes=2 * whole)
    assert engine.context_length == CONTEXT
    engine.prefill(A, never())
    engine.prefill(B, never())
    assert engine.prefill_ms(A) == engine.prefill_ms(B) == 0


def test_where_one_cache_fits_there_is_one(
    small: Path, alone: Callable[[list[int]], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that take turns are read anew then, with the same answers, and none in part."""
    whole = Engine.open(small)._session.cache_bytes(CONTEXT)
    for n_bytes in (2 * whole - 1, whole):
        engine = Engine.open(small, cache_bytes=n_bytes)
        runs = watched(engine, monkeypatch)
        assert engine.context_length == CONTEXT
        assert engine.n_tokens_within(0) == CONTEXT
        assert n_run(runs, lambda: engine.prefill(A, never())) == len(A)  # noqa: B023
        assert greedy(engine, B) == alone(B)
        assert n_run(runs, lambda: greedy(engine, A, 1)) == len(A)  # noqa: B023
        assert greedy(engine, A) == alone(A)


@pytest.mark.parametrize("n_positions", [64, 100, CONTEXT - 1])
def test_where_less_than_one_fits_the_context_is_shorter(
    n_positions: int, small: Path, alone: Callable[[list[int]], list[int]]
) -> None:
    """The bound is kept, and what fits the shorter context is answered as ever."""
    one = Engine.open(small)._session.cache_bytes(1)
    engine = Engine.open(small, cache_bytes=one * (n_positions + 1) - 1)
    assert engine.context_length == n_positions
    assert engine.n_tokens_within(math.inf) == n_positions
    assert greedy(engine, A[:50]) == alone(A[:50])
    text = _IDS[: n_positions - 3]
    assert len(greedy(engine, text)) == 3


def test_a_bound_that_holds_no_cache_is_refused(small: Path) -> None:
    """It says in one line what was given, and what would do."""
    session = Engine.open(small)._session
    with pytest.raises(ModelLoadError, match="too few for this model's KV cache") as caught:
        Engine.open(small, cache_bytes=session.cache_bytes(64) - 1)
    assert len(str(caught.value).splitlines()) == 1


def test_a_context_that_is_short_by_itself_needs_no_more(tmp_path: Path) -> None:
    """A model of a few positions opens, and completes within them."""
    config = codegen_config(n_positions=24)
    export(write_checkpoint(tmp_path / "c", config), tmp_path / "e", precision="fp32")
    engine = Engine.open(tmp_path / "e")
    assert engine.context_length == 24
    assert engine.logits([1, 2, 3]).shape == (3, 288)


@dataclass(frozen=True)
class Embedded:
    """The model that ships, in one precision, with a float and an int8 cache."""

    folder: Path
    tokenizer: Tokenizer
    scales: CacheScales

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self.tokenizer.encode(text).token_ids

    def engine(self, cache: str) -> Engine:
        """Return an engine of its own."""
        return Engine.open(self.folder, cache_scales=self.scales if cache == "int8" else None)

    def model(self, cache: str) -> Model:
        """Return a model of its own."""
        return Model("embedded", self.engine(cache), self.tokenizer)


@pytest.fixture(scope="module", params=["int8", "fp32"])
def embedded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Embedded:
    """Return the embedded model, with scales for the cache from other text."""
    folder = tmp_path_factory.mktemp("embedded") / request.param
    export(EMBEDDED, folder, precision=request.param)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    sample = tokenizer.encode(inspect.getsource(json)).token_ids[:512]
    largest = Engine.open(folder).largest_cached(sample)
    scales = CacheScales([v / 127 for v in largest.keys], [v / 127 for v in largest.values])
    return Embedded(folder, tokenizer, scales)


# Measured with onnxruntime 1.31.1 on this text; the logits' standard deviation is 2.7:
# int8 weights at most 0.67 and 0.051 on average, fp32 0.23 and 0.019.
_CLOSE = {"int8": (1.5, 0.1, 0.95), "fp32": (0.6, 0.05, 0.98)}


def test_an_int8_cache_is_close_to_a_float_cache(embedded: Embedded) -> None:
    """Logits differ little, and the best token hardly ever."""
    ids = embedded.ids(SOURCE)[:600]
    with_floats = embedded.engine("float").logits(ids)
    with_integers = embedded.engine("int8").logits(ids)
    difference = np.abs(with_floats - with_integers)
    largest, average, agreement = _CLOSE[embedded.folder.name]
    assert 0 < difference.max() < largest
    assert difference.mean() < average
    assert (with_floats.argmax(-1) == with_integers.argmax(-1)).mean() > agreement


def test_an_int8_cache_takes_a_quarter_of_the_memory(embedded: Embedded) -> None:
    """So four times the context fits the same bound."""
    sizes = {
        cache: embedded.engine(cache)._session.cache_bytes(1000) for cache in ("int8", "float")
    }
    assert 4 * sizes["int8"] == sizes["float"]


def kernel_difference(engine: Engine, ids: list[int]) -> float:
    """Return how much logits differ between one step a token and one run, at most."""
    whole = engine.logits(ids)
    slot = engine._slots[0]
    steps = [engine._session.run(slot.cache, [i], n, range(1)) for n, i in enumerate(ids)]
    slot.token_ids = []
    rows = [row for row in steps if row is not None]
    return float(np.abs(np.concatenate(rows) - whole).max())


def reciting(text: list[int]) -> Draft:
    """Return what guesses the text."""
    return lambda context: text[len(context) :][:5]


def clear_steps(engine: Engine, prompt: list[int], tokens: list[int], tie: float) -> int:
    """Return how many tokens come before the first whose choice is a near tie."""
    logits = np.where(engine._may_follow, engine.logits(prompt + tokens), -np.inf)
    best_two = np.sort(logits[len(prompt) - 1 : -1], -1)[:, -2:]
    is_tie = best_two[:, 1] - best_two[:, 0] < tie
    return int(is_tie.argmax()) if is_tie.any() else len(tokens)


@pytest.fixture(scope="module")
def prompts(embedded: Embedded) -> list[list[int]]:
    """Return the beginnings of a file, up to some of its lines."""
    starts = [n for n, character in enumerate(SOURCE) if character == "\n"][150:330:30]
    return [embedded.ids(SOURCE[start - 700 : start]) for start in starts]


@pytest.mark.parametrize("cache", ["int8", "float"])
def test_guesses_cancellations_and_rewinds_leave_the_text(
    cache: str, embedded: Embedded, prompts: list[list[int]]
) -> None:
    """Up to a near tie a text is that of a fresh engine, whatever the cache went through."""
    plain = embedded.engine(cache)
    used = embedded.engine(cache)
    tie = 2 * kernel_difference(plain, embedded.ids(SOURCE)[:200]) + 1e-4
    n_compared = n_tokens = 0
    for number, prompt in enumerate(prompts):
        for slot in plain._slots:
            slot.token_ids = []
        expected = greedy(plain, prompt, 24)
        stop = threading.Event()
        # Cancelled in the middle of a generation that wrote something else.
        for _ in used.generate(
            prompt[:-5], max_new_tokens=9, temperature=2.0, seed=number, stop=stop
        ):
            if number % 2:
                stop.set()
        draft = PromptLookup()
        guessed = greedy(used, prompt, 24, draft)
        again = greedy(used, prompt, 24, reciting(prompt + expected))
        n_clear = clear_steps(plain, prompt, expected, tie)
        assert guessed[:n_clear] == expected[:n_clear]
        assert again[:n_clear] == expected[:n_clear]
        n_compared += n_clear
        n_tokens += len(expected)
    # Else the test says nothing.
    assert n_compared > n_tokens // 20 > 5


def test_what_is_looked_up_keeps_to_known_names(embedded: Embedded) -> None:
    """A draft that repeats the text above is cut at the name that does not exist."""
    known: Future[KnownNames | None] = Future()
    known.set_result(KnownNames(("finished", "started"), (Receiver.INSTANCE,)))
    engine, tokenizer = embedded.engine("float"), embedded.tokenizer
    before = "".join(f"task.invented({n})\nprint(task)\n" for n in range(9)) + "task."
    drafts: list[str] = []

    class Watched(PromptLookup):
        def __call__(self, context: list[int]) -> list[int]:
            offered = super().__call__(context)
            drafts.append(tokenizer.decode(offered))
            return offered

    def written(kinds: frozenset[str]) -> str:
        source = NameSource(lambda _request: known, kinds=kinds)
        steered = Steering(source, before, "", tokenizer.vocabulary, engine.vocab_size)
        tokens = engine.generate(
            embedded.ids(before),
            max_new_tokens=8,
            draft=Watched(),
            allowed=lambda token_ids: steered.allowed(tokenizer.decode(token_ids)),
        )
        return tokenizer.decode([token_id for token_id, _ in tokens])

    plain, steered = written(frozenset()), written(KINDS)
    assert any(draft.startswith("invented") for draft in drafts)
    assert plain.startswith("invented")
    assert steered.startswith(("finished", "started"))


@pytest.mark.parametrize("start", [1, 2, 300])
def test_log_probabilities_of_a_long_text_are_those_of_its_logits(
    start: int, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in parts, so that few rows of logits are held, each token has its own value."""
    ids = embedded.ids(SOURCE)[:700]
    engine = embedded.engine("float")
    expected = log_softmax(engine.logits(ids))[np.arange(start - 1, 699), ids[start:]]
    runs = watched(engine, monkeypatch)
    got = embedded.engine("float").log_probabilities(ids, start)
    warm = engine.log_probabilities(ids, start)
    assert runs.most_rows <= 128
    assert got.shape == expected.shape
    # Chunks that begin elsewhere are other products; int8 ones round differently.
    tolerance = 1e-3 if embedded.folder.name == "fp32" else 1.0
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(warm, expected, rtol=0, atol=tolerance)
    assert abs(got.mean() - expected.mean()) < 0.02


def test_log_probabilities_leave_what_the_cache_holds_after_them(
    embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking back at a text costs the one who writes at its end nothing."""
    ids = embedded.ids(SOURCE)[:300]
    engine = embedded.engine("float")
    engine.prefill(ids, threading.Event())
    runs = watched(engine, monkeypatch)
    engine.log_probabilities(ids[:100], 90)
    assert runs.n_tokens == 10
    assert engine.prefill_ms(ids) == 0
    # What comes next is read from the cache, and as it is in a fresh one.
    longer = [*ids, ids[0]]
    expected = embedded.engine("float").log_probabilities(longer, 300)
    tolerance = 1e-3 if embedded.folder.name == "fp32" else 1.0
    got = engine.log_probabilities(longer, 300)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    assert runs.n_tokens == 11
    # What comes after another text does not hold.
    engine.log_probabilities([*ids[:280], ids[0], ids[1], ids[2]], 281)
    assert engine.prefill_ms(ids) > 0


def test_several_candidates_read_the_prompt_once(
    embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for three costs what they are long, and no second prefill."""
    model = embedded.model("float")
    assert isinstance(model.engine, Engine)
    runs = watched(model.engine, monkeypatch)
    text = SOURCE[:3000].rpartition("\n")[0] + "\n"
    snapshot = Snapshot(text, len(text))
    completion = complete(model, snapshot, max_new_tokens=24, n_candidates=3)
    assert completion.prompt_tokens > 200
    # Guesses that do not hold are run too, at most 16 a step.
    n_new = runs.n_tokens - completion.prompt_tokens
    assert n_new <= 17 * 3 * 24 < 17 * completion.prompt_tokens
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.drafting._LONGEST", 0)
        before = runs.n_tokens
        again = complete(model, snapshot, max_new_tokens=24, n_candidates=3)
    # Each generation runs the prompt's last token and all of its own but the last.
    assert runs.n_tokens - before <= again.generated_tokens + 3
    assert again.reused_tokens == again.prompt_tokens - 1


def test_memory_stays_flat(small: Path) -> None:
    """However many requests are made and cancelled, nothing of them is kept."""
    engine = Engine.open(small, n_threads=1)
    model = Model("small", engine, Tokenizer.from_file(small / "tokenizer.json"))
    random = np.random.default_rng(1)

    def ask(number: int) -> None:
        text = f"# {number}\n" + SOURCE[(start := int(random.integers(0, 20000))) : start + 150]
        snapshot = Snapshot(text, int(random.integers(10, len(text))), "plaintext")
        stop = threading.Event()
        if number % 5 == 0:
            warm_up(model, snapshot, max_new_tokens=4, stop=stop)
        if number % 7 == 0:
            stop.set()
        complete(model, snapshot, max_new_tokens=4, stop=stop, nearby=[text[:80]])

    for number in range(200):
        ask(number)
    before = _resident()
    for number in range(200, 2000):
        ask(number)
    assert _resident() - before < 4_000_000


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_an_engine_that_nobody_holds_is_gone(small: Path) -> None:
    """Its memory is free with the last reference, without waiting for the collector."""
    engine = Engine.open(small)
    greedy(engine, A)
    session, engine_ = weakref.ref(engine._session), weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert engine_() is None
        assert session() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("n_threads", [0, -1, 999_999])
def test_threads_that_the_machine_does_not_have_are_refused(
    n_threads: int, small: Path
) -> None:
    """The message has the number and those that would do."""
    with pytest.raises(
        ModelLoadError, match=f"^{n_threads} threads are not possible"
    ) as caught:
        Engine.open(small, n_threads=n_threads)
    assert "has 1 to " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_that_does_not_fit_the_memory_is_refused_before_it_is_loaded(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing swaps: the message says what it needs, what is free, and what would fit."""

    def no_session(*_arguments: Any, **_options: Any) -> Session:
        raise AssertionError("it was loaded")

    _let_be_free(monkeypatch, 100_000_000)
    monkeypatch.setattr("lsp_server.engine.Session", no_session)
    monkeypatch.setattr(
        "lsp_server.engine.read_manifest", lambda folder: _manifest_of(folder, 5_300_000_000)
    )
    with pytest.raises(ModelLoadError, match=r"5\.3 GB of weights") as caught:
        Engine.open(small)
    assert "0.1 GB are free" in str(caught.value)
    assert "--precision int4" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def _manifest_of(folder: Path, n_bytes: int) -> Manifest:
    manifest = read_manifest(folder)
    return replace(manifest, files={**manifest.files, DATA_FILE: FileRecord(n_bytes, "")})


def _let_be_free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(
        "lsp_server.engine.psutil.virtual_memory", lambda: SimpleNamespace(available=n_bytes)
    )


def test_a_model_that_just_fits_is_loaded(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is what a model needs and no more."""
    _let_be_free(monkeypatch, 260_000_000)
    assert Engine.open(small).logits([1]).shape == (1, 288)


Become = Callable[[type[Session], str], None]


class NoCuda(Session):
    """A machine whose CUDA cannot be opened."""

    def __init__(self, *arguments: Any, device: Any, **options: Any) -> None:
        if device == "cuda":
            raise RuntimeError("node Gemm_0\nwas assigned to nothing")
        super().__init__(*arguments, device=device, **options)


class BrokenCuda(NoCuda):
    """A machine whose CUDA opens and then cannot compute."""

    def __init__(self, *arguments: Any, device: Any, **options: Any) -> None:
        super().__init__(*arguments, device="cpu", **options)
        self._is_broken = device == "cuda"

    def run(self, *arguments: Any, **options: Any) -> FloatArray | None:
        """Fail as a kernel that the device does not have."""
        if self._is_broken:
            raise RuntimeError("CUDA error 209: no kernel image\nand more")
        return super().run(*arguments, **options)


class NoSession(NoCuda):
    """A machine that cannot run the graph at all."""

    def __init__(self, *_arguments: Any, device: Any, **_options: Any) -> None:
        raise RuntimeError(f"nothing for {device}\nat all")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Return what makes this machine one with such a CUDA and such a reason."""

    def become(session: type[Session], reason: str) -> None:
        monkeypatch.setattr("lsp_server.engine.Session", session)
        monkeypatch.setattr("lsp_server.engine.why_no_cuda", lambda: reason)

    return become


def test_a_folder_for_cuda_runs_on_the_cpu_where_there_is_none(
    cuda_folder: Path, no_cuda: Become
) -> None:
    """It answers, slowly, and says what is missing and what to do."""
    no_cuda(NoCuda, "no driver")
    engine = Engine.open(cuda_folder)
    assert "no driver" in engine.notice
    assert "--device cpu" in engine.notice
    assert len(engine.notice.splitlines()) == 1
    assert engine._session.device == "cpu"
    assert len(greedy(engine, A, 3)) == 3


def test_cuda_that_breaks_at_its_first_run_counts_as_none(
    cuda_folder: Path, no_cuda: Become
) -> None:
    """Where nothing seems to be missing, what the library said is the reason."""
    no_cuda(BrokenCuda, "")
    engine = Engine.open(cuda_folder)
    assert "CUDA error 209: no kernel image" in engine.notice
    assert "and more" not in engine.notice
    assert len(greedy(engine, A, 3)) == 3


def test_cuda_that_is_asked_for_by_name_is_not_replaced(
    cuda_folder: Path, no_cuda: Become
) -> None:
    """Whoever says cuda learns that there is none, in one line."""
    no_cuda(NoCuda, "no driver")
    with pytest.raises(DeviceError, match="no driver") as caught:
        Engine.open(cuda_folder, "cuda")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("reason", ["no driver", ""])
def test_a_folder_for_cuda_that_runs_nowhere_is_refused_in_one_line(
    reason: str, cuda_folder: Path, no_cuda: Become
) -> None:
    """A failing fallback says why CUDA was not used, and what to do."""
    no_cuda(NoSession, reason)
    with pytest.raises(ModelLoadError, match=reason or "nothing for cuda") as caught:
        Engine.open(cuda_folder)
    assert "--device cpu" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_cache_that_does_not_fit_is_said_on_the_fallback_too(
    cuda_folder: Path, no_cuda: Become
) -> None:
    """Who set the bound too low is not told to export again."""
    no_cuda(NoCuda, "no driver")
    with pytest.raises(ModelLoadError, match="too few for this model's KV cache"):
        Engine.open(cuda_folder, cache_bytes=1000)


def test_a_folder_for_the_cpu_is_not_run_on_cuda(small: Path) -> None:
    """A device that the folder was not exported for is refused with what to do."""
    with pytest.raises(ModelLoadError, match="exported for cpu, not for cuda") as caught:
        Engine.open(small, "cuda")
    assert "--device cuda" in str(caught.value)


def test_a_folder_for_cuda_is_not_run_on_the_cpu_by_name(cuda_folder: Path) -> None:
    """The graph for CUDA is slow on a CPU, so it has to be exported for it."""
    with pytest.raises(ModelLoadError, match="exported for cuda, not for cpu") as caught:
        Engine.open(cuda_folder, "cpu")
    assert "--device cpu" in str(caught.value)


def test_chunks_that_may_be_ended_are_short_on_slow_machines(
    engine: Engine, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who types while a long prompt is read loses little of it at each key."""
    monkeypatch.setattr(engine, "_measure", lambda _speed: None)
    for token_id, tokens_per_s, expected in ((1, 1.0, 8), (2, 350.0, 32), (3, 1e9, 128)):
        monkeypatch.setattr(engine, "_tokens_per_s", tokens_per_s)
        before = len(runs.sizes)
        engine.prefill([token_id] * 200, never())
        assert max(runs.sizes[before:]) == expected


def test_who_reads_in_peace_reads_in_long_chunks(
    engine: Engine, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that may be ended grow with what was read before them, and so read faster."""
    clock = iter(range(10_000))
    monkeypatch.setattr("lsp_server.engine.time.perf_counter", lambda: next(clock) / 10)
    monkeypatch.setattr(engine, "_measure", lambda _speed: None)
    monkeypatch.setattr(engine, "_tokens_per_s", 80.0)
    engine.prefill([4] * 240, never())
    assert runs.sizes == [8] * 16 + [64, 48]
