"""A tokenizer of bytes and an engine that recites, so that no test needs a model."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from lsp_server.infill import InfillTokens
from lsp_server.sampling import BoolArray
from lsp_server.serving_model import Model
from lsp_server.vocabulary import Encoded, Vocabulary

EOS = 256
INFILL_TOKENS = InfillTokens(mask=257, separator=258, end_of_text=EOS)
VOCAB_SIZE = 259
_PRE_TOKEN = re.compile(r"\s+(?!\S)| ?\w+| ?[^\s\w]+|\s+")
_SURROGATE = re.compile("[\ud800-\udfff]")

Script = str | Callable[[str], str]


class ByteTokenizer:
    """One token a byte, in GPT-2's pre-tokens; what comes after 255 stands for no text."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary({byte: bytes([byte]) for byte in range(256)})

    def encode(self, text: str) -> Encoded:
        """Return a token for each byte."""
        text = _SURROGATE.sub("\ufffd", text)
        encoded = Encoded([], [], [])
        for number, match in enumerate(_PRE_TOKEN.finditer(text)):
            for index in range(*match.span()):
                data = text[index].encode()
                encoded.token_ids.extend(data)
                encoded.spans.extend([(index, index + 1)] * len(data))
                encoded.pre_tokens.extend([number] * len(data))
        return encoded

    def decode_bytes(self, token_ids: list[int]) -> bytes:
        """Return the bytes of the tokens."""
        return bytes(token_id for token_id in token_ids if token_id < EOS)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of the tokens."""
        return self.decode_bytes(token_ids).decode("utf-8", "replace")


def log_probability(token_id: int) -> float:
    """Return what ``ScriptedEngine`` thinks of a token, wherever it stands."""
    return -(1 + token_id) / 100


@dataclass(frozen=True)
class Call:
    """What one generation was asked."""

    prompt: str
    token_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int | None


class ScriptedEngine:
    """Writes the script's text after any prompt, within what ``allowed`` lets through.

    A byte that must come is written even where the script has another, which then comes
    after it; where there is a choice the script skips to its next byte that may come.
    """

    def __init__(self, script: Script, context_length: int = 2048) -> None:
        self.eos_token_id = EOS
        self.vocab_size = VOCAB_SIZE
        self.context_length = context_length
        self.reused_tokens = 0
        self.cache_type = "float32"
        self.script = script
        self.calls: list[Call] = []
        self.n_generated = 0
        self.error: Exception | None = None
        """Raised in place of the next token."""
        self.gate = threading.Event()
        """While it is clear, every token waits for it."""
        self.gate.set()
        self.is_waiting = threading.Event()
        """Set once a token waits for the gate."""
        self.hold_after: int | None = None
        """So many tokens of the next generation clear the gate."""
        self._cached: list[int] = []

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: threading.Event | None = None,
        allowed: Callable[[list[int]], BoolArray | None] | None = None,
        draft: Callable[[list[int]], list[int]] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield the script's tokens and their log-probabilities."""
        context = list(token_ids)
        assert 0 < len(context) < self.context_length
        prompt = ByteTokenizer().decode(context)
        self.calls.append(Call(prompt, tuple(context), max_new_tokens, temperature, seed))
        pairs = zip(self._cached, context[:-1], strict=False)
        self.reused_tokens = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        text = self.script if isinstance(self.script, str) else self.script(prompt)
        script = list(text.encode("utf-8", "replace"))
        generated: list[int] = []
        for n_generated in range(min(max_new_tokens, self.context_length - len(context))):
            if n_generated == self.hold_after:
                self.hold_after = None
                self.gate.clear()
            self._wait(stop)
            if self.error is not None:
                raise self.error
            if stop is not None and stop.is_set():
                return
            mask = None if allowed is None else allowed(generated)
            token_id = _next(script, mask)
            if token_id is None:
                return
            generated.append(token_id)
            self._cached = context + generated
            self.n_generated += 1
            yield token_id, log_probability(token_id)

    def forget(self) -> None:
        """Empty the cache."""
        self._cached = []

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Have the prompt in the cache, unless nobody wants that any more."""
        if not stop.is_set():
            self._cached = list(token_ids)

    def prefill_ms(self, token_ids: Sequence[int]) -> float:
        """Return a millisecond for each token that is not in the cache."""
        pairs = zip(self._cached, token_ids, strict=False)
        return len(token_ids) - sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)
        )

    def n_tokens_within(self, budget_ms: float) -> int:
        """Return a token for each millisecond."""
        return min(int(budget_ms), self.context_length)

    def log_probabilities(
        self, token_ids: Sequence[int], start: int
    ) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return ``log_probability`` of each id from ``start`` on."""
        assert 1 <= start < len(token_ids) <= self.context_length
        return np.array([log_probability(i) for i in token_ids[start:]], np.float32)

    def _wait(self, stop: threading.Event | None) -> None:
        while not self.gate.is_set():
            self.is_waiting.set()
            if stop is not None and stop.is_set():
                return
            self.gate.wait(0.01)


def _next(script: list[int], mask: BoolArray | None) -> int | None:
    if mask is not None and np.count_nonzero(mask) == 1:
        forced = int(mask.argmax())
        if script and script[0] == forced:
            script.pop(0)
        return forced
    while script:
        token_id = script.pop(0)
        if mask is None or mask[token_id]:
            return token_id
    return None


def fake_model(
    script: Script, context_length: int = 2048, infill_tokens: InfillTokens | None = None
) -> Model:
    """Return a model that writes the script's text, whatever it is asked."""
    engine = ScriptedEngine(script, context_length)
    return Model("fake", engine, ByteTokenizer(), infill_tokens=infill_tokens)
