"""What a check of a paired proportion can prove: planned with the score test that will judge it."""

from __future__ import annotations

import math

from scipy import stats

from compression_gate.gate.limits import ENOUGH_POWER
from compression_gate.gate.proportions import crossing, score_deviation, upper_quantile

DETECTED = 0.8  # the probability with which `minimum_detectable` would have been found


def power_of_pass(discordance: float, n: int, margin: float, alpha: float) -> float:
    """P(pass | no drop): how often two equally good models would be proven within ``margin``.

    Source: Liu et al. 2002, Tests for equivalence or non-inferiority for paired binary data, Statistics in Medicine 21:
        the score test's deviation under the constraint, at the expected counts, and the plain one under "no drop".
    """
    if margin <= 0:
        return 0.0
    z = upper_quantile(alpha)
    room = margin - z * score_deviation(n * discordance / 2, n * discordance / 2, n, margin)
    deviation = math.sqrt(max(discordance, 0.0) / n)
    return float(stats.norm.cdf(room / deviation)) if deviation else float(room >= 0)


def examples_needed(discordance: float, margin: float, alpha: float, power: float = ENOUGH_POWER) -> int:
    """How many examples give ``power`` to prove no drop over ``margin``, which must be over zero.

    Raises:
        ValueError: no number of examples proves that nothing at all was lost.
    """
    if margin <= 0:
        raise ValueError(f"margin: expected a number over zero, got {margin}")
    low, high = 0, 1
    while power_of_pass(discordance, high, margin, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = power_of_pass(discordance, middle, margin, alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def margin_needed(discordance: float, n: int, alpha: float, power: float = ENOUGH_POWER) -> float:
    """The narrowest limit on a drop that ``n`` examples can prove with ``power`` where there is no drop."""
    return crossing(lambda margin: power - power_of_pass(discordance, n, margin, alpha), 0.0, 1.0)


def minimum_detectable(discordance: float, n: int, margin: float, alpha: float) -> float:
    """The smallest true drop that would have failed with probability 0.8, at most 1."""
    z = upper_quantile(alpha) + upper_quantile(1 - DETECTED)
    # A drop of d needs a discordance of at least d: solve d = margin + z·sqrt(max(discordance, d) / n) by iteration.
    drop = margin
    for _ in range(50):
        drop = margin + z * math.sqrt(max(discordance, drop) / n)
    return min(drop, 1.0)


def wrong_pass_at_limit(discordance: float, n: int, margin: float) -> float:
    """How often a rule judged on its observed value passes a model whose true drop is just the limit."""
    deviation = math.sqrt(max(max(discordance, margin) - margin * margin, 0.0) * n)
    if deviation == 0:
        return 1.0
    # The observed drop moves in steps of one example: half a step is the usual correction.
    return float(stats.norm.cdf((math.floor(n * margin + 1e-9) + 0.5 - n * margin) / deviation))
