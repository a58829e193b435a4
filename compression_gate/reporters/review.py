"""The review of an iteration: trends, changes of verdict, drift, as Markdown and as a page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from compression_gate.records.review import Change, Drift, Review, ReviewedRun, Trend
from compression_gate.reporters import wording
from compression_gate.reporters.html import page
from compression_gate.reporters.markdown import EMOJI, bullets, escaped, section, table
from compression_gate.reporters.svg import Scale, element, line, marked, percent, plot, spread

BLOCKS = "▁▂▃▄▅▆▇█"
SHORT = 10  # of a commit
ELSEWHERE = "several machines"


def rendered(review: Review) -> str:
    """The review as Markdown."""
    parts = [
        f"# {escaped(headline(review))}",
        escaped(scope(review)),
        *section("What changed the verdict", bullets(map(change_line, verdict_changes(review)))),
        *section("Trends", table(*trend_table(review))),
        *section(f"Drift since {escaped(review.release or '')}", table(*drift_table(review))),
        *section("Rules that changed", bullets(map(change_line, rule_changes(review)))),
        *section("Runs", table(*run_table(review), "llllll")),
        *section("Notices", bullets(review.notices)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rendered_page(review: Review) -> str:
    """The review as a page in the report's style."""
    return page(
        "review.html.j2",
        review=review,
        headline=headline(review),
        scope=scope(review),
        verdict_changes=list(map(change_line, verdict_changes(review))),
        rule_changes=list(map(change_line, rule_changes(review))),
        trends=[(trend, trend_row(trend), trend_plot(trend, review.runs)) for trend in review.trends],
        drift=drift_table(review),
        runs=run_table(review, wording.SYMBOLS),
    )


def headline(review: Review) -> str:
    """How many runs passed, and where it stands now."""
    if not review.runs:
        return f"{review.suite}: no recorded run"
    passed = sum(run.status == "pass" for run in review.runs)
    last = wording.TITLES[review.runs[-1].status].lower()
    return f"{review.suite}: {passed} of {len(review.runs)} runs passed, the last: {last}"


def scope(review: Review) -> str:
    """Which commits were looked at."""
    begin = f"from {review.since[:SHORT]} " if review.since else ""
    missing = f"; {review.unrecorded:,} commits without a recorded run" if review.unrecorded else ""
    return f"Recorded runs {begin}up to {review.head[:SHORT]}, along first parents{missing}."


def verdict_changes(review: Review) -> list[Change]:
    """Changes of the whole verdict."""
    return [change for change in review.changes if change.rule is None]


def rule_changes(review: Review) -> list[Change]:
    """Changes of a rule's verdict."""
    return [change for change in review.changes if change.rule is not None]


def change_line(change: Change) -> str:
    """From what to what, by which commit."""
    what = f"{change.rule}: " if change.rule else ""
    return f"{what}{change.before} → {change.after} at {change.commit[:SHORT]}"


def trend_table(review: Review) -> tuple[list[str], list[list[str]]]:
    """One row a metric."""
    head = ["metric", "first", "last", "change", "trend", "largest step for the worse", "by"]
    return head, [trend_row(trend) for trend in review.trends]


def trend_row(trend: Trend) -> list[str]:
    """A metric's ends, its course, and the commit that made it worse by most."""
    return [
        wording.with_unit(trend.metric),
        wording.figure(trend.metric, trend.first),
        wording.figure(trend.metric, trend.last),
        change_of(trend),
        course(trend.values),
        wording.signed(trend.metric, trend.worst_step),
        trend.worst_commit[:SHORT] if trend.worst_commit else wording.NOTHING,
    ]


def change_of(trend: Trend) -> str:
    """Last less first, unless they were measured on different machines."""
    if trend.first is None or trend.last is None:
        return wording.NOTHING
    return wording.signed(trend.metric, trend.last - trend.first) if trend.comparable else ELSEWHERE


def course(values: Sequence[float | None]) -> str:
    """Values as a row of blocks, the smallest lowest; a dot where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join("·" if value is None else BLOCKS[round((value - low) * scale)] for value in values)


def drift_table(review: Review) -> tuple[list[str], list[list[str]]]:
    """One row a metric that moved or not since the release."""
    return ["metric", "released", "now", "change"], [drift_row(drift) for drift in review.drift]


def drift_row(drift: Drift) -> list[str]:
    """What was released, what is there now."""
    change = wording.signed(drift.metric, drift.now - drift.released) if drift.comparable else ELSEWHERE
    figures = (wording.figure(drift.metric, value) for value in (drift.released, drift.now))
    return [wording.with_unit(drift.metric), *figures, change]


def run_table(review: Review, symbols: Mapping[str, str] = EMOJI) -> tuple[list[str], list[list[str]]]:
    """One row a run, the newest first."""
    head = ["commit", "verdict", "did not pass", "release", "machine", "subject"]
    return head, [run_row(run, symbols) for run in reversed(review.runs)]


def run_row(run: ReviewedRun, symbols: Mapping[str, str]) -> list[str]:
    """A run in a line."""
    failing = ", ".join(f"{rule} ({status})" for rule, status in run.failing.items())
    accepted = f" (accepted: {run.accepted})" if run.accepted else ""
    return [
        run.commit[:SHORT],
        f"{symbols[run.status]} {run.status}{accepted}",
        failing or wording.NOTHING,
        run.release or "",
        run.machine or wording.NOTHING,
        run.subject or "",
    ]


def trend_plot(trend: Trend, runs: Sequence[ReviewedRun]) -> Markup | str:
    """A metric over the runs; the line breaks where the machine changed or a figure is missing."""
    known = [(number, value) for number, value in enumerate(trend.values) if value is not None]
    if not known:
        return wording.NOTHING
    low, high = spread([value for _, value in known], room=0.15)
    x = Scale(low=0, high=max(len(runs) - 1, 1), begin=2, end=98)
    y = Scale(low=low, high=high, begin=30, end=4)
    parts = [
        line(x.at(one), y.at(old), x.at(other), y.at(new), "front")
        for (one, old), (other, new) in itertools.pairwise(known)
        if other == one + 1 and (trend.comparable or runs[one].machine == runs[other].machine)
    ]
    parts += [dot_of(trend.metric, runs[number], value, x.at(number), y.at(value)) for number, value in known]
    return plot(34, f"{trend.metric} over {len(known)} runs", *parts)


def dot_of(metric: str, run: ReviewedRun, value: float, x: float, y: float) -> Markup:
    """One run's figure, coloured by its verdict, which stands beside it in words."""
    tip = f"{run.commit[:SHORT]}: {metric} {wording.figure(metric, value)}, {run.status}"
    return marked(tip, element("circle", cx=percent(x), cy=y, r=3.0, class_=f"run s-{run.status}"))
