"""The choice of a token: what can be chosen, and how often it is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.sampling import BoolArray, FloatArray, choose_token, log_softmax

N_DRAWS = 4000
LOGITS: FloatArray = np.array([1.0, 3.0, 2.0, -1.0, 2.5], np.float32)
ALL: BoolArray = np.ones(5, np.bool_)


def drawn(
    temperature: float, top_k: int = 0, top_p: float = 1.0, allowed: BoolArray = ALL
) -> dict[int, float]:
    """Return how often each token was drawn."""
    rng = np.random.default_rng(7)
    tokens = [
        choose_token(LOGITS, allowed, rng, temperature=temperature, top_k=top_k, top_p=top_p)
        for _ in range(N_DRAWS)
    ]
    return {token: tokens.count(token) / N_DRAWS for token in tokens if token is not None}


def expected(temperature: float, tokens: list[int]) -> dict[int, float]:
    """Return the softmax over some tokens alone."""
    weights = {token: math.exp(float(LOGITS[token]) / temperature) for token in tokens}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "banned", "tokens"),
    [
        (1.0, 0, 1.0, [], [0, 1, 2, 3, 4]),
        (0.5, 0, 1.0, [], [0, 1, 2, 3, 4]),
        (2.0, 0, 1.0, [], [0, 1, 2, 3, 4]),
        (1.0, 1, 1.0, [], [1]),
        (1.0, 3, 1.0, [], [1, 4, 2]),
        (1.0, 9, 1.0, [], [0, 1, 2, 3, 4]),
        # The probabilities of 1, 4, 2, 0, 3 are 0.47, 0.28, 0.17, 0.06 and 0.01.
        (1.0, 0, 0.4, [], [1]),
        (1.0, 0, 0.5, [], [1, 4]),
        (1.0, 0, 0.9, [], [1, 4, 2]),
        (1.0, 0, 0.0, [], [1]),
        # Of the two likeliest alone the first has 0.62.
        (1.0, 2, 0.6, [], [1]),
        (1.0, 2, 0.7, [], [1, 4]),
        (1.0, 0, 1.0, [1, 3], [0, 2, 4]),
        (1.0, 2, 1.0, [1], [4, 2]),
        (0.01, 0, 1.0, [], [1]),
    ],
)
def test_draws_follow_the_distribution(
    temperature: float, top_k: int, top_p: float, banned: list[int], tokens: list[int]
) -> None:
    """Temperature, then the likeliest k, then the smallest set that reaches p."""
    allowed = ALL.copy()
    allowed[banned] = False
    shares = drawn(temperature, top_k, top_p, allowed)
    for token, share in expected(temperature, tokens).items():
        # Four standard deviations of a share of so many draws.
        assert shares.get(token, 0.0) == pytest.approx(share, abs=2 / math.sqrt(N_DRAWS))
    assert set(shares) <= set(tokens)


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8),
    data=st.data(),
)
def test_greedy_is_the_likeliest_that_is_allowed(
    logits: list[float], data: st.DataObject
) -> None:
    """Without temperature the best allowed token wins, the first of equal ones."""
    mask = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)))
    token = choose_token(
        np.array(logits, np.float32),
        np.array(mask),
        np.random.default_rng(0),
        temperature=0.0,
        top_k=3,
        top_p=0.5,
    )
    candidates = [index for index, is_allowed in enumerate(mask) if is_allowed]
    assert token == (max(candidates, key=lambda i: logits[i]) if candidates else None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_chosen_where_nothing_is_allowed(temperature: float) -> None:
    """An empty mask gives no token, greedy or drawn."""
    rng = np.random.default_rng(0)
    nothing = np.zeros(5, np.bool_)
    chosen = choose_token(LOGITS, nothing, rng, temperature=temperature, top_k=0, top_p=1.0)
    assert chosen is None


def test_the_seed_decides_the_draws() -> None:
    """The same seed gives the same tokens, another one gives others."""

    def tokens(seed: int) -> list[int | None]:
        rng = np.random.default_rng(seed)
        return [
            choose_token(LOGITS, ALL, rng, temperature=1.0, top_k=0, top_p=1.0)
            for _ in range(50)
        ]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_log_softmax_agrees_with_the_definition(rows: list[list[float]]) -> None:
    """Each row is its logits less the logarithm of their summed exponentials."""
    result = log_softmax(np.array(rows, np.float32))
    for row, values in zip(rows, result, strict=True):
        largest = max(row)
        total = largest + math.log(math.fsum(math.exp(x - largest) for x in row))
        # Large logits leave float32 no more than this.
        assert values == pytest.approx([x - total for x in row], abs=5e-3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_large_vocabularies_are_sampled_as_small_ones_are(seed: int, spread: float) -> None:
    """Looking at the likeliest tokens only changes no choice, flat or steep."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal(5000) * spread, 2).astype(np.float32)
    allowed = rng.random(5000) < 0.9

    def chosen() -> int | None:
        return choose_token(
            logits,
            allowed,
            np.random.default_rng(seed),
            temperature=0.6,
            top_k=0,
            top_p=0.95,
        )

    fast = chosen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp_server.sampling._ENOUGH", 5000)
        assert chosen() == fast
