"""From a user's number to what is allowed: the form of a limit, resolved against what it is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compression_gate.records.metric_table import BETWEEN_MODELS
from compression_gate.records.rules import Rule

CHANGES = ("max_drop", "max_increase")
# Under the first a rule is told to be weak, under the second a blocking one is refused.
ENOUGH_POWER, LEAST_POWER = 0.8, 0.5
# 0.88 - 0.9 is -0.020000000000000018, and whoever allows 0.02 means it: what rounding adds to a difference is forgiven.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A limit in the metric's own unit.

    Args:
        margin: the degradation allowed (changes), or the value allowed (absolute limits).
        sign: +1 where a larger figure is worse, -1 where a smaller one is.
        is_change: whether ``margin`` is about a change.
    """

    margin: float
    sign: int
    is_change: bool

    @property
    def allowed(self) -> float:
        """The change, or the value, that is just allowed, in the metric's unit and direction."""
        return self.sign * self.margin if self.is_change else self.margin

    def badness(self, value: float) -> float:
        """How far a change or a value goes in the bad direction."""
        return self.sign * value

    @property
    def worst(self) -> float:
        """The largest badness allowed."""
        return self.margin if self.is_change else self.sign * self.margin

    def headroom(self, value: float) -> float:
        """Distance left to the limit, positive inside."""
        return self.worst - self.badness(value)


def is_inside(bound: Bound, value: float, *made_of: float | None) -> bool:
    """Whether a change or a value is within its limit; ``made_of``: the figures that it is the difference of."""
    scale = max(abs(figure) for figure in (value, *made_of) if figure is not None)
    return bound.headroom(value) >= -ROUNDING * scale


def bound_of(rule: Rule, compared_to: float | None) -> Bound | None:
    """Resolve a rule's limit, or return None for a relative one against nothing or zero.

    A relative limit is a share of the observed figure it is held against, taken as fixed.
    """
    sign = -1 if rule.form in ("min", "max_drop") else 1
    if rule.form not in CHANGES:
        return Bound(margin=rule.limit.value, sign=sign, is_change=False)
    if not rule.limit.relative:
        return Bound(margin=rule.limit.value, sign=sign, is_change=True)
    if not compared_to:
        return None
    return Bound(margin=rule.limit.value * abs(compared_to), sign=sign, is_change=True)


def between_models(rule: Rule) -> bool:
    """Whether a rule holds the candidate against another model: by a change, or by how their answers agree."""
    return rule.form in CHANGES or rule.metric in BETWEEN_MODELS


def judged(bound: Bound, interval: tuple[float, float]) -> str:
    """`pass` where the worse end of the interval is inside, `fail` where the better end is outside, else undecided.

    ``interval`` is of the change (or of the value) in the metric's unit; NaN anywhere is never a pass.
    """
    if not all(map(math.isfinite, interval)):
        return "undecided"
    ends = sorted(bound.badness(value) for value in interval)
    if ends[1] <= bound.worst:
        return "pass"
    if ends[0] > bound.worst:
        return "fail"
    return "undecided"
