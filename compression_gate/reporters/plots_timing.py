"""Times drawn: ratios of block medians beside those of the A/A control, and single calls of both models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from compression_gate.gate.timing_zone import zone_of
from compression_gate.records.metrics import PairedTiming
from compression_gate.records.verdict import Check
from compression_gate.reporters import wording
from compression_gate.reporters.base import Histogram
from compression_gate.reporters.svg import Scale, bar, line, plot, text

BINS = 60
LOG_RANGE = 1.6  # beyond five times no single per cents are of interest, and bins are of the logarithm anyway


def limits_on(role: str, checks: Iterable[Check]) -> list[float]:
    """The ratios of times that the rules allow against one model."""
    found = []
    for check in checks:
        if check.allowed is None:
            continue
        if check.metric == "speedup" and role == "reference":
            found.append(inverse(check.allowed))
        elif check.against == role and check.compared_to:
            share = 1 + check.allowed / check.compared_to
            if check.metric == "latency_ms":
                found.append(share)
            elif check.metric == "throughput_per_s" and check.p_value is not None:  # judged by pairs
                found.append(inverse(share))
    return sorted({ratio for ratio in found if ratio > 0})


def inverse(value: float) -> float:
    """One over what may be nothing: no ratio then."""
    return 1 / value if value else 0.0


def ratio_plot(role: str, pair: PairedTiming, limits: Sequence[float]) -> Markup | None:
    """Two histograms on one axis: candidate over the other, and the other over a copy of itself."""
    blocks = [value for turn in pair.blocks for value in turn]
    control = [value for turn in pair.control_blocks for value in turn]
    if not blocks:
        return None
    low, high = ends_of([*blocks, *control], [*map(math.log, limits), 0.0])
    x = Scale(low=low, high=high, begin=0, end=100)
    measured, noise = said(pair.ratio, pair.interval), said(pair.control_ratio, pair.control_interval)
    label = f"Ratio of times to the {role}: {measured}; control {noise}"
    parts = [
        *zone(x, limits),
        *histogram(x, blocks, 104, 58, "this"),
        *interval(x, pair.interval, pair.ratio, 112, "this"),
    ]
    parts.append(text(0, 26, f"this commit ÷ {role}", "this", "start", 4))
    parts.append(text(0, 40, f"{len(blocks):,} blocks in {len(pair.blocks)} turns", None, "start", 4))
    if control:
        parts += [
            *histogram(x, control, 216, 58, "control"),
            *interval(x, pair.control_interval, pair.control_ratio, 224, "control"),
        ]
        parts.append(text(0, 140, f"control: {role} ÷ its copy", "key", "start", 4))
        parts.append(text(0, 154, f"{len(control):,} blocks in {len(pair.control_blocks)} turns", None, "start", 4))
    for value in log_ticks(low, high):
        place = x.at(math.log(value))
        anchor = "start" if place < 4 else "end" if place > 96 else "middle"
        parts += [line(place, 240, place, 244, "axis"), text(place, 257, f"{value:g} ×", None, anchor)]
    parts.append(line(0, 240, 100, 240, "axis"))
    return plot(262, label, *parts)


def ends_of(values: Sequence[float], kept: Sequence[float]) -> tuple[float, float]:
    """All values but the outermost hundredth on either side, every one that is ``kept``, and some room [log]."""
    found = sorted(values)
    cut = len(found) // 100
    low, high = min(found[cut], *kept), max(found[len(found) - 1 - cut], *kept)
    room = max((high - low) * 0.06, 0.01)
    return low - room, high + room


def zone(x: Scale, limits: Sequence[float]) -> list[Markup]:
    """Where silence is promised, where an alarm is, and one."""
    parts = [line(x.at(0.0), 16, x.at(0.0), 240, "zero")]
    if not limits:
        return parts
    tightest = min(limits)
    silent = x.at(math.log(zone_of(tightest).low))
    parts.insert(0, bar(0, silent, 16, 224, "allowed"))
    for limit in limits:
        place = x.at(math.log(limit))
        side, shift = ("start", 6) if place < 70 else ("end", -6)
        parts.append(line(place, 0, place, 240, "limit"))
        parts.append(text(place, 11, f"limit {limit:.4g} ×", "key", side, shift))
    return parts


def histogram(x: Scale, values: Sequence[float], floor: float, height: float, kind: str) -> list[Markup]:
    """Counts of blocks, the fullest bin as high as there is room."""
    width = (x.high - x.low) / BINS
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, max(0, int((value - x.low) / width)))] += 1
    most = max(counts) or 1
    return [
        bar(
            x.at(x.low + number * width),
            x.at(x.low + (number + 1) * width) - 0.15,
            floor - height * count / most,
            height * count / most,
            f"count {kind}",
        )
        for number, count in enumerate(counts)
        if count
    ] + [line(0, floor, 100, floor, "grid")]


def interval(
    x: Scale, ends: tuple[float | None, float | None], middle: float | None, y: float, kind: str
) -> list[Markup]:
    """The interval of a ratio, and the ratio in words."""
    low, high = ends
    if low is None or high is None or middle is None or low <= 0:
        return []
    left, right = x.at(math.log(low)), x.at(math.log(high))
    before = right > 70
    return [
        line(left, y, right, y, f"interval {kind}"),
        *(line(end, y - 4, end, y + 4, f"end {kind}") for end in (left, right)),
        text(
            left if before else right,
            y + 4,
            said(middle, ends),
            "this" if kind == "this" else "key",
            "end" if before else "start",
            -7 if before else 7,
        ),
    ]


def said(middle: float | None, ends: tuple[float | None, float | None]) -> str:
    """A ratio with its interval."""
    if middle is None or None in ends:
        return wording.NOTHING
    return f"{middle:.3f} × ({ends[0]:.3f} to {ends[1]:.3f})"


def log_ticks(low: float, high: float) -> list[float]:
    """Round ratios between two logarithms."""
    first, last = math.exp(low), math.exp(high)
    if last / first < LOG_RANGE:
        return [round(value, 6) for value in Scale(low=first, high=last, begin=0, end=1).ticks(6)]
    known = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
    found = [value for value in known if first <= value <= last]
    return found if len(found) <= 8 else [value for value in found if value in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100)]


def calls_plot(role: str, other: Histogram, candidate: Histogram) -> Markup:
    """How long single calls took, both models on one axis of logarithms."""
    x = Scale(low=other.edges[0], high=other.edges[-1], begin=0, end=100, logarithmic=True)
    label = f"Single calls: this commit, median {candidate.middle:.3g} ms; {role}, median {other.middle:.3g} ms"
    parts = []
    for histogram_, floor, kind, name in ((candidate, 84.0, "this", "this commit"), (other, 176.0, "control", role)):
        most = max(histogram_.counts, default=0) or 1
        for number, count in enumerate(histogram_.counts):
            if count:
                left, right = x.at(histogram_.edges[number]), x.at(histogram_.edges[number + 1])
                height = 60 * count / most
                parts.append(bar(left, right - 0.15, floor - height, height, f"count {kind}"))
        middle = x.at(histogram_.middle)
        before = middle > 60
        words = f"{name}: {histogram_.n:,} calls, median {histogram_.middle:.3g} ms"
        parts += [line(0, floor, 100, floor, "grid"), line(middle, floor - 66, middle, floor, "limit")]
        parts.append(text(middle, floor - 68, words, "this" if kind == "this" else "key", "end" if before else "start"))
    for value in x.ticks(7):
        place = x.at(value)
        anchor = "start" if place < 4 else "end" if place > 96 else "middle"
        parts += [line(place, 184, place, 188, "axis"), text(place, 201, f"{value:g} ms", None, anchor)]
    parts.append(line(0, 184, 100, 184, "axis"))
    return plot(206, label, *parts)
