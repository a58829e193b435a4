"""The words and numbers that all reporters share, so that a figure reads the same wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compression_gate.gate.policy import LOOSENING
from compression_gate.gate.waivers import told
from compression_gate.records.choice import Tried
from compression_gate.records.metric_table import METRICS
from compression_gate.records.metrics import Benchmark, Measurement, PairedTiming, StepRecord
from compression_gate.records.verdict import Check, Verdict
from compression_gate.reporters.base import Findings

SYMBOLS = {"pass": "✔", "fail": "✘", "undecided": "◐", "error": "!", "waived": "⊘"}
TITLES = {"pass": "Pass", "fail": "Fail", "undecided": "Undecided", "error": "Error", "waived": "Waived"}
URGENCY = {"error": 0, "fail": 1, "undecided": 2, "waived": 3, "pass": 4}
UNITS = {"_bytes": "bytes", "_ms": "ms", "_per_s": "per s", "_j": "J", "compression_ratio": "×", "speedup": "×"}
NOTHING = "–"


def unit_of(metric: str) -> str:
    """The unit a metric is shown in."""
    if metric in METRICS and METRICS[metric].fraction:
        return "%"
    return next((unit for ending, unit in UNITS.items() if metric.endswith(ending)), "")


def figure(metric: str, value: float | None) -> str:
    """A value in the metric's shown unit, without the unit."""
    if value is None:
        return NOTHING
    if unit_of(metric) == "%":
        return f"{value * 100:.2f}"
    if metric.endswith("_bytes") or metric in ("parameters", "nonzeros", "macs") or abs(value) >= 1000:
        return f"{value:,.0f}"
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
    return " to ".join(show(check.metric, end) for end in sorted(end for end in check.interval if end is not None))


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
    """The check that best explains the status: among those with it, a blocking one first."""
    found = [check for check in verdict.checks if check.status == status]
    return min(found, key=lambda check: (check.level != "block", check.headroom or 0.0), default=None)


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
    if check.observed is None:
        return f"{TITLES[status]}. {name_of(check)}: {first_line(check.message)}"
    return f"{TITLES[status]}. {name_of(check)}: {reading(check)}"


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


def ordered(checks: Sequence[Check]) -> list[Check]:
    """Checks by urgency; within one, in the order of the rules."""
    return sorted(checks, key=lambda check: URGENCY[check.status])


def next_steps(verdict: Verdict) -> list[tuple[Check, str]]:
    """For each check that does not pass: what to do."""
    return [(check, step_for(check)) for check in ordered(verdict.checks) if check.status not in ("pass", "waived")]


def step_for(check: Check) -> str:
    """What to do about one check, as an imperative sentence."""
    if check.mending:
        return f"{check.message}: {check.mending}" if check.message else check.mending
    over = figure(check.metric, abs(check.headroom)) if check.headroom is not None else ""
    unit = "points" if unit_of(check.metric) == "%" else unit_of(check.metric)
    if check.status == "fail":
        verb = "Win back" if check.change is not None else "Raise" if check.limit.startswith("min") else "Lower"
        what = f"{over} {unit} of {check.metric}" if check.change is not None else f"{check.metric} by {over} {unit}"
        return f"{verb} {what.strip()}, or state the new limit in params.yaml: gate.rules.{check.rule}."
    if check.interval is None:
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


def waiver_lines(findings: Findings) -> list[str]:
    """The live waivers, their number first; nothing where there is none."""
    return told(findings.verdict.waivers, findings.today)


def trade_off_line(verdict: Verdict) -> str:
    """What the change gives and takes as a whole, in a sentence; empty where nothing compares."""
    found = verdict.trade_off
    if found is None:
        return ""
    words = {
        "dominates": "better, and worse in nothing",
        "trades": "a trade",
        "dominated": "worse, and better in nothing",
        "same": "the same within noise",
    }
    axes = [
        f"{axis.outcome if axis.outcome != 'same' else 'same within noise'} in {with_unit(axis.metric)} "
        f"({figure(axis.metric, axis.compared_to)} → {figure(axis.metric, axis.observed)})"
        for axis in found.axes
    ]
    front = ", ".join(point.role for point in found.points if point.on_front)
    return f"Against the {found.against}: {words[found.outcome]}: {'; '.join(axes)}. On the Pareto front: {front}."


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
        if best is None or check.headroom < (best.headroom or 0.0):
            worst[check.rule] = check
    return [f"{rule}: worst at {check.slice}: {reading(check)}" for rule, check in worst.items()]


def attribution_lines(findings: Findings) -> list[str]:
    """Which step of the recipe caused which part, each against the step before it."""
    record = findings.compression
    if record is None or not record.steps:
        return []
    lines = []
    quality = next(iter(record.reference.quality), None)
    for before, step in zip((record.reference, *record.steps), record.steps, strict=False):
        parts = [
            f"{(new - old) / old:+.0%} {name}".replace("-", "−")
            for name, new, old in (
                ("bytes of weights", step.state_bytes, before.state_bytes),
                ("MACs", step.macs, before.macs),
                ("non-zero weights", step.nonzeros, before.nonzeros),
            )
            if old and new != old
        ]
        new, old = (one.quality.get(quality) if quality else None for one in (step, before))
        if quality and new is not None and old is not None:
            unit = "points of " if unit_of(quality) == "%" else ""
            parts.append(f"{signed(quality, new - old)} {unit}{quality} (validation)")
        lines.append(f"{step.method}: {', '.join(parts) or 'nothing that shows here'}")
    return lines


MODEL_ROWS = ("size_bytes", "compression_ratio", "parameters", "macs", "latency_ms", "latency_p95_ms", "speedup")
MORE_ROWS = (
    "eager_latency_ms",
    "throughput_per_s",
    "load_time_ms",
    "decode_time_ms",
    "load_time_cold_ms",
    "first_call_ms",
    "peak_memory_bytes",
    "model_memory_bytes",
    "energy_j",
)
EXPLAINED = {"eager_latency_ms": "eager_latency_ms (float32 torch, for information)"}
BATCH_ROWS = ("latency_ms", "throughput_per_s")


def model_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of models: one row per metric, one column per model."""
    evaluation, benchmark = findings.evaluation, findings.benchmark
    roles = [
        role for role in ("reference", "release", "baseline", "candidate") if benchmark and role in benchmark.models
    ]
    rows = []
    if evaluation:
        candidate = evaluation.models.get("candidate")
        for metric in findings.params.metrics or tuple(candidate.metrics if candidate else ()):
            values = [evaluation.models[role].metrics.get(metric) for role in roles if role in evaluation.models]
            if len(values) == len(roles) and all(values):
                rows.append([with_unit(metric), *(figure(metric, value.value if value else None) for value in values)])
    if benchmark:
        for metric in (*MODEL_ROWS, *MORE_ROWS):
            figures = [benchmark.models[role].figures.get(metric) for role in roles]
            if any(figures):
                name = EXPLAINED.get(metric, with_unit(metric))
                rows.append([name, *(measured(metric, value) for value in figures)])
        rows += batch_rows(benchmark, roles)
    return ["", *roles], rows


def batch_rows(benchmark: Benchmark, roles: Sequence[str]) -> list[list[str]]:
    """Rows of every batch size, where there are several."""
    sizes = dict.fromkeys(benchmark.batch_sizes)
    if len(sizes) == 1:
        return []
    return [
        [
            f"{with_unit(metric)} at batch {size}",
            *(measured(metric, benchmark.models[role].batches.get(size, {}).get(metric)) for role in roles),
        ]
        for size in sizes
        for metric in BATCH_ROWS
    ]


def measured(metric: str, value: Measurement | None) -> str:
    """A measurement, said to be estimated where it is."""
    return figure(metric, value.value) + (" (estimated)" if value.estimated else "") if value else NOTHING


def with_unit(metric: str) -> str:
    """A metric's name with its unit, unless the name ends in it."""
    unit = unit_of(metric)
    return (
        metric
        if not unit or any(metric.endswith(ending) for ending in UNITS if ending[0] == "_")
        else f"{metric}, {unit}"
    )


def step_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what each step changed, measured on the validation split."""
    record = findings.compression
    if record is None:
        return [], []
    quality = next(iter(record.reference.quality), None)
    head = ["step", "weights, bytes", "parameters", "non-zero", "MACs", "s"]
    if quality:
        head.insert(5, f"{quality} (validation), {unit_of(quality)}".rstrip(", "))
    rows = []
    given = [step.options for step in findings.params.compress.steps]
    written = given if len(given) == len(record.steps) else [step.options for step in record.steps]
    for step, options in zip((record.reference, *record.steps), ({}, *written), strict=True):
        row = [
            described(step, options),
            f"{step.state_bytes:,}",
            f"{step.parameters:,}",
            f"{step.nonzeros:,}",
            f"{step.macs:,}",
            f"{step.seconds:.1f}",
        ]
        if quality:
            row.insert(5, figure(quality, step.quality.get(quality)))
        rows.append(row)
    return head, rows


def described(step: StepRecord, options: Mapping[str, object]) -> str:
    """A step with the options that were written down."""
    shown = ", ".join(f"{name} {value}" for name, value in options.items() if value not in (None, (), [], {}))
    return f"{step.method} ({shown})" if shown else step.method


def timing_lines(findings: Findings) -> list[str]:
    """One line for each model the candidate was timed against, with its control."""
    pairs = findings.benchmark.pairs if findings.benchmark else {}
    return [f"against the {role}: {timing_text(role, pair)}" for role, pair in pairs.items()]


def timing_text(role: str, pair: PairedTiming) -> str:
    """What timing the candidate against a role came to: each attempt where there were several, and all together."""
    alone = ", ".join(
        f"attempt {number}: {f'{ratio:.3f}' if ratio is not None else 'no figure'}"
        for number, ratio in enumerate(pair.attempt_ratios, 1)
    )
    before = f"{alone}; all together " if pair.attempts > 1 and alone else ""
    if pair.ratio is None:
        return f"{before}{'no figure: ' if before else ''}{pair.reason or 'no result'}"
    low, high = pair.interval
    control = f"{pair.control_ratio:.3f}" if pair.control_ratio is not None else NOTHING
    span = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "no interval"
    return (
        f"{before}{pair.ratio:.3f} of its time ({span} at {100 * pair.confidence:.4g}%); a copy of the {role} "
        f"against itself: {control}; {pair.pairs:,} pairs in {pair.turns} processes; {pair.clock}"
    )


def rule_lines(findings: Findings) -> list[str]:
    """The rules as they were judged, expanded."""
    lines = []
    for name, rule in findings.params.gate.rules.items():
        parts = [f"metric: {rule.metric}", f"{rule.form}: {rule.limit}"]
        parts += [f"against: {rule.against}"] if rule.form in ("max_drop", "max_increase") else []
        parts += [f"{key}: {value}" for key in ("slice", "min_n", "fallback") if (value := getattr(rule, key))]
        parts += [f"level: {rule.level}"] if rule.level != "block" else []
        lines.append(f"{name}: {{{', '.join(parts)}}}")
    return lines


def uncovered_lines(findings: Findings) -> list[str]:
    """Layers that a step left as they were, each with its reason."""
    steps = findings.compression.steps if findings.compression else ()
    return [f"{step.method} left {layer}: {reason}" for step in steps for layer, reason in step.uncovered.items()]


def training_lines(findings: Findings) -> list[str]:
    """How every training inside a step went, and what else the step had to say."""
    lines = []
    for step in findings.compression.steps if findings.compression else ():
        for label, curve in step.curves.items():
            first, last = curve[0], curve[-1]
            parts = [f"loss {number(first.loss)} → {number(last.loss)} in {len(curve)} epochs"]
            if last.validation_loss is not None:
                parts.append(f"validation loss {number(first.validation_loss)} → {number(last.validation_loss)}")
            if last.validation_quality is not None:
                parts.append(f"validation accuracy {figure('accuracy', last.validation_quality)} {unit_of('accuracy')}")
            lines.append(f"{step.method}, {label}: {', '.join(parts)}")
        lines += [f"{step.method}: {remark}" for remark in step.remarks]
    return lines


def choice_lines(findings: Findings) -> list[str]:
    """How the steps were chosen for a target: what the rules went by, and each rung with what came of it."""
    choice = findings.compression.choice if findings.compression else None
    if choice is None:
        return []
    asked = (
        f"asked for: {choice.compression_ratio:g} × smaller, at most {100 * choice.max_accuracy_drop:g} points lost on "
        f"{choice.n:,} validation examples, at most {choice.max_epochs} epochs trained"
    )
    rungs = [f"{one.name} ({one.why}): {came_of(one)}" for one in choice.tried]
    return [asked, *choice.facts, *rungs]


def came_of(tried: Tried) -> str:
    """What a rung's file came to, and whether that was enough."""
    if tried.size_bytes is None or tried.compression_ratio is None or tried.accuracy_drop is None:
        return tried.reason or NOTHING
    figures = (
        f"{tried.size_bytes:,} bytes, {tried.compression_ratio:.2f} × smaller, {100 * tried.accuracy_drop:.2f} points "
        f"lost, {tried.epochs} epochs"
    )
    return f"{figures}: {f'missed: {tried.reason}' if tried.reason else 'taken'}"


def number(value: float | None) -> str:
    """A loss, or that there is none."""
    return NOTHING if value is None else f"{value:.4g}"
