"""Bootstrap of metrics that are no plain proportion: pairs kept together, bounds corrected for bias and skew.

Every metric here is a function of totals: each example adds one row of features, and a resample only changes how often
each row is added. So a metric is written once, and the figure itself, its resamples and its jackknife all come from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from compression_gate.gate.proportions import upper_quantile, upper_tail

RESAMPLES = 5_000
SEED = 20_240_229
CHUNK_CELLS = 2_000_000  # numbers held at a time while resampling: 16 MB
BLOCK = 8_192  # examples at a time: a column of them stays in the cache
FEWEST_CELLS = 20_000  # up to here counts of equal examples are drawn at once; beyond, examples one by one
FEWEST_BEYOND = 10  # a quantile with fewer resamples beyond it is a guess
MOST_BIAS, MOST_ACCELERATION = 1.0, 0.25  # beyond these BCa's corrections turn round within the resamples' range
FEWEST_EXAMPLES = 20  # a bootstrap of fewer passes too much; from here on normal differences at the limit do in 7 %
FEWEST_TELLING = 10  # where fewer examples differ, what no example showed yet may be larger than what some did
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Examples that a metric is made of.

    Args:
        features: (K, F); equal examples share a row. counts: (K,) how many examples each row stands for.
        statistic: totals of the features (B, F) -> values of the metric (B,).
        telling: how many examples say anything: on how many two models differ, or one is not as on all the others.
        influence: how much one more such example can move the metric; over zero, also where all seen are alike.
    """

    features: np.ndarray
    counts: np.ndarray
    statistic: Statistic
    telling: int
    influence: float

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.counts.sum())

    @property
    def totals(self) -> np.ndarray:
        """The totals of all examples, (1, F)."""
        return np.asarray(self.counts @ self.features)[None, :]


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A figure and its resamples.

    Args:
        observed: the figure. values: of the resamples, sorted. acceleration: of BCa, from the jackknife.
        sample: what they were drawn from.

    Source: Efron 1987, Better bootstrap confidence intervals, Journal of the American Statistical Association 82. Where
        its corrections are too large to be believed the percentiles are taken as they are. Departing from both, what
        lies beyond the outermost ten resamples is continued as a normal of their deviation: corrections for many checks
        ask for levels that no resample reaches.
    """

    observed: float
    values: np.ndarray
    acceleration: float
    sample: Sample

    @cached_property
    def raw_bias(self) -> float:
        """BCa's z₀: how far off the middle of the resamples the figure lies, in deviations; ±∞ where beyond all."""
        below, equal = np.sum(self.values < self.observed), np.sum(self.values == self.observed)
        return -upper_quantile(float(below + equal / 2) / len(self.values))

    @cached_property
    def corrections(self) -> tuple[float, float]:
        """Bias and acceleration that are used: none where either is too large."""
        stable = abs(self.raw_bias) <= MOST_BIAS and abs(self.acceleration) <= MOST_ACCELERATION
        return (self.raw_bias, self.acceleration) if stable else (0.0, 0.0)

    @property
    def method(self) -> str:
        """``bca``, or ``percentile`` where that is not stable."""
        return "bca" if self.corrections == (self.raw_bias, self.acceleration) else "percentile"

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the resamples."""
        return float(self.values.std())

    @cached_property
    def edges(self) -> tuple[float, float]:
        """The outermost values that have enough resamples beyond them to be believed."""
        return float(self.values[FEWEST_BEYOND]), float(self.values[-FEWEST_BEYOND - 1])

    def z_of(self, limit: float) -> float:
        """How many deviations the figure lies over ``limit``, corrected; falls as the limit rises."""
        inside = min(max(limit, self.edges[0]), self.edges[1])
        places = np.searchsorted(self.values, inside, "left"), np.searchsorted(self.values, inside, "right")
        bias, acceleration = self.corrections
        w = -upper_quantile(float(sum(places)) / 2 / len(self.values)) - bias
        z = bias - w / (1 + acceleration * w)
        if limit == inside:
            return z
        return z + (inside - limit) / self.deviation if self.deviation else math.copysign(math.inf, inside - limit)

    def limit_at(self, z: float) -> float:
        """The limit over which the figure lies ``z`` deviations: :meth:`z_of` turned round."""
        low, high = self.edges
        most, least = self.z_of(low), self.z_of(high)
        if z > most or z < least:
            return low - (z - most) * self.deviation if z > most else high + (least - z) * self.deviation
        bias, acceleration = self.corrections
        shifted = bias - z
        return float(np.quantile(self.values, upper_tail(-(bias + shifted / (1 - acceleration * shifted)))))

    def bounds(self, alpha: float) -> tuple[float, float]:
        """One-sided bounds, each wrong with probability ``alpha``."""
        if not len(self.values):
            return math.nan, math.nan
        z, unseen = upper_quantile(alpha), self.unseen(alpha)
        return min(self.limit_at(z), self.observed - unseen), max(self.limit_at(-z), self.observed + unseen)

    def p_value(self, limit: float, sign: int) -> float:
        """P-value that the true figure is not beyond ``limit``: not over it (``sign`` 1), not under it (-1).

        It turns :meth:`bounds` round: the error at which the bound would lie on the limit.
        """
        if not len(self.values):
            return math.nan
        return max(upper_tail(sign * self.z_of(limit)), self.unseen_p((self.observed - limit) * sign))

    def unseen(self, alpha: float) -> float:
        """How much more the figure may move by kinds of examples that the test set happens not to hold.

        Where nearly all examples are alike a resample holds nothing new either, and would be sure of anything. So where
        few tell something, their share may be what Clopper and Pearson allow: for none, what Tango's interval allows.
        """
        k, n = self.sample.telling, self.sample.n
        if k >= FEWEST_TELLING:
            return 0.0
        share = float(stats.beta.isf(alpha, k + 1, n - k))
        return (share * n - k) * self.sample.influence

    def unseen_p(self, distance: float) -> float:
        """P-value that examples of unseen kinds make up for ``distance``; zero where enough were seen."""
        k, n = self.sample.telling, self.sample.n
        if k >= FEWEST_TELLING or distance <= 0:
            return 0.0
        return float(stats.binom.cdf(k, n, min((k + distance / self.sample.influence) / n, 1.0)))


def resample(sample: Sample, seed: int = SEED) -> Resampled:
    """Draw ``RESAMPLES`` test sets and take the metric of each.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 14.
    """
    observed = float(sample.statistic(sample.totals)[0])
    chunks = drawn(sample, np.random.default_rng(seed))
    values = np.concatenate([sample.statistic(totals) for totals in chunks])
    finite = np.sort(values[np.isfinite(values)])
    if len(finite) < len(values) * 0.99:
        finite = np.empty(0)  # a metric that has no value on many test sets has no bounds either
    return Resampled(observed=observed, values=finite, acceleration=acceleration(sample), sample=sample)


def drawn(sample: Sample, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Totals of the resampled test sets, in chunks (B, F)."""
    rows, n = len(sample.counts), sample.n
    if rows <= min(FEWEST_CELLS, max(n // 2, 1)):
        size = max(1, CHUNK_CELLS // rows)
        for start in range(0, RESAMPLES, size):
            number = min(size, RESAMPLES - start)
            yield random.multinomial(n, sample.counts / n, size=number) @ sample.features
        return
    examples = np.repeat(sample.features, sample.counts, axis=0)
    size = max(1, CHUNK_CELLS // BLOCK)
    for start in range(0, RESAMPLES, size):
        yield drawn_singly(examples, random, min(size, RESAMPLES - start))


def drawn_singly(examples: np.ndarray, random: np.random.Generator, number: int) -> np.ndarray:
    """Totals (number, F) of resamples of examples (n, F) that have nothing in common.

    How many fall into each block of examples is drawn first, then which of the block: the same distribution as drawing
    from all at once, and every look-up stays in the processor's cache, so that the time grows with n and not faster.
    """
    n, columns = examples.shape
    sizes = np.array([len(examples[start : start + BLOCK]) for start in range(0, n, BLOCK)])
    per_block = random.multinomial(n, sizes / n, size=number)
    varying = [column for column in range(columns) if np.ptp(examples[:, column]) > 0]
    totals = np.tile(examples[0] * n, (number, 1))
    totals[:, varying] = 0.0
    for block, size in enumerate(sizes):
        counts = per_block[:, block]
        picked = random.integers(0, size, size=int(counts.sum()), dtype=np.uint16)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        empty = counts == 0
        for column in varying:
            values = np.append(examples[block * BLOCK : block * BLOCK + size, column][picked], 0.0)
            totals[:, column] += np.where(empty, 0.0, np.add.reduceat(values, starts))
    return totals


def acceleration(sample: Sample) -> float:
    """BCa's a: the skew of what leaving out each example does, over six; 0 where none does anything."""
    without = sample.statistic(sample.totals - sample.features)
    weights = sample.counts
    if not np.isfinite(without).all():
        return 0.0
    distance = np.average(without, weights=weights) - without
    squares = float(weights @ distance**2)
    return float(weights @ distance**3) / (6 * squares**1.5) if squares > 0 else 0.0


def grouped(**columns: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Join equal examples: the distinct rows of columns ``(N,)`` or ``(N, K)``, and how many each stands for."""
    names = list(columns)
    codes = np.zeros(len(columns[names[0]]), dtype=np.int64)
    for name in names:
        values, code = np.unique(columns[name], return_inverse=True, axis=0 if columns[name].ndim > 1 else None)
        codes = codes * len(values) + code.reshape(-1)  # some versions of numpy return it as a column
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return {name: np.asarray(columns[name])[first] for name in names}, counts


def classwise(
    name: str, classes: np.ndarray, target: np.ndarray, *predicted: np.ndarray
) -> tuple[np.ndarray, Statistic]:
    """Features and statistic of precision, recall or F1, mean over the classes.

    Args:
        name: the metric. classes: (C,) the labels that count.
        target: (K,). predicted: (K,) of the candidate, and of the model it is held against where there is one.

    A class without examples is left out of the mean, as when the figure itself is taken; precision is 0 where a class
    was never predicted.
    """
    number = len(classes)
    actual = target[:, None] == classes
    blocks = [actual]
    for labels in predicted:
        guessed = labels[:, None] == classes
        blocks += [guessed, actual & guessed]

    def of(totals: np.ndarray, index: int) -> np.ndarray:
        held, guessed, right = (
            totals[:, place * number : (place + 1) * number] for place in (0, 1 + 2 * index, 2 + 2 * index)
        )
        bottom = {"recall": held, "precision": guessed, "f1": (held + guessed) / 2}[name]
        values = np.divide(right, bottom, out=np.zeros_like(right), where=bottom > 0)
        present = held > 0
        none = np.full(len(totals), np.nan)
        return np.asarray(np.divide((values * present).sum(1), present.sum(1), out=none, where=present.any(1)))

    return np.concatenate(blocks, axis=1).astype(np.float64), change_of(of, len(predicted))


def weighted(name: str, target: np.ndarray, *errors: np.ndarray) -> tuple[np.ndarray, Statistic]:
    """Features and statistic of a regression metric of signed errors ``(K,)``.

    Args:
        target: ``(K,)``, or of several values ``(K, V)``: the variance is then the mean of theirs.
    """
    values = target.reshape(len(target), -1)
    centred = values - values.mean(0)  # a target far from zero would lose its variance to rounding
    columns = [np.ones(len(values)), *(np.abs(error) if name == "mae" else error**2 for error in errors)]
    if name == "r2":
        columns += [(centred**2).mean(1), *centred.T]

    def of(totals: np.ndarray, index: int) -> np.ndarray:
        count, cost = totals[:, 0], totals[:, 1 + index]
        if name != "r2":
            return np.asarray(cost / count if name == "mae" else np.sqrt(cost / count))
        second, first = totals[:, 1 + len(errors)], totals[:, 2 + len(errors) :]
        variance = second / count - ((first / count[:, None]) ** 2).mean(1)
        none = np.full(len(totals), np.nan)
        return np.asarray(1 - np.divide(cost / count, variance, out=none, where=variance > 0))

    return np.stack(columns, axis=1), change_of(of, len(errors))


def averaged(*scores: np.ndarray) -> tuple[np.ndarray, Statistic]:
    """Features and statistic of the mean of per-example scores ``(K,)``."""
    columns = [np.ones_like(scores[0]), *scores]
    return np.stack(columns, axis=1), change_of(lambda totals, index: totals[:, 1 + index] / totals[:, 0], len(scores))


def change_of(of: Callable[[np.ndarray, int], np.ndarray], number: int) -> Statistic:
    """The candidate's figure, less the other's where there is one: on the same resample, so that noise cancels."""
    return lambda totals: of(totals, 0) - (of(totals, 1) if number > 1 else 0.0)
