"""Exact rates: the same decisions as the interval makes, all probability accounted for, and the claims themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compression_gate.gate.proportions import score, tango_bounds
from compression_gate.selftest.enumeration import (
    PROMISES,
    Case,
    claims,
    likely_counts,
    outside,
    rates_at_margin,
    scores_at,
    trinomial,
)


@pytest.mark.parametrize(("n", "margin"), [(37, 0.05), (60, 0.1), (25, 0.02)])
def test_every_count_is_decided_as_its_interval_decides_it(n: int, margin: float) -> None:
    """The score at the margin takes the place of the bounds: each pair of counts must come out the same."""
    z = 1.6448536269514722
    for lost, won in itertools.product(range(n + 1), repeat=2):
        if lost + won > n:
            continue
        low, high = tango_bounds(lost, won, n, 0.05)
        one = float(scores_at(np.array([lost]), np.array([won]), n, margin)[0])
        assert one == pytest.approx(score(lost, won, n, margin), rel=1e-12, abs=1e-12)
        assert (high <= margin, low > margin) == (one <= -z, one > z), (lost, won)


def test_a_small_case_is_what_adding_up_by_hand_gives() -> None:
    """Two examples, one point of three lost on average: nine outcomes."""
    total = sum(
        float(trinomial(np.array([lost]), np.array([won]), 2, 0.2, 0.1)[0])
        for lost, won in itertools.product(range(3), repeat=2)
    )
    assert total == pytest.approx(1)
    assert float(trinomial(np.array([1]), np.array([1]), 2, 0.2, 0.1)[0]) == pytest.approx(2 * 0.2 * 0.1)
    assert float(trinomial(np.array([2]), np.array([1]), 2, 0.2, 0.1)[0]) == 0


@pytest.mark.parametrize(("n", "share"), [(200, 0.0), (200, 0.02), (20_000, 0.15), (200, 1.0)])
def test_what_is_cut_is_said(n: int, share: float) -> None:
    assert outside(likely_counts(n, share), n, share) <= 1e-12


def test_a_large_test_set_is_wrong_as_often_as_its_level_says() -> None:
    rates = rates_at_margin(Case(n=200_000, margin=0.01, discordance=0.05))
    assert rates.wrong_pass == pytest.approx(0.05, abs=2e-4)
    assert rates.wrong_fail == pytest.approx(0.05, abs=2e-4)


def test_replays_agree_with_the_sum() -> None:
    case = Case(n=200, margin=0.05, discordance=0.15)
    rates = rates_at_margin(case)
    drawn = np.random.default_rng(1).multinomial(case.n, [0.1, 0.05, 0.85], size=40_000)
    scores = scores_at(drawn[:, 0], drawn[:, 1], case.n, case.margin)
    assert np.mean(scores <= -1.6448536) == pytest.approx(rates.wrong_pass, abs=0.005)
    assert np.mean(scores > 1.6448536) == pytest.approx(rates.wrong_fail, abs=0.005)


def test_the_gates_claims_hold() -> None:
    found = list(claims())
    assert len(found) == len(PROMISES)
    assert [one.text for one in found if not one.held] == []
    assert sum(one.limit is not None for one in found) == 3
