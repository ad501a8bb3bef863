"""From one row of logits to one token; pure numpy, knows no model and no text."""

from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
_ENOUGH = 1024
"""Tokens that nearly always hold as much probability as is sampled from."""

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return natural log-probabilities along the last axis, same shape."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total: FloatArray = np.exp(shifted).sum(axis=-1, keepdims=True)
    result: FloatArray = shifted - np.log(total)
    return result


def choose_token(
    logits: FloatArray,
    allowed: BoolArray,
    rng: np.random.Generator,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> int | None:
    """Return the next token id, or None where nothing is allowed.

    ``logits`` and ``allowed`` have shape (vocab_size,). Temperature 0 is greedy. Else
    the order is transformers': temperature, then the ``top_k`` likeliest (0: all), then
    the smallest set whose probability reaches ``top_p`` (Holtzman et al., 2020).
    """
    best = int(logits.argmax())
    if temperature == 0.0 and allowed[best]:
        return best
    masked = np.where(allowed, logits, -np.inf)
    best = int(masked.argmax())
    if not allowed[best]:
        return None
    if temperature == 0.0:
        return best
    order = _likeliest(masked, top_k, temperature, top_p)
    scaled = (masked[order].astype(np.float64) - masked[best]) / temperature
    probabilities = np.exp(scaled)
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        # A token stays while those likelier than it have not reached top_p.
        likelier = np.cumsum(probabilities) - probabilities
        kept = int(np.count_nonzero(likelier < top_p)) or 1
        order, probabilities = order[:kept], probabilities[:kept]
        probabilities /= probabilities.sum()
    return int(rng.choice(order, p=probabilities))


def _likeliest(
    logits: FloatArray, top_k: int, temperature: float, top_p: float
) -> "np.ndarray[Any, np.dtype[np.intp]]":
    """Return the ids to choose from, the likeliest first, of equal ones the lower id."""
    if not top_k and top_p < 1.0 and len(logits) > _ENOUGH:
        # Sorting a whole vocabulary takes half as long as a step of the model.
        some = np.argpartition(-logits, _ENOUGH)[:_ENOUGH]
        # What is left out may equal the least of these, but exceeds none.
        some = some[logits[some] > logits[some].min()]
        weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
        if weights[some].sum() > top_p * weights.sum():
            ranked: np.ndarray[Any, np.dtype[np.intp]] = some[np.lexsort((some, -logits[some]))]
            return ranked
    order = np.argsort(-logits, kind="stable")
    return order[:top_k] if top_k else order
