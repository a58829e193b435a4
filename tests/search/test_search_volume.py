"""The volume that the tables of searches are compared by."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_volume.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are in the repository only", allow_module_level=True)
SPEC = importlib.util.spec_from_file_location("benchmark_search_volume", SCRIPT)
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
hypervolume = MODULE.hypervolume

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)
BOUND = (5, 5, 5)


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
