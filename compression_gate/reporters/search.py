"""What `search` prints: a live line and table on a terminal, plain lines elsewhere; at the end what was found."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from compression_gate.records.metric_table import is_fraction
from compression_gate.records.search import CONTROLS, Control, SearchRecord
from compression_gate.records.trial import Trial
from compression_gate.reporters import wording
from compression_gate.reporters.terminal import stdout, table
from compression_gate.reporters.wording import harmless

log = logging.getLogger("compression_gate")
LINE_EVERY_S = 30.0
MOST_ROWS = 12
MOST_UNMET = 3
COSTS = {"size_bytes": "bytes", "latency": "time", "macs": "MACs"}
SAVED = {"size_bytes": "fewer bytes", "latency": "less time", "macs": "fewer MACs"}


@dataclass(frozen=True, kw_only=True)
class Told:
    """How an objective is told.

    Args:
        head: of its column.
        axis: what a plot's axis counts.
        factor: what a value is multiplied by; form: how it is then written, and ``unit`` behind it.
    """

    head: str
    axis: str
    factor: float = 1.0
    form: str
    unit: str = ""

    def text(self, value: float) -> str:
        """A value as a table shows it."""
        return f"{value * self.factor:{self.form}}{self.unit}"

    def tick(self, value: float) -> str:
        """A value on an axis."""
        return f"{value * self.factor:.4g}"


def told_as(objective: str, metric: str) -> Told:
    """How an objective is told: fractions in points, other metrics in their own unit, costs as shares."""
    if objective == "quality" and is_fraction(metric):
        return Told(head=f"points of {metric} lost", axis=f"points of {metric} lost", factor=100, form="+.2f")
    if objective == "quality":
        return Told(head=f"{metric} lost", axis=f"{metric} lost", form="+.4g")
    if objective == "loss":
        return Told(head="loss", axis="loss", form=".4f")
    name = COSTS[objective]
    return Told(head=name, axis=f"{name}, % of the reference's", factor=100, form=".1f", unit="%")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far a search is.

    Args:
        front: feasible candidates that nothing dominates, with their values in the order of ``objectives``.
        unmet: checks that no trial has passed.
        behind, batch: of how many trials of the generation at hand how many are behind; they count when it is told.
        left: in words: trials, minutes, or both.
    """

    told: int
    failed: int
    feasible: int
    front: Sequence[tuple[tuple[float, ...], Trial]]
    best: Trial | None
    unmet: tuple[str, ...] = ()
    behind: int = 0
    batch: int = 0
    left: str
    objectives: tuple[str, ...]
    metric: str


class Progress:
    """Shows moments as they come: redrawn in place on a terminal, a line now and then elsewhere. To stderr."""

    def __init__(self, live: Live | None) -> None:
        self.live, self.last = live, 0.0

    def show(self, moment: Moment) -> None:
        """Show where the search is."""
        if self.live is not None:
            self.live.update(Group(Text(line_of(moment)), front_table(moment.front, moment.objectives, moment.metric)))
        elif time.monotonic() - self.last > LINE_EVERY_S:
            self.last = time.monotonic()
            log.info("search: %s", line_of(moment))


@contextmanager
def progress() -> Iterator[Progress]:
    """A live display on a terminal, which vanishes at the end; lines in the log elsewhere."""
    if not sys.stderr.isatty():
        yield Progress(None)
        return
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=2) as live:
        yield Progress(live)


def line_of(moment: Moment) -> str:
    """Where the search is, in one line."""
    parts = [f"{moment.told} trials", f"{moment.feasible} feasible", f"front of {len(moment.front)}"]
    parts += [f"{moment.failed} failed"] if moment.failed else []
    if moment.best is not None:
        parts.append(f"best {moment.best.answer.figures['size_bytes']:,.0f} bytes")
    elif moment.unmet:
        parts.append(f"none met {', '.join(map(harmless, moment.unmet[:MOST_UNMET]))}")
    parts += [f"{moment.behind} of the next {moment.batch} carried out"] if moment.batch else []
    return f"{', '.join(parts)}; {moment.left}"


def show(record: SearchRecord) -> None:
    """Print what a search came to, to stdout."""
    console = stdout()
    console.print(Group(*parts_of(record)))


def parts_of(record: SearchRecord) -> list[RenderableType]:
    """The verdict of the search, the front, and what to do with it."""
    parts: list[RenderableType] = [Text(headline(record), style="bold green" if record.best else "bold yellow")]
    counts = f"{record.trials} trials by {record.searcher}, seed {record.seed}: {record.feasible} feasible, "
    counts += f"{record.failed} failed, {record.cached} known already; {record.seconds:.0f} s; ended by {record.ended}"
    parts.append(Text(counts, style="dim"))
    if record.front:
        rows = [(placed.values, placed.trial) for placed in record.front]
        parts.append(front_table(rows, record.objectives, record.metric))
    if record.best is None and record.nearest is not None:
        parts += [Text(f"  {line}") for line in misses(record)]
    if record.proxy is not None:
        parts.append(Text(proxy_line(record)))
    if record.unanswered:
        parts.append(Text(f"not asked in trials, the gate does: {', '.join(record.unanswered)}", style="dim"))
    parts += [Text(line) for line in (*beside_controls(record), *what_next(record))]
    return parts


def headline(record: SearchRecord) -> str:
    """What was found, in one sentence."""
    if record.best is None:
        if record.nearest is None:
            return f"No recipe: none of {record.trials} trials could be measured."
        return f"No recipe meets every limit. The nearest misses by {record.nearest.answer.violation:.1%} in all."
    figures = record.best.answer.figures
    times = f"{figures['compression_ratio']:.1f} × smaller"
    lost = record.quality_lost(record.best)
    amount = wording.figure(record.metric, abs(lost))
    if is_fraction(record.metric):
        told = f"{amount} points of {record.metric} {'lost' if lost >= 0 else 'won'}"
    else:
        told = f"{record.metric} {'worse' if lost >= 0 else 'better'} by {amount}"
    proven = "proven on validation data" if record.best.proven else "within limits, not proven, on validation data"
    against = f"; {beside}" if (beside := beside_start(record)) else ""
    return f"Found: {figures['size_bytes']:,.0f} bytes, {times}, {told} ({proven}){against}."


def beside_start(record: SearchRecord) -> str:
    """How much better than what it started from the best is, by what is preferred; empty where nothing is known."""
    if record.best is None or record.start is None:
        return ""
    if not record.start.feasible:
        return "what the search started from does not pass"
    after, before = record.preferred(record.best), record.preferred(record.start)
    if not record.improves:
        return f"no better by {record.prefer} than what the search started from"
    if record.prefer in COSTS:
        return f"{1 - after / before:.1%} {SAVED[record.prefer]} than what the search started from"
    told = told_as(record.prefer, record.metric)
    return f"{told.head} {told.text(after)}, of what the search started from {told.text(before)}"


def front_table(rows: Sequence[tuple[tuple[float, ...], Trial]], objectives: Sequence[str], metric: str) -> Table:
    """The front, best by the first objective first; only some rows of a long one."""
    rows = sorted(rows, key=lambda row: row[0])
    last = len(rows) - 1
    shown = rows if len(rows) <= MOST_ROWS else [rows[round(i * last / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
    found = table(
        ["steps", "recipe", *heads(objectives, metric), "trial"],
        [
            [
                " > ".join(step.method for step in trial.steps) or "nothing",
                trial.recipe_digest[:8],
                *cells(objectives, metric, values, trial),
                str(trial.number),
            ]
            for values, trial in shown
        ],
        left=2,
    )
    if len(shown) < len(rows):
        found.caption = f"{len(shown)} of {len(rows)}"
    return found


def heads(objectives: Sequence[str], metric: str) -> list[str]:
    """The columns of a front: its objectives, and bytes in any case."""
    found = [told_as(name, metric).head for name in objectives]
    return found if "size_bytes" in objectives else [*found, COSTS["size_bytes"]]


def cells(objectives: Sequence[str], metric: str, values: Sequence[float], trial: Trial) -> list[str]:
    """A candidate's figures under :func:`heads`; bytes with their share of the reference's."""
    size = f"{trial.answer.figures['size_bytes']:,.0f}"
    found = [
        f"{size} ({told.text(value)})" if name == "size_bytes" else told.text(value)
        for name, value in zip(objectives, values, strict=True)
        for told in [told_as(name, metric)]
    ]
    return found if "size_bytes" in objectives else [*found, size]


def misses(record: SearchRecord) -> list[str]:
    """How far from each limit the nearest miss is, and which limits no trial met."""
    found = []
    for one in record.nearest.answer.checks if record.nearest else ():
        name = harmless(one.check)
        if one.status == "pass":
            found.append(f"{name}: within its limit")
        elif one.distance is None:
            found.append(f"{name}: {one.status}")
        else:
            found.append(f"{name}: {one.status}, {one.distance:.1%} of its limit beyond it")
    for check, most in record.unmet.items():
        closest = "" if most is None else f"; the closest was {most:.1%} of it beyond"
        found.append(f"no trial met {harmless(check)}{closest}")
    return found


def proxy_line(record: SearchRecord) -> str:
    """What cheap trials were worth."""
    assert record.proxy is not None
    seen = record.proxy
    off = "" if seen.used else ": they do not predict, and were switched off"
    if seen.correlation is not None:
        told = f"rank correlation {seen.correlation:.2f} ({seen.low:.2f} to {seen.high:.2f}, 80 %) with full ones"
        return f"cheap trials: {told}, {seen.pairs} pairs{off}"
    if seen.used:
        return f"cheap trials: {seen.pairs} pairs with full ones, too few to tell whether they predict"
    return f"cheap trials: {seen.pairs} pairs with full ones, one side of which is always the same{off}"


def beside_controls(record: SearchRecord) -> list[str]:
    """What the search gained over those that learn nothing, or how to find out; nothing of a control, or a miss."""
    if record.searcher in CONTROLS or record.best is None:
        return []
    if not record.controls:
        command = f"compression-gate search --searcher random --name random --trials {record.trials}"
        return [f"what chance would have found in this space nobody knows: {command}"]
    return [against(record, control) for control in record.controls]


def against(record: SearchRecord, control: Control) -> str:
    """The search beside a control, at the trials that both had."""
    own, other = record.size_after(control.trials), control.size_bytes
    told = [f"{size:,.0f} bytes" if size is not None else "nothing that passes" for size in (own, other)]
    gain = f" ({own / other - 1:+.1%})" if own is not None and other is not None else ""
    return f"after {control.trials} trials: {told[0]}, {control.searcher} ({harmless(control.name)}) {told[1]}{gain}"


def what_next(record: SearchRecord) -> list[str]:
    """What to do with it."""
    if record.recipe is None:
        return ["do: look at reports/search/trials.csv: the last column says what each trial failed of"]
    if record.best is None:
        return [
            f"the nearest miss is {record.recipe}; all trials: reports/search/trials.csv",
            "do: widen search.space or the limits, or search longer: compression-gate search --resume --trials MORE",
        ]
    if not record.improves:
        return [f"do: leave params.yaml as it is, or search longer; {record.recipe} is no better by {record.prefer}"]
    adopting = f"write recipe: {record.recipe} in place of steps in params.yaml, compression-gate init --refresh"
    return [f"do: {adopting} (--adopt does both), then compression-gate run"]
