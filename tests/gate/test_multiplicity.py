"""Many questions at once, against scipy's own corrections and by their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compression_gate.gate.multiplicity import benjamini_hochberg, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_holm_on_a_worked_example() -> None:
    """0.005 ≤ 0.05/4, 0.011 ≤ 0.05/3, 0.02 ≤ 0.05/2, 0.04 ≤ 0.05: all; with 0.03 for 0.02 the rest falls."""
    assert holm([0.02, 0.005, 0.04, 0.011], 0.05) == [True, True, True, True]
    assert holm([0.03, 0.005, 0.04, 0.011], 0.05) == [False, True, False, True]


@given(P_VALUES)
def test_benjamini_hochberg_is_what_scipy_adjusts(p_values: list[float]) -> None:
    adjusted = stats.false_discovery_control(p_values)
    assert benjamini_hochberg(p_values, 0.1) == pytest.approx([value <= 0.1 for value in adjusted])


@given(P_VALUES, st.integers(0, 29), st.floats(0, 1))
@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_a_smaller_p_value_never_takes_a_rejection_back(correct, p_values: list[float], place: int, share: float):
    """What makes tightening a limit unable to turn a fail into a pass, the other rules' included."""
    smaller = list(p_values)
    smaller[place % len(smaller)] *= share
    before, after = correct(p_values, 0.05), correct(smaller, 0.05)
    assert all(late or not early for early, late in zip(before, after, strict=True))


def test_nan_proves_nothing() -> None:
    assert holm([float("nan"), 0.001], 0.05) == [False, True]
    assert benjamini_hochberg([float("nan"), 0.001], 0.05) == [False, True]


def test_holm_holds_the_chance_of_any_false_alarm() -> None:
    """40 true hypotheses, each with its p-value: any rejection at all in 5 % of 4,000 trials, within 3 deviations."""
    p_values = np.random.default_rng(0).random((4000, 40))
    alarms = np.mean([any(holm(row, 0.05)) for row in p_values.tolist()])
    assert alarms <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_nothing_asked_nothing_rejected() -> None:
    assert holm([], 0.05) == benjamini_hochberg([], 0.05) == []
