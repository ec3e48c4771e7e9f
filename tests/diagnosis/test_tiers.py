from __future__ import annotations

from math import inf, nan, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.diagnosis.tiers import TIERS, count_tiers, tier_of


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (0.0, "below"), (0.1, "easy"), (0.4, "normal"), (0.5964, "normal"), (0.7, "hard"), (1.0, "unfair"),
        (inf, "unfair"),
    ],
)  # fmt: skip
def test_an_edge_belongs_to_the_higher_tier(value, tier):
    assert tier_of(value, 0.1) == tier


@pytest.mark.parametrize(("edge", "lower"), [(0.1, "below"), (0.4, "easy"), (0.7, "normal"), (1.0, "hard")])
def test_just_under_an_edge_is_the_lower_tier(edge, lower):
    assert tier_of(nextafter(edge, 0), 0.1) == lower


def test_tau_moves_only_the_lowest_edge():
    assert [tier_of(value, 0.2) for value in (0.15, 0.2, 0.4, 1.0)] == ["below", "easy", "normal", "unfair"]
    assert [tier_of(value, 0.5) for value in (0.45, 0.5, 0.7)] == ["below", "normal", "hard"]
    assert [tier_of(value, 2.0) for value in (1.5, 2.0)] == ["below", "unfair"]


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0.01, 3))
def test_more_entropy_is_never_a_lower_tier(left, right, tau):
    low, high = sorted((left, right))
    assert TIERS.index(tier_of(low, tau)) <= TIERS.index(tier_of(high, tau))


@pytest.mark.parametrize("value", [nan, -0.1])
def test_what_is_not_an_entropy_is_refused(value):
    with pytest.raises(ValueError, match="not a number"):
        tier_of(value, 0.1)


def test_counts_name_every_tier_in_order():
    assert count_tiers(["hard", "easy", "hard"]) == {"below": 0, "easy": 1, "normal": 0, "hard": 2, "unfair": 0}
