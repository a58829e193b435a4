"""A budget is spread exactly: never over the limit, and as well as trying everything would."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression_gate.errors import CompressionError
from compression_gate.methods.allocation import Choice, spread

CHOICE = st.builds(Choice, cost=st.integers(1, 50).map(float), loss=st.floats(0, 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(CHOICE, min_size=1, max_size=4), min_size=1, max_size=4), st.floats(0, 1))
def test_the_spread_is_the_best_of_all_within_the_limit(layers, place):
    low = sum(min(choice.cost for choice in row) for row in layers)
    limit = low + place * (sum(max(choice.cost for choice in row) for row in layers) - low)
    picked = [row[index] for row, index in zip(layers, spread(layers, limit), strict=True)]
    assert sum(choice.cost for choice in picked) <= limit * (1 + 1e-6)
    best = min(
        sum(choice.loss for choice in every)
        for every in itertools.product(*layers)
        if sum(choice.cost for choice in every) <= limit
    )
    assert sum(choice.loss for choice in picked) <= best + 1e-6


def test_a_limit_under_the_cheapest_is_refused_with_both_figures():
    with pytest.raises(CompressionError, match="a limit of at least 3, what the cheapest choices cost, got 2"):
        spread([[Choice(cost=3.0, loss=0.0)]], 2.0)
