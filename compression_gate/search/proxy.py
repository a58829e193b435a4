"""Whether cheap trials tell anything of the full ones: rank correlation, and which of a batch are worth the rest.

A searcher that trusts a proxy which does not predict does worse than chance, so the proxy is measured before and while
it is used: batches are carried out both ways until there are pairs enough, and of every later one some that the proxy
would drop are carried out too.

Source: halving by a cheaper measure, K. Jamieson, A. Talwalkar, Non-stochastic Best Arm Identification and
Hyperparameter Optimization, 2016, §3; the interval of a rank correlation, D. Bonett, T. Wright, Sample Size
Requirements for Estimating Pearson, Kendall and Spearman Correlations, 2000, §3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compression_gate.search.front import ranks_of
from compression_gate.search.objective import Score

FEWEST_PAIRS = 8
Z_90 = 1.2815515655446004  # 90 % on one side
CERTAIN = 1 - 1e-12


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Rank correlation of cheap and full scores.

    Args:
        value: Spearman's; None with too few pairs, or where one side is always the same.
        low, high: ends of an interval that holds the true one with 80 %.
    """

    pairs: int
    value: float | None = None
    low: float = -1.0
    high: float = 1.0

    def may_predict(self, least: float) -> bool:
        """Whether it is at least so much, as far as anybody knows; what is always the same predicts nothing."""
        return self.pairs < FEWEST_PAIRS or (self.value is not None and self.value >= least)


def correlation_of(cheap: Sequence[float], full: Sequence[float]) -> Correlation:
    """Spearman's rank correlation of two series, with an interval."""
    from scipy.stats import spearmanr

    if len(cheap) < FEWEST_PAIRS or len(set(cheap)) < 2 or len(set(full)) < 2:
        return Correlation(pairs=len(cheap))
    value = float(spearmanr(cheap, full).statistic)
    deviation = math.sqrt((1 + value**2 / 2) / (len(cheap) - 3))
    centre = math.atanh(max(-CERTAIN, min(value, CERTAIN)))
    low, high = (math.tanh(centre + sign * Z_90 * deviation) for sign in (-1, 1))
    return Correlation(pairs=len(cheap), value=value, low=low, high=high)


def order_of(scores: Sequence[Score]) -> list[int]:
    """Indices from best to worst: within limits first, then by fronts, then by the sum of ranks; failed ones last."""
    complete = [index for index, score in enumerate(scores) if score.complete]
    fronts = dict(zip(complete, ranks_of([scores[index].values for index in complete]), strict=True))
    places = np.zeros(len(scores))
    if complete:
        values = np.array([scores[index].values for index in complete])
        for column in values.T:
            places[complete] += np.searchsorted(np.sort(column), column)
    return sorted(
        range(len(scores)),
        key=lambda index: (
            not scores[index].complete,
            scores[index].violation if scores[index].complete else math.inf,
            fronts.get(index, 0),
            places[index],
            index,
        ),
    )
