"""From the text before the cursor to token ids that fit the model; pure.

It cuts old text in large steps, so that the cache's prefix survives typing, and backs
up over a half-typed word, so that the model meets only tokens that it was trained on. Of
old Python what is in use stays, which ``packing`` decides.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lsp_server.packing import condensed
from lsp_server.turns import Turn

if TYPE_CHECKING:
    from lsp_server.vocabulary import Encoded

_STEPS = (2048, 512, 128)
"""Characters between two places where a prompt may start, the best first."""
CHARACTERS_PER_TOKEN = 8
"""More text than this for each token of the budget is never encoded."""
_USUAL_CHARACTERS_PER_TOKEN = 4
"""Text of which so much for each token does not fit anyway need not be encoded farther."""
_HEAD_SHARE = 4
"""One in so many tokens may stand for text that the others have no room for."""
_ABOVE_SHARE = 8
"""The same of what other files hold."""
_HEAD_CHARACTERS_PER_TOKEN = (4, 3, 2, 1)
"""How many of a head's characters go into a token, tried in turn."""
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


class Beginning(NamedTuple):
    """How a prompt begins, and from where on it is the text as it is."""

    head: list[int]
    start: int


def build_prompt(
    tokenizer: TextTokenizer,
    text: str,
    turns: Sequence[Turn],
    *,
    n_tokens: int,
    heal: bool,
    eos_token_id: int,
    condense: bool = False,
    above: str = "",
) -> Prompt:
    """Return a prompt of at most ``n_tokens`` tokens that ends where ``text`` ends.

    ``turns`` are those of the text, and of what follows it. With ``condense``, which is
    for Python, old text that does not fit leaves what is in use. ``above`` is put before all.

    With ``heal`` the last pre-token is left to the model: ``retu`` may then become
    ``return``, which is one token, instead of two odd ones. A prompt that would be empty
    is the end-of-text id, after which a new file begins.
    """
    head, start = beginning(tokenizer, text, turns, n_tokens, condense=condense, above=above)
    n_left = n_tokens - len(head)
    prompt = newest_tokens(tokenizer, text[start:], n_tokens=n_left, heal=heal)
    return Prompt([*head, *prompt.token_ids] or [eos_token_id], prompt.required)


def beginning(
    tokenizer: TextTokenizer,
    text: str,
    turns: Sequence[Turn],
    n_tokens: int,
    *,
    condense: bool,
    above: str = "",
) -> Beginning:
    """Return how a prompt of at most ``n_tokens`` tokens begins: a text that fits, as it is."""
    if above:
        first = _first_lines(tokenizer, above, n_tokens // _ABOVE_SHARE)
        n_left = n_tokens - len(first)
        head, start = beginning(tokenizer, text, turns, n_left, condense=condense)
        return Beginning([*first, *head], start)
    starts = [turn.start for turn in turns if not turn.indent]
    if _fits(text, n_tokens):
        return Beginning([], 0)
    window = _window(tokenizer, text, n_tokens)
    start = _start_in(window, text, starts, n_tokens)
    n_head = n_tokens // _HEAD_SHARE
    if start == 0 or not condense or n_head == 0:
        return Beginning([], start)
    later = _start_in(window, text, starts, n_tokens - n_head)
    step = _step_in(window, len(text), n_tokens)
    for rate in _HEAD_CHARACTERS_PER_TOKEN:
        old = condensed(text, later, turns, step=step, n_characters=rate * n_head)
        token_ids = tokenizer.encode(old).token_ids
        if len(token_ids) <= n_head:
            return Beginning(token_ids, later) if token_ids else Beginning([], start)
    return Beginning([], start)


def _first_lines(tokenizer: TextTokenizer, text: str, n_tokens: int) -> list[int]:
    """Return the tokens of as many whole lines of a text as fit."""
    encoded = tokenizer.encode(text)
    if len(encoded.token_ids) <= n_tokens:
        return encoded.token_ids
    whole = text[: text.rfind("\n", 0, encoded.spans[n_tokens][0]) + 1]
    token_ids = tokenizer.encode(whole).token_ids
    return token_ids if len(token_ids) <= n_tokens else []


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
    if _fits(text, n_tokens):
        return 0
    return _start_in(_window(tokenizer, text, n_tokens), text, turn_starts, n_tokens)


class _Window(NamedTuple):
    """The tokens' spans of the end of a text, and where that begins."""

    base: int
    spans: list[tuple[int, int]]


def _fits(text: str, n_tokens: int) -> bool:
    """Tell whether a text fits for sure: no token is shorter than a byte."""
    return len(text) <= n_tokens and len(text.encode("utf-8", "surrogatepass")) <= n_tokens


def _window(tokenizer: TextTokenizer, text: str, n_tokens: int) -> _Window:
    for rate in (_USUAL_CHARACTERS_PER_TOKEN, CHARACTERS_PER_TOKEN):
        base = max(0, len(text) - n_tokens * rate)
        base -= base % _STEPS[0]
        spans = tokenizer.encode(text[base:]).spans
        if base == 0 or len(spans) > n_tokens:
            break
    return _Window(base, spans)


def _step_in(window: _Window, end: int, n_tokens: int) -> int:
    # The rarer a start moves the better, but half of the budget has to stay in use.
    n_characters = end - window.base
    fitting = (s for s in _STEPS if 2 * s * len(window.spans) <= n_tokens * n_characters)
    return next(fitting, _STEPS[-1])


def _start_in(window: _Window, text: str, turn_starts: Sequence[int], n_tokens: int) -> int:
    base, spans = window
    step = _step_in(window, len(text), n_tokens)
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
