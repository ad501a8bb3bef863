"""What completions need of an engine and a tokenizer, and the two together.

It knows no engine of its own, so that tests can bring theirs.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lsp_server.drafting import DraftSources
from lsp_server.infill import InfillTokens
from lsp_server.prompt import TextTokenizer

if TYPE_CHECKING:
    # The server answers ``initialize`` before numpy is loaded.
    from lsp_server.sampling import BoolArray, FloatArray
    from lsp_server.vocabulary import Vocabulary


class TokenEngine(Protocol):
    """What a completion needs of ``lsp_server.engine.Engine``."""

    eos_token_id: int
    vocab_size: int
    context_length: int
    reused_tokens: int
    cache_type: str

    def forget(self) -> None:
        """Empty the caches."""

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
        allowed: "Callable[[list[int]], BoolArray | None] | None" = None,
        draft: Callable[[list[int]], list[int]] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield token ids and their log-probabilities."""

    def log_probabilities(self, token_ids: Sequence[int], start: int) -> "FloatArray":
        """Return the log-probability of each id from ``start`` on."""

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Read a prompt into a cache."""

    def prefill_ms(self, token_ids: Sequence[int]) -> float:
        """Return how long reading what is in no cache would take."""

    def n_tokens_within(self, budget_ms: float) -> int:
        """Return how many tokens of a prompt can be read within the budget."""


class CodeTokenizer(TextTokenizer, Protocol):
    """What a completion needs of ``lsp_server.tokenizer.Tokenizer``."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of tokens."""

    @property
    def vocabulary(self) -> "Vocabulary":
        """The bytes of every token that stands for text."""


@dataclass(frozen=True)
class Model:
    """An engine and the tokenizer that belongs to it."""

    name: str
    engine: TokenEngine
    tokenizer: CodeTokenizer
    notice: str = ""
    """What a person should know of how it runs."""
    draft_sources: DraftSources = field(default_factory=DraftSources)
    infill_tokens: InfillTokens | None = None
    """None where the model was not trained to infill."""
    perplexity_threshold: float | None = None
    """Of a prompt, from which on it is unclear to this model; None: nobody knows."""
