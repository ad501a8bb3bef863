"""From the text before the cursor to token ids that fit the model; pure.

It cuts old text in large steps, so that the cache's prefix survives typing, and backs
up over a half-typed word, so that the model meets only tokens that it was trained on.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lsp_server.vocabulary import Encoded

_STEPS = (2048, 512, 128)
"""Characters between two places where a prompt may start, the best first."""
CHARACTERS_PER_TOKEN = 8
"""More text than this for each token of the budget is never encoded."""
_LONGEST_HEALED = 16
"""Tokens of a word that are written again at most; a longer one stands as it is."""


class TextTokenizer(Protocol):
    """What this module needs of a tokenizer."""

    def encode(self, text: str) -> "Encoded":
        """Return token ids, spans and pre-token numbers of a text."""

    def decode_bytes(self, token_ids: list[int]) -> bytes:
        """Return the UTF-8 bytes of tokens."""


@dataclass(frozen=True)
class Prompt:
    """Token ids for the engine and the bytes that its answer must begin with."""

    token_ids: list[int]
    required: bytes
    """The end of the text that the token ids leave out, to be generated again."""


def build_prompt(
    tokenizer: TextTokenizer,
    text: str,
    turn_starts: Sequence[int],
    *,
    n_tokens: int,
    heal: bool,
    eos_token_id: int,
) -> Prompt:
    """Return a prompt of at most ``n_tokens`` tokens that ends where ``text`` ends.

    With ``heal`` the last pre-token is left to the model: ``retu`` may then become
    ``return``, which is one token, instead of two odd ones. A prompt that would be empty
    is the end-of-text id, after which a new file begins.
    """
    start = prompt_start(tokenizer, text, turn_starts, n_tokens)
    prompt = newest_tokens(tokenizer, text[start:], n_tokens=n_tokens, heal=heal)
    return Prompt(prompt.token_ids or [eos_token_id], prompt.required)


def newest_tokens(tokenizer: TextTokenizer, text: str, *, n_tokens: int, heal: bool) -> Prompt:
    """Return the end of a text, at most ``n_tokens`` tokens, healed; it may be empty."""
    encoded = tokenizer.encode(text)
    # Where a text starts is exact but for merges across it, so the newest tokens are kept.
    token_ids = encoded.token_ids[-n_tokens:]
    n_healed = 0
    if heal and token_ids:
        n_last = encoded.pre_tokens.count(encoded.pre_tokens[-1])
        n_healed = n_last if n_last <= min(_LONGEST_HEALED, len(token_ids)) else 0
    kept = token_ids[: len(token_ids) - n_healed]
    return Prompt(kept, tokenizer.decode_bytes(token_ids[len(kept) :]))


def prompt_start(
    tokenizer: TextTokenizer, text: str, turn_starts: Sequence[int], n_tokens: int
) -> int:
    """Return where the prompt starts so that the text from there fits ``n_tokens``.

    It is the beginning of a turn or line after a multiple of a fixed number of
    characters, so it moves only after that many were typed, and whole turns leave first.
    """
    # No token is shorter than a byte.
    if len(text) <= n_tokens and len(text.encode("utf-8", "surrogatepass")) <= n_tokens:
        return 0
    base = max(0, len(text) - n_tokens * CHARACTERS_PER_TOKEN)
    base -= base % _STEPS[0]
    spans = tokenizer.encode(text[base:]).spans
    # The rarer a start moves the better, but half of the budget has to stay in use.
    n_characters = len(text) - base
    fitting = (s for s in _STEPS if 2 * s * len(spans) <= n_tokens * n_characters)
    step = next(fitting, _STEPS[-1])
    for position in range(base, len(text), step):
        start = _snapped(text, turn_starts, position, step // 4)
        n_kept = _n_tokens_after(spans, start - base)
        if n_kept <= n_tokens and (start == 0 or n_kept >= n_tokens // 4):
            return start
    return base + spans[max(0, len(spans) - n_tokens)][0]


def _snapped(text: str, turn_starts: Sequence[int], position: int, within: int) -> int:
    """Return the first turn, else line, that starts soon after ``position``, else it."""
    if position == 0:
        return 0
    limit = min(position + within, len(text))
    index = bisect_left(turn_starts, position)
    if index < len(turn_starts) and turn_starts[index] < limit:
        return turn_starts[index]
    newline = text.find("\n", position - 1, limit)
    return position if newline < 0 else newline + 1


def _n_tokens_after(spans: list[tuple[int, int]], offset: int) -> int:
    return len(spans) - bisect_left(spans, (offset, offset))
