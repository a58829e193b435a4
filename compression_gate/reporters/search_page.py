"""`reports/search/search.html`: a search drawn: its front, its course beside other searches', what each choice did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from compression_gate.records.search import Row, SearchRecord
from compression_gate.reporters import search as words
from compression_gate.reporters.html import page
from compression_gate.reporters.search import Told
from compression_gate.reporters.svg import Scale, element, line, marked, percent, plot, spread, text

LEFT, RIGHT, TOP, BOTTOM = 9.0, 97.0, 14.0, 250.0
HEIGHT = 290
MOST_LINES = 120  # of parallel coordinates; the front's are always among them
MOST_AXES = 8
MOST_GENES = 14  # of the table of choices
PARTS = 4  # of a range, within which trials count as alike
FEWEST_ALIKE = 3
LEVELS = 20
OTHERS = 6
LEFT_OUT = "left out"  # as genomes say it


@dataclass(frozen=True, kw_only=True)
class Influence:
    """How much of an objective's spread over the trials one gene alone explains, for each objective.

    Args:
        shares: η², in [0, 1]; None where the gene never varied, or too few trials are alike.
    """

    gene: str
    shares: tuple[float | None, ...]

    @property
    def largest(self) -> float:
        """The largest share."""
        return max((share for share in self.shares if share is not None), default=0.0)


def rendered(record: SearchRecord, rows: Sequence[Row], others: Sequence[SearchRecord] = ()) -> str:
    """The search as one page.

    Args:
        rows: its trials. others: further searches of the same suite, controls among them.
    """
    influences = influences_of(rows, len(record.objectives))
    full = [row for row in rows if row.values and row.full]
    told = [words.told_as(name, record.metric) for name in record.objectives]
    return page(
        "search.html.j2",
        record=record,
        headline=words.headline(record),
        next=[*words.beside_controls(record), *words.what_next(record)],
        misses=words.misses(record) if record.best is None else [],
        front=front_rows(record),
        front_heads=words.heads(record.objectives, record.metric),
        heads=[one.head for one in told],
        front_plots=[
            (f"{told[0].head}, by {one.head}", front_plot(record, full, told, index))
            for index, one in enumerate(told)
            if index > 0 and full
        ],
        course=course_plot([record, *others[:OTHERS]]),
        coordinates=coordinates_plot(full, influences, record, told),
        influences=[
            (label_of(one.gene, rows), [shade(share) for share in one.shares]) for one in influences[:MOST_GENES]
        ],
        proxy=proxy_plot(record),
        proxy_line=words.proxy_line(record) if record.proxy is not None else "",
    )


def label_of(gene: str, rows: Sequence[Row]) -> str:
    """A gene in words: which step a slot takes, where it stands in the chain, or a step's option."""
    slot, _, rest = gene.partition(".")
    if rest not in ("pick", "place"):
        return rest.replace(".", " ", 1).replace("_", " ")
    names = {short(str(row.genome.get(f"{slot}.pick", ""))) for row in rows} - {LEFT_OUT, ""}
    step = names.pop().replace("_", " ") if len(names) == 1 else f"slot {int(slot) + 1}"
    if rest == "place":
        return f"{step}: place in the chain"
    return f"{step}: in or out" if not names and not step.startswith("slot") else f"{step}: which"


def front_rows(record: SearchRecord) -> list[list[str]]:
    """The front, best by the first objective first, in words."""
    return [
        [
            *words.cells(record.objectives, record.metric, placed.values, placed.trial),
            " → ".join(step.method for step in placed.trial.steps) or "nothing",
            placed.recipe or "",
        ]
        for placed in sorted(record.front, key=lambda one: one.values)
    ]


def shade(share: float | None) -> tuple[str, str]:
    """A share as text, and the class that shades it."""
    if share is None:
        return "–", ""
    level = round(share * LEVELS)
    return f"{share:.0%}", f"p{level}" if level else ""


def front_plot(record: SearchRecord, rows: Sequence[Row], told: Sequence[Told], index: int) -> Markup:
    """Every trial: the first objective, quality unless the params say otherwise, by another; the front joined."""
    costs, lost = [row.values[index] for row in rows], [row.values[0] for row in rows]
    logarithmic = min(costs) > 0 and max(costs) / min(costs) > 4
    low, high = spread(costs, logarithmic=logarithmic)
    x = Scale(low=low, high=high, begin=LEFT, end=RIGHT, logarithmic=logarithmic)
    # What lost all it had would press the rest against the edge.
    most = float(np.quantile(lost, 0.85))
    bottom, top = spread([value for value in lost if value <= most])
    y = Scale(low=bottom, high=top, begin=TOP, end=BOTTOM)
    on_front = {placed.trial.number for placed in record.front}
    first, other = told[0], told[index]
    dots = [
        marked(
            f"trial {row.number}: {first.head} {first.text(row.values[0])}, {other.head} "
            f"{other.text(row.values[index])}, {'passes' if row.feasible else 'does not pass'}",
            element(
                "circle",
                cx=percent(x.at(row.values[index])),
                cy=float(y.at(row.values[0])),
                r=4 if row.number in on_front else 2.5,
                class_=f"model {'r-candidate front-dot' if row.number in on_front else kind_of(row)}",
            ),
        )
        for row in sorted(rows, key=lambda row: row.number in on_front)
    ]
    label = f"{first.head} by {other.head} of {len(rows)} trials; {len(on_front)} on the front"
    return plot(HEIGHT, label, *axes(x, y, other, first), *joined(record, x, y, index), *dots)


def kind_of(row: Row) -> str:
    """The class of a trial that is not on the front."""
    return "r-tried front-dot" if row.feasible else "r-tried"


def axes(x: Scale, y: Scale, along: Told, up: Told) -> list[Markup]:
    """Round values on both sides."""
    parts = [line(LEFT, BOTTOM + 6, RIGHT, BOTTOM + 6, "axis")]
    for value in y.ticks(5):
        parts += [line(LEFT, y.at(value), RIGHT, y.at(value), "grid"), text(0, y.at(value) + 4, up.tick(value))]
    for value in x.ticks(6):
        parts.append(text(x.at(value), BOTTOM + 22, along.tick(value), None, "middle"))
    parts.append(text(RIGHT, BOTTOM + 37, f"{along.axis}{', log scale' if x.logarithmic else ''}", None, "end"))
    return [*parts, text(0, 6, up.axis)]


def joined(record: SearchRecord, x: Scale, y: Scale, index: int) -> list[Markup]:
    """The front as a line of steps over this cost alone."""
    points = sorted((placed.values[index], placed.values[0]) for placed in record.front)
    best: list[tuple[float, float]] = []
    for cost, lost in points:
        if not best or lost < best[-1][1]:
            best.append((cost, lost))
    parts = []
    for (cost, lost), (further, less) in pairwise(best):
        parts.append(line(x.at(cost), y.at(lost), x.at(further), y.at(lost), "front"))
        parts.append(line(x.at(further), y.at(lost), x.at(further), y.at(less), "front"))
    return parts


def course_plot(records: Sequence[SearchRecord]) -> Markup | None:
    """Bytes of the candidate that would be taken, by how many trials were told: this search and others."""
    records = [record for record in records if record.course]
    if not records:
        return None
    sizes = [one.size_bytes for record in records for one in record.course]
    low, high = spread(sizes, logarithmic=True)
    x = Scale(low=0, high=max(record.trials for record in records), begin=LEFT, end=80.0)
    y = Scale(low=low, high=high, begin=BOTTOM, end=TOP, logarithmic=True)
    parts = [line(LEFT, BOTTOM + 6, 80.0, BOTTOM + 6, "axis"), text(0, 6, "bytes")]
    for value in y.ticks(5):
        parts += [line(LEFT, y.at(value), 80.0, y.at(value), "grid"), text(0, y.at(value) + 4, f"{value:,.0f}")]
    for value in x.ticks(6):
        parts.append(text(x.at(value), BOTTOM + 22, f"{value:.0f}", None, "middle"))
    parts.append(text(80.0, BOTTOM + 37, "trials", None, "end"))
    ends: list[float] = []
    for number, record in enumerate(records):
        parts += course_line(record, x, y, ends, first=number == 0)
    return plot(HEIGHT, "bytes of the candidate that would be taken, by trials", *parts)


def course_line(record: SearchRecord, x: Scale, y: Scale, ends: list[float], *, first: bool) -> list[Markup]:
    """One search's course, with its name where it ends."""
    kind, parts = ("curve validation" if first else "curve"), []
    steps = [*record.course]
    for one, after in zip(steps, [*steps[1:], None], strict=True):
        until = x.at(record.trials if after is None else after.told)
        parts.append(line(x.at(one.told), y.at(one.size_bytes), until, y.at(one.size_bytes), kind))
        if after is not None:
            parts.append(line(until, y.at(one.size_bytes), until, y.at(after.size_bytes), kind))
    last = y.at(steps[-1].size_bytes)
    while any(abs(last - other) < 14 for other in ends):
        last += 14
    ends.append(last)
    words_ = f"{record.searcher} {steps[-1].size_bytes:,.0f}"
    parts.append(text(x.at(record.trials), last + 4, words_, "this" if first else "key", dx=6))
    return parts


def influences_of(rows: Sequence[Row], objectives: int) -> list[Influence]:
    """How much each gene alone explains of each objective, the most first.

    Trials are put into groups by the gene's value, ranges cut into quarters; what the groups' means differ by is held
    against the whole spread (η²), of ranks so that a few ruined models do not decide it, less what chance would give.
    """
    rows = [row for row in rows if row.values and row.full]
    if not rows:
        return []
    ranks = [ranked([row.values[index] for row in rows]) for index in range(objectives)]
    found = [
        Influence(gene=gene, shares=tuple(explained(groups_of(rows, gene), one) for one in ranks))
        for gene in rows[0].genome
    ]
    return sorted((one for one in found if one.largest > 0), key=lambda one: -one.largest)


def is_range(values: Sequence[object]) -> bool:
    """Whether a gene's values are numbers, and more than there are parts to cut them into."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return numbers and len(set(values)) > PARTS


def ranked(values: Sequence[float]) -> np.ndarray:
    """Ranks of values ``(N,)``, equal ones alike."""
    return np.searchsorted(np.sort(values), values).astype(float)


def groups_of(rows: Sequence[Row], gene: str) -> np.ndarray:
    """The group of each trial ``(N,)``; -1 where the gene has no say, since its step is not in the chain."""
    values = [row.genome[gene] for row in rows]
    if is_range(values):
        ends = np.quantile(np.array(values, dtype=float), np.arange(1, PARTS) / PARTS)
        groups = np.searchsorted(ends, np.array(values, dtype=float))
    else:
        known = sorted({str(value) for value in values})
        groups = np.array([known.index(str(value)) for value in values])
    idle = np.array([not has_a_say(row, gene) for row in rows])
    return np.where(idle, -1, groups)


def has_a_say(row: Row, gene: str) -> bool:
    """Whether the step that a gene belongs to is in the trial's chain."""
    slot, _, rest = gene.partition(".")
    picked = row.genome.get(f"{slot}.pick")
    if rest == "pick":
        return True
    if rest == "place":
        return picked != LEFT_OUT
    return picked is None or gene.startswith(f"{picked}.")


def explained(groups: np.ndarray, ranks: np.ndarray) -> float | None:
    """ω²: the share of the spread between groups, less what chance would give; None with too few trials.

    Source: W. Hays, Statistics for Psychologists, 1963, §10.13 (omega squared).
    """
    inside = groups >= 0
    groups, ranks = groups[inside], ranks[inside]
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 2 or counts.min() < FEWEST_ALIKE or np.ptp(ranks) == 0:
        return None
    means = np.array([ranks[groups == name].mean() for name in names])
    total = float(((ranks - ranks.mean()) ** 2).sum())
    between = float((counts * (means - ranks.mean()) ** 2).sum())
    noise = (total - between) / max(1, len(ranks) - len(names))
    return max(0.0, (between - (len(names) - 1) * noise) / (total + noise))


def coordinates_plot(
    rows: Sequence[Row], influences: Sequence[Influence], record: SearchRecord, told: Sequence[Told]
) -> Markup | None:
    """Parallel coordinates: a line a trial through its choices, the most telling ones, to what came of it."""
    genes = [one.gene for one in influences[: MOST_AXES - 2]]
    if not genes or len(rows) < FEWEST_ALIKE:
        return None
    on_front = {placed.trial.number for placed in record.front}
    rest = [row for row in rows if row.number not in on_front]
    step = max(1, len(rest) // max(1, MOST_LINES - len(on_front)))
    shown = [*rest[::step], *(row for row in rows if row.number in on_front)]
    columns = [column_of(gene, rows) for gene in genes]
    columns += [
        Column.of_values(one.head, [row.values[index] for row in rows], tick=one.tick)
        for index, one in enumerate(told[:2])
    ]
    places = [LEFT + (RIGHT - LEFT - 4) * index / (len(columns) - 1) for index in range(len(columns))]
    parts: list[Markup] = []
    for row in shown:
        heights = [column.height(row, index - len(genes)) for index, column in enumerate(columns)]
        kind = "move-line" if row.number in on_front else "quiet-line"
        ends = zip(places, heights, places[1:], heights[1:], strict=False)
        parts += [line(x1, y1, x2, y2, kind) for x1, y1, x2, y2 in ends if y1 is not None and y2 is not None]
    for place, column in zip(places, columns, strict=True):
        parts += [line(place, TOP + 10, place, BOTTOM, "axis"), text(place, TOP, column.name, None, "middle")]
        parts += [text(place, y, value, "key", "start", dx=5) for value, y in column.marks]
    return plot(HEIGHT, f"choices of {len(shown)} trials and what came of them", *parts, class_="plot coordinates")


@dataclass(frozen=True, kw_only=True)
class Column:
    """An axis of parallel coordinates.

    Args:
        gene: whose values it has; None for an objective.
        marks: words beside it, with their height.
    """

    name: str
    gene: str | None
    scale: Scale | None
    known: tuple[str, ...]
    marks: tuple[tuple[str, float], ...]

    @classmethod
    def of_values(
        cls, name: str, values: Sequence[float], gene: str | None = None, tick: Callable[[float], str] = "{:.3g}".format
    ) -> Column:
        """An axis of numbers."""
        low, high = min(values), float(np.quantile(values, 0.95))
        high = high if high > low else low + (abs(low) or 1.0) * 0.01
        scale = Scale(low=low, high=high, begin=BOTTOM, end=TOP + 10)
        marks = ((tick(high), TOP + 20.0), (tick(low), BOTTOM - 3.0))
        return cls(name=name, gene=gene, scale=scale, known=(), marks=marks)

    def height(self, row: Row, objective: int) -> float | None:
        """Where a trial crosses it; None where its gene has no say."""
        if self.gene is None:
            assert self.scale is not None  # objectives are numbers
            return self.scale.at(row.values[objective])
        if not has_a_say(row, self.gene):
            return None
        value = row.genome[self.gene]
        return self.scale.at(float(value)) if self.scale is not None else rung(self.known.index(str(value)), self.known)


def column_of(gene: str, rows: Sequence[Row]) -> Column:
    """The axis of a gene."""
    values = [row.genome[gene] for row in rows]
    name = label_of(gene, rows).rpartition(" ")[2] if not gene.endswith((".pick", ".place")) else label_of(gene, rows)
    if is_range(values):
        return Column.of_values(name, [float(value) for value in values], gene)
    known = tuple(sorted({str(value) for value in values}))
    marks = tuple((short(value), rung(index, known) + 4) for index, value in enumerate(known))
    return Column(name=name, gene=gene, scale=None, known=known, marks=marks)


def rung(index: int, known: Sequence[str]) -> float:
    """The height of one of several words."""
    return TOP + 24 + (BOTTOM - TOP - 34) * (index + 0.5) / len(known)


def short(value: str) -> str:
    """A choice's name without its slot's number."""
    slot, _, rest = value.partition(".")
    return rest if slot.isdigit() and rest and not rest.isdigit() else value


def proxy_plot(record: SearchRecord) -> Markup | None:
    """What full trials lost, by what their cheap ones did."""
    points = record.proxy.points if record.proxy is not None else ()
    if len(points) < 2:
        return None
    cheap, full = [point[0] for point in points], [point[1] for point in points]
    (low, high), (bottom, top) = spread(cheap), spread(full)
    x = Scale(low=low, high=high, begin=LEFT, end=RIGHT)
    y = Scale(low=bottom, high=top, begin=TOP, end=BOTTOM)
    lost = words.told_as("quality", record.metric)
    dots = [
        marked(
            f"{lost.head}: cheap {lost.text(a)}, full {lost.text(b)}",
            element("circle", cx=percent(x.at(a)), cy=float(y.at(b)), r=3, class_="model r-tried front-dot"),
        )
        for a, b in points
    ]
    cheap_side = replace(lost, axis=f"{lost.axis} by the cheap trial")
    return plot(HEIGHT, f"{len(points)} trials carried out both ways", *axes(x, y, cheap_side, lost), *dots)
