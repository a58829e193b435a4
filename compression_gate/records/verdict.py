"""`reports/verdict.json`: what was judged, how sure it is, and of which very files it speaks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record

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
        minimum_detectable: the smallest degradation the check would have failed with probability 0.8.
        message: what was found, in a sentence; mending: what to do about it.
        proven: False where a rule with ``accept_underpowered`` was judged on its observed value.
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
    power: float | None = None
    proven: bool = True


class Subject(Record):
    """A model the verdict speaks of, by content; ``absent`` says why there is none."""

    digest: str | None = None
    commit: str | None = None
    absent: str | None = None


class Verdict(Record):
    """The facts of every check, under one policy's overall status.

    ``bindings`` maps every file the judgement rests on to the digest of its content; ``sources`` does so for the
    user's own code. ``check`` recomputes both.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
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
    waivers: tuple[str, ...] = ()
