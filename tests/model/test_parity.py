"""The engine against transformers, and what generate() promises."""

import argparse
import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from transformers import AutoModelForCausalLM

from lsp_server.engine import Draft, Engine
from lsp_server.errors import ModelLoadError, PromptError
from lsp_server.sampling import BoolArray, FloatArray
from lsp_server.session import _terminated_by
from lsp_server.tokenizer import Tokenizer
from model_export import export
from model_export.manifest import file_sha256
from tests.checkpoints import (
    EMBEDDED,
    N_TOKENS,
    codegen_config,
    llama_config,
    random_tensors,
    repacked,
    write_checkpoint,
)

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
DEADLINE_SECONDS = 120
CHUNK = 64
"""Smaller than the engine's own, so that short prompts have several."""

CODEGEN2 = codegen_config(n_embd=1024, n_head=8, rotary_dim=64, head_dim=128, n_positions=256)
"""In 8 groups."""

# One layer's shape of each published size.
FAMILIES: dict[str, dict[str, Any]] = {
    "350M, heads of 64": codegen_config(n_embd=256, n_head=4, rotary_dim=32, n_positions=256),
    "2B, heads of 80": codegen_config(n_embd=320, n_head=4, rotary_dim=64, n_positions=256),
    "heads of 128": codegen_config(n_embd=512, n_head=4, rotary_dim=64, n_positions=256),
    "6B and 16B, heads of 256": codegen_config(
        n_embd=1024, n_head=4, rotary_dim=64, n_positions=256
    ),
    "CodeGen 2, 8 groups": CODEGEN2,
    "CodeGen 2.5, Llama with heads of 128": llama_config(
        hidden_size=512, num_key_value_heads=4, max_position_embeddings=256
    ),
    "SmolLM2, grouped heads of 64, tied head": llama_config(
        hidden_size=576,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=256,
        rope_theta=100000,
        tie_word_embeddings=True,
    ),
    "Llama with a head size of its own": llama_config(
        head_dim=64, num_key_value_heads=1, max_position_embeddings=256
    ),
}

IDS = np.random.default_rng(5).integers(0, N_TOKENS, 200).tolist()


def reference_logits(model: Any, token_ids: list[int]) -> FloatArray:
    """Return transformers' logits (len(token_ids), vocab_size)."""
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([token_ids])).logits[0].float().numpy())


def reference_log_softmax(logits: FloatArray) -> FloatArray:
    """Return torch's log-softmax along the last axis."""
    return np.asarray(torch.log_softmax(torch.from_numpy(logits), -1).numpy())


def load_reference(checkpoint: Path) -> Any:
    """Load a checkpoint with transformers, in float32."""
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@dataclass(frozen=True)
class Pair:
    """An exported folder, and what transformers says of ``IDS``."""

    folder: Path
    logits: FloatArray
    log_probabilities: FloatArray


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=list(FAMILIES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return a small random model of each shape."""
    path = tmp_path_factory.mktemp("family")
    config = request.param
    tensors = random_tensors(config)
    checkpoint = write_checkpoint(path / "checkpoint", config, tensors)
    logits = reference_logits(load_reference(checkpoint), IDS)
    if config is CODEGEN2:
        # transformers' class knows 4 groups only, so it gets the same model packed so.
        write_checkpoint(checkpoint, config, repacked(tensors, 4, 8), layout="safetensors")
    export(checkpoint, path / "exported", precision="fp32")
    return Pair(path / "exported", logits, reference_log_softmax(logits))


def test_a_whole_prompt_has_the_references_logits(pair: Pair) -> None:
    """Our fused graph computes what transformers computes, for every published shape."""
    logits = Engine.open(pair.folder).logits(IDS)

    assert logits.shape == pair.logits.shape
    assert logits.dtype == np.float32
    assert pair.logits.std() > 1  # Else any model would be equal to any other.
    np.testing.assert_allclose(logits, pair.logits, rtol=0, atol=TOLERANCE)


STEPS = {
    "whole": [200],
    "one by one": [100] + [1] * 30,
    "mixed": [3, 1, 70, 1, 1, 64, 2, 30, 1],
}


@pytest.mark.parametrize("sizes", STEPS.values(), ids=STEPS)
def test_steps_have_the_references_log_probabilities(sizes: list[int], pair: Pair) -> None:
    """However a text reaches the cache, each token's probability is the reference's."""
    engine = Engine.open(pair.folder)
    start = 1
    for stop in np.cumsum(sizes).tolist():
        got = engine.log_probabilities(IDS[:stop], start)
        expected = pair.log_probabilities[np.arange(start - 1, stop - 1), IDS[start:stop]]
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)
        start = stop


def test_a_rewound_cache_has_the_references_log_probabilities(pair: Pair) -> None:
    """Text that is deleted and typed anew leaves no trace in the cache."""
    engine = Engine.open(pair.folder)
    other = IDS[:20] + IDS[90:150]
    fresh = Engine.open(pair.folder).log_probabilities(other, 20)

    engine.log_probabilities(IDS, 1)
    rewound = engine.log_probabilities(other, 20)
    back = engine.log_probabilities(IDS, 20)

    np.testing.assert_allclose(rewound, fresh, rtol=0, atol=TOLERANCE)
    expected = pair.log_probabilities[np.arange(19, 199), IDS[20:]]
    np.testing.assert_allclose(back, expected, rtol=0, atol=TOLERANCE)


def test_the_number_of_groups_matters(tmp_path: Path) -> None:
    """A CodeGen 2 model that is exported as CodeGen 1 is another model: the rule counts."""
    tensors = random_tensors(CODEGEN2)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", CODEGEN2, repacked(tensors, 4, 8))
    ids = IDS[:40]

    export(checkpoint, tmp_path / "right", precision="fp32")
    export(checkpoint, tmp_path / "wrong", mp_num=4, precision="fp32")

    right = Engine.open(tmp_path / "right").logits(ids)
    wrong = Engine.open(tmp_path / "wrong").logits(ids)
    assert np.abs(right - wrong).max() > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pickles_have_the_references_logits(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """The .bin files of Salesforce's repositories hold float16; no value is changed."""
    config = codegen_config()
    tensors = random_tensors(config, dtype=dtype)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors, layout="bin")
    export(checkpoint, tmp_path / "exported", precision="fp32")

    logits = Engine.open(tmp_path / "exported").logits(IDS[:60])

    expected = reference_logits(load_reference(checkpoint), IDS[:60])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_the_embedded_model_reads_python_as_transformers_does(tmp_path: Path) -> None:
    """The model that ships computes the same on a whole context of real code."""
    export(EMBEDDED, tmp_path / "exported", precision="fp32")
    engine = Engine.open(tmp_path / "exported")
    tokenizer = Tokenizer.from_file(tmp_path / "exported/tokenizer.json")
    ids = tokenizer.encode(inspect.getsource(argparse)).token_ids[: engine.context_length]
    assert len(ids) == 2048

    logits = engine.logits(ids)

    expected = reference_logits(load_reference(EMBEDDED), ids)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
    best_two = np.sort(expected, -1)[:, -2:]
    is_clear = best_two[:, 1] - best_two[:, 0] > 2e-3
    assert is_clear.mean() > 0.99
    assert (logits.argmax(-1) == expected.argmax(-1))[is_clear].all()


@dataclass(frozen=True)
class Small:
    """A small model whose padding is likely and whose end of text is not."""

    folder: Path
    reference: Any

    def log_probabilities(self, prompt: list[int], generated: list[int]) -> FloatArray:
        """Return the reference's (len(generated), vocab_size), each given all before."""
        logits = reference_logits(self.reference, prompt + generated)
        return reference_log_softmax(logits)[len(prompt) - 1 : -1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the model that the tests of generate() share."""
    path = tmp_path_factory.mktemp("small")
    config = codegen_config(n_positions=256)
    tensors = random_tensors(config, seed=3)
    tensors["lm_head.bias"][N_TOKENS:] += 8
    tensors["lm_head.bias"][config["eos_token_id"]] -= 20
    checkpoint = write_checkpoint(path / "checkpoint", config, tensors)
    export(checkpoint, path / "exported", precision="fp32")
    return Small(path / "exported", load_reference(checkpoint))


@pytest.fixture
def engine(small: Small) -> Engine:
    """Return an engine with an empty cache."""
    return Engine.open(small.folder)


PROMPT = IDS[:20]
EOS = 256


def only(*token_ids: int) -> BoolArray:
    """Return the mask that allows these tokens."""
    mask = np.zeros(288, np.bool_)
    mask[list(token_ids)] = True
    return mask


def assert_log_probabilities(got: list[tuple[int, float]], expected: FloatArray) -> None:
    """Compare what generate() reported with the reference's rows."""
    tokens, log_probabilities = zip(*got, strict=True)
    rows = np.arange(len(tokens))
    np.testing.assert_allclose(
        log_probabilities, expected[rows, tokens], rtol=0, atol=TOLERANCE
    )


def greedy(engine: Engine, prompt: list[int], max_new_tokens: int = 12) -> list[int]:
    """Return the likeliest continuation."""
    return [token for token, _ in engine.generate(prompt, max_new_tokens=max_new_tokens)]


@pytest.fixture(scope="module")
def alone(small: Small) -> Callable[[list[int]], list[int]]:
    """Return what an engine that nobody else uses generates."""
    return lambda prompt: greedy(Engine.open(small.folder), prompt)


def test_the_facts_of_the_model_are_known(engine: Engine) -> None:
    """Callers learn the sizes from the engine, which has them from the manifest."""
    assert (engine.eos_token_id, engine.vocab_size, engine.context_length) == (EOS, 288, 256)


def test_greedy_generation_is_the_references(engine: Engine, small: Small) -> None:
    """Tokens and log-probabilities are transformers', step by step."""
    got = list(engine.generate(PROMPT, max_new_tokens=30))

    assert len(got) == 30
    tokens = [token for token, _ in got]
    expected = small.log_probabilities(PROMPT, tokens)
    assert tokens == expected[:, :N_TOKENS].argmax(-1).tolist()
    assert_log_probabilities(got, expected)


def test_log_probabilities_are_those_of_the_unmodified_model(
    engine: Engine, small: Small
) -> None:
    """Masks, temperature and cuts choose the token; they do not change its probability."""
    half = np.random.default_rng(2).random(288) < 0.5
    sampled = engine.generate(
        PROMPT,
        max_new_tokens=20,
        temperature=2.0,
        top_k=50,
        top_p=0.9,
        seed=1,
        allowed=lambda _: half,
    )

    got = list(sampled)

    assert len(got) == 20
    tokens = [token for token, _ in got]
    assert half[tokens].all()
    assert_log_probabilities(got, small.log_probabilities(PROMPT, tokens))


def test_the_best_allowed_token_is_taken(engine: Engine, small: Small) -> None:
    """Under a mask, greedy means the likeliest of what is allowed."""
    half = np.arange(288) % 2 == 1

    got = list(engine.generate(PROMPT, max_new_tokens=10, allowed=lambda _: half))

    assert len(got) == 10
    tokens = [token for token, _ in got]
    expected = small.log_probabilities(PROMPT, tokens)
    masked = np.where(half, expected, -np.inf)[:, :N_TOKENS]
    assert tokens == masked.argmax(-1).tolist()
    assert_log_probabilities(got, expected)


def test_allowed_sees_what_was_generated(
    engine: Engine, alone: Callable[[list[int]], list[int]]
) -> None:
    """A caller steers by the ids so far, and None lets any token through."""
    seen: list[list[int]] = []

    def watch(generated: list[int]) -> None:
        seen.append(list(generated))

    tokens = [t for t, _ in engine.generate(PROMPT, max_new_tokens=12, allowed=watch)]

    assert tokens == alone(PROMPT)
    assert seen == [tokens[:n] for n in range(12)]


def test_nothing_allowed_ends_it(engine: Engine) -> None:
    """A steering that rules everything out ends the text in place of breaking it."""
    steps = iter([only(7), only(8), only()])

    tokens = [
        t for t, _ in engine.generate(PROMPT, max_new_tokens=9, allowed=lambda _: next(steps))
    ]

    assert tokens == [7, 8]


def test_only_padding_allowed_ends_it(engine: Engine) -> None:
    """Ids that no text has are never yielded, even where the mask has nothing else."""
    padding = only(*range(N_TOKENS, 288))

    assert list(engine.generate(PROMPT, max_new_tokens=9, allowed=lambda _: padding)) == []


def test_the_end_of_text_ends_it_and_is_not_yielded(engine: Engine) -> None:
    """What a caller gets is text only."""
    steps = iter([only(7), only(8), only(EOS)])

    tokens = [
        t for t, _ in engine.generate(PROMPT, max_new_tokens=9, allowed=lambda _: next(steps))
    ]

    assert tokens == [7, 8]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_padding_is_never_generated(temperature: float, engine: Engine, small: Small) -> None:
    """Ids beyond the tokenizer stay out although this model finds them the likeliest."""
    assert small.log_probabilities(PROMPT, [0]).argmax() >= N_TOKENS

    for seed in range(3):
        tokens = engine.generate(PROMPT, max_new_tokens=50, temperature=temperature, seed=seed)
        assert max(token for token, _ in tokens) < N_TOKENS


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0.0}], ids=str)
def test_the_narrowest_cut_is_greedy(
    cut: dict[str, Any], engine: Engine, alone: Callable[[list[int]], list[int]]
) -> None:
    """Where one token is left to choose from, temperature and seed change nothing."""
    got = engine.generate(PROMPT, max_new_tokens=12, temperature=3.0, seed=9, **cut)

    assert [token for token, _ in got] == alone(PROMPT)


def test_a_seed_makes_sampling_reproducible(engine: Engine) -> None:
    """The same seed gives the same text, whatever ran before; others give others."""

    def sample(seed: int) -> list[tuple[int, float]]:
        return list(engine.generate(PROMPT, max_new_tokens=20, temperature=1.0, seed=seed))

    first = [sample(seed) for seed in range(3)]

    assert [[t for t, _ in sample(seed)] for seed in range(3)] == [
        [t for t, _ in tokens] for tokens in first
    ]
    assert len({tuple(tokens) for tokens in first}) == 3


@pytest.mark.parametrize(
    ("second", "reused"),
    [
        (PROMPT, 19),
        (PROMPT[:12], 11),
        ([*PROMPT[:12], 1, 2, 3], 12),
        ([1, *PROMPT], 0),
        ([*PROMPT, 1], 20),
    ],
    ids=["same", "shorter", "other end", "other start", "longer"],
)
def test_the_common_prefix_is_reused(
    second: list[int],
    reused: int,
    engine: Engine,
    alone: Callable[[list[int]], list[int]],
) -> None:
    """What is in the cache is not computed again, and the text is that of an empty one."""
    assert second[:1] == [1] or PROMPT[12] != 1  # The prompts part where the table says.
    greedy(engine, PROMPT, 1)
    assert engine.reused_tokens == 0

    assert greedy(engine, second) == alone(second)
    assert engine.reused_tokens == reused


def test_generated_tokens_are_reused_too(
    engine: Engine, alone: Callable[[list[int]], list[int]]
) -> None:
    """A prompt that goes on after what was generated starts where that ended."""
    prompt = PROMPT + greedy(engine, PROMPT, 5) + [1]

    assert greedy(engine, prompt) == alone(prompt)
    assert engine.reused_tokens == 24  # The last token was chosen, not run.


def test_logits_begin_with_an_empty_cache(engine: Engine) -> None:
    """The logits of a prompt are bit for bit the same, whatever ran before."""
    expected = engine.logits(IDS)
    greedy(engine, IDS[:70])

    np.testing.assert_array_equal(engine.logits(IDS), expected)
    assert engine.logits([]).shape == (0, 288)


def test_stopping_ends_within_one_token(engine: Engine) -> None:
    """A superseded request does not go on."""
    stop = threading.Event()
    tokens = engine.generate(PROMPT, max_new_tokens=100, stop=stop)
    next(tokens)
    next(tokens)
    stop.set()

    assert len(list(tokens)) <= 1


def test_nothing_is_generated_when_stopped_before(engine: Engine) -> None:
    """A request that is cancelled while it waits costs nothing."""
    stop = threading.Event()
    stop.set()

    assert list(engine.generate(PROMPT, max_new_tokens=100, stop=stop)) == []


class StopAtLook(threading.Event):
    """Is set from the given look at it on."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self._looks_left = look

    def is_set(self) -> bool:
        """Count down."""
        self._looks_left -= 1
        return self._looks_left < 0


def test_a_prefill_stops_between_chunks_and_keeps_what_it_did(
    engine: Engine,
    alone: Callable[[list[int]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long prompt that is cancelled halfway is not begun anew the next time."""
    monkeypatch.setattr("lsp_server.engine._PREFILL_CHUNK", CHUNK)
    assert list(engine.generate(IDS, max_new_tokens=5, stop=StopAtLook(2))) == []

    assert greedy(engine, IDS) == alone(IDS)
    assert engine.reused_tokens == 2 * CHUNK


def test_a_running_chunk_is_terminated_and_the_engine_goes_on(
    engine: Engine,
    alone: Callable[[list[int]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that is ended in its middle leaves nothing wrong in the cache."""

    @contextmanager
    def at_once(_stop: threading.Event, options: Any) -> Iterator[None]:
        options.terminate = True
        yield

    greedy(engine, PROMPT, 1)
    with monkeypatch.context() as patch:
        patch.setattr("lsp_server.session._terminated_by", at_once)
        stop = threading.Event()
        assert list(engine.generate(IDS, max_new_tokens=5, stop=stop)) == []

    assert greedy(engine, IDS) == alone(IDS)


def test_a_watcher_ends_a_run_soon_after_the_stop() -> None:
    """Setting the event ends the run that is going on, and no watcher is left behind."""
    before = threading.active_count()
    stop, options = threading.Event(), ort.RunOptions()
    with _terminated_by(stop, options):
        assert not options.terminate
        stop.set()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not options.terminate:
            assert time.monotonic() < deadline
    assert threading.active_count() == before


def _perfect(text: list[int]) -> Draft:
    return lambda context: text[len(context) : len(context) + 5]


def _half_right(text: list[int]) -> Draft:
    return lambda context: [*text[len(context) : len(context) + 2], 0, 0]


def _wrong(_text: list[int]) -> Draft:
    return lambda context: [(context[-1] + 1) % N_TOKENS] * 3


@pytest.mark.parametrize("draft", [_perfect, _half_right, _wrong])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_change_the_steps_and_not_the_text(
    draft: Callable[[list[int]], Draft],
    temperature: float,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With any guesses, greedy and sampled text are as without, from no more steps."""

    def generate(guess: Draft | None) -> tuple[list[int], list[float], int]:
        n_steps = 0
        step = engine._session.run

        def counted(*arguments: Any) -> Any:
            nonlocal n_steps
            n_steps += 1
            return step(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(engine._session, "run", counted)
            tokens, values = zip(
                *engine.generate(
                    PROMPT, max_new_tokens=24, temperature=temperature, seed=2, draft=guess
                ),
                strict=True,
            )
        return list(tokens), list(values), n_steps

    plain, plain_values, plain_steps = generate(None)
    guessed, values, steps = generate(draft(PROMPT + plain))

    assert guessed == plain
    np.testing.assert_allclose(values, plain_values, rtol=0, atol=TOLERANCE)
    assert plain_steps == 24
    assert steps == {_perfect: 4, _half_right: 8, _wrong: 24}[draft]


def test_guesses_leave_masks_and_ends_as_they_are(engine: Engine) -> None:
    """A guessed token is taken only where it is allowed, and the end of text still ends."""
    allowed_ids = only(1, 2)
    tokens = engine.generate(
        PROMPT, max_new_tokens=9, allowed=lambda _: allowed_ids, draft=lambda _: [3, 3, 3]
    )
    assert {token for token, _ in tokens} <= {1, 2}
    ending = engine.generate(
        PROMPT,
        max_new_tokens=9,
        allowed=lambda generated: only(EOS) if len(generated) == 2 else None,
        draft=_perfect(PROMPT + greedy(engine, PROMPT)),
    )
    assert len(list(ending)) == 2


@pytest.mark.parametrize("n_new", [0, 1, 7])
def test_no_more_tokens_than_asked_for(n_new: int, engine: Engine) -> None:
    """The budget of a request is kept."""
    assert len(greedy(engine, PROMPT, n_new)) == n_new


def test_generation_ends_with_the_context(engine: Engine, small: Small) -> None:
    """The last position of the context is used, and nothing after it."""
    prompt = (IDS * 2)[:250]

    got = list(engine.generate(prompt, max_new_tokens=100))

    assert len(got) == 6
    tokens = [token for token, _ in got]
    assert_log_probabilities(got, small.log_probabilities(prompt, tokens))


BAD_PROMPTS: dict[str, tuple[list[int], str]] = {
    "empty": ([], "at least one token"),
    "whole context": ([1] * 256, "256 leaves no room"),
    "longer than the context": ([1] * 257, "do not fit the context of 256"),
    "id too high": ([1, 288], r"0\.\.287"),
    "negative id": ([-1, 1], r"0\.\.287"),
}


@pytest.mark.parametrize(("prompt", "reason"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_a_prompt_that_cannot_be_taken_is_refused_at_once(
    prompt: list[int], reason: str, engine: Engine
) -> None:
    """The error comes from the call itself, not from the first step of its iterator."""
    with pytest.raises(PromptError, match=reason):
        engine.generate(prompt, max_new_tokens=1)


@pytest.mark.parametrize("ids", [[288], [-1], [1] * 257])
def test_ids_that_cannot_be_taken_have_no_logits(ids: list[int], engine: Engine) -> None:
    """What does not fit the model is refused, and the engine goes on working."""
    with pytest.raises(PromptError):
        engine.logits(ids)
    with pytest.raises(PromptError):
        engine.log_probabilities([1, *ids], 1)

    assert engine.logits([1]).shape == (1, 288)


@pytest.mark.parametrize("start", [-1, 0, 20, 21])
def test_a_token_without_one_before_it_has_no_probability(start: int, engine: Engine) -> None:
    """The first token of a text is given, and those past its end do not exist."""
    with pytest.raises(PromptError, match=f"no token {start} "):
        engine.log_probabilities(PROMPT, start)


def test_threads_get_what_they_would_get_alone(
    engine: Engine, alone: Callable[[list[int]], list[int]]
) -> None:
    """Requests that run at once share one cache and do not mix."""
    prompts = [IDS[start : start + 30] for start in (0, 40, 80, 120)]
    together = threading.Barrier(len(prompts))

    def ask(prompt: list[int]) -> list[int]:
        together.wait(DEADLINE_SECONDS)
        return greedy(engine, prompt)

    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(ask, prompts, timeout=DEADLINE_SECONDS))

    assert answers == [alone(prompt) for prompt in prompts]


def test_interleaved_generators_do_not_mix(
    engine: Engine, alone: Callable[[list[int]], list[int]]
) -> None:
    """Two texts that are generated in turns are each what they would be alone."""
    prompts = [IDS[:30], IDS[:15] + IDS[60:80]]
    first, second = (engine.generate(prompt, max_new_tokens=12) for prompt in prompts)

    pairs = [(a, b) for (a, _), (b, _) in zip(first, second, strict=True)]

    assert [list(tokens) for tokens in zip(*pairs, strict=True)] == [alone(p) for p in prompts]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Return an exported folder of one's own."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "exported", precision="fp32")
    return tmp_path / "exported"


def change_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return what changes the manifest of a folder."""

    def apply(folder: Path) -> None:
        path = folder / "manifest.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return apply


def append(name: str) -> Callable[[Path], None]:
    """Return what adds one byte to a file, and its size to the manifest."""

    def apply(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(b" ")
        change_manifest(lambda m: m["files"][name].update(size=m["files"][name]["size"] + 1))(
            folder
        )

    return apply


def cut(name: str) -> Callable[[Path], None]:
    """Return what takes the last bytes from a file."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 3)


def replace(name: str, text: str) -> Callable[[Path], None]:
    """Return what writes something else into a file."""

    def apply(folder: Path) -> None:
        (folder / name).write_text(text)

    return apply


def no_graph(folder: Path) -> None:
    """Put something that is no graph in the place of the graph, in good order."""
    (folder / "model.onnx").write_bytes(b"no graph\nat all")
    record = {"size": 15, "sha256": file_sha256(folder / "model.onnx")}
    change_manifest(lambda manifest: manifest["files"].update({"model.onnx": record}))(folder)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "graph of another size": (cut("model.onnx"), "model.onnx is missing or damaged"),
    "changed graph": (append("model.onnx"), "model.onnx was changed or damaged"),
    "changed tokenizer": (append("tokenizer.json"), "tokenizer.json was changed or damaged"),
    "truncated weights": (cut("model.onnx.data"), "model.onnx.data is missing or damaged"),
    "no weights": (lambda f: (f / "model.onnx.data").unlink(), "model.onnx.data is missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not an exported folder"),
    "manifest is no JSON": (cut("manifest.json"), "manifest.json cannot be read"),
    "manifest is a list": (replace("manifest.json", "[]"), "format version None"),
    "newer version": (
        change_manifest(lambda m: m.update(format_version=99)),
        "format version 99",
    ),
    "a key is missing": (change_manifest(lambda m: m.pop("n_tokens")), "is not a manifest"),
    "a file is not listed": (
        change_manifest(lambda m: m["files"].pop("model.onnx")),
        "model.onnx is missing or damaged",
    ),
    "no graph": (no_graph, "onnxruntime cannot load"),
    "another model's facts": (
        change_manifest(lambda m: m["architecture"].update(n_layers=5)),
        "onnxruntime cannot load",
    ),
    "a context beyond the rotary tables": (
        change_manifest(
            lambda m: (m.update(context_length=99), m["architecture"].update(context_length=99))
        ),
        "onnxruntime cannot load",
    ),
    "another family": (
        change_manifest(lambda m: m["architecture"].update(family="mamba")),
        "is not a manifest",
    ),
    "another cache": (
        change_manifest(lambda m: m.update(kv_cache_type="int8")),
        "a cache of type 'int8'",
    ),
    "another precision": (
        change_manifest(lambda m: m.update(precision="fp3")),
        "the precision 'fp3'",
    ),
    "another device": (
        change_manifest(lambda m: m.update(device="tpu")),
        "the device 'tpu'",
    ),
    "too few layers": (
        change_manifest(lambda m: m["architecture"].update(n_layers=1)),
        "onnxruntime cannot load",
    ),
    "another vocabulary": (
        change_manifest(lambda m: m["architecture"].update(vocab_size=300)),
        "onnxruntime cannot load",
    ),
    "a longer context": (
        change_manifest(lambda m: m.update(context_length=65)),
        "contradicts itself",
    ),
    "an end beyond the vocabulary": (
        change_manifest(lambda m: m.update(eos_token_id=288)),
        "contradicts itself",
    ),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_refused_in_one_line(
    change: Callable[[Path], None], reason: str, exported: Path
) -> None:
    """A folder that was changed or cut says so, and what to do about it."""
    Engine.open(exported)
    change(exported)

    with pytest.raises(ModelLoadError, match=reason) as caught:
        Engine.open(exported)

    assert str(exported) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_cpu_folder_is_not_run_on_cuda(exported: Path) -> None:
    """A device that the folder was not exported for is refused with what to do."""
    with pytest.raises(ModelLoadError, match="exported for cpu, not for cuda") as caught:
        Engine.open(exported, "cuda")

    assert "--device cuda" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    Engine.open(exported, "cpu")


def test_an_old_onnxruntime_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions compute the rotary part wrongly, so they are not tried."""
    monkeypatch.setattr(ort, "__version__", "1.30.2")

    with pytest.raises(ModelLoadError, match=r"1\.30\.2 is too old"):
        Engine.open(exported)
