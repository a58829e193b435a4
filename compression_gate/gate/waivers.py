"""Which failed checks a person has let pass for a while, and what is told of that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date

from compression_gate.gate.limits import bound_of, is_inside
from compression_gate.records.rules import LIMIT_NAMES, Rule
from compression_gate.records.verdict import Check
from compression_gate.records.waivers import Waiver, day_of


def covering(check: Check, waivers: Iterable[Waiver]) -> Waiver | None:
    """Return the waiver that covers a failed check, one of its very slice before one of all slices; None without one.

    The observed degradation, or value, must be inside the ceiling, not its interval: a waiver is a person's decision
    on the figure that was seen. What an interval must prove is the rule's affair, and the rule has failed already.
    Expiry and policy are not looked at: `records.waivers.read_waivers` refuses expired ones, `gate.policy` decides
    where a waived check blocks.
    """
    if check.status != "fail":
        return None
    fitting = (waiver for waiver in waivers if speaks_of(waiver, check) and inside(waiver, check))
    return min(fitting, key=lambda waiver: waiver.slice != check.slice, default=None)


def speaks_of(waiver: Waiver, check: Check) -> bool:
    """Whether rule and slice are the check's: one slice, one column of slices (``class``), or all."""
    if waiver.rule != check.rule:
        return False
    part = check.slice or ""
    return waiver.slice is None or waiver.slice in (part, part.partition("=")[0])


def inside(waiver: Waiver, check: Check) -> bool:
    """Whether what was observed is within the ceiling; a figure that is missing or not finite never is.

    A relative ceiling is a share of ``compared_to``, as a relative limit is.
    """
    form = check.limit.partition(" ")[0]
    if form not in LIMIT_NAMES:
        return False
    raised = Rule.model_validate({"metric": check.metric, form: waiver.ceiling.model_dump()})
    bound = bound_of(raised, check.compared_to)
    value = check.observed if bound is None or not bound.is_change else check.change
    if bound is None or value is None or not math.isfinite(value) or not math.isfinite(bound.worst):
        return False
    return is_inside(bound, value, check.observed, check.compared_to)


def age_days(waiver: Waiver, today: date) -> int | None:
    """How long ago a waiver was written [days], or None where it does not say.

    Never negative: where it was written it may have been tomorrow already.
    """
    day = day_of(waiver.since) if waiver.since else None
    return None if day is None else max(0, (today - day).days)


def told(waivers: Iterable[Waiver], today: date | None) -> list[str]:
    """What a report says first: how many waivers are live, then each in a line; nothing where there is none."""
    lines = [line_of(waiver, today) for waiver in waivers]
    return [f"{len(lines)} live waiver{'s' if len(lines) > 1 else ''}", *lines] if lines else []


def line_of(waiver: Waiver, today: date | None) -> str:
    """``rule accuracy up to 0.02 until 2026-12-31 (owner, 12 days old): reason``; without ``today`` since when."""
    what = f"rule {waiver.rule}{f', slice {waiver.slice}' if waiver.slice else ''}"
    end = f"until {'' if day_of(waiver.expires) else 'release '}{waiver.expires}"
    days = age_days(waiver, today) if today else None
    written = f"written {waiver.since}" if waiver.since and not today else "of unknown age"
    age = written if days is None else f"{days} day{'' if days == 1 else 's'} old"
    also = ", also in a release" if waiver.release else ""
    reason = " ".join(waiver.reason.split())
    return f"{what} up to {waiver.ceiling} {end} ({waiver.owner}, {age}{also}): {reason}"
