"""How sure a figure is: one estimate with its one-sided bounds for each kind of evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from compression_gate.gate import proportions, resampling
from compression_gate.gate.facts import Outcomes, Question
from compression_gate.gate.limits import CHANGES, Bound

CONTROL_HIGH = 1.02  # an identical copy that comes out further from 1 than this says that the clock cannot be trusted
PROPORTIONS = ("accuracy", "agreement")
REGRESSION = ("mae", "rmse", "r2")
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, what it is held against, and the interval of the change (or of the figure itself).

    Args:
        discordance: share of examples on which the two models differ in being right; None where there are no pairs.
        confidence: of each one-sided bound.
    """

    observed: float
    compared_to: float | None
    interval: tuple[float, float]
    statistical: bool = False
    n: int | None = None
    discordance: float | None = None
    confidence: float = 0.95
    note: str = ""

    @property
    def change(self) -> float:
        """The candidate's figure less the other; the figure itself where there is nothing to compare it with."""
        return self.observed - (self.compared_to or 0.0)

    @classmethod
    def exact(cls, observed: float, compared_to: float | None) -> Estimate:
        """A count: no doubt about it."""
        value = observed - (compared_to or 0.0)
        return cls(observed=observed, compared_to=compared_to, interval=(value, value))


def of_outcomes(question: Question, outcomes: Outcomes, confidence: float) -> Estimate | None:
    """Estimate a quality metric from per-example outcomes, or None where there are none for it."""
    rule = question.rule
    inside = inside_slice(question.slice, outcomes)
    if inside is None:
        return None
    other = question.against if rule.form in CHANGES else None
    if outcomes.predicted:
        by_class = question.slice is not None and column_of(question.slice, outcomes) == "class"
        if rule.metric in PROPORTIONS or (by_class and rule.metric == "recall"):
            return of_proportion(rule.metric, outcomes, inside, other, confidence)
        if by_class and question.slice is not None:
            return of_class(rule.metric, question.slice, outcomes, other, confidence)
    return of_composite(rule.metric, outcomes, inside, other, confidence)


def inside_slice(name: str | None, outcomes: Outcomes) -> np.ndarray | None:
    """Which examples a slice holds, (N,) of booleans."""
    if name is None:
        return np.ones(len(outcomes.target), dtype=bool)
    column = column_of(name, outcomes)
    if column is None:
        return None
    value = name.removeprefix(f"{column}=")
    return np.asarray(outcomes.target == float(value) if column == "class" else outcomes.columns[column] == value)


def column_of(part: str, outcomes: Outcomes) -> str | None:
    """The column a slice ``column=value`` is of; both may hold an equals sign."""
    known = [*(["class"] if outcomes.predicted else []), *outcomes.columns]
    return max((name for name in known if part.startswith(f"{name}=")), key=len, default=None)


def of_proportion(
    metric: str, outcomes: Outcomes, inside: np.ndarray, other: str | None, confidence: float
) -> Estimate:
    """Accuracy, recall of a class, or agreement with the reference."""
    against = "reference" if metric == "agreement" else None
    right = {
        role: (labels == (outcomes.predicted[against] if against else outcomes.target))[inside]
        for role, labels in outcomes.predicted.items()
    }
    n = int(inside.sum())
    if n == 0:
        return Estimate(observed=math.nan, compared_to=None, interval=(math.nan, math.nan), n=0)
    observed = float(right["candidate"].mean())
    if other is None:
        low, high = proportions.clopper_pearson(int(right["candidate"].sum()), n, confidence)
        return Estimate(
            observed=observed, compared_to=None, interval=(low, high), statistical=True, n=n, confidence=confidence
        )
    lost = int((right[other] & ~right["candidate"]).sum())
    won = int((~right[other] & right["candidate"]).sum())
    low, high = proportions.tango_interval(lost, won, n, 2 * confidence - 1)
    return Estimate(
        observed=observed,
        compared_to=float(right[other].mean()),
        interval=(-high, -low),
        statistical=True,
        n=n,
        discordance=(lost + won) / n,
        confidence=confidence,
        note=f"{lost:,} turned wrong, {won:,} turned right",
    )


def of_composite(
    metric: str, outcomes: Outcomes, inside: np.ndarray, other: str | None, confidence: float
) -> Estimate | None:
    """A metric that is no plain proportion, by bootstrap of the pairs."""
    columns = columns_of(metric, outcomes, inside, other)
    if columns is None:
        return None
    cells = resampling.cells_of(**columns)
    values = cells.values
    classes = np.unique(values["target"]) if outcomes.predicted else np.empty(0)

    def metric_of(role: str) -> resampling.Metric:
        if outcomes.predicted:
            return resampling.classwise(metric, values["target"], values[role], classes)
        if "error" in outcomes.scores.get(role, {}) and metric in REGRESSION:
            return resampling.weighted(metric, values["target"], values[role])
        return resampling.mean_of(values[role])

    return resampled(cells, metric_of("candidate"), metric_of(other) if other else None, confidence)


def columns_of(metric: str, outcomes: Outcomes, inside: np.ndarray, other: str | None) -> dict[str, np.ndarray] | None:
    """What of each example a composite metric depends on: the target, and each model's answer or score."""
    roles = ["candidate", *([other] if other else [])]
    if outcomes.predicted:
        if metric not in ("precision", "recall", "f1"):
            return None
        return {"target": outcomes.target[inside], **{role: outcomes.predicted[role][inside] for role in roles}}
    held = outcomes.scores.get("candidate", {})
    name = "error" if metric in REGRESSION and "error" in held else metric
    if any(name not in outcomes.scores.get(role, {}) for role in roles):
        return None
    target = outcomes.target[inside] if name == "error" else np.zeros(int(inside.sum()))
    return {"target": target, **{role: outcomes.scores[role][name][inside] for role in roles}}


def of_class(metric: str, part: str, outcomes: Outcomes, other: str | None, confidence: float) -> Estimate | None:
    """Precision or F1 of one class, by bootstrap over all examples."""
    if metric not in ("precision", "f1"):
        return None
    label = float(part.partition("=")[2])
    roles = ["candidate", *([other] if other else [])]
    flags = {role: (outcomes.predicted[role] == label) for role in roles}
    inside = outcomes.target == label
    cells = resampling.cells_of(target=inside, **flags)
    one = np.array([1.0])

    def metric_of(role: str) -> resampling.Metric:
        return resampling.classwise(metric, cells.values["target"], cells.values[role], one)

    estimate = resampled(cells, metric_of("candidate"), metric_of(other) if other else None, confidence)
    return replace(estimate, n=int(inside.sum()))


def resampled(
    cells: resampling.Cells, candidate: resampling.Metric, other: resampling.Metric | None, confidence: float
) -> Estimate:
    """Bootstrap a figure, or the difference of two on the same resamples."""
    once = cells.counts[None, :]
    observed = float(candidate(once)[0])
    compared_to = float(other(once)[0]) if other else None
    # One metric for both: the pairs must be resampled together, or their common noise would count twice.
    samples = resampling.bootstrap(cells, lambda counts: candidate(counts) - (other(counts) if other else 0.0))
    return Estimate(
        observed=observed,
        compared_to=compared_to,
        interval=resampling.one_sided_bounds(samples, confidence),
        statistical=True,
        n=int(cells.counts.sum()),
        confidence=confidence,
    )


def of_pairs(metric: str, pair: Any, base: float | None) -> Estimate:
    """A latency, throughput or speedup from calls timed side by side; ``base`` is the other model's own figure."""
    low, high = pair.interval
    if base is None or low is None or high is None:
        return Estimate(observed=math.nan, compared_to=None, interval=(math.nan, math.nan))
    faster = metric in ("throughput_per_s", "speedup")
    ratio, ends = (1 / pair.ratio, (1 / high, 1 / low)) if faster else (pair.ratio, (low, high))
    # A speedup is judged as a value, the others as a change of the other model's own figure.
    shift = 0.0 if metric == "speedup" else base
    return Estimate(
        observed=ratio * base,
        compared_to=base,
        interval=(ends[0] * base - shift, ends[1] * base - shift),
        statistical=True,
        n=pair.pairs,
        confidence=(1 + pair.confidence) / 2,
        note=f"{pair.pairs:,} pairs in {pair.turns} processes, {pair.clock}",
    )


def of_spreads(observed: Any, compared_to: Any | None) -> Estimate:
    """A figure that was not timed in pairs: the ends of its own spread, where it has one."""
    low, high = ends_of(observed)
    if compared_to is None:
        return Estimate(
            observed=observed.value, compared_to=None, interval=(low, high), statistical=high > low, n=observed.samples
        )
    other_low, other_high = ends_of(compared_to)
    return Estimate(
        observed=observed.value,
        compared_to=compared_to.value,
        interval=(low - other_high, high - other_low),
        statistical=True,
        n=min(observed.samples, compared_to.samples),
        note="not paired: both figures' own spreads count",
    )


def ends_of(figure: Any) -> tuple[float, float]:
    """The spread of a measurement, or its value twice."""
    return (figure.value if figure.low is None else figure.low, figure.value if figure.high is None else figure.high)


def power_of(estimate: Estimate, bound: Bound) -> float | None:
    """P(pass | no drop) of a paired proportion; None for other evidence."""
    if estimate.discordance is None or estimate.n is None or not bound.is_change:
        return None
    return proportions.power_of_pass(estimate.discordance, estimate.n, bound.margin, estimate.confidence)


def minimum_detectable_of(estimate: Estimate, bound: Bound) -> float | None:
    """The smallest degradation the check would have failed with probability 0.8."""
    if estimate.discordance is not None and estimate.n and bound.is_change:
        return proportions.minimum_detectable(estimate.discordance, estimate.n, bound.margin, estimate.confidence)
    if estimate.statistical and bound.is_change and all(map(math.isfinite, estimate.interval)):
        # Half the interval is z·SE at the confidence of each of its bounds; 0.84 more SE give power 0.8.
        half = (estimate.interval[1] - estimate.interval[0]) / 2
        return bound.margin + half * (1 + quantile(POWER) / quantile(estimate.confidence))
    return None


def ways_out(estimate: Estimate, bound: Bound) -> tuple[int | None, float]:
    """How many examples (None: no number), or which margin, would give the check enough power."""
    assert estimate.discordance is not None  # only asked where power_of() answered
    assert estimate.n is not None
    confidence = estimate.confidence
    needed = proportions.examples_needed(estimate.discordance, bound.margin, confidence) if bound.margin else None
    return needed, proportions.margin_needed(estimate.discordance, estimate.n, confidence)


def quantile(share: float) -> float:
    """The standard normal's quantile."""
    return NormalDist().inv_cdf(share)
