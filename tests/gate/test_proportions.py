"""Tango's interval against its own definition, and the error rates it promises by exact enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from compression_gate.gate.power import examples_needed, margin_needed, minimum_detectable, power_of_pass
from compression_gate.gate.proportions import clopper_pearson, mcnemar_p, score, tango_interval

COUNTS = [(12, 2, 50), (0, 0, 30), (1, 0, 1), (43, 0, 43), (5, 5, 10), (0, 7, 20), (65, 33, 10_000), (3, 1, 200)]


def score_by_search(lost: int, won: int, n: int, drop: float) -> float:
    """The statistic with the nuisance share found by maximising the likelihood, no closed form involved."""

    def loss(share: float) -> float:
        cells = ((lost, share + drop), (won, share), (n - lost - won, 1 - 2 * share - drop))
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    low, high = max(0.0, -drop), (1 - drop) / 2
    share = float(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x)
    variance = n * (2 * share + drop * (1 - drop))
    return (lost - won - n * drop) / math.sqrt(variance)


@pytest.mark.parametrize(("lost", "won", "n"), COUNTS)
@pytest.mark.parametrize("drop", [-0.3, -0.01, 0.02, 0.4])
def test_score_uses_the_constrained_maximum_likelihood(lost: int, won: int, n: int, drop: float) -> None:
    assert score(lost, won, n, drop) == pytest.approx(score_by_search(lost, won, n, drop), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("lost", "won", "n"), COUNTS)
def test_ends_are_where_the_score_test_stops_rejecting(lost: int, won: int, n: int) -> None:
    z = stats.norm.ppf(0.975)
    low, high = tango_interval(lost, won, n, 0.95)
    if low > -1:
        assert score(lost, won, n, low) == pytest.approx(z, abs=1e-6)
    if high < 1:
        assert score(lost, won, n, high) == pytest.approx(-z, abs=1e-6)


def test_identical_predictions_leave_the_doubt_that_n_leaves() -> None:
    z = stats.norm.ppf(0.95)
    assert tango_interval(0, 0, 267, 0.9)[1] > 0.01 >= tango_interval(0, 0, 269, 0.9)[1]
    assert tango_interval(0, 0, 300, 0.9)[1] == pytest.approx(z**2 / (300 + z**2), rel=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 4000), st.floats(0.5, 0.999))
def test_interval_holds_the_estimate_and_mirrors(lost: int, won: int, rest: int, confidence: float) -> None:
    n = lost + won + rest
    low, high = tango_interval(lost, won, n, confidence)
    assert -1 <= low <= (lost - won) / n <= high <= 1
    mirrored = tango_interval(won, lost, n, confidence)
    assert (-high, -low) == pytest.approx(mirrored, abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 500))
def test_more_confidence_is_never_narrower(lost: int, won: int, rest: int) -> None:
    n = lost + won + rest
    narrow, wide = tango_interval(lost, won, n, 0.8), tango_interval(lost, won, n, 0.99)
    assert wide[0] <= narrow[0] + 1e-12
    assert wide[1] >= narrow[1] - 1e-12


def test_numpy_counts_are_taken() -> None:
    assert tango_interval(np.int64(3), np.int64(1), np.int64(200), 0.95) == tango_interval(3, 1, 200, 0.95)


BAD = [
    (-1, 0, 10, 0.95, "lost"),
    (6, 6, 10, 0.95, "n = 10"),
    (1, 1, 0, 0.95, "n"),
    (1.5, 1, 10, 0.95, "lost"),
    (1, 1, 10, 1, "confidence"),
]


@pytest.mark.parametrize(("lost", "won", "n", "confidence", "named"), BAD)
def test_impossible_counts_are_named(lost: object, won: int, n: int, confidence: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tango_interval(lost, won, n, confidence)  # type: ignore[arg-type]


def rates_at_the_margin(n: int, discordance: float, margin: float) -> tuple[float, float]:
    """P(pass) and P(fail) when the true drop equals the margin, over every possible pair of counts."""
    chance_lost, chance_won = (discordance + margin) / 2, (discordance - margin) / 2
    most = int(stats.binom.ppf(1 - 1e-9, n, discordance))
    passed = failed = 0.0
    for lost in range(most + 1):
        first = stats.binom.pmf(lost, n, chance_lost)
        wins = np.arange(0, most + 1)
        chances = first * stats.binom.pmf(wins, n - lost, chance_won / (1 - chance_lost))
        for won, chance in zip(wins, chances, strict=True):
            if chance < 1e-12 or lost + won > n:
                continue
            # z at the margin decides as the interval's ends do, without searching for them.
            z = score(lost, int(won), n, margin)
            passed += chance * (z <= -1.6449)
            failed += chance * (z > 1.6449)
    return passed, failed


@pytest.mark.parametrize(
    ("n", "discordance", "most_failed"), [(200, 0.05, 0.075), (200, 0.1, 0.075), (5000, 0.03, 0.056)]
)
def test_error_rates_at_the_margin_by_exact_enumeration(n: int, discordance: float, most_failed: float) -> None:
    passed, failed = rates_at_the_margin(n, discordance, 0.01)
    assert passed <= 0.06
    assert failed <= most_failed


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (20, 20), (7, 20), (980, 1000)])
def test_clopper_pearson_bounds_leave_just_the_stated_chance(successes: int, n: int) -> None:
    low, high = clopper_pearson(successes, n, 0.05)
    if successes:
        assert stats.binom.sf(successes - 1, n, low) == pytest.approx(0.05)
    if successes < n:
        assert stats.binom.cdf(successes, n, high) == pytest.approx(0.05)


def test_mcnemar_counts_both_tails() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(10, 0) == pytest.approx(2 / 2**10)


def test_power_follows_the_rule_of_thumb() -> None:
    """gate.md: n for 90 % power is about 8.6 × discordance / margin²."""
    n = round(8.6 * 0.05 / 0.01**2)
    assert power_of_pass(0.05, n, 0.01, 0.05) == pytest.approx(0.9, abs=0.01)
    assert examples_needed(0.05, 0.01, 0.05, power=0.9) == pytest.approx(n, rel=0.02)
    assert power_of_pass(0.0, 260, 0.01, 0.05) == 0
    assert power_of_pass(0.0, 300, 0.01, 0.05) == 1


@pytest.mark.parametrize(("discordance", "n", "margin"), [(0.01, 400, 0.01), (0.01, 1000, 0.01), (0.1, 400, 0.05)])
def test_power_agrees_with_simulation(discordance: float, n: int, margin: float) -> None:
    """Few changed answers and a wide margin: the plain deviation would promise 16 points too much."""
    counts = np.random.default_rng(0).multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], size=2000)
    passed = np.mean([score(lost, won, n, margin) <= -1.6449 for lost, won, _ in counts])
    assert power_of_pass(discordance, n, margin, 0.05) == pytest.approx(passed, abs=0.04)


def test_no_number_of_examples_proves_that_nothing_was_lost() -> None:
    with pytest.raises(ValueError, match="margin: expected a number over zero, got 0"):
        examples_needed(0.05, 0.0, 0.05)


def test_margin_needed_is_where_the_power_arrives() -> None:
    assert power_of_pass(0.05, 1000, margin_needed(0.05, 1000, 0.05), 0.05) == pytest.approx(0.8, abs=1e-6)


def test_published_example_of_the_paper() -> None:
    """Tango 1998, soft contact lenses: 44 pairs, one discordant, 90 % interval from -0.096 on."""
    assert tango_interval(0, 1, 44, 0.90)[0] == pytest.approx(-0.096, abs=5e-4)


def test_published_example_of_airway_responsiveness() -> None:
    """Bentur et al. 2009 as tabulated by Fagerland, Lydersen and Laake 2014: 1 and 7 of 21, -0.517 to -0.026."""
    assert tango_interval(1, 7, 21, 0.95) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_minimum_detectable_fails_with_probability_080() -> None:
    n, margin, random = 5000, 0.01, np.random.default_rng(0)
    drop = minimum_detectable(0.03, n, margin, 0.05)
    counts = random.multinomial(n, [(0.03 + drop) / 2, (0.03 - drop) / 2, 0.97], size=2000)
    failed = np.mean([score(lost, won, n, margin) > 1.6449 for lost, won, _ in counts])
    assert failed == pytest.approx(0.8, abs=0.05)
