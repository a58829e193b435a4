"""What the records hold, as heads and rows: every reporter draws its tables from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compression_gate.records.choice import Tried
from compression_gate.records.metrics import Benchmark, Measurement, PairedTiming, StepRecord
from compression_gate.records.verdict import Verdict
from compression_gate.reporters.base import Findings
from compression_gate.reporters.wording import NOTHING, figure, signed, unit_of, with_unit


def subject_table(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """The models that were compared, by content; why one is absent."""
    subjects = {role: getattr(verdict, role) for role in ("candidate", "reference", "baseline", "release")}
    rows = [
        [role, (one.commit or NOTHING)[:12], f"sha256 {one.digest[:16]}…" if one.digest else one.absent or NOTHING]
        for role, one in subjects.items()
        if one.digest or one.absent
    ]
    return ["model", "commit", "content"], rows


def attribution_lines(findings: Findings) -> list[str]:
    """Which step of the recipe caused which part, each against the step before it."""
    record = findings.compression
    if record is None or not record.steps:
        return []
    lines = []
    quality = next(iter(record.reference.quality), None)
    for before, step in zip((record.reference, *record.steps), record.steps, strict=False):
        parts = [
            f"{(new - old) / old:+.0%}".replace("-", "−") + f" {name}"
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
    head, rows, more = model_tables(findings)
    return head, [*rows, *more]


def model_tables(findings: Findings) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """The same in two parts: what is judged as a rule, and what else was measured."""
    benchmark, evaluation = findings.benchmark, findings.evaluation
    found = {role for record in (benchmark, evaluation) if record for role in record.models}
    roles = [role for role in ("reference", "release", "baseline", "candidate") if role in found]
    rows = [*quality_rows(findings, roles), *cost_rows(benchmark, roles, MODEL_ROWS)]
    more = cost_rows(benchmark, roles, MORE_ROWS) + (batch_rows(benchmark, roles) if benchmark else [])
    return ["", *roles], rows, more


def quality_rows(findings: Findings, roles: Sequence[str]) -> list[list[str]]:
    """Those qualities that at least one model has."""
    models = findings.evaluation.models if findings.evaluation else {}
    rows = []
    for metric in findings.params.metrics or tuple(models["candidate"].metrics if "candidate" in models else ()):
        values = [models[role].metrics.get(metric) if role in models else None for role in roles]
        if any(values):
            rows.append([with_unit(metric), *(figure(metric, value.value if value else None) for value in values)])
    return rows


def cost_rows(benchmark: Benchmark | None, roles: Sequence[str], metrics: Sequence[str]) -> list[list[str]]:
    """Those costs that at least one model has."""
    models = benchmark.models if benchmark else {}
    rows = []
    for metric in metrics:
        figures = [models[role].figures.get(metric) if role in models else None for role in roles]
        if any(figures):
            name = EXPLAINED.get(metric, with_unit(metric))
            rows.append([name, *(measured(metric, value) for value in figures)])
    return rows


def batch_rows(benchmark: Benchmark, roles: Sequence[str]) -> list[list[str]]:
    """Rows of every batch size, where there are several."""
    sizes = dict.fromkeys(benchmark.batch_sizes)
    if len(sizes) == 1:
        return []
    batches = [benchmark.models[role].batches if role in benchmark.models else {} for role in roles]
    return [
        [
            f"{with_unit(metric)} at batch {size}",
            *(measured(metric, figures.get(size, {}).get(metric)) for figures in batches),
        ]
        for size in sizes
        for metric in BATCH_ROWS
    ]


def measured(metric: str, value: Measurement | None) -> str:
    """A measurement, said to be estimated where it is."""
    return figure(metric, value.value) + (" (estimated)" if value.estimated else "") if value else NOTHING


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
    for step, name in zip((record.reference, *record.steps), step_names(findings), strict=True):
        row = [
            name,
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


def step_names(findings: Findings) -> list[str]:
    """The reference, and each step with the options that the user wrote."""
    record = findings.compression
    if record is None:
        return []
    given = [step.options for step in findings.params.compress.steps]
    written = given if len(given) == len(record.steps) else [step.options for step in record.steps]
    steps = zip((record.reference, *record.steps), ({}, *written), strict=True)
    return [described(step, options) for step, options in steps]


def described(step: StepRecord, options: Mapping[str, object]) -> str:
    """A step with the options that were written down."""
    shown = ", ".join(f"{name} {value}" for name, value in options.items() if value not in (None, (), [], {}))
    return f"{step.method} ({shown})" if shown else step.method


def timing_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """For each model the candidate was timed against: the ratio of times, and a copy of that model against itself."""
    pairs = findings.benchmark.pairs if findings.benchmark else {}
    head = [
        "against",
        "ratio of times",
        "interval",
        "at",
        "A/A control",
        "its interval",
        "wall clock",
        "pairs",
        "turns",
    ]
    rows = [
        [
            role,
            ratio(pair.ratio),
            ratios(pair.interval),
            f"{100 * pair.confidence:.4g} %",
            ratio(pair.control_ratio),
            ratios(pair.control_interval),
            ratio(pair.wall_ratio),
            f"{pair.pairs:,}",
            f"{pair.turns:,}",
        ]
        for role, pair in pairs.items()
        if pair.ratio is not None
    ]
    return head, rows


def ratio(value: float | None) -> str:
    """A ratio of times."""
    return NOTHING if value is None else f"{value:.3f}"


def ratios(ends: tuple[float | None, float | None]) -> str:
    """An interval of ratios."""
    return NOTHING if None in ends else " to ".join(map(ratio, ends))


def timing_lines(findings: Findings) -> list[str]:
    """How each timing came about: clock and procedure, each attempt where there were several, why one has no figure."""
    lines = []
    for role, pair in (findings.benchmark.pairs if findings.benchmark else {}).items():
        parts = [f"{pair.clock}, {pair.procedure}"]
        if pair.attempts > 1:
            alone = (f"attempt {one}: {ratio(value)}" for one, value in enumerate(pair.attempt_ratios, 1))
            parts.append(f"{', '.join(alone)}; the figure is of all together")
        if pair.ratio is None:
            parts.append(f"no figure: {pair.reason or 'no result'}")
        elif pair.reason:
            parts.append(pair.reason)
        lines.append(f"against the {role}: {'; '.join(parts)}")
    return lines


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


def integer_lines(findings: Findings) -> list[str]:
    """Where the layers that hold integers end, in the file that ships and in its runtime."""
    return list(findings.compression.integers) if findings.compression else []


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
