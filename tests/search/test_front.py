"""Dominance, fronts, and the volume they cover."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.search.front import dominates, front_of, hypervolume, ranks_of

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)
BOUND = (5, 5, 5)


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


@given(POINTS)
def test_the_volume_is_what_counting_cells_gives(points):
    grid = np.array(list(itertools.product(range(5), repeat=3)))
    covered = np.array([any((cell >= point).all() for point in np.array(points)) for cell in grid])
    assert hypervolume(points, BOUND) == pytest.approx(covered.sum())


@given(POINTS, st.tuples(*[st.integers(0, 4)] * 3))
def test_one_more_point_never_covers_less(points, more):
    assert hypervolume([*points, more], BOUND) >= hypervolume(points, BOUND)


def test_what_lies_beyond_the_bound_covers_nothing():
    assert hypervolume([(6, 0, 0)], BOUND) == 0
    assert hypervolume([], BOUND) == 0
    assert hypervolume([(1, 2)], (2, 4)) == 2
