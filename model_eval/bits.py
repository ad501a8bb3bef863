"""How many bits a model needs for each byte of source text, by how much it sees before it.

Each text is read in windows, each after the id that ends texts. A window begins ``stride``
tokens after the one before it and repeats the rest as context, so every token is scored
once; only the bytes of what is scored count. Nothing here knows where texts come from.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from lsp_server.sampling import FloatArray, log_softmax
from model_eval.scores import ratio_interval

POSITIONS = (0, 512, 1024, 2048)
"""Bounds of the tokens that stand before a token in its window, the one that ends texts too."""
_ROWS = 128


class ScoringEngine(Protocol):
    """What scoring needs of ``lsp_server.engine.Engine``."""

    eos_token_id: int
    context_length: int

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Return the logits (len(token_ids), vocab_size) from an empty cache."""


class ByteTokenizer(Protocol):
    """What scoring needs of ``lsp_server.tokenizer.Tokenizer``."""

    def encode(self, text: str) -> Any:
        """Return what has the text's ``token_ids``."""

    def decode_bytes(self, token_ids: list[int]) -> bytes:
        """Return the bytes of tokens."""


class Window(NamedTuple):
    """Token ids, and where the first one stands that is to be scored."""

    token_ids: list[int]
    first: int


@dataclass(frozen=True)
class Scored:
    """What one text took, by position; ``best`` is the likeliest token at each place."""

    nats: list[float]
    n_bytes: list[int]
    n_tokens: list[int]
    best: list[int]


def windows(token_ids: Sequence[int], eos: int, *, size: int, stride: int) -> Iterator[Window]:
    """Yield windows of ``size`` tokens at most that score each id once.

    Raises:
        ValueError: the stride does not fit the size.
    """
    if not 1 <= stride < size:
        raise ValueError(f"windows of {size} tokens cannot begin every {stride} tokens")
    end = 0
    while end < len(token_ids):
        scored_from = end
        end = min(len(token_ids), end + (stride if end else size - 1))
        start = max(0, end - (size - 1))
        yield Window([eos, *token_ids[start:end]], 1 + scored_from - start)


def n_read(n_tokens: int, *, size: int, stride: int) -> int:
    """Return how many tokens all windows of a text hold together."""
    ids = range(n_tokens)
    return sum(len(window.token_ids) for window in windows(ids, 0, size=size, stride=stride))


def score_text(
    engine: ScoringEngine, tokenizer: ByteTokenizer, text: str, *, size: int, stride: int
) -> Scored:
    """Return what a text takes; each window from an empty cache, in chunks of one size."""
    n_parts = len(POSITIONS) - 1
    scored = Scored([0.0] * n_parts, [0] * n_parts, [0] * n_parts, [])
    token_ids = tokenizer.encode(text).token_ids
    for window in windows(token_ids, engine.eos_token_id, size=size, stride=stride):
        logits = engine.logits(window.token_ids)
        for start in range(window.first, len(window.token_ids), _ROWS):
            wanted = window.token_ids[start : start + _ROWS]
            # A row says what follows its token.
            rows = logits[start - 1 : start - 1 + len(wanted)]
            values = -log_softmax(rows)[np.arange(len(wanted)), wanted]
            scored.best.extend(map(int, rows.argmax(axis=-1)))
            for place, (token_id, value) in enumerate(zip(wanted, values, strict=True), start):
                part = _part(place)
                scored.nats[part] += float(value)
                scored.n_bytes[part] += len(tokenizer.decode_bytes([token_id]))
                scored.n_tokens[part] += 1
    return scored


def _part(n_before: int) -> int:
    bounds = POSITIONS[1:-1]
    return sum(n_before > bound for bound in bounds)


def bit_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return bits per byte of all texts, and at each position; intervals draw whole texts."""
    figures: list[dict[str, Any]] = []
    for name, part in _parts():
        own = [line for line in lines if sum(line["n_bytes"][part])]
        if not own:
            continue
        n_bytes = sum(sum(line["n_bytes"][part]) for line in own)
        figures.append(
            {
                "positions": name,
                "bits_per_byte": _bits(own, part),
                "interval": ratio_interval([[_ratio(line, part)] for line in own]),
                "perplexity": math.exp(
                    sum(sum(line["nats"][part]) for line in own)
                    / sum(sum(line["n_tokens"][part]) for line in own)
                ),
                "n_files": len(own),
                "n_bytes": n_bytes,
                "n_tokens": sum(sum(line["n_tokens"][part]) for line in own),
            }
        )
    return {
        "positions": figures,
        "by_file": {line["file"]: _ratio(line, slice(None)) for line in lines},
    }


def bit_costs(
    lines: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return by what share bits per byte exceed those of a base run on the same texts."""
    costs = []
    by_file = {line["file"]: line for line in base}
    pairs = [(line, by_file[line["file"]]) for line in lines if line["file"] in by_file]
    for name, part in _parts():
        own = [pair for pair in pairs if sum(pair[0]["n_bytes"][part])]
        if not own:
            continue
        nats = [(sum(ours["nats"][part]), sum(theirs["nats"][part])) for ours, theirs in own]
        ours, theirs = map(sum, zip(*nats, strict=True))
        low, high = ratio_interval([[pair] for pair in nats])
        costs.append(
            {
                "positions": name,
                "rise": ours / theirs - 1,
                "interval": (low - 1, high - 1),
                "n_files": len(own),
            }
        )
    return costs


def file_costs(
    ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return by what share bits of the files that both runs have exceed those of another."""
    pairs = [(ours[name][0], theirs[name][0]) for name in sorted(ours.keys() & theirs.keys())]
    low, high = ratio_interval([[pair] for pair in pairs])
    above, below = map(sum, zip(*pairs, strict=True))
    return {"rise": above / below - 1, "interval": (low - 1, high - 1), "n_files": len(pairs)}


def same_best(
    lines: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]
) -> float | None:
    """Return how often the likeliest token is that of a base run; None without tokens."""
    by_file = {line["file"]: line["best"] for line in base}
    pairs = [
        pair
        for line in lines
        if line["file"] in by_file
        for pair in zip(line["best"], by_file[line["file"]], strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def _parts() -> Iterator[tuple[str, slice]]:
    """Yield the name of each range of positions and what of the sums it is, all first."""
    yield "all", slice(None)
    for index, (start, end) in enumerate(pairwise(POSITIONS)):
        yield f"{start:,}-{end:,}", slice(index, index + 1)


def _ratio(line: Mapping[str, Any], part: slice) -> tuple[float, float]:
    return sum(line["nats"][part]) / math.log(2), sum(line["n_bytes"][part])


def _bits(lines: Sequence[Mapping[str, Any]], part: slice) -> float:
    bits, n_bytes = map(sum, zip(*(_ratio(line, part) for line in lines), strict=True))
    return float(bits / n_bytes)
