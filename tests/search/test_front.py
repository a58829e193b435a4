"""Dominance and fronts."""

import itertools
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from compression_gate.search.front import dominates, extended, ranks_of

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


def front_of(points):
    """Indices of those on the front, which is made one by one."""
    rows = ((point, index) for index, point in enumerate(points))
    return [index for _, index in reduce(extended, rows, [])]


@given(POINTS)
def test_the_front_is_what_nothing_dominates_each_value_once(points):
    front = front_of(points)
    for index, one in enumerate(points):
        beaten = any(dominates(other, one) for other in points)
        assert (tuple(one) in {tuple(points[place]) for place in front}) == (not beaten)
        assert index not in front or not beaten
    assert len({points[place] for place in front}) == len(front)


@given(POINTS)
def test_ranks_peel_one_front_after_the_other(points):
    ranks = ranks_of(points)
    for a, b in itertools.permutations(range(len(points)), 2):
        if dominates(points[a], points[b]):
            assert ranks[a] < ranks[b]
    assert {points[index] for index in front_of(points)} == {points[i] for i, rank in enumerate(ranks) if rank == 0}
