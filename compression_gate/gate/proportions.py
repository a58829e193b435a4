"""Proportions: how sure an accuracy, or the drop between two models on the same examples, is."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral

from scipy import stats

ITERATIONS = 200


def tango_interval(lost: int, won: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval for the drop ``(lost - won) / n`` of a paired proportion.

    Args:
        lost: examples the other model got right and this one wrong.
        won: examples the other model got wrong and this one right.
        n: all examples, those on which both agree included.
        confidence: of the two-sided interval, in (0, 1); one-sided bounds at c are its ends at ``2c - 1``.

    Returns:
        (low, high), both in [-1, 1], with low <= (lost - won) / n <= high.

    Raises:
        ValueError: counts that are negative, no integers or more than ``n``; a confidence outside (0, 1).

    Source: Tango 1998, Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design, Statistics in Medicine 17, equations 8 to 10. The nuisance parameter has a closed form;
        the ends are found by bisection, since the score is monotone in the drop.
    """
    check_counts(lost, won, n, confidence)
    lost, won, n = int(lost), int(won), int(n)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    drop = (lost - won) / n
    low = crossing(lambda d: score(lost, won, n, d) - z, -1.0, drop)
    high = crossing(lambda d: score(lost, won, n, d) + z, drop, 1.0)
    return min(low, drop), max(high, drop)


def score(lost: int, won: int, n: int, drop: float) -> float:
    """Tango's statistic for the hypothesis that the true drop is ``drop``; falls as ``drop`` rises."""
    distance = (lost - won) / n - drop
    deviation = score_deviation(lost, won, n, drop)
    if deviation <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / deviation


def score_deviation(lost: float, won: float, n: int, drop: float) -> float:
    """Deviation of the observed drop if the true one is ``drop``; with expected counts, what a test is planned with."""
    # The constrained maximum-likelihood estimate of the share of "won", equation 9.
    a = 2 * n
    b = -lost - won + (2 * n - lost + won) * drop
    c = -won * drop * (1 - drop)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return math.sqrt(max(2 * share + drop * (1 - drop), 0.0) / n)


def crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between ``low`` and ``high``; the nearer end if it does not."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    for _ in range(ITERATIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def check_counts(lost: int, won: int, n: int, confidence: float) -> None:
    """Refuse counts that no experiment gives."""
    given: tuple[tuple[str, object], ...] = (("lost", lost), ("won", won), ("n", n))
    for name, value in given:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}: expected an integer, got {value!r}")
    if n < 1:
        raise ValueError(f"n: expected 1 or more, got {n}")
    if lost < 0 or won < 0 or lost + won > n:
        raise ValueError(f"lost, won: expected zero or more and together at most n = {n}, got {lost} and {won}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")


def clopper_pearson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided exact bounds of a proportion, each at ``confidence``: (lower bound, upper bound).

    Source: Clopper and Pearson 1934, through scipy's beta quantiles.
    """
    check_counts(successes, 0, n, confidence)
    low = 0.0 if successes == 0 else float(stats.beta.ppf(1 - confidence, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(confidence, successes + 1, n - successes))
    return low, high


def mcnemar_p(lost: int, won: int) -> float:
    """Two-sided exact p-value that losses and wins are equally likely.

    Source: McNemar 1947; exact binomial form.
    """
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def power_of_pass(discordance: float, n: int, margin: float, confidence: float) -> float:
    """P(pass | no drop): how often two equally good models would be proven within ``margin``.

    Source: Liu et al. 2002, Tests for equivalence or non-inferiority for paired binary data, Statistics in Medicine 21:
        the score test's deviation under the constraint, at the expected counts, and the plain one under "no drop".
    """
    if margin <= 0:
        return 0.0
    z = float(stats.norm.ppf(confidence))
    room = margin - z * score_deviation(n * discordance / 2, n * discordance / 2, n, margin)
    deviation = math.sqrt(max(discordance, 0.0) / n)
    return float(stats.norm.cdf(room / deviation)) if deviation else float(room >= 0)


def examples_needed(discordance: float, margin: float, confidence: float, power: float = 0.8) -> int:
    """How many examples give ``power`` to prove no drop over ``margin``, which must be over zero.

    Raises:
        ValueError: no number of examples proves that nothing at all was lost.
    """
    if margin <= 0:
        raise ValueError(f"margin: expected a number over zero, got {margin}")
    low, high = 0, 1
    while power_of_pass(discordance, high, margin, confidence) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = power_of_pass(discordance, middle, margin, confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def margin_needed(discordance: float, n: int, confidence: float, power: float = 0.8) -> float:
    """The narrowest limit on a drop that ``n`` examples can prove with ``power`` where there is no drop."""
    return crossing(lambda margin: power - power_of_pass(discordance, n, margin, confidence), 0.0, 1.0)


def minimum_detectable(discordance: float, n: int, margin: float, confidence: float, power: float = 0.8) -> float:
    """The smallest true drop that would have failed with probability ``power``, at most 1."""
    z = float(stats.norm.ppf(confidence)) + float(stats.norm.ppf(power))
    # A drop of d needs a discordance of at least d: solve d = margin + z·sqrt(max(discordance, d) / n) by iteration.
    drop = margin
    for _ in range(50):
        drop = margin + z * math.sqrt(max(discordance, drop) / n)
    return min(drop, 1.0)
