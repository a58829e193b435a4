"""What a change gives and takes as a whole: better, worse or the same on each axis, and where every model stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compression_gate.gate.evidence import ESTIMATORS
from compression_gate.gate.facts import Facts, Question
from compression_gate.records.metric_table import kind_of
from compression_gate.records.rules import Rule, direction_by
from compression_gate.records.verdict import Axis, Point, TradeOff

COSTS = ("size_bytes", "latency_ms")
ROLES = ("reference", "release", "baseline", "candidate")


def trade_off(facts: Facts) -> TradeOff | None:
    """Hold the candidate against the baseline, or the reference while there is none; None where nothing compares.

    An axis is better or worse only where its interval leaves no doubt; bytes leave none.
    """
    against = "baseline" if "baseline" in facts.artifacts else "reference"
    axes = [axis for metric in axes_of(facts) if (axis := axis_of(metric, against, facts))]
    if not axes:
        return None
    return TradeOff(against=against, outcome=outcome_of(axes), axes=tuple(axes), points=tuple(points_of(axes, facts)))


def axes_of(facts: Facts) -> list[str]:
    """The first quality that was measured and has a direction, bytes, and latency."""
    models = facts.evaluation.models if facts.evaluation else {}
    measured = models["candidate"].metrics if "candidate" in models else {}
    named = [name for name in facts.params.metrics or measured if name in measured]
    quality = next((name for name in named if direction_of(name, facts)), None)
    return [*([quality] if quality else []), *COSTS]


def direction_of(metric: str, facts: Facts) -> int:
    """1 where more is better, -1 where less is; 0 for a custom score that no rule limits, or two from either side."""
    rules = facts.params.gate.rules.values()
    return direction_by(metric, [rule.form for rule in rules if rule.metric == metric]) or 0


def axis_of(metric: str, against: str, facts: Facts) -> Axis | None:
    """One axis, or None where it cannot be compared; the checks say why."""
    up = direction_of(metric, facts)
    form = "max_drop" if up > 0 else "max_increase"
    rule = Rule.model_validate({"metric": metric, "against": against, form: 0.0})
    question = Question(name="trade_off", rule=rule, slice=None, against=against)
    try:
        estimate = ESTIMATORS[kind_of(metric)](question, facts)
        low, high = sorted(estimate.interval)
        if estimate.compared_to is None or not low <= high:
            return None
    except Exception:  # noqa: BLE001  # what cannot be compared is no axis; damaged records are the checks' affair
        return None
    outcome = "same" if low <= 0 <= high else "better" if up * estimate.change > 0 else "worse"
    return Axis.model_validate(
        {"metric": metric, "observed": estimate.observed, "compared_to": estimate.compared_to, "outcome": outcome}
    )


def outcome_of(axes: Sequence[Axis]) -> str:
    """The whole in a word."""
    found = {axis.outcome for axis in axes}
    if {"better", "worse"} <= found:
        return "trades"
    return "dominates" if "better" in found else "dominated" if "worse" in found else "same"


def points_of(axes: Sequence[Axis], facts: Facts) -> list[Point]:
    """Every model that has a figure on each axis, and whether no other is as good everywhere and better somewhere."""
    names = [axis.metric for axis in axes]
    found = {role: figures_of(role, names, facts) for role in ROLES}
    up = {name: direction_of(name, facts) for name in names}
    whole = {role: figures for role, figures in found.items() if len(figures) == len(names)}
    return [
        Point(
            role=role,
            figures=figures,
            on_front=not any(beats(other, figures, up) for name, other in whole.items() if name != role),
        )
        for role, figures in whole.items()
    ]


def beats(one: Mapping[str, float], other: Mapping[str, float], up: Mapping[str, int]) -> bool:
    """Whether one model is as good on every axis and better on one; ``up``: 1 where more is better, -1 where less."""
    gains = [(one[name] - other[name]) * up[name] for name in one]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


def figures_of(role: str, names: Sequence[str], facts: Facts) -> dict[str, float]:
    """A model's figures of this run by name; those without a value are left out."""
    quality = facts.evaluation.models.get(role) if facts.evaluation else None
    cost = facts.benchmark.models.get(role) if facts.benchmark else None
    values = {
        **{name: value.value for name, value in (quality.metrics if quality else {}).items()},
        **{name: value.value for name, value in (cost.figures if cost else {}).items()},
    }
    return {name: value for name in names if (value := values.get(name)) is not None}
