"""Proportions: how sure an accuracy, or the drop between two models on the same examples, is."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral

from scipy import special, stats

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
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    return tango_bounds(lost, won, n, (1 - confidence) / 2)


def tango_bounds(lost: int, won: int, n: int, alpha: float) -> tuple[float, float]:
    """One-sided bounds of the drop, each wrong with probability ``alpha``: the ends of :func:`tango_interval`.

    By the error and not the confidence, since 1 − 10⁻²⁰ is 1 to a computer.
    """
    check_counts(lost, won, n, alpha)
    lost, won, n = int(lost), int(won), int(n)
    z = upper_quantile(alpha)
    drop = (lost - won) / n
    low = crossing(lambda d: score(lost, won, n, d) - z, -1.0, drop)
    high = crossing(lambda d: score(lost, won, n, d) + z, drop, 1.0)
    return min(low, drop), max(high, drop)


def tango_p(lost: int, won: int, n: int, drop: float) -> float:
    """P-value of the hypothesis that the true drop is ``drop`` or less; small where it is proven to be more."""
    return upper_tail(score(lost, won, n, drop))


def upper_quantile(alpha: float) -> float:
    """The point that a standard normal exceeds with probability ``alpha``, also where that is tiny."""
    return float(special.ndtri(alpha)) * -1


def upper_tail(z: float) -> float:
    """The probability that a standard normal exceeds ``z``, also where that is tiny."""
    return float(special.ndtr(-z))


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


def check_counts(lost: int, won: int, n: int, alpha: float) -> None:
    """Refuse counts that no experiment gives."""
    given: tuple[tuple[str, object], ...] = (("lost", lost), ("won", won), ("n", n))
    for name, value in given:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}: expected an integer, got {value!r}")
    if n < 1:
        raise ValueError(f"n: expected 1 or more, got {n}")
    if lost < 0 or won < 0 or lost + won > n:
        raise ValueError(f"lost, won: expected zero or more and together at most n = {n}, got {lost} and {won}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a number between 0 and 1, got {alpha}")


def clopper_pearson(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """One-sided exact bounds of a proportion, each wrong with probability ``alpha``: (lower bound, upper bound).

    Source: Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial,
        Biometrika 26, through scipy's beta quantiles.
    """
    check_counts(successes, 0, n, alpha)
    low = 0.0 if successes == 0 else float(stats.beta.ppf(alpha, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.isf(alpha, successes + 1, n - successes))
    return low, high


def binomial_p(successes: int, n: int, limit: float, sign: int) -> float:
    """Exact p-value that a proportion is not beyond ``limit``: not over it (``sign`` 1), not under it (-1)."""
    share = min(max(limit, 0.0), 1.0)
    return float(stats.binom.sf(successes - 1, n, share) if sign > 0 else stats.binom.cdf(successes, n, share))


def mcnemar_p(lost: int, won: int) -> float:
    """Two-sided exact p-value that losses and wins are equally likely.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 12; its exact binomial form.
    """
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
