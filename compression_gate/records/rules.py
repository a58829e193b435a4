"""A rule of the gate: one metric, one limit; and what may be wrong with it, or with two of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from compression_gate.records.metric_table import METRICS, QUALITY, direction, kind_of
from compression_gate.records.section import Section
from compression_gate.registry import unknown


class Limit(Section):
    """A user's number: in the metric's own unit, or relative (0.05 for "5%") to what it is held against."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.relative else f"{self.value:g}"


def parse_limit(value: Any) -> Any:
    """Turn ``0.01`` or ``"5%"`` into a :class:`Limit`'s fields."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*%\s*", value)):
        return {"value": float(match[1]) / 100, "relative": True}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"value": value}
    raise ValueError("expected a number, or a share like '5%'")


LimitField = Annotated[Limit, BeforeValidator(parse_limit)]
LIMIT_NAMES = ("max", "min", "max_drop", "max_increase")


class Rule(Section):
    """One metric, one limit, what it is held against, and how much it matters.

    Args:
        slice: a column of the test data (``class``: every class by itself) or one value of it (``class=3``).
        fallback: ``reference``: held against the reference while no baseline was ever recorded.
        accept_underpowered: judge on the observed value where the data can prove nothing of a change of a share.
    """

    metric: str
    max: LimitField | None = None
    min: LimitField | None = None
    max_drop: LimitField | None = None
    max_increase: LimitField | None = None
    against: Literal["reference", "baseline", "release"] = "reference"
    slice: str | None = None
    level: Literal["block", "warn", "info"] = "block"
    min_n: int | None = Field(None, ge=1)
    fallback: Literal["reference"] | None = None
    accept_underpowered: bool = False

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that were set, by name; a valid rule has exactly one."""
        return {name: limit for name in LIMIT_NAMES if (limit := getattr(self, name)) is not None}

    @property
    def form(self) -> str:
        """Which of the four forms the limit has."""
        return next(iter(self.limits))

    @property
    def limit(self) -> Limit:
        """The one limit."""
        return next(iter(self.limits.values()))


def rule_problems(name: str, rule: Rule, kind: str) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with one rule by itself: (key below the rule, what)."""
    problems: list[tuple[tuple[str, ...], str]] = []
    metric = METRICS.get(rule.metric)
    if metric is None and kind != "custom":
        problems.append((("metric",), unknown(rule.metric, list(METRICS))))
    if len(rule.limits) != 1:
        got = " and ".join(rule.limits) or "none"
        more = ": split it into two rules" if rule.limits else ""
        problems.append(((), f"has {got}; a rule has one limit of {', '.join(LIMIT_NAMES)}{more}"))
        return problems
    form, limit = rule.form, rule.limit
    change = form in ("max_drop", "max_increase")
    if change and limit.value < 0:
        problems.append(((form,), f"expected zero or more, got {limit}: a negative change can never be allowed"))
    if metric and metric.fraction and not limit.relative and not 0 <= abs(limit.value) <= 1:
        problems.append(((form,), f"{rule.metric} is a fraction: expected 0 to 1, got {limit} (one point is 0.01)"))
    if metric and not metric.fraction and not change and limit.value < 0:
        problems.append(((form,), f"{rule.metric} is never negative: expected zero or more, got {limit}"))
    if form == "max_drop" and limit.relative and limit.value > 1:
        problems.append(((form,), f"nothing can drop by more than 100%, got {limit}"))
    if rule.metric == "speedup" and change:
        problems.append(((form,), "speedup is a comparison with the reference itself: write min, or limit latency_ms"))
    elif metric and ((form == "max_drop") != (metric.better == "higher")) and change:
        right = "max_drop" if metric.better == "higher" else "max_increase"
        problems.append(((form,), f"{rule.metric} gets worse the other way: expected {right}, got {form}"))
    if not change and limit.relative:
        problems.append(((form,), f"an absolute limit is in the metric's own unit: expected a number, got {limit}"))
    if rule.accept_underpowered and not (change and is_share(rule)):
        works = "it works for max_drop and max_increase of accuracy, agreement, flips and recall by class"
        problems.append((("accept_underpowered",), f"has no effect on {form} of {rule.metric}: {works}"))
    return problems


def is_share(rule: Rule) -> bool:
    """Whether a rule's metric is a plain share of examples of its slice."""
    by_class = rule.slice is not None and rule.slice.partition("=")[0] == "class"
    return kind_of(rule.metric) == "paired_proportion" or (rule.metric == "recall" and by_class)


def direction_by(metric: str, forms: Iterable[str]) -> Literal[1, -1] | None:
    """1 where more of a metric is better, -1 where less is; None for a custom score whose rules do not say.

    Args:
        forms: of the limits that are put on it.
    """
    if metric in METRICS:
        return direction(metric)
    better: set[Literal[1, -1]] = {-1 if form in ("max", "max_increase") else 1 for form in forms}
    return better.pop() if len(better) == 1 else None


def quality_levels(rules: Mapping[str, Rule]) -> set[str]:
    """The levels that rules on the test examples have."""
    return {rule.level for rule in rules.values() if kind_of(rule.metric) in QUALITY}


def contradictions(rules: dict[str, Rule]) -> list[tuple[str, str]]:
    """Pairs of rules whose absolute limits leave nothing between them."""
    floors = {n: r for n, r in rules.items() if r.min is not None and len(r.limits) == 1}
    ceilings = {n: r for n, r in rules.items() if r.max is not None and len(r.limits) == 1}
    return [
        (low_name, high_name)
        for low_name, low in floors.items()
        for high_name, high in ceilings.items()
        if (low.metric, low.slice) == (high.metric, high.slice) and low.limit.value > high.limit.value
    ]
