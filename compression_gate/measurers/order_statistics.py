"""Medians and percentiles of samples, with intervals made of the samples themselves and their exact confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from compression_gate.records.base import finite
from compression_gate.records.metrics import Measurement

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Two order statistics; an end is None where the samples are too few to bound it.

    Args:
        confidence: the exact probability that both ends hold the quantile, at least what was asked for; None where
            an end is missing.
    """

    low: float | None
    high: float | None
    confidence: float | None


def quantile_interval(values: np.ndarray, share: float, confidence: float = CONFIDENCE) -> Interval:
    """The narrowest interval for a quantile with at most ``(1 − confidence) / 2`` outside of each end.

    Args:
        values: samples ``(N,)``, in any order; taken as independent.
        share: which quantile, in (0, 1); 0.5 is the median.
        confidence: to be reached.

    Source: W. J. Conover, Practical Nonparametric Statistics, 1999, §3.2: of N samples, as many lie under the quantile
    as a binomial with N trials of ``share``.
    """
    ordered, count, tail = np.sort(values), len(values), (1 - confidence) / 2
    under = stats.binom(count, share)
    ranks = np.arange(1, count + 1)
    # Rank r is a lower end if fewer than r samples lie under the quantile too seldom to matter; likewise from above.
    lower = ranks[under.cdf(ranks - 1) <= tail]
    upper = ranks[under.sf(ranks - 1) <= tail]
    low = float(ordered[lower[-1] - 1]) if len(lower) else None
    high = float(ordered[upper[0] - 1]) if len(upper) else None
    reached = float(under.cdf(upper[0] - 1) - under.cdf(lower[-1] - 1)) if len(lower) and len(upper) else None
    return Interval(low=low, high=high, confidence=reached)


def quantile_of(values: np.ndarray, share: float, unit: str) -> Measurement:
    """A quantile of samples ``(N,)`` with its interval."""
    found = quantile_interval(values, share)
    return Measurement(
        value=finite(float(np.quantile(values, share))),
        unit=unit,
        samples=len(values),
        low=None if found.low is None else finite(found.low),
        high=None if found.high is None else finite(found.high),
        confidence=found.confidence,
    )


def median_of(values: np.ndarray, unit: str) -> Measurement:
    """The median of samples ``(N,)`` with its interval."""
    return quantile_of(values, 0.5, unit)


def range_of(values: np.ndarray, unit: str, *, estimated: bool = False) -> Measurement:
    """The median of few samples ``(N,)`` with the smallest and the largest of them, which promise no confidence."""
    return Measurement(
        value=finite(float(np.median(values))),
        unit=unit,
        samples=len(values),
        low=finite(float(np.min(values))),
        high=finite(float(np.max(values))),
        spread="range",
        estimated=estimated,
    )
