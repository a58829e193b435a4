"""How sure a figure is: one estimate with its one-sided bounds for each kind of evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compression_gate.gate import power, proportions, resampling, timing_test
from compression_gate.gate.facts import Outcomes, Part, Question, part_of
from compression_gate.gate.limits import CHANGES, Bound, bound_of
from compression_gate.gate.timing_zone import zone_of
from compression_gate.records.metrics import PairedTiming
from compression_gate.records.rules import Rule

MOST = 1e6  # a ratio of times that no rule reaches
OWN_END = 0.025  # how often an end of a recorded figure's own interval may be wrong: they are taken at 95 %
MOST_EXAMPLES = 10**9  # a figure so near its limit that it takes more is on it: no number is of any help
SHARES = ("accuracy", "agreement", "flips")
CLASSWISE = ("precision", "recall", "f1")
REGRESSION = ("mae", "rmse", "r2")
Tail = Callable[[float, int], float]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, what it is held against, and the interval of the change (or of the figure itself).

    Args:
        discordance: share of examples on which the two models differ in being right; None where there are no pairs.
        fewest: how many examples this kind of evidence takes to say anything.
        alpha: how often each end of the interval may be wrong, None where nobody knows.
        answer: what a sequential test says, where one was made.
        tail: (limit, sign) -> p-value that the true change (or figure) is not beyond the limit: not over it for sign 1,
            not under it for -1. None where the evidence has none.
    """

    observed: float
    compared_to: float | None
    interval: tuple[float, float]
    statistical: bool = False
    n: int | None = None
    fewest: int = 1
    discordance: float | None = None
    alpha: float | None = 0.05
    answer: timing_test.Status | None = None
    tail: Tail | None = None
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


def of_outcomes(question: Question, outcomes: Outcomes, alpha: float) -> Estimate | None:
    """Estimate a quality metric from per-example outcomes, or None where there are none for it."""
    rule = question.rule
    part = part_of(question.slice, outcomes)
    if part is None:
        return None
    other = question.against if rule.form in CHANGES else None
    if part.outcomes.predicted:
        by_class = part.column == "class"
        if rule.metric in SHARES or (by_class and rule.metric == "recall"):
            return of_share(rule.metric, part, other, question.against, alpha)
        if by_class and question.slice is not None:
            return of_class(rule.metric, question.slice.removeprefix("class="), part, other, alpha)
    return of_composite(rule.metric, part, other, alpha)


def of_share(metric: str, part: Part, other: str | None, against: str, alpha: float) -> Estimate:
    """Accuracy, recall of a class, agreement or flips: shares of examples of which something is true."""
    # A change of agreement or flips is of those with the reference; a limit is on those with what it is held against.
    both, lost, won, none = counts_of(metric, part, other, against if other is None else "reference")
    n = both + lost + won + none
    if n == 0:
        return Estimate(observed=math.nan, compared_to=None, interval=(math.nan, math.nan), n=0)
    true = both + won
    if other is None:
        return Estimate(
            observed=true / n,
            compared_to=None,
            interval=proportions.clopper_pearson(true, n, alpha),
            statistical=True,
            n=n,
            alpha=alpha,
            tail=lambda limit, sign: proportions.binomial_p(true, n, limit, sign),
        )
    low, high = proportions.tango_bounds(lost, won, n, alpha)
    return Estimate(
        observed=true / n,
        compared_to=(both + lost) / n,
        interval=(-high, -low),
        statistical=True,
        n=n,
        discordance=(lost + won) / n,
        alpha=alpha,
        # A change over the limit is a drop under its negative: losses and wins change places.
        tail=lambda limit, sign: (
            proportions.tango_p(lost, won, n, -limit) if sign < 0 else proportions.tango_p(won, lost, n, limit)
        ),
        note=churn(lost, won),
    )


def churn(lost: int, won: int) -> str:
    """What became of single examples, and whether one direction outweighs the other by more than chance."""
    if lost + won == 0:
        return "no example changed"
    chance = proportions.mcnemar_p(lost, won)
    return f"{lost:,} turned wrong, {won:,} turned right (McNemar p = {chance:.2g})"


def counts_of(metric: str, part: Part, other: str | None, against: str) -> tuple[int, int, int, int]:
    """Examples of a part by whether a metric's claim is true: of both models, of the other only, the candidate's, none.

    Where there is no other model, only the third and the fourth hold any. All slices of a column are counted at once.
    """
    outcomes, key = part.outcomes, (metric, other or "", against, part.column or "")
    if key not in outcomes.counted:
        pairs = 2 * true_of(metric, "candidate", against, outcomes).astype(np.int64)
        if other is not None:
            pairs += true_of(metric, other, against, outcomes)
        codes = outcomes.groups[part.column][1] if part.column else np.zeros(len(pairs), dtype=np.int64)
        rows = int(codes.max(initial=0)) + 1
        outcomes.counted[key] = np.bincount(codes * 4 + pairs, minlength=4 * rows).reshape(rows, 4)
    table = outcomes.counted[key]
    none, lost, won, both = table[part.number].tolist() if part.number >= 0 else (0, 0, 0, 0)
    return both, lost, won, none


def true_of(metric: str, role: str, against: str, outcomes: Outcomes) -> np.ndarray:
    """For each example, whether the metric counts it for a model, (N,) of booleans."""
    predicted, target = outcomes.predicted, outcomes.target
    if metric == "agreement":
        return np.asarray(predicted[role] == predicted[against])
    if metric == "flips":
        return np.asarray((predicted[role] == target) != (predicted[against] == target))
    return np.asarray(predicted[role] == target)


def of_composite(metric: str, part: Part, other: str | None, alpha: float) -> Estimate | None:
    """A metric that is no plain share, by bootstrap of the pairs."""
    roles = ["candidate", *([other] if other else [])]
    outcomes, inside = part.outcomes, part.inside
    if not inside.any():
        return Estimate(observed=math.nan, compared_to=None, interval=(math.nan, math.nan), n=0)
    if outcomes.predicted:
        if metric not in CLASSWISE:
            return None
        return of_classes(metric, outcomes.target[inside], [outcomes.predicted[role][inside] for role in roles], alpha)
    held = outcomes.scores.get("candidate", {})
    name = "error" if metric in REGRESSION and metric not in held and "error" in held else metric
    if any(name not in outcomes.scores.get(role, {}) for role in roles):
        return None
    scores = [outcomes.scores[role][name][inside] for role in roles]
    return of_scores(metric, outcomes.target[inside] if name == "error" else None, scores, alpha)


def of_classes(metric: str, target: np.ndarray, predicted: list[np.ndarray], alpha: float) -> Estimate:
    """Precision, recall or F1, mean over the classes, from labels (n,)."""
    roles = [str(index) for index in range(len(predicted))]
    values, counts = resampling.grouped(target=target, **dict(zip(roles, predicted, strict=True)))
    classes, sizes = np.unique(target, return_counts=True)
    cells = [values[role] for role in roles]
    differing = cells[0] != (cells[1] if len(cells) > 1 else values["target"])
    return resampled(
        lambda *answers: resampling.classwise(metric, classes, values["target"], *answers),
        cells,
        counts,
        telling=int(counts[differing].sum()),
        influence=1 / (len(classes) * int(sizes.min())),
        alpha=alpha,
    )


def of_class(metric: str, label: str, part: Part, other: str | None, alpha: float) -> Estimate | None:
    """Precision or F1 of one class, by bootstrap over all examples."""
    if metric not in CLASSWISE:
        return None
    roles = ["candidate", *([other] if other else [])]
    outcomes, inside = part.outcomes, part.inside
    if not inside.any():
        return Estimate(observed=math.nan, compared_to=None, interval=(math.nan, math.nan), n=0)
    flags = {str(place): outcomes.predicted[role] == int(label) for place, role in enumerate(roles)}
    values, counts = resampling.grouped(target=inside, **flags)
    cells = [values[place].astype(np.int64) for place in flags]
    target = values["target"].astype(np.int64)
    differing = cells[0] != (cells[1] if len(cells) > 1 else target)
    estimate = resampled(
        lambda *answers: resampling.classwise(metric, np.array([1]), target, *answers),
        cells,
        counts,
        telling=int(counts[differing].sum()),
        influence=1 / int(inside.sum()),
        alpha=alpha,
    )
    return replace(estimate, n=int(inside.sum()))


def of_scores(metric: str, target: np.ndarray | None, scores: list[np.ndarray], alpha: float) -> Estimate:
    """A regression metric of signed errors (n,), or the mean of a custom scorer's scores (n,)."""
    columns = {str(place): score for place, score in enumerate(scores)}
    values, counts = resampling.grouped(target=np.zeros(len(scores[0])) if target is None else target, **columns)
    cells = [values[place] for place in columns]
    known = np.concatenate(cells) if target is None else np.abs(np.concatenate(cells))
    # Where all are alike nothing tells how far off another may be: as far as zero is, as the targets are apart, or one.
    spreads = (float(np.ptp(known)), float(np.abs(known).max()), float(np.ptp(values["target"])), 1.0)
    spread = next(spread for spread in spreads if spread > 0)
    usual = cells[1] if len(cells) > 1 else cells[0][np.argmax(counts)]

    def features(*answers: np.ndarray) -> tuple[np.ndarray, resampling.Statistic]:
        if target is None:
            return resampling.averaged(*answers)
        return resampling.weighted(metric, values["target"], *answers)

    telling = int(counts[cells[0] != usual].sum())
    return resampled(features, cells, counts, telling=telling, influence=spread / len(scores[0]), alpha=alpha)


def resampled(
    features: Callable[..., tuple[np.ndarray, resampling.Statistic]],
    cells: list[np.ndarray],
    counts: np.ndarray,
    *,
    telling: int,
    influence: float,
    alpha: float,
) -> Estimate:
    """Bootstrap a figure, or the difference of two on the same resamples.

    Args:
        features: answers of one model, or of two -> features and statistic. cells: those answers, (K,) each.
        counts: (K,) examples a cell stands for.
        telling, influence: as in :class:`resampling.Sample`.
    """

    def sample_of(*answers: np.ndarray) -> resampling.Sample:
        rows, statistic = features(*answers)
        return resampling.Sample(
            features=rows, counts=counts, statistic=statistic, telling=telling, influence=influence
        )

    figures = [float((one := sample_of(answers)).statistic(one.totals)[0]) for answers in cells]
    compared_to = figures[1] if len(figures) > 1 else None
    if (n := int(counts.sum())) < resampling.FEWEST_EXAMPLES:
        nowhere = (math.nan, math.nan)
        return Estimate(
            observed=figures[0], compared_to=compared_to, interval=nowhere, n=n, fewest=resampling.FEWEST_EXAMPLES
        )
    found = resampling.resample(sample_of(*cells))
    return Estimate(
        observed=figures[0],
        compared_to=compared_to,
        interval=found.bounds(alpha),
        statistical=True,
        n=n,
        fewest=resampling.FEWEST_EXAMPLES,
        alpha=alpha,
        tail=found.p_value,
        note=f"{resampling.RESAMPLES:,} resamples, {found.method} bounds",
    )


def of_pairs(rule: Rule, pair: PairedTiming, base: float) -> Estimate:
    """A latency, throughput or speedup from calls timed side by side; ``base`` is the other model's own figure.

    The sequential test answers; the interval is the one that matches it.
    """
    metric = rule.metric
    limit = limit_on_ratio(rule, base)
    turns = [np.array(blocks) for blocks in pair.blocks]
    # A limit that a candidate may not be faster than is one that the other may not be slower than.
    turned = metric == "speedup" and rule.form == "max"
    found = timing_test.decide([-blocks for blocks in turns] if turned else turns, zone_of(limit))
    low, high = (1 / found.interval[1], 1 / found.interval[0]) if turned else found.interval
    ratio = 1 / found.ratio if turned else found.ratio
    faster = metric in ("throughput_per_s", "speedup")
    if faster:
        ratio, low, high = 1 / ratio, inverse(high), inverse(low)
    # A speedup is judged as a value, the others as a change of the other model's own figure.
    shift = 0.0 if metric == "speedup" else base
    return Estimate(
        observed=ratio * base,
        compared_to=base,
        interval=(low * base - shift, high * base - shift),
        statistical=True,
        n=pair.pairs,
        alpha=timing_test.ALPHA,
        tail=lambda limit, sign: found.p_value,
        answer=found.status,
        note=why(found, pair),
    )


def inverse(value: float) -> float:
    """One over a value that may be zero or infinite."""
    return 1 / value if value else math.inf


def why(found: timing_test.Decision, pair: PairedTiming) -> str:
    """What a timed answer rests on, or why there is none."""
    taken = f"{pair.pairs:,} pairs in {pair.turns} processes, {pair.clock}"
    if found.status == "pass":
        return taken
    if found.status == "fail":
        return f"{taken}; slower than the line of silence is proven, and nearer to the limit than to it"
    needed = f": about {pair.needed_s:.0f} s of pairs would settle it" if pair.needed_s else ""
    return f"{taken}; {found.reason}{needed}: raise benchmark.budget_s, or `compression-gate run --again`"


def limit_on_ratio(rule: Rule, base: float) -> float:
    """The ratio of times, candidate over other, that a rule allows.

    Args:
        rule: on a speedup, a latency or a throughput. base: the other model's own figure, 1 for a speedup.
    """
    bound = bound_of(rule, base)
    assert bound is not None  # the base is over zero
    if rule.metric == "speedup":
        return bound.margin if rule.form == "max" else 1 / max(bound.margin, 1 / MOST)
    if rule.metric == "throughput_per_s":
        return 1 / max(1 - bound.margin / base, 1 / MOST)
    return 1 + bound.margin / base


def of_spreads(observed: Any, compared_to: Any | None) -> Estimate:
    """A figure that was not timed in pairs: the ends of its own spread, where it has one.

    Each end of a difference may be wrong where an end of either figure is.
    """
    low, high = ends_of(observed)
    ranges = "range" in (observed.spread, *([compared_to.spread] if compared_to else []))
    if compared_to is None:
        return Estimate(
            observed=observed.value,
            compared_to=None,
            interval=(low, high),
            statistical=high > low,
            n=observed.samples,
            alpha=None if ranges else OWN_END,
        )
    other_low, other_high = ends_of(compared_to)
    return Estimate(
        observed=observed.value,
        compared_to=compared_to.value,
        interval=(low - other_high, high - other_low),
        statistical=True,
        n=min(observed.samples, compared_to.samples),
        alpha=None if ranges else 2 * OWN_END,
        note="not paired: both figures' own spreads count",
    )


def ends_of(figure: Any) -> tuple[float, float]:
    """The spread of a measurement, or its value twice."""
    return (figure.value if figure.low is None else figure.low, figure.value if figure.high is None else figure.high)


def power_of(estimate: Estimate, bound: Bound) -> float | None:
    """P(pass | no drop) of a paired proportion; None for other evidence."""
    if estimate.discordance is None or estimate.n is None or estimate.alpha is None or not bound.is_change:
        return None
    return power.power_of_pass(estimate.discordance, estimate.n, bound.margin, estimate.alpha)


def minimum_detectable_of(estimate: Estimate, bound: Bound) -> float | None:
    """The smallest degradation the check would have failed with probability 0.8.

    For an absolute limit: the figure that would have.
    """
    if not estimate.statistical or estimate.alpha is None:
        return None
    if estimate.discordance is not None and estimate.n and bound.is_change:
        return power.minimum_detectable(estimate.discordance, estimate.n, bound.margin, estimate.alpha)
    if not all(map(math.isfinite, estimate.interval)):
        return None
    # Half the interval is z·SE at the error of each of its bounds; 0.84 more SE give power 0.8.
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    reach = half * (1 + proportions.upper_quantile(1 - power.DETECTED) / proportions.upper_quantile(estimate.alpha))
    return bound.margin + (reach if bound.is_change else bound.sign * reach)


def ways_out(estimate: Estimate, bound: Bound) -> tuple[int | None, float]:
    """How many examples (None: no number), or which margin, would give the check enough power."""
    assert estimate.discordance is not None  # only asked where power_of() answered
    assert estimate.n is not None
    assert estimate.alpha is not None
    needed = power.examples_needed(estimate.discordance, bound.margin, estimate.alpha) if bound.margin else None
    return needed, power.margin_needed(estimate.discordance, estimate.n, estimate.alpha)


def settling(estimate: Estimate, bound: Bound) -> int | None:
    """How many examples would settle an undecided check if the figures stay what they are; None: no number."""
    value = estimate.change if bound.is_change else estimate.observed
    distance = abs(bound.headroom(value))
    if not estimate.statistical or estimate.alpha is None or not estimate.n or not distance:
        return None
    if not all(map(math.isfinite, estimate.interval)):
        return None
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    reach = half * (1 + proportions.upper_quantile(1 - power.DETECTED) / proportions.upper_quantile(estimate.alpha))
    needed = estimate.n * (reach / distance) ** 2
    return math.ceil(needed) if needed <= MOST_EXAMPLES else None
