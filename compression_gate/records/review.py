"""What a team looks at together: the recorded runs of a range of commits, what moved, and which commit moved it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record
from compression_gate.records.verdict import Status


class ReviewedRun(Record):
    """One recorded run.

    Args:
        subject: the commit's first line; None where this clone does not have the commit.
        machine: a letter, the same for runs whose environment was the same; None where a run says nothing of it.
        failing: rules that did not pass, each with its status, slices with the rule's name.
        figures: of the candidate, by metric.
    """

    commit: str
    recorded_at: str
    subject: str | None
    status: Status
    exit_code: int
    release: str | None
    accepted: str | None
    machine: str | None
    failing: dict[str, str]
    figures: dict[str, float | None]


class Trend(Record):
    """One metric of the candidate over the runs.

    Args:
        better: None for a custom score that no rule limits.
        values: oldest first, None where a run has no figure.
        first, last: the first and the last figure that are there.
        worst_step: the largest step in the bad direction between runs that compare; None where there was none.
        worst_commit: the later commit of that step.
        comparable: whether all figures are of one machine, or of none.
    """

    metric: str
    better: Literal["higher", "lower"] | None
    values: tuple[float | None, ...]
    first: float | None
    last: float | None
    worst_step: float | None
    worst_commit: str | None
    comparable: bool


class Change(Record):
    """A run whose verdict, or whose verdict on a rule, is not the one before it."""

    commit: str
    rule: str | None
    before: str
    after: str


class Drift(Record):
    """How far a metric is from the last release; ``comparable`` is False where another machine measured it."""

    metric: str
    released: float
    now: float
    comparable: bool


class Review(Record):
    """What `review` prints.

    Args:
        since, head: the commits between which it looks; None where it looks at all runs.
        runs: oldest first, the one at ``since`` included. changes: of the verdict, and rule by rule.
        release: the name of the last release up to here, which drift is counted from.
        unrecorded: commits of the range that no run is recorded of.
        notices: records that could not be read, and the like.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    suite: str
    since: str | None
    head: str
    runs: tuple[ReviewedRun, ...]
    trends: tuple[Trend, ...]
    changes: tuple[Change, ...]
    release: str | None
    drift: tuple[Drift, ...]
    unrecorded: int
    notices: tuple[str, ...] = ()
