"""The bootstrap against scipy's, against what it promises, and where it must not be sure of anything."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from compression_gate.gate import intervals, resampling
from compression_gate.gate.proportions import tango_bounds
from compression_gate.gate.resampling import Resampled, Sample, resample


def mean_of(scores: np.ndarray) -> Resampled:
    """Resample a mean of skewed scores."""
    features, statistic = resampling.averaged(scores)
    return resample(
        Sample(features=features, counts=np.ones(len(scores), int), statistic=statistic, telling=99, influence=0.0)
    )


@pytest.fixture(scope="module")
def skewed() -> np.ndarray:
    return np.random.default_rng(3).lognormal(size=200)


def test_bca_bounds_are_those_of_scipy(skewed: np.ndarray) -> None:
    """Within what two runs of 5,000 resamples differ by; the percentile bound of this sample is further off."""
    theirs = stats.bootstrap((skewed,), np.mean, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=1)
    found = mean_of(skewed)
    assert found.method == "bca"
    assert found.bounds(0.05) == pytest.approx(tuple(theirs.confidence_interval), abs=0.04 * found.deviation * 3)
    assert abs(found.bounds(0.05)[1] - theirs.confidence_interval.high) < abs(
        float(np.quantile(found.values, 0.95)) - theirs.confidence_interval.high
    )


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("sign", [1, -1])
def test_p_value_turns_the_bounds_round(skewed: np.ndarray, alpha: float, sign: int) -> None:
    """At the lower bound it is just not proven that the figure is over it, and so on the other side."""
    found = mean_of(skewed)
    low, high = found.bounds(alpha)
    assert found.p_value(low if sign > 0 else high, sign) == pytest.approx(alpha, rel=0.05)


def test_p_values_of_both_directions_make_one(skewed: np.ndarray) -> None:
    found = mean_of(skewed)
    limit = found.observed + found.deviation
    assert found.p_value(limit, 1) + found.p_value(limit, -1) == pytest.approx(1, abs=1e-6)


def test_far_out_the_normal_takes_over_without_a_jump(skewed: np.ndarray) -> None:
    found = mean_of(skewed)
    limits = found.observed + found.deviation * np.linspace(0, 9, 200)
    values = [found.p_value(limit, -1) for limit in limits]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 1e-9


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: resampling.averaged(random.exponential(size=300)),
        lambda random: resampling.weighted("rmse", random.normal(size=300), random.normal(size=300)),
    ],
)
def test_examples_one_by_one_and_counted_give_the_same_spread(draw: Callable) -> None:
    features, statistic = draw(np.random.default_rng(0))
    one = Sample(features=features, counts=np.ones(300, int), statistic=statistic, telling=99, influence=0.0)
    two = Sample(
        features=np.concatenate([features, features[:1]]),
        counts=np.concatenate([[0], np.ones(299, int), [1]]),
        statistic=statistic,
        telling=99,
        influence=0.0,
    )
    assert resample(one).deviation == pytest.approx(resample(two).deviation, rel=0.06)


def test_identical_answers_are_as_unsure_as_tango_says() -> None:
    """A resample of agreeing pairs has no spread; what the test set does not hold may still differ."""
    target = np.arange(200) % 2
    estimate = intervals.of_classes("f1", target, [target, target], 0.05)
    assert estimate.change == 0
    tango = tango_bounds(0, 0, 200, 0.05)[1]
    assert estimate.interval[1] == pytest.approx(-estimate.interval[0])
    assert estimate.interval[1] == pytest.approx(tango, rel=0.2)
    assert estimate.tail is not None
    assert estimate.tail(-0.001, -1) > 0.5


def test_a_rare_class_leaves_more_doubt_than_a_common_one() -> None:
    common = np.arange(400) % 2
    rare = (np.arange(400) >= 396).astype(int)
    widths = [
        np.ptp(intervals.of_classes("recall", target, [target, target], 0.05).interval) for target in (common, rare)
    ]
    assert widths[1] > 10 * widths[0]


def test_the_coverage_of_a_macro_f1_change() -> None:
    """Three unequal classes, 500 examples, 6 % changed: each bound is wrong in about 5 % of 200 test sets."""
    random = np.random.default_rng(5)
    n, shares = 500, [0.6, 0.3, 0.1]

    def answers(target: np.ndarray, wrong: float) -> np.ndarray:
        off = random.random(len(target)) < wrong
        return np.where(off, (target + random.integers(1, 3, len(target))) % 3, target)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        target = random.choice(3, count, p=shares)
        other = answers(target, 0.10)
        redo = random.random(count) < 0.06
        return target, other, np.where(redo, answers(target, 0.3), other)

    truth = intervals.of_classes("f1", *(lambda t, a, b: (t, [b, a]))(*draw(400_000)), 0.05).change
    outside = np.zeros(2)
    for _ in range(200):
        target, other, candidate = draw(n)
        low, high = intervals.of_classes("f1", target, [candidate, other], 0.05).interval
        outside += [truth < low, truth > high]
    # 99.9 % of binomials of 200 at 0.08 stay under 30; at the nominal 0.05 the mean is 10.
    assert outside.max() <= 24


def test_a_metric_without_a_value_has_no_bounds() -> None:
    features, statistic = resampling.weighted("r2", np.ones(20), np.arange(20.0))
    found = resample(Sample(features=features, counts=np.ones(20, int), statistic=statistic, telling=9, influence=1.0))
    assert all(math.isnan(end) for end in found.bounds(0.05))
    assert math.isnan(found.p_value(0.0, 1))


def test_the_same_seed_gives_the_same_interval(skewed: np.ndarray) -> None:
    assert mean_of(skewed).bounds(0.05) == mean_of(skewed).bounds(0.05)


@pytest.mark.parametrize("n", [1, 2, 5, 19])
@pytest.mark.parametrize("metric", ["score", "rmse", "f1"])
def test_so_few_examples_prove_nothing_by_a_bootstrap(metric: str, n: int) -> None:
    """Whatever they say: at the limit 5 would pass 13 % of the time instead of 5, and one half of the time."""
    ones = np.ones(n)
    if metric == "f1":
        estimate = intervals.of_classes("f1", ones, [ones, ones], 0.05)
    else:
        estimate = intervals.of_scores(metric, ones if metric == "rmse" else None, [ones, ones], 0.05)
    assert (estimate.n, estimate.observed) == (n, 1.0)
    assert estimate.fewest > n
    assert all(math.isnan(end) for end in estimate.interval)


ALIKE = [  # metric, what every example has, its target
    ("score", 1.0, None),
    ("score", 0.0, None),
    ("mae", 0.0, 3.0),
    ("mae", -0.2, 3.0),
]


@pytest.mark.parametrize(("metric", "value", "target"), ALIKE)
def test_scores_that_are_all_alike_leave_room_for_examples_not_seen(
    metric: str, value: float, target: float | None
) -> None:
    n = 100
    scores, targets = np.full(n, value), None if target is None else np.full(n, target)
    estimate = intervals.of_scores(metric, targets, [scores, scores], 0.05)
    # Three in a hundred may be otherwise, each by as much as zero is away, or by one.
    assert estimate.interval[1] == pytest.approx(0.0295 * (abs(value) or 1.0), rel=0.01)
    assert estimate.interval[0] == -estimate.interval[1]
    assert estimate.tail is not None
    assert estimate.tail(-0.001, -1) > 0.5


def test_the_fewest_examples_that_are_judged_pass_at_the_limit_hardly_more_than_they_should() -> None:
    """Under 10 % of 300 test sets of normal differences pass at the limit, at a nominal 5; of 5 examples 13 % would."""
    random, n = np.random.default_rng(20), resampling.FEWEST_EXAMPLES
    passed = 0
    for _ in range(300):
        other = random.normal(size=n)
        passed += intervals.of_scores("score", None, [other + random.normal(size=n), other], 0.05).interval[0] >= 0
    assert passed < 30
