"""The best of several samples, and intervals."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_eval.scores import best_of, bootstrap_interval, paired_difference, ratio_interval

VALUES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=7)


@given(VALUES, st.data())
def test_the_best_of_some_is_the_mean_over_all_draws(
    values: list[float], data: st.DataObject
) -> None:
    """The closed form is what drawing every subset and taking its greatest gives."""
    k = data.draw(st.integers(1, len(values)))
    draws = [max(draw) for draw in combinations(values, k)]
    assert best_of(values, k) == pytest.approx(sum(draws) / len(draws))


@pytest.mark.parametrize("k", [0, 3])
def test_more_than_there_are_cannot_be_drawn(k: int) -> None:
    """A wrong number of samples is an error, and no figure."""
    with pytest.raises(ValueError, match="of 2 samples"):
        best_of([0.0, 1.0], k)


def test_what_is_the_same_everywhere_is_certain() -> None:
    """Without differences between groups the interval is a point."""
    assert bootstrap_interval([[0.5, 0.5], [0.5]]) == (0.5, 0.5)
    assert ratio_interval([[(1, 2)], [(2, 4), (1, 2)]]) == (0.5, 0.5)


def test_values_of_a_group_come_and_go_together() -> None:
    """Two files of ten like values each say no more than two values do."""
    grouped = bootstrap_interval([[0.0] * 10, [1.0] * 10])
    alone = bootstrap_interval([[0.0], [1.0]] * 10)
    assert grouped == (0.0, 1.0)
    assert 0.0 < alone[0] < 0.5 < alone[1] < 1.0


def test_a_lower_level_is_a_narrower_interval() -> None:
    """The lower end at 90 % is what is exceeded at 95 %, one-sided."""
    groups = [[float(value)] for value in range(20)]
    wide, narrow = bootstrap_interval(groups), bootstrap_interval(groups, level=0.9)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_nothing_below_is_no_ratio() -> None:
    """A share of nothing is not divided by zero."""
    assert ratio_interval([[(0.0, 0.0)]]) == (0.0, 0.0)


def test_a_paired_difference_knows_what_is_evidence() -> None:
    """The same small gain everywhere is evidence; the same mean by chance is none."""
    base = [0.1 * (n % 10) for n in range(40)]
    certain = paired_difference([value + 0.05 for value in base], base)
    assert certain.is_evidence
    assert certain.low == pytest.approx(certain.mean) == pytest.approx(0.05)
    noise = [value + (2.0 if n == 0 else 0.0) for n, value in enumerate(base)]
    chance = paired_difference(noise, base)
    assert chance.mean == pytest.approx(0.05)
    assert not chance.is_evidence
    assert chance.text().endswith("no evidence")
    assert not paired_difference([], []).is_evidence


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_few_problems_are_no_evidence(sign: float) -> None:
    """Not even where all of them differ, and by as much as can be."""
    for n in range(1, 6):
        assert not paired_difference([sign] * n, [0.0] * n).is_evidence
    assert paired_difference([sign] * 6, [0.0] * 6).is_evidence
