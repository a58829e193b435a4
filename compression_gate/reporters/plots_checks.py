"""Checks drawn: how far each went towards its limit, so that metrics of any unit line up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compression_gate.records.verdict import Check
from compression_gate.records.waivers import Waiver
from compression_gate.reporters import wording
from compression_gate.reporters.svg import Scale, bar, element, line, marked, percent, plot, spread, text

SHARES = Scale(low=-0.6, high=2.6, begin=0, end=100)  # nothing at 0, the limit at 1
HEIGHT, MIDDLE = 24, 12.0


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A check in shares of its limit: 0 is no degradation, or nothing at all; 1 is the limit, beyond it is broken.

    ``ceiling``: up to where its waiver covers, where it has one.
    """

    point: float
    low: float
    high: float
    ceiling: float | None = None


def shares_of(check: Check) -> Shares | None:
    """A check in shares of its limit; None without a figure, or where the limit is nothing, or a value below it."""
    allowed = check.allowed
    if check.observed is None or not allowed or (check.change is None and allowed < 0):
        return None
    places = [share_of(check, value, allowed) for value in places_of(check)]
    ceiling = share_of(check, covered_by(check.waiver, check, allowed), allowed) if check.waiver else None
    return Shares(point=places[0], low=min(places), high=max(places), ceiling=ceiling)


def share_of(check: Check, value: float, allowed: float) -> float:
    """A change, or a value, in shares of what is allowed."""
    if check.change is None and check.limit.startswith("min"):
        # The figure that is needed over the one that is there: more than all of it is too much.
        return allowed / value if value > 0 else math.inf
    return value / allowed


def covered_by(waiver: Waiver, check: Check, allowed: float) -> float:
    """The change, or the value, up to which a waiver covers."""
    if check.change is None:
        return waiver.ceiling.value
    whole = abs(check.compared_to or 0.0) if waiver.ceiling.relative else 1.0
    return math.copysign(waiver.ceiling.value * whole, allowed)


def share_axis() -> Markup:
    """What stands above the bars."""
    marks = ((0, "0", None), (1, "limit", "key"), (2, "2 × limit", None))
    return plot(
        14, "0, the limit, twice the limit", *(text(SHARES.at(x), 11, word, kind, "middle") for x, word, kind in marks)
    )


def share_bar(check: Check) -> Markup | str:
    """One check against its limit: the shaded side is allowed, the thick line the interval, the dot the figure."""
    found = shares_of(check)
    if found is None:
        return wording.NOTHING
    inside = [
        bar(0, SHARES.at(1), 6, 12, "allowed"),
        line(SHARES.at(0), 6, SHARES.at(0), 18, "zero"),
        line(SHARES.at(1), 2, SHARES.at(1), 22, "limit"),
        *whisker(SHARES, (found.low, found.point, found.high), MIDDLE),
    ]
    if found.ceiling is not None and SHARES.holds(found.ceiling):
        inside.append(line(SHARES.at(found.ceiling), 4, SHARES.at(found.ceiling), 20, "ceiling"))
    return element("div", marked_plot(HEIGHT, told(check), *inside), class_=f"s-{check.status}")


def told(check: Check) -> str:
    """A check in words, with its interval; where that is of a test and no mere spread, how sure each end is."""
    alpha = None if check.p_value is None else check.alpha
    sure = "" if alpha is None else f", each end at {100 * (1 - alpha):.4g} %"
    return f"{wording.name_of(check)}: {wording.reading(check)}; interval {wording.interval_of(check)}{sure}"


def whisker(scale: Scale, found: tuple[float, float, float], y: float) -> list[Markup]:
    """An interval with its ends and the figure on it; an arrow where it goes on beyond the drawing."""
    low, point, high = found
    parts = []
    if high > low:
        parts.append(line(scale.at(low), y, scale.at(high), y, "interval"))
        parts += [line(scale.at(end), y - 4, scale.at(end), y + 4, "end") for end in (low, high) if scale.holds(end)]
    if scale.holds(point):
        parts.append(element("circle", cx=percent(scale.at(point)), cy=y, r=4.5, class_="dot"))
    else:
        beyond = point > scale.high
        sign, anchor = ("▸", "end") if beyond else ("◂", "start")
        parts.append(text(100.0 if beyond else 0.0, y + 5, sign, "beyond", anchor))
    return parts


def marked_plot(height: int, tip: str, *inside: object) -> Markup:
    """A drawing that tells more when it is pointed at, or reached by the keyboard."""
    return element("svg", *inside, class_="plot", height=height, role="img", aria_label=tip, data_tip=tip, tabindex=0)


def slice_scale(checks: Sequence[Check]) -> Scale:
    """One scale for all slices of a rule, its limit among them; degradation to the right."""
    values = [value for check in checks for value in places_of(check) if math.isfinite(value)]
    limits = [check.allowed for check in checks if check.allowed is not None]
    low, high = spread([*values, *limits, *([0.0] if any(check.change is not None for check in checks) else [])])
    down = any(check.limit.startswith(("min", "max_drop")) for check in checks)
    return Scale(low=low, high=high, begin=100.0 if down else 0.0, end=0.0 if down else 100.0)


def places_of(check: Check) -> list[float]:
    """The figure that is judged, and the ends of its interval: infinite where nothing bounds it."""
    point = check.change if check.change is not None else check.observed
    if point is None or check.interval is None:
        return [] if point is None else [point]
    low, high = check.interval
    return [point, -math.inf if low is None else low, math.inf if high is None else high]


def slice_axis(scale: Scale, checks: Sequence[Check]) -> Markup:
    """Round values above the dots, and the limit in words where all slices have the same one."""
    metric = checks[0].metric
    show = wording.signed if checks[0].change is not None else wording.figure
    limits = {check.allowed for check in checks}
    limit = limits.pop() if len(limits) == 1 else None
    marks = [
        text(scale.at(value), 11, brief(show(metric, value)), None, "middle")
        for value in scale.ticks(5)
        if limit is None or abs(scale.at(value) - scale.at(limit)) > 12
    ]
    if limit is not None:
        place = scale.at(limit)
        anchor = "middle" if 12 < place < 88 else "end" if place >= 88 else "start"
        marks.append(text(place, 11, f"limit {brief(show(metric, limit))}", "key", anchor))
    return plot(14, f"scale of {metric}", *marks)


def brief(words: str) -> str:
    """A figure on an axis, without zeros behind the point; one with an exponent as it is."""
    return words.rstrip("0").rstrip(".") if "." in words and "e" not in words else words


def slice_dot(check: Check, scale: Scale) -> Markup | str:
    """One slice: its change with the interval, on the scale of all of them."""
    places = places_of(check)
    if not places:
        return wording.NOTHING
    ends = places[1:] or places
    tip = f"{told(check)}; {check.message}" if check.message else told(check)
    inside = []
    if check.allowed is not None:
        limit = scale.at(check.allowed)
        inside += [bar(0, limit, -4, 26, "allowed"), line(limit, -4, limit, 22, "limit")]
    if check.change is not None:
        inside.append(line(scale.at(0.0), -4, scale.at(0.0), 22, "zero"))
    inside += whisker(scale, (min(ends), places[0], max(ends)), 9.0)
    return element("div", marked_plot(18, tip, *inside), class_=f"s-{check.status}")


__all__ = ["marked", "share_axis", "share_bar", "shares_of", "slice_axis", "slice_dot", "slice_scale"]
