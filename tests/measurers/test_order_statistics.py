"""Intervals of medians and percentiles: as confident as they say, and none where the samples are too few."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from compression_gate.measurers.order_statistics import median_of, quantile_interval, quantile_of, range_of

DOCUMENT = Path(__file__).parents[2] / "docs/timing.md"
CASES = [(0.5, 6), (0.5, 7), (0.5, 300), (0.95, 100), (0.95, 2000), (0.99, 600)]


@pytest.mark.parametrize(("share", "count"), CASES)
def test_the_confidence_is_that_of_the_binomial(share, count):
    """Counted by hand: the quantile lies between ranks r and s if r to s - 1 samples lie under it."""
    found = quantile_interval(np.arange(count) + 1.0, share)
    held = sum(
        math.comb(count, under) * share**under * (1 - share) ** (count - under)
        for under in range(int(found.low), int(found.high))
    )
    assert found.confidence == pytest.approx(held)
    assert held >= 0.95


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_narrower_interval_would_promise_too_much(share):
    count = 400
    found = quantile_interval(np.arange(count) + 1.0, share)
    low, high = int(found.low), int(found.high)
    chances = [math.comb(count, under) * share**under * (1 - share) ** (count - under) for under in range(count + 1)]
    assert sum(chances[: low + 1]) > 0.025
    assert sum(chances[high - 1 :]) > 0.025


def test_the_interval_holds_the_true_percentile_as_often_as_it_says():
    random = np.random.default_rng(0)
    true = -math.log(0.05)
    found = [quantile_interval(random.exponential(size=200), 0.95) for _ in range(1000)]
    inside = sum(one.low <= true <= one.high for one in found)
    assert abs(inside / 1000 - found[0].confidence) < 0.02


FEW = [(0.5, 1, None, None), (0.5, 5, None, None), (0.99, 100, 95.0, None), (0.95, 59, 53.0, None)]


@pytest.mark.parametrize(("share", "count", "low", "high"), FEW)
def test_an_end_that_the_samples_cannot_bound_is_none(share, count, low, high):
    found = quantile_interval(np.arange(count) + 1.0, share)
    assert (found.high, found.confidence) == (high, None)
    assert (found.low is None) == (low is None)


def test_the_document_names_the_fewest_calls_that_a_99th_percentile_takes():
    needed = int(re.search(r"99th percentile needs (\d+) calls", DOCUMENT.read_text(encoding="utf-8")).group(1))
    ends = [quantile_interval(np.arange(count) + 1.0, 0.99).high for count in (needed - 1, needed)]
    assert ends == [None, float(needed)]


def test_measurements_say_what_their_ends_are():
    values = np.array([3.0, 1.0, 2.0])
    median, spread = median_of(values, "ms"), range_of(values, "J", estimated=True)
    assert (median.value, median.low, median.high, median.spread) == (2.0, None, None, "interval")
    assert (spread.value, spread.low, spread.high, spread.spread) == (2.0, 1.0, 3.0, "range")
    assert (spread.confidence, spread.estimated, spread.unit) == (None, True, "J")
    assert quantile_of(np.arange(2000.0), 0.99, "ms").confidence >= 0.95


def test_order_of_the_samples_does_not_matter():
    orders = itertools.permutations([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert {quantile_interval(np.array(order), 0.5).low for order in itertools.islice(orders, 20)} == {1.0}
