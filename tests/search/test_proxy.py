"""Rank correlation of cheap and full trials, and the order in which a batch is kept."""

import math
import random

import pytest

from compression_gate.search.objective import Score
from compression_gate.search.proxy import FEWEST_PAIRS, correlation_of, order_of


def test_a_perfect_order_is_one_and_a_reversed_one_minus_one():
    rising = list(range(12))
    assert correlation_of(rising, [value**3 for value in rising]).value == pytest.approx(1)
    assert correlation_of(rising, rising[::-1]).value == pytest.approx(-1)


def test_too_few_pairs_and_equal_ones_say_nothing():
    few = list(range(FEWEST_PAIRS - 1))
    assert correlation_of(few, few).value is None
    assert correlation_of([1.0] * 20, list(range(20))).value is None


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Pairs of normal numbers with a rank correlation of 6/π·asin(ρ/2)."""
    coins, rho, held, runs = random.Random(0), 0.6, 0, 400
    truth = 6 / math.pi * math.asin(rho / 2)
    for _ in range(runs):
        cheap = [coins.gauss(0, 1) for _ in range(30)]
        full = [rho * value + math.sqrt(1 - rho**2) * coins.gauss(0, 1) for value in cheap]
        found = correlation_of(cheap, full)
        held += found.low <= truth <= found.high
    assert 0.72 <= held / runs <= 0.88  # 80 % wanted; 0.80 ± 4 standard errors of 400 runs


def test_within_limits_comes_before_outside_and_failed_ones_are_last():
    scores = [
        Score(values=(), violation=math.inf),
        Score(values=(0.0, 0.0), violation=0.5),
        Score(values=(0.5, 0.5), violation=0.0),
        Score(values=(0.1, 0.4), violation=0.0),
        Score(values=(0.0, 0.0), violation=0.1),
    ]
    assert order_of(scores) == [3, 2, 4, 1, 0]
    assert order_of([]) == []
