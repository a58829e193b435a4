"""Models drawn: what they give and take, what each step did, where the bytes are, how they were trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.metrics import CurvePoint
from compression_gate.records.verdict import Check, Point, TradeOff, Verdict
from compression_gate.reporters import wording
from compression_gate.reporters.base import Confusion
from compression_gate.reporters.svg import Scale, bar, element, line, marked, percent, plot, spread, text

ORDER = ("reference", "release", "baseline", "candidate")
NAMES = {"candidate": "this commit"}
LEFT, RIGHT, TOP, BOTTOM = 11.0, 97.0, 12.0, 232.0
LABEL_GAP = 14.0  # pixels between two lines of text
WIDE_RANGE = 4.0  # a cost that spans more than this is shown by its logarithm


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Quality up, one cost to the right."""

    quality: str
    cost: str
    sign: Literal[1, -1]
    x: Scale
    y: Scale


def trade_off_panels(verdict: Verdict, tried: Sequence[Point] = ()) -> list[tuple[str, Markup]]:
    """One drawing a cost: every model, the front, this commit's move, the limits."""
    found = verdict.trade_off
    if found is None or not found.points:
        return []
    quality, *costs = [axis.metric for axis in found.axes]
    if kind_of(quality) not in QUALITY:
        return []  # no quality was measured; the table of models tells the rest
    return [(cost, trade_off_panel(verdict, found, quality, cost, tried)) for cost in costs]


def trade_off_panel(verdict: Verdict, found: TradeOff, quality: str, cost: str, tried: Sequence[Point]) -> Markup:
    """Quality by one cost."""
    limits = {metric: limit_of(metric, verdict.checks) for metric in (quality, cost)}
    points = [*tried, *found.points]
    panel = panel_of(quality, cost, points, limits, wording.direction_in(verdict.checks, quality))
    label = f"{quality} by {cost}: " + "; ".join(
        f"{NAMES.get(point.role, point.role)} {told(point, (quality, cost))}" for point in found.points
    )
    return plot(
        272,
        label,
        *axes_of(panel),
        *front_line(panel, found.points),
        *limit_lines(panel, limits),
        *(dot(panel, point, small=True) for point in tried),
        *move(panel, found),
        *(dot(panel, point) for point in found.points),
        *labels(panel, found.points),
    )


def limit_of(metric: str, checks: Sequence[Check]) -> float | None:
    """The value that a blocking check of the whole test set asks for, where there is one: the tightest."""
    values = [
        check.allowed + (check.compared_to or 0.0 if check.change is not None else 0.0)
        for check in checks
        if check.metric == metric and check.slice is None and check.level == "block" and check.allowed is not None
    ]
    return (max if wording.direction_in(checks, metric) > 0 else min)(values, default=None)


def panel_of(
    quality: str, cost: str, points: Sequence[Point], limits: Mapping[str, float | None], sign: Literal[1, -1]
) -> Panel:
    """Scales that hold every model, and limits that are not far from them; better is up."""
    costs, qualities = ([point.figures[metric] for point in points] for metric in (cost, quality))
    wide = min(costs) > 0 and max(costs) / min(costs) > WIDE_RANGE
    near = [value for value in (limits[cost],) if value is not None and min(costs) / 4 < value < max(costs) * 4]
    low, high = spread([*costs, *near], logarithmic=wide)
    span = max(qualities) - min(qualities)
    limit = limits[quality]
    if limit is not None and abs(limit - min(qualities)) < max(3 * span, abs(limit) * 0.03):
        qualities.append(limit)
    bottom, top = spread(qualities, room=0.2)
    worst, best = (BOTTOM, TOP) if sign > 0 else (TOP, BOTTOM)
    return Panel(
        quality=quality,
        cost=cost,
        sign=sign,
        x=Scale(low=low, high=high, begin=LEFT, end=RIGHT, logarithmic=wide),
        y=Scale(low=bottom, high=top, begin=worst, end=best),
    )


def told(point: Point, metrics: Sequence[str]) -> str:
    """A model's figures in words."""
    return ", ".join(
        f"{wording.with_unit(metric)} {wording.figure(metric, point.figures[metric])}" for metric in metrics
    )


def axes_of(panel: Panel) -> list[Markup]:
    """Round values on both sides, and what they are of."""
    parts = []
    for value in panel.y.ticks(5):
        y = panel.y.at(value)
        parts += [line(LEFT, y, RIGHT, y, "grid"), text(0, y + 4, axis_figure(panel.quality, value))]
    for value in panel.x.ticks(6):
        x = panel.x.at(value)
        parts += [
            line(x, BOTTOM + 10, x, BOTTOM + 14, "axis"),
            text(x, BOTTOM + 27, axis_figure(panel.cost, value), None, "middle"),
        ]
    unit = "kB" if panel.cost == "size_bytes" else wording.unit_of(panel.cost)
    name = f"{unit}, log scale" if panel.x.logarithmic else unit
    parts += [line(LEFT, BOTTOM + 10, RIGHT, BOTTOM + 10, "axis"), text(RIGHT, BOTTOM + 40, name, None, "end")]
    return parts


def axis_figure(metric: str, value: float) -> str:
    """A round value of an axis, in its shown unit."""
    if wording.unit_of(metric) == "%":
        return f"{value * 100:.6g} %"
    return f"{value / 1000:,.6g}" if metric == "size_bytes" else f"{value:,.6g}"


def limit_lines(panel: Panel, limits: Mapping[str, float | None]) -> list[Markup]:
    """The limits, where they lie inside of the drawing; their names over both lines."""
    lines, names = [], []
    if (value := limits[panel.quality]) is not None and panel.y.holds(value):
        y = panel.y.at(value)
        lines.append(line(LEFT, y, RIGHT, y, "limit"))
        words = f"{panel.quality} limit {wording.figure(panel.quality, value)}"
        names.append(text(RIGHT, y + 13, words, "key", "end"))
    if (value := limits[panel.cost]) is not None and panel.x.holds(value):
        x = panel.x.at(value)
        lines.append(line(x, TOP - 6, x, BOTTOM + 10, "limit"))
        side, shift = ("start", 5) if x < (LEFT + RIGHT) / 2 else ("end", -5)
        names.append(text(x, BOTTOM + 4, f"{panel.cost} limit", "key", side, shift))
    return [*lines, *names]


def front_line(panel: Panel, points: Sequence[Point]) -> list[Markup]:
    """A step at each model that no other beats on these two axes."""
    sign = panel.sign
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.figures[panel.cost], -sign * one.figures[panel.quality])):
        if not best or sign * point.figures[panel.quality] > sign * best[-1].figures[panel.quality]:
            best.append(point)
    parts = []
    for one, other in itertools.pairwise(best):
        (x1, y1), (x2, y2) = place(panel, one), place(panel, other)
        parts += [line(x1, y1, x2, y1, "front"), line(x2, y1, x2, y2, "front")]
    return parts


def place(panel: Panel, point: Point) -> tuple[float, float]:
    """Where a model lies: percents across, pixels down."""
    return panel.x.at(point.figures[panel.cost]), panel.y.at(point.figures[panel.quality])


def dot(panel: Panel, point: Point, *, small: bool = False) -> Markup:
    """A model: filled where it is on the front over all figures."""
    x, y = place(panel, point)
    split = " (validation split)" if small else ""
    tip = f"{NAMES.get(point.role, point.role)}{split}: {told(point, (panel.quality, panel.cost))}"
    kind = f"model {'front-dot' if point.on_front else 'off-front'} r-{point.role if point.role in ORDER else 'tried'}"
    return marked(tip, element("circle", cx=percent(x), cy=float(y), r=3.5 if small else 5.5, class_=kind))


def move(panel: Panel, found: TradeOff) -> list[Markup]:
    """From what this commit is held against to this commit."""
    points = {point.role: point for point in found.points}
    if not {found.against, "candidate"} <= points.keys():
        return []
    (x1, y1), (x2, y2) = place(panel, points[found.against]), place(panel, points["candidate"])
    return [line(x1, y1, x2, y2, "move")]


def labels(panel: Panel, points: Sequence[Point]) -> list[Markup]:
    """Names beside the dots, moved apart where they would meet."""
    taken: list[tuple[float, float]] = []
    parts = []
    for point in sorted(points, key=lambda one: place(panel, one)[1]):
        x, y = place(panel, point)
        inner = x > (LEFT + RIGHT) / 2
        y = max(y - 9, TOP)
        while any(abs(x - other) < 40 and abs(y - height) < LABEL_GAP for other, height in taken):
            y += LABEL_GAP
        taken.append((x, y))
        kind = "this" if point.role == "candidate" else "key"
        name = NAMES.get(point.role, point.role)
        parts.append(text(x, y, name, kind, "end" if inner else "start", -9 if inner else 9))
    return parts


def waterfall(before: float, after: float, scale: Scale, kind: str) -> Markup:
    """One step: from where the step before it ended to where it ends itself."""
    begin, end = scale.at(before), scale.at(after)
    inside = [bar(begin, end, 6, 12, kind, least=0.4)] if before != after else []
    return plot(24, "", *inside, line(begin, -12, begin, 18, "link"), line(end, 6, end, 36, "link"))


def whole(value: float, scale: Scale) -> Markup:
    """The model before the first step."""
    return plot(24, "", bar(scale.begin, scale.at(value), 6, 12, "plain"))


def largest_layer(layers: Sequence[tuple[str, int, int]]) -> int:
    """The most bytes that a layer has, before or behind."""
    return max(max(before, after) for _, before, after in layers)


def layer_bar(before: int, after: int, largest: int) -> Markup:
    """A layer's bytes before, grey, and behind, in front of it."""
    scale = Scale(low=0, high=max(largest, 1), begin=0, end=100)
    tip = f"{before:,} bytes before, {after:,} behind"
    inside = (bar(0, scale.at(before), 3, 12, "plain", 0.5), bar(0, scale.at(after), 3, 12, "this", 0.5))
    return plot(18, tip, *inside)


def curve_plot(title: str, curve: Sequence[CurvePoint]) -> Markup:
    """Loss by epoch: of training, and of validation where it was measured."""
    series = {
        "train": [(point.epoch, point.loss) for point in curve],
        "validation": [(point.epoch, point.validation_loss) for point in curve],
    }
    finite = {name: [(x, y) for x, y in points if y is not None] for name, points in series.items()}
    values = [y for points in finite.values() for _, y in points]
    if not values:
        return plot(20, f"{title}: no loss is finite", text(0, 14, "no loss is finite"))
    low, high = spread(values, room=0.12)
    y = Scale(low=low, high=high, begin=120, end=10)
    x = Scale(low=curve[0].epoch, high=max(curve[-1].epoch, curve[0].epoch + 1), begin=12, end=80)
    parts = [line(12, y.at(value), 80, y.at(value), "grid") for value in y.ticks(4)]
    parts += [text(0, y.at(value) + 4, f"{value:.4g}") for value in y.ticks(4)]
    parts += [text(x.at(value), 140, f"{value:g}", None, "middle") for value in x.ticks(6) if value == int(value)]
    for name, points in finite.items():
        parts += [
            line(x.at(one[0]), y.at(one[1]), x.at(other[0]), y.at(other[1]), f"curve {name}")
            for one, other in itertools.pairwise(points)
        ]
    lowest = 0.0
    for name, points in sorted(finite.items(), key=lambda item: -item[1][-1][1] if item[1] else 0.0):
        if points:
            place, height = x.at(points[-1][0]), y.at(points[-1][1])
            lowest = max(height + 4, lowest + LABEL_GAP)
            parts.append(element("circle", cx=percent(place), cy=height, r=2.5, class_=f"curve-end {name}"))
            parts.append(text(place, lowest, name, "key", "start", 7))
    label = f"{title}: " + "; ".join(f"{name} {wording_of(points)}" for name, points in finite.items() if points)
    return plot(144, label, *parts)


def wording_of(points: Sequence[tuple[int, float]]) -> str:
    """A curve's ends in words."""
    return f"{points[0][1]:.4g} to {points[-1][1]:.4g}"


def largest_error(confusion: Confusion) -> int:
    """The largest count beside the diagonal, of both models: their shades are to be compared."""
    both = (confusion.before, confusion.after)
    return max((n for counts in both for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), default=0)


def largest_change(confusion: Confusion) -> int:
    """The largest change of a count beside the diagonal."""
    return max((abs(after - before) for _, _, before, after in confusion.changes), default=0)
