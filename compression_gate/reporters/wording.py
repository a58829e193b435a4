"""The words and numbers that all reporters share, so that a figure reads the same wherever it is shown."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from compression_gate.gate.policy import LOOSENING, UNDERPOWERED
from compression_gate.gate.policy import told as told_of_policy
from compression_gate.gate.waivers import told
from compression_gate.records.metric_table import is_fraction
from compression_gate.records.rules import direction_by
from compression_gate.records.verdict import Axis, Check, TradeOff, Verdict
from compression_gate.reporters.base import Findings

SYMBOLS = {"pass": "✔", "fail": "✘", "undecided": "◐", "error": "!", "waived": "⊘"}
TITLES = {"pass": "Pass", "fail": "Fail", "undecided": "Undecided", "error": "Error", "waived": "Waived"}
URGENCY = {"error": 0, "fail": 1, "undecided": 2, "waived": 3, "pass": 4}
UNITS = {"_bytes": "bytes", "_ms": "ms", "_per_s": "per s", "_j": "J", "compression_ratio": "×", "speedup": "×"}
NOTHING = "–"
SPOKEN = {"size_bytes": ("fewer", "bytes"), "latency_ms": ("less", "latency")}


def unit_of(metric: str) -> str:
    """The unit a metric is shown in."""
    if is_fraction(metric):
        return "%"
    return next((unit for ending, unit in UNITS.items() if metric.endswith(ending)), "")


def direction_in(checks: Iterable[Check], metric: str) -> Literal[1, -1]:
    """1 where more of a metric is better, -1 where less is; of a custom score as its limits say, else 1."""
    forms = (check.limit.partition(" ")[0] for check in checks if check.metric == metric and check.limit)
    return direction_by(metric, forms) or 1


def figure(metric: str, value: float | None) -> str:
    """A value in the metric's shown unit, without the unit."""
    if value is None:
        return NOTHING
    if unit_of(metric) == "%":
        return f"{value * 100:.2f}"
    if metric.endswith("_bytes") or metric in ("parameters", "nonzeros", "macs") or abs(value) >= 999.5:
        return f"{value:,.0f}"  # from 999.5 on three digits would need an exponent
    return f"{value:#.3g}".rstrip(".")


def signed(metric: str, value: float | None) -> str:
    """A change with its sign; a typographic minus, so that columns line up."""
    if value is None:
        return NOTHING
    text = figure(metric, abs(value))
    if not any(digit in text for digit in "123456789"):
        return text
    return ("−" if value < 0 else "+") + text


def name_of(check: Check) -> str:
    """Rule, with the slice where it has one."""
    return f"{check.rule} / {check.slice}" if check.slice else check.rule


def metric_of(check: Check) -> str:
    """Metric with its unit."""
    return with_unit(check.metric)


def limit_of(check: Check) -> str:
    """What is allowed, as a change or as a value."""
    if check.allowed is None:
        return check.limit or NOTHING
    if check.limit.startswith(("max_drop", "max_increase")):
        return signed(check.metric, check.allowed)
    return ("≤ " if check.limit.startswith("max") else "≥ ") + figure(check.metric, check.allowed)


def interval_of(check: Check) -> str:
    """The interval's ends, of the change or of the value."""
    if check.interval is None:
        return "exact" if check.observed is not None else NOTHING
    show = figure if check.change is None else signed
    low, high = (None if end is None else show(check.metric, end) for end in check.interval)
    if low is None or high is None:
        return f"at least {low}" if low else f"at most {high}" if high else "unbounded"
    return f"{low} to {high}"


def headroom_of(check: Check) -> str:
    """The distance left to the limit; negative beyond it."""
    return NOTHING if check.headroom is None else signed(check.metric, check.headroom)


def smallest_of(check: Check) -> str:
    """The smallest degradation the check would have caught."""
    return figure(check.metric, check.minimum_detectable)


def counts_of(verdict: Verdict) -> str:
    """How many checks came out how."""
    words = {"pass": "passed", "fail": "failed", "undecided": "undecided", "error": "in error", "waived": "waived"}
    parts = []
    for status in URGENCY:
        if number := sum(check.status == status for check in verdict.checks):
            parts.append(f"{number} {words[status]}")
    return ", ".join(parts) or "no rule"


def deciding(verdict: Verdict, status: str) -> Check | None:
    """The check that best explains the status: among those with it, a blocking one first, one with a waiver last."""
    found = [check for check in verdict.checks if check.status == status]
    found += [check for check in verdict.checks if status == "fail" and blocks_though_waived(check, verdict)]
    return min(found, key=lambda check: (check.level != "block", *least_room_first(check)), default=None)


def least_room_first(check: Check) -> tuple[int, float]:
    """The order by urgency, then by what is left to the limit."""
    return URGENCY[check.status], room_of(check)


def room_of(check: Check) -> float:
    """What is left to the limit, as a share of it, so that units do not matter; infinite where nothing was measured."""
    if check.headroom is None:
        return math.inf
    return check.headroom / abs(check.allowed) if check.allowed else check.headroom


def blocks_though_waived(check: Check, verdict: Verdict) -> bool:
    """Whether the policy does not take a check's waiver; where it does, the verdict warns of the check."""
    return check.status == "waived" and told_of_policy([check])[0] not in verdict.warnings


def headline(findings: Findings, status: str) -> str:
    """The verdict in one line: what, by which figure, against what is allowed."""
    verdict = findings.verdict
    if not verdict.checks:
        return "Pass. No rule was set, so nothing was judged."
    if status == "pass":
        loosened = next((check for check in verdict.checks if check.metric == LOOSENING), None)
        if loosened is not None:
            return f"Pass. It {loosened.message}."
        return f"Pass. {summary(findings)}"
    check = deciding(verdict, status)
    if check is None:
        return f"{TITLES[status]}."
    if check.observed is None or (status == "error" and check.message):
        return f"{TITLES[status]}. {name_of(check)}: {first_sentence(check.message)}"
    named = "" if check.metric.startswith(check.rule) and not check.slice else f"{name_of(check)}: "
    waiver = f"; its waiver does not hold under the policy {verdict.policy}" if check.status == "waived" else ""
    return f"{TITLES[status]}. {named}{reading(check)}{waiver}"


def reading(check: Check) -> str:
    """A check in words: the figure, and what is allowed."""
    unit = unit_of(check.metric)
    if check.change is None:
        bound = "required" if check.limit.startswith("min") else "allowed"
        value = f"{figure(check.metric, check.observed)} {unit}".rstrip()
        return f"{check.metric} is {value}; {limit_of(check)} is {bound}"
    points = "points" if unit == "%" else unit
    change = f"{signed(check.metric, check.change)} {points}".rstrip()
    return f"{check.metric} changed by {change} against the {check.against}; {limit_of(check)} is allowed"


def summary(findings: Findings) -> str:
    """What compression brought and what it cost, from the records."""
    parts = []
    if findings.evaluation and {"reference", "candidate"} <= findings.evaluation.models.keys():
        reference, candidate = (findings.evaluation.models[role].metrics for role in ("reference", "candidate"))
        metric = next(iter(candidate), None)
        if (
            metric
            and metric in reference
            and candidate[metric].value is not None
            and reference[metric].value is not None
        ):
            change = (candidate[metric].value or 0.0) - (reference[metric].value or 0.0)
            unit = "points of " if unit_of(metric) == "%" else ""
            parts.append(f"{signed(metric, change)} {unit}{metric}")
    if findings.benchmark and "candidate" in findings.benchmark.models:
        figures = findings.benchmark.models["candidate"].figures
        for name, better, worse in (
            ("compression_ratio", "fewer bytes", "more bytes"),
            ("speedup", "faster", "slower"),
        ):
            value = figures[name].value if name in figures else None
            if value:
                # Five times more bytes, and not a fifth fewer; one and a bit either way is told as it is.
                parts.append(f"{value:.1f}× {better}" if value >= 0.95 else f"{1 / value:.1f}× {worse}")
    return ", ".join(parts) + "." if parts else "Every limit holds."


def first_line(text: str) -> str:
    """The first line of a message."""
    return text.splitlines()[0] if text else ""


def first_sentence(text: str) -> str:
    """The first sentence of a message's first line."""
    sentence, stop, _ = first_line(text).partition(". ")
    return sentence + stop.strip()


def ordered(checks: Sequence[Check]) -> list[Check]:
    """Checks by urgency; within one, in the order of the rules."""
    return sorted(checks, key=lambda check: URGENCY[check.status])


def next_steps(verdict: Verdict, lines: Mapping[str, int] | None = None) -> list[tuple[Check, str]]:
    """For each check that neither passes nor is let pass: what to do. ``lines``: of the rules in `params.yaml`."""
    return [
        (check, step_for(check, lines))
        for check in ordered(verdict.checks)
        if check.status not in ("pass", "waived") or blocks_though_waived(check, verdict)
    ]


def step_for(check: Check, lines: Mapping[str, int] | None = None) -> str:
    """What to do about one check, as an imperative sentence."""
    if check.mending == UNDERPOWERED and check.message:
        return check.message  # it holds the ways out
    if check.mending:
        return f"{check.message}: {check.mending}" if check.message else check.mending
    over = figure(check.metric, abs(check.headroom)) if check.headroom is not None else ""
    unit = "points" if unit_of(check.metric) == "%" else unit_of(check.metric)
    if check.status in ("fail", "waived"):
        verb = "Win back" if check.change is not None else "Raise" if check.limit.startswith("min") else "Lower"
        what = f"{over} {unit} of {check.metric}" if check.change is not None else f"{check.metric} by {over} {unit}"
        if check.status == "waived":
            return f"{verb} {what.strip()}, or let its waiver hold here too: release: true in waivers.yaml."
        line = f":{lines[check.rule]}" if lines and check.rule in lines else ""
        return f"{verb} {what.strip()}, or state a new limit of the rule {check.rule} in params.yaml{line}."
    if check.interval is None or None in check.interval:
        return check.message or "Measure more, or widen the limit."
    more = f" (about {check.settled_by:,} would settle it)" if check.settled_by else ""
    now = f"; n = {check.n:,} now{more}" if check.n else ""
    if check.p_value is not None and check.alpha is not None and check.p_value <= check.alpha:
        return (
            f"Alone it would fail (p = {check.p_value:.2g}), among so many checks it may be chance: measure more{now}."
        )
    return (
        f"The interval {interval_of(check)} holds the limit {limit_of(check)}: measure more{now}, or widen the limit."
    )


def notes_of(verdict: Verdict) -> list[str]:
    """Warnings that are of no check: those are shown as such."""
    named = set(told_of_policy(verdict.checks))
    return [text for text in verdict.warnings if text not in named]


def way_to_accept(check: Check) -> str:
    """The command that lets a broken limit pass for a while, for a person to fill in; nothing where none can."""
    if check.status != "fail" or check.level != "block" or check.observed is None:
        return ""
    part = f" --slice {shlex.quote(check.slice)}" if check.slice else ""
    return f'compression-gate waive {shlex.quote(check.rule)}{part} --ceiling … --expires … --owner … --reason "…"'


def local_command(findings: Findings) -> str:
    """What repeats this run on another machine, to the letter."""
    verdict = findings.verdict
    there = f"git switch --detach {shlex.quote(verdict.candidate.commit[:12])} && " if verdict.candidate.commit else ""
    folder = f" -C {shlex.quote(findings.folder)}" if findings.folder != "." else ""
    policy = f" --policy {shlex.quote(verdict.policy)}" if verdict.policy != "pull_request" else ""
    return f"{there}compression-gate run{folder}{policy}"


def waiver_lines(findings: Findings) -> list[str]:
    """The live waivers, their number first; nothing where there is none."""
    return told(findings.verdict.waivers, findings.today)


def trade_off_line(verdict: Verdict) -> str:
    """What the change gives and takes as a whole, in a sentence; empty where nothing compares."""
    found = verdict.trade_off
    if found is None:
        return ""
    better, worse, same = (
        [axis for axis in found.axes if axis.outcome == outcome] for outcome in ("better", "worse", "same")
    )
    gains, losses = (listed([difference(axis) for axis in axes]) or "nothing" for axes in (better, worse))
    told = {
        "dominates": f"this change brings {gains}, and is worse in nothing that was measured",
        "trades": f"this change brings {gains}, at the price of {losses}",
        "dominated": f"this change costs {losses}, and brings nothing that was measured",
        "same": "this change makes no difference that shows",
    }
    unchanged = f"; {listed([axis.metric for axis in same])}: the same within noise" if same else ""
    return f"Against the {found.against} {told[found.outcome]}{unchanged}. {front_line(found)}"


def difference(axis: Axis) -> str:
    """How far an axis moved: points of a fraction, per cent of a cost, from what to what."""
    change = axis.observed - axis.compared_to
    ends = f"({figure(axis.metric, axis.compared_to)} → {figure(axis.metric, axis.observed)})"
    if unit_of(axis.metric) == "%":
        return f"{figure(axis.metric, abs(change))} points of {axis.metric} {ends}"
    if not axis.compared_to:
        return f"{signed(axis.metric, change)} {axis.metric} {ends}"
    less, name = SPOKEN.get(axis.metric, ("less", axis.metric))
    share = 100 * abs(change / axis.compared_to)
    return f"{share:.3g}\u00a0% {'more' if change > 0 else less} {name} {ends}"


def front_line(found: TradeOff) -> str:
    """Where this commit stands among all models of the run."""
    if all(point.role != "candidate" for point in found.points):
        return "Whether it is on the Pareto front cannot be said: it lacks a figure."
    names = [point.role for point in found.points if point.on_front]
    others = listed([name for name in names if name != "candidate"])
    if "candidate" in names:
        return (
            f"It is on the Pareto front of {len(found.points)} models{f', with the {others}' if others else ', alone'}."
        )
    return f"It is not on the Pareto front, which holds the {others}."


def listed(words: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def reuse_line(verdict: Verdict) -> str:
    """How often the test data were asked, and what that rests on."""
    reuse = verdict.test_reuse
    if not reuse.judged:
        return ""
    of = f" of {reuse.uses} ({reuse.mode})" if reuse.uses else ""
    number = f"{reuse.judged:,}{of} candidate{'s' if reuse.judged > 1 or reuse.uses else ''}"
    return f"{number} judged on these test data; {reuse.premise}"


def worst_slices(verdict: Verdict) -> list[str]:
    """For each rule over slices, the one nearest to its limit or furthest beyond."""
    worst: dict[str, Check] = {}
    for check in verdict.checks:
        if check.slice is None or check.headroom is None:
            continue
        best = worst.get(check.rule)
        if best is None or room_of(check) < room_of(best):
            worst[check.rule] = check
    return [f"{rule}: worst at {check.slice}: {reading(check)}" for rule, check in worst.items()]


def with_unit(metric: str) -> str:
    """A metric's name with its unit, unless the name ends in it."""
    unit = unit_of(metric)
    return (
        metric
        if not unit or any(metric.endswith(ending) for ending in UNITS if ending[0] == "_")
        else f"{metric}, {unit}"
    )


CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)  # escapes, turns of direction, no characters
COMMANDS = re.compile(r"(?m)^(\s*)(::|##\[)")  # what a runner reads from a log as an order to itself


def harmless(text: str) -> str:
    """Text that a contributor may have chosen, fit for a log: no escape sequences and no orders to the runner."""
    return COMMANDS.sub("\\1\u200b\\2", CONTROLS.sub("", text))
