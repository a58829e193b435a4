"""How often the score interval of a paired drop decides wrongly at the limit: exactly, by enumeration.

At the limit the true drop is the margin, and both decisions are wrong: `pass` would need a smaller drop to be rare
enough, `fail` a larger one. The counts of lost and won examples are trinomial, so that each rate is a finite sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

from compression_gate.gate.proportions import upper_quantile
from compression_gate.records.selftest import Claim

ALPHA = 0.05
TAIL = 1e-12  # counts beyond these tails, all four together, are left out; `Rates.cut` says how much that was
# Limits as users write them, and models that differ on two examples in a hundred or more, in both directions.
MARGINS = (0.01, 0.02, 0.05)
DISCORDANCES = (0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
# The corners too: narrower and wider limits, and candidates that lose examples and win hardly any.
ALL_MARGINS = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
EXCESSES = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
BOTH_WAYS = 1.25  # times the margin: with less discordance hardly any example is won, and counts jump by one


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test set and two models whose true drop is the margin.

    Args:
        n: examples. margin: the limit, and the true drop. discordance: share of examples lost or won, ≥ ``margin``.
    """

    n: int
    margin: float
    discordance: float

    def __str__(self) -> str:
        return f"n = {self.n:,}, margin {self.margin:.3g}, discordance {self.discordance:.3g}"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What is wrong how often in one case; ``cut`` is the probability that was not looked at, in neither rate."""

    case: Case
    wrong_pass: float
    wrong_fail: float
    cut: float


def rates_at_margin(case: Case, alpha: float = ALPHA) -> Rates:
    """Sum the probabilities of all counts by what the gate decides of them."""
    lost_share, won_share = (case.discordance + case.margin) / 2, (case.discordance - case.margin) / 2
    axes = [likely_counts(case.n, share) for share in (lost_share, won_share)]
    lost, won = axes[0][:, None], axes[1][None, :]
    chance = trinomial(lost, won, case.n, lost_share, won_share)
    scores = scores_at(lost, won, case.n, case.margin)
    z = upper_quantile(alpha)
    return Rates(
        case=case,
        wrong_pass=float(chance[scores <= -z].sum()),
        wrong_fail=float(chance[scores > z].sum()),
        cut=sum(outside(axis, case.n, share) for axis, share in zip(axes, (lost_share, won_share), strict=True)),
    )


def likely_counts(n: int, share: float) -> np.ndarray:
    """Counts (K,) of a binomial without those in its tails."""
    low, high = stats.binom.ppf(TAIL / 4, n, share), stats.binom.isf(TAIL / 4, n, share)
    return np.arange(max(int(low), 0), min(int(high), n) + 1)


def outside(counts: np.ndarray, n: int, share: float) -> float:
    """The probability of a binomial count that is not among ``counts``."""
    return float(stats.binom.cdf(counts[0] - 1, n, share) + stats.binom.sf(counts[-1], n, share))


def trinomial(lost: np.ndarray, won: np.ndarray, n: int, lost_share: float, won_share: float) -> np.ndarray:
    """Probabilities of counts, shapes broadcast; 0 where they are more than ``n`` together."""
    kept = n - lost - won
    logs = (
        special.gammaln(n + 1)
        - special.gammaln(lost + 1)
        - special.gammaln(won + 1)
        - special.gammaln(np.maximum(kept, 0) + 1)
        + special.xlogy(lost, lost_share)
        + special.xlogy(won, won_share)
        + special.xlogy(np.maximum(kept, 0), 1 - lost_share - won_share)
    )
    return np.where(kept >= 0, np.exp(logs), 0.0)


def scores_at(lost: np.ndarray, won: np.ndarray, n: int, drop: float) -> np.ndarray:
    """Tango's statistic of many counts at once; :func:`gate.proportions.score` of each.

    A bound lies beyond ``drop`` just where the statistic there is beyond the quantile, since it falls as the drop
    rises: no interval has to be found.
    """
    linear = -lost - won + (2 * n - lost + won) * drop
    constant = -won * drop * (1 - drop)
    share = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    deviation = np.sqrt(np.maximum(2 * share + drop * (1 - drop), 0.0) / n)
    distance = (lost - won) / n - drop
    scores = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    return np.asarray(np.divide(distance, deviation, out=scores, where=deviation > 0))


def usual_cases(sizes: Iterable[int]) -> Iterator[Case]:
    """What the claims speak of: limits of 1, 2 and 5 points, examples won as well as lost."""
    for n in sizes:
        for margin in MARGINS:
            for discordance in DISCORDANCES:
                if discordance >= BOTH_WAYS * margin:
                    yield Case(n=n, margin=margin, discordance=discordance)


def corner_cases(sizes: Iterable[int]) -> Iterator[Case]:
    """Any limit from half a point to ten, down to candidates that win nothing."""
    for n in sizes:
        for margin in ALL_MARGINS:
            for excess in EXCESSES:
                yield Case(n=n, margin=margin, discordance=margin * excess)


def worst(cases: Iterable[Case], rate: Literal["wrong_pass", "wrong_fail"]) -> Rates:
    """The case with the highest of a rate."""
    return max((rates_at_margin(case) for case in cases), key=lambda rates: float(getattr(rates, rate)))


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A claim on a rate over many cases; ``limit`` None: for information."""

    text: str
    rate: Literal["wrong_pass", "wrong_fail"]
    cases: Callable[[Iterable[int]], Iterator[Case]]
    sizes: tuple[int, ...]
    limit: float | None = None


# Between round numbers the rates jump by whole examples: small test sets are looked at closely.
SMALL = (200, 203, 207, 211, 215, 220, 230, 250, 260, 280, 300, 350, 400, 450, 500, 700)
LARGE = (5_000, 7_000, 10_000, 20_000)
PROMISES = (
    Promise(
        text="Tango at the limit: wrong pass, n ≥ 200",
        rate="wrong_pass",
        cases=usual_cases,
        sizes=(*SMALL, 1_000, 2_000, *LARGE),
        limit=0.06,
    ),
    Promise(
        text="Tango at the limit: wrong fail, n = 200", rate="wrong_fail", cases=usual_cases, sizes=(200,), limit=0.075
    ),
    Promise(
        text="Tango at the limit: wrong fail, n ≥ 5,000", rate="wrong_fail", cases=usual_cases, sizes=LARGE, limit=0.056
    ),
    Promise(
        text="Tango at the limit: wrong fail, n from 200 to 2,000",
        rate="wrong_fail",
        cases=usual_cases,
        sizes=(*SMALL, 1_000, 2_000),
    ),
    Promise(
        text="the same at any limit and discordance: wrong pass",
        rate="wrong_pass",
        cases=corner_cases,
        sizes=(*SMALL, *LARGE),
    ),
    Promise(
        text="the same at any limit and discordance: wrong fail",
        rate="wrong_fail",
        cases=corner_cases,
        sizes=(*SMALL, *LARGE),
    ),
)


def claims() -> Iterator[Claim]:
    """Enumerate every promise."""
    for promise in PROMISES:
        start = time.perf_counter()
        cases = list(promise.cases(promise.sizes))
        found = worst(cases, promise.rate)
        value = float(getattr(found, promise.rate))
        yield Claim(
            text=promise.text,
            limit=promise.limit,
            observed=value,
            low=value,
            high=value + found.cut,
            n=len(cases),
            note=f"nominal {ALPHA:.0%}; worst at {found.case}",
            seconds=time.perf_counter() - start,
        )
