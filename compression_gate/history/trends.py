"""Runs in a row: what each metric did, where a verdict changed, how far it is from the last release."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Mapping, Sequence

from compression_gate.records.history import RunRecord
from compression_gate.records.metric_table import METRICS
from compression_gate.records.review import Change, Drift, ReviewedRun, Trend
from compression_gate.records.rules import direction_by

OF_A_MACHINE = ("timed", "noisy_resource")
WORST = ("error", "fail", "undecided", "waived", "pass")


def reviewed(records: Sequence[RunRecord], subjects: Mapping[str, str]) -> list[ReviewedRun]:
    """The runs as a review shows them, oldest first. ``subjects``: commit -> its first line."""
    letters = machine_letters(records)
    return [
        ReviewedRun(
            commit=record.commit,
            recorded_at=record.recorded_at,
            subject=subjects.get(record.commit),
            status=record.status,
            exit_code=record.exit_code,
            release=record.release,
            accepted=record.accepted,
            machine=letters.get(machine_of(record)),
            failing={rule: status for rule, status in rules_of(record).items() if status != "pass"},
            figures=record.metrics.get("candidate", {}),
        )
        for record in records
    ]


def machine_of(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """What a run says of where it was measured."""
    return tuple(sorted(record.verdict.environment.items())) if record.verdict else ()


def machine_letters(records: Iterable[RunRecord]) -> dict[tuple[tuple[str, str], ...], str]:
    """A letter for each environment, in the order in which they appear."""
    found = dict.fromkeys(environment for record in records if (environment := machine_of(record)))
    letters = (first + second for first in ("", *string.ascii_uppercase) for second in string.ascii_uppercase)
    return dict(zip(found, letters, strict=False))


def rules_of(record: RunRecord) -> dict[str, str]:
    """Each rule's status: the worst of its slices."""
    found: dict[str, str] = {}
    for check in record.verdict.checks if record.verdict else ():
        before = found.get(check.rule, "pass")
        found[check.rule] = min(before, check.status, key=WORST.index)
    return found


def trends_of(runs: Sequence[ReviewedRun], records: Sequence[RunRecord]) -> list[Trend]:
    """One row for each metric that any run has, in the order in which they appear. ``records``: of the same runs."""
    metrics = dict.fromkeys(name for run in runs for name in run.figures)
    return [trend_of(metric, runs, direction_by(metric, forms_of(metric, records))) for metric in metrics]


def forms_of(metric: str, records: Sequence[RunRecord]) -> list[str]:
    """The forms of the limits on a metric, of the newest run that has any."""
    found = (
        [check.limit.partition(" ")[0] for check in record.verdict.checks if check.metric == metric and check.limit]
        for record in reversed(records)
        if record.verdict
    )
    return next((forms for forms in found if forms), [])


def trend_of(metric: str, runs: Sequence[ReviewedRun], direction: int | None) -> Trend:
    """What one metric did, and which commit made it worse by most.

    Args:
        direction: 1 where more is better, -1 where less is; None: nothing is worse where nobody knows.
    """
    known = [(run, value) for run in runs if (value := run.figures.get(metric)) is not None]
    sign = -(direction or 0)
    steps = [
        (sign * (new - old), later.commit)
        for (earlier, old), (later, new) in itertools.pairwise(known)
        if compares(metric, earlier, later)
    ]
    worst = max(steps, default=(0.0, None))
    return Trend(
        metric=metric,
        better=None if direction is None else "higher" if direction > 0 else "lower",
        values=tuple(run.figures.get(metric) for run in runs),
        first=known[0][1] if known else None,
        last=known[-1][1] if known else None,
        worst_step=sign * worst[0] if worst[0] > 0 else None,
        worst_commit=worst[1] if worst[0] > 0 else None,
        comparable=all(compares(metric, known[0][0], run) for run, _ in known),
    )


def compares(metric: str, one: ReviewedRun, other: ReviewedRun) -> bool:
    """Whether two runs' figures may be held against each other: times and memory of one machine only."""
    if metric in METRICS and METRICS[metric].kind in OF_A_MACHINE:
        return one.machine is not None and one.machine == other.machine
    return True


def changes_of(records: Sequence[RunRecord]) -> list[Change]:
    """Every run whose verdict differs from the one before it, and every rule that does; oldest first."""
    changes = []
    for before, after in itertools.pairwise(records):
        if before.status != after.status:
            changes.append(Change(commit=after.commit, rule=None, before=before.status, after=after.status))
        old, new = rules_of(before), rules_of(after)
        changes += [
            Change(commit=after.commit, rule=rule, before=old.get(rule, "absent"), after=new.get(rule, "absent"))
            for rule in {**old, **new}
            if old and new and old.get(rule) != new.get(rule)
        ]
    return changes


def drift_of(released: ReviewedRun | None, last: ReviewedRun | None) -> list[Drift]:
    """The last run against the last release, metric by metric; nothing where they are one run, or there is none."""
    if released is None or last is None or released.commit == last.commit:
        return []
    return [
        Drift(metric=metric, released=old, now=new, comparable=compares(metric, released, last))
        for metric, new in last.figures.items()
        if new is not None and (old := released.figures.get(metric)) is not None
    ]
