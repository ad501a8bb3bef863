"""Evaluation mode: what a model writes after a text, the same every time.

A case begins with empty caches, prompts are read in chunks of one size, nothing is guessed,
steered or repaired, and a seed is made of what tells a sample from all others. So a sample
is the same whether a run was broken off before it or not. It knows nothing of what is
measured.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from lsp_server.prompt import newest_tokens
from lsp_server.serving_model import Model

Cut = Callable[[str], str | None]
"""Returns what counts of a text once its end is known, else None; as in ``truncation``."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; ``top_k`` 0 is all."""

    temperature: float
    top_p: float
    top_k: int = 0


class End(Enum):
    """Why a text ended."""

    CUT = "cut"
    MODEL = "model"
    """The model said that it ends."""
    LIMIT = "limit"


@dataclass(frozen=True)
class Written:
    """What a model wrote, up to the cut."""

    text: str
    end: End
    n_tokens: int
    """How many it took, with those after the cut."""


def seed_of(*parts: object) -> int:
    """Return a seed made of a run's, a problem's, a sample's and a turn's names."""
    data = json.dumps(parts).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def begin_case(model: Model, shared: Sequence[int] = ()) -> None:
    """Empty the caches; then read a prompt that several samples are to share.

    All but its last token is read, so that the first sample finds what every other finds.
    """
    model.engine.forget()
    if len(shared) > 1:
        next(model.engine.generate(shared[:-1], max_new_tokens=1), None)


def prompt_tokens(model: Model, text: str, max_new_tokens: int) -> list[int]:
    """Return the newest tokens of a text that leave room for so many new ones."""
    n_tokens = model.engine.context_length - max_new_tokens
    prompt = newest_tokens(model.tokenizer, text, n_tokens=n_tokens, heal=False)
    return prompt.token_ids or [model.engine.eos_token_id]


def write(
    model: Model,
    token_ids: Sequence[int],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    seed: int,
    cut: Cut,
) -> Written:
    """Return what the model writes after a prompt; it stops as soon as the cut is known."""
    generated: list[int] = []
    text = ""
    for token_id, _ in model.engine.generate(
        token_ids,
        max_new_tokens=max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=seed,
    ):
        generated.append(token_id)
        text = model.tokenizer.decode_bytes(generated).decode("utf-8", "ignore")
        kept = cut(text)
        if kept is not None:
            return Written(kept, End.CUT, len(generated))
    end = End.LIMIT if len(generated) == max_new_tokens else End.MODEL
    return Written(text, end, len(generated))
