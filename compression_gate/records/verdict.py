"""`reports/verdict.json`: what was judged, how sure it is, and of which very files it speaks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from compression_gate.records.base import Record
from compression_gate.records.waivers import Waiver

CheckStatus = Literal["pass", "fail", "undecided", "error", "waived"]
Status = Literal["pass", "fail", "undecided", "error"]
Level = Literal["block", "warn", "info"]
Reason = Literal[
    "missing_metric",
    "not_finite",
    "missing_slice",
    "too_few_examples",
    "no_baseline",
    "not_comparable",
    "untrusted_timing",
    "underpowered",
    "no_effect",
    "stale",
    "data_unreachable",
    "crashed",
]

PIPELINE = "pipeline"  # the metric of the check of a run that did not get as far as judging


class Check(Record):
    """One rule judged on one slice.

    Args:
        observed, compared_to: the candidate's figure, and that of what it is held against (None for absolute limits).
        change: observed - compared_to, in the metric's unit.
        interval: one-sided bounds, each at the rule's confidence, of ``change``; of ``observed`` for an absolute limit.
        limit: the user's number as written; allowed: the change, or the value, that it resolves to.
        headroom: distance left to the limit in the metric's unit, positive inside.
        minimum_detectable: the smallest degradation the check would have failed with probability 0.8; for an absolute
            limit the figure that would have.
        message: what was found, in a sentence; mending: what to do about it.
        alpha: how often each bound may be wrong; p_value: that the true figure is inside its limit, so that a small one
            proves it broken (both as at the first look, where timings were added since); settled_by: how many examples
            would settle an undecided check.
        power: P(pass | no drop) with these examples.
        proven: False where a rule with ``accept_underpowered`` was judged on its observed value.
        waiver: the one that covers it.

    A policy may correct ``fail`` to ``undecided`` for the number of checks, from ``p_value``: `gate/policy.py`.
    """

    rule: str
    metric: str
    slice: str | None = None
    against: str | None = None
    level: Level = "block"
    status: CheckStatus
    reason: Reason | None = None
    observed: float | None = None
    compared_to: float | None = None
    change: float | None = None
    interval: tuple[float | None, float | None] | None = None
    limit: str = ""
    allowed: float | None = None
    headroom: float | None = None
    n: int | None = None
    minimum_detectable: float | None = None
    message: str = ""
    mending: str = ""
    alpha: float | None = None
    p_value: float | None = None
    settled_by: int | None = None
    power: float | None = None
    proven: bool = True
    waiver: Waiver | None = None


class Subject(Record):
    """A model the verdict speaks of, by content; ``absent`` says why there is none."""

    digest: str | None = None
    commit: str | None = None
    absent: str | None = None


class FormerRules(Record):
    """The same run judged by the rules of the baseline's revision, where those are not the ones of this commit."""

    commit: str
    gate: dict[str, Any]
    checks: tuple[Check, ...]


class TestReuse(Record):
    """How often the test data were asked.

    Args:
        digest: of the test split. judged: how many candidates were judged on it, this one included.
        uses, mode: what `gate.policies.test_reuse` allows; None where it is only counted.
        premise: what must be true for the levels to hold, in a sentence.
    """

    digest: str | None = None
    judged: int = 0
    uses: int | None = None
    mode: Literal["non_adaptive", "adaptive"] | None = None
    premise: str = ""


class Axis(Record):
    """One axis of the trade-off: both figures, and whether the candidate is better, worse, or the same within noise."""

    metric: str
    observed: float
    compared_to: float
    outcome: Literal["better", "worse", "same"]


class Point(Record):
    """One model among all of this run: its figures on each axis, and whether none is better in everything."""

    role: str
    figures: dict[str, float]
    on_front: bool


class TradeOff(Record):
    """What this change gives and takes, over accuracy, bytes and latency."""

    against: str
    outcome: Literal["dominates", "trades", "dominated", "same"]
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]


class Verdict(Record):
    """The facts of every check, under one policy's overall status.

    ``bindings`` maps every file the judgement rests on to the digest of its content; ``sources`` does so for the
    user's own code. ``check`` recomputes both. ``seed`` is of the bootstrap; ``applied`` says the policy in words.
    """

    schema_number: Literal[2] = Field(2, alias="schema")
    status: Status
    exit_code: Literal[0, 1, 2, 3, 4]
    policy: str
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    candidate: Subject = Subject()
    reference: Subject = Subject()
    baseline: Subject = Subject()
    release: Subject = Subject()
    params_digest: str
    sources_digest: str
    package_version: str
    bindings: dict[str, str] = {}
    sources: dict[str, str] = {}
    environment: dict[str, str] = {}
    waivers: tuple[Waiver, ...] = ()
    former: FormerRules | None = None
    test_reuse: TestReuse = TestReuse()
    trade_off: TradeOff | None = None
    applied: tuple[str, ...] = ()
    seed: int | None = None
