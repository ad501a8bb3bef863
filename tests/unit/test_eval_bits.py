"""Bits for each byte: which tokens are scored, in which context, and what that comes to."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.sampling import FloatArray
from model_eval.bits import (
    bit_costs,
    bit_figures,
    file_costs,
    n_read,
    same_best,
    score_text,
    windows,
)
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer


class Uniform:
    """Finds every token equally likely; keeps what it was asked."""

    eos_token_id = EOS
    context_length = 64

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Return zeros."""
        self.asked.append(list(token_ids))
        return np.zeros((len(token_ids), VOCAB_SIZE), np.float32)


@given(st.integers(0, 60), st.data())
def test_each_token_is_scored_once(n_tokens: int, data: st.DataObject) -> None:
    """Whatever the window and the stride, every id is scored once, after eos and context."""
    size = data.draw(st.integers(2, 20))
    stride = data.draw(st.integers(1, size - 1))
    ids = list(range(n_tokens))
    scored: list[int] = []
    total = 0
    for window in windows(ids, -1, size=size, stride=stride):
        assert window.token_ids[0] == -1
        assert len(window.token_ids) <= size
        assert window.first >= 1
        start = len(scored) - (window.first - 1)
        assert window.token_ids[1:] == ids[start : start + len(window.token_ids) - 1]
        scored += window.token_ids[window.first :]
        total += len(window.token_ids)
    assert scored == ids
    assert n_read(n_tokens, size=size, stride=stride) == total


def test_a_later_window_repeats_the_end_of_the_one_before() -> None:
    """With a stride of half, a token beyond the first window has half a window before it."""
    found = list(windows(range(11), 99, size=5, stride=2))
    assert found[0] == ([99, 0, 1, 2, 3], 1)
    assert found[1] == ([99, 2, 3, 4, 5], 3)
    assert found[-1] == ([99, 7, 8, 9, 10], 4)


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (4, 0), (1, 1)])
def test_a_stride_that_leaves_gaps_is_refused(size: int, stride: int) -> None:
    """Nothing may be skipped, and a window without context says nothing."""
    with pytest.raises(ValueError, match="cannot begin"):
        list(windows([1], 0, size=size, stride=stride))


def test_equally_likely_tokens_take_the_logarithm_of_their_number() -> None:
    """One byte a token of so many makes exactly so many bits for each byte, é's two too."""
    engine, text = Uniform(), "x = 'é'\n" * 9
    scored = score_text(engine, ByteTokenizer(), text, size=64, stride=32)
    assert sum(scored.n_bytes) == sum(scored.n_tokens) == len(text.encode())
    figures = bit_figures([{"file": "a", **vars(scored)}])
    bits = [row["bits_per_byte"] for row in figures["positions"]]
    assert bits == pytest.approx([math.log2(VOCAB_SIZE)] * len(bits))
    assert figures["positions"][0]["perplexity"] == pytest.approx(VOCAB_SIZE)
    assert all(ids[0] == EOS for ids in engine.asked)


def test_a_token_counts_where_it_stands() -> None:
    """The ranges are of the tokens before, eos among them."""
    engine = Uniform()
    scored = score_text(engine, ByteTokenizer(), "a" * 1100, size=2048, stride=1024)
    assert scored.n_tokens == [512, 512, 76]


def line(file: str, nats: float, best: list[int]) -> dict[str, object]:
    """Return a record's line of ten bytes at the first positions."""
    return {
        "file": file,
        "nats": [nats, 0, 0],
        "n_bytes": [10, 0, 0],
        "n_tokens": [5, 0, 0],
        "best": best,
    }


def test_a_cost_is_paired_by_file() -> None:
    """A rise that every file has is certain; files that one run lacks are left out."""
    base = [line("a", 10, [1, 2]), line("b", 100, [3])]
    ours = [line("a", 11, [1, 9]), line("b", 110, [3]), line("c", 5, [4])]
    costs = bit_costs(ours, base)
    assert [cost["positions"] for cost in costs] == ["all", "0-512"]
    assert costs[0]["rise"] == pytest.approx(0.1)
    assert costs[0]["interval"] == pytest.approx((0.1, 0.1))
    assert same_best(ours, base) == pytest.approx(2 / 3)
    by_file = [bit_figures(lines)["by_file"] for lines in (ours, base)]
    assert file_costs(*by_file)["rise"] == pytest.approx(0.1)
