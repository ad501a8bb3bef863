"""How much the prompt of a turn surprises a model. It knows nothing of completions."""

import math
import threading

from lsp_server.plan import Snapshot, window_of
from lsp_server.prompt import prompt_start
from lsp_server.serving_model import Model
from lsp_server.turns import Turn, read_turns, turn_at

_CHUNK = 32
"""Tokens after which a request that came meanwhile is seen."""


def prompt_perplexity(model: Model, snapshot: Snapshot) -> float | None:
    """Return the perplexity of the prompt of the turn at the cursor, None without one."""
    text, offset = window_of(snapshot)
    turn = turn_at(read_turns(text, snapshot.language_id), offset)
    return None if turn is None else turn_perplexity(model, text, turn, threading.Event())


def turn_perplexity(model: Model, text: str, turn: Turn, stop: threading.Event) -> float | None:
    """Return the perplexity of a turn's prompt, None where it has no tokens.

    It is over the prompt's own tokens, without comment marks and newlines, each given
    all text before it (Nijkamp et al., 2022, section 4.3). ``stop`` ends it soon, also
    with None.
    """
    values = prompt_log_probabilities(model, text, turn, stop)
    return math.exp(-sum(values) / len(values)) if values else None


def prompt_log_probabilities(
    model: Model, text: str, turn: Turn, stop: threading.Event
) -> list[float]:
    """Return the natural log-probability of each of a prompt's own tokens; none on ``stop``."""
    n_tokens = model.engine.context_length
    start = prompt_start(model.tokenizer, text[: turn.prompt_end], [], n_tokens)
    encoded = model.tokenizer.encode(text[start : turn.prompt_end])
    # Merges across the start can make it a token more.
    first = max(0, len(encoded.token_ids) - n_tokens)
    own = [
        index
        for index, span in enumerate(encoded.spans)
        if index > first and _lies_in(span, turn, start)
    ]
    if not own:
        return []
    token_ids = encoded.token_ids[first : own[-1] + 1]
    model.engine.prefill(token_ids[: own[0] - first], stop)
    values: list[float] = []
    for start in range(own[0] - first, len(token_ids), _CHUNK):
        if stop.is_set():
            return []
        part = token_ids[: start + _CHUNK]
        values += map(float, model.engine.log_probabilities(part, start))
    return [values[index - own[0]] for index in own]


def _lies_in(span: tuple[int, int], turn: Turn, start: int) -> bool:
    # A token may begin with the space between the comment mark and the word.
    return any(
        first - 1 <= span[0] + start and first < span[1] + start <= end
        for first, end in turn.prompt_spans
    )
