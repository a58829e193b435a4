"""From a rule's metric and the facts to an estimate, one function for each kind of evidence; or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compression_gate.errors import MetricsError, StaleError
from compression_gate.gate import intervals, timing_test
from compression_gate.gate.facts import Facts, Question
from compression_gate.gate.intervals import Estimate
from compression_gate.gate.limits import CHANGES
from compression_gate.gate.timing_zone import zone_of
from compression_gate.records.history import History
from compression_gate.records.metric_table import BETWEEN_MODELS
from compression_gate.records.metrics import Benchmark, ModelCost, ModelQuality, PairedTiming, Value

EARLIER = ("baseline", "release")
SAME_TIME = 1e-4  # blocks are kept to the millionth
SAME = 1e-6  # two ways of reckoning one figure from the same answers, in float32 at worst


MENDING = {
    "missing_metric": "add it to evaluate.metrics, or take the rule out",
    "not_finite": "look at the model's outputs and the data for NaN, then run again",
    "missing_slice": "name a column or value that the test data have",
    "too_few_examples": "add test examples of this slice, or lower min_n",
    "no_baseline": "merge once: the target branch's run records the first baseline",
    "not_comparable": "run every stage on this machine with these data: `compression-gate run --force`",
    "untrusted_timing": "run the benchmark again on a quieter machine, or raise benchmark.budget_s",
    "underpowered": "see the three ways out in the message",
    "no_effect": "take the step out, or strengthen its options",
    "stale": "run again: `compression-gate run`",
    "data_unreachable": "give this job access to the data, or let a maintainer run it",
    "crashed": "mend what the message names, then `compression-gate run`",
}
FEWER_BOOTSTRAPPED = "add test examples of it, or hold larger slices: a bootstrap of so few proves nothing"
# What figures of other units than a clock's cannot be, and what gave them.
IMPOSSIBLE = {"bytes": ("zero or more", "the system miscounted"), "j": ("over zero", "the counter ran backwards")}


class UnjudgeableError(Exception):
    """A rule that cannot be judged: the reason, what was found, and whether nothing can have been lost by it.

    ``mending`` is the reason's own line unless the message ends in a better one.
    """

    def __init__(self, reason: str, message: str, *, harmless: bool = False, mending: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.harmless = reason, message, harmless
        self.mending = MENDING[reason] if mending is None else mending


def exact(question: Question, facts: Facts) -> Estimate:
    """A count: the artifact's own figure, which the benchmark must have found too."""
    metric = question.rule.metric
    observed = counted(metric, "candidate", facts)
    compared_to = counted(metric, question.against, facts) if question.rule.form in CHANGES else None
    return Estimate.exact(observed, compared_to)


def counted(metric: str, role: str, facts: Facts) -> float:
    """A count of one model's artifact, agreed on by the benchmark.

    Raises:
        UnjudgeableError: the model or the benchmark is missing, or they disagree.
    """
    artifact = artifact_of(role, facts)
    counts: Mapping[str, Callable[[], float]] = {
        "size_bytes": lambda: artifact.size_bytes,
        "parameters": lambda: artifact.parameters,
        "nonzeros": lambda: artifact.nonzeros,
        "macs": lambda: artifact.macs,
        "sparsity": lambda: 1 - artifact.nonzeros / artifact.parameters if artifact.parameters else 0.0,
        "compression_ratio": lambda: artifact_of("reference", facts).state_bytes / artifact.size_bytes,
    }
    try:
        value = float(counts[metric]())
    except ZeroDivisionError as error:
        raise UnjudgeableError("not_finite", f"{role}: its file has no bytes") from error
    again = measurement_of(metric, role, facts).value
    if again is None or not math.isclose(value, again, rel_tol=1e-9):
        raise UnjudgeableError(
            "not_comparable", f"{metric} of {role}: the artifact says {value}, the benchmark {again}"
        )
    return value


def artifact_of(role: str, facts: Facts) -> Any:
    """A role's artifact, or why there is none."""
    if role in facts.artifacts:
        return facts.artifacts[role]
    if role in EARLIER:
        raise absence_of(role, facts)
    raise unread(role, facts, f"models/{role} is missing")


def unread(name: str, facts: Facts, otherwise: str) -> UnjudgeableError:
    """What became of a record or model that is not there."""
    error = facts.missing.get(name, MetricsError(otherwise))
    reason = "stale" if isinstance(error, StaleError) else "missing_metric"
    return UnjudgeableError(reason, str(error), mending=MENDING["stale"])


def absence_of(role: str, facts: Facts) -> UnjudgeableError:
    """Why there is no baseline or release: one was recorded and is lost, or there is nothing to lose yet."""
    reason, _, text = facts.absent[role].partition(": ")
    if reason in MENDING:  # one was recorded, and whoever looked for it says why it is not here
        return UnjudgeableError(reason, f"no {role}: {text}", mending="")
    if commit := recorded_commit(role, facts.history):
        return UnjudgeableError("stale", f"no {role}: the history names {commit[:12]}, and its files are not here")
    return UnjudgeableError("no_baseline", f"no {role}: {facts.absent[role]}", harmless=True)


def recorded_commit(role: str, history: History) -> str | None:
    """The commit of a baseline or release, as `run` found it in the history."""
    return {"baseline": history.baseline_commit, "release": history.release_commit}[role]


def measurement_of(metric: str, role: str, facts: Facts) -> Any:
    """A figure of the benchmark, or why there is none."""
    figures = cost_of(role, facts).figures
    if metric not in figures:
        raise UnjudgeableError("missing_metric", f"{metric} of {role} was not measured")
    return figures[metric]


def benchmark_of(facts: Facts) -> Benchmark:
    """The benchmark, taken as the params ask.

    Raises:
        UnjudgeableError: there is none, or it was taken with other threads, batch sizes or in another runtime.
    """
    if facts.benchmark is None:
        raise unread("benchmark", facts, "benchmark.json is missing")
    found, params = facts.benchmark, facts.params
    for name, got, expected in (
        ("runtime", found.runtime, params.compress.runtime),
        ("threads", found.threads, params.benchmark.threads),
        ("batch_sizes", found.batch_sizes, params.benchmark.batch_sizes),
    ):
        if got != expected:
            raise UnjudgeableError("stale", f"benchmark.json: {name}: expected {expected!r}, got {got!r}")
    return found


def cost_of(role: str, facts: Facts) -> ModelCost:
    """What the benchmark found of one model, which is the one on disk.

    Raises:
        UnjudgeableError: it was not measured, or another was.
    """
    artifact, found = artifact_of(role, facts), benchmark_of(facts)
    if role not in found.models:
        raise unmeasured(role, found.absent, "benchmark.json")
    if found.models[role].digest != artifact.digest:
        raise UnjudgeableError("stale", f"the benchmark measured another {role} than the one on disk")
    return found.models[role]


def quality_of(role: str, facts: Facts) -> ModelQuality:
    """What the evaluation found of one model, which is the one on disk.

    Raises:
        UnjudgeableError: it was not measured, or another was, or as another kind of task, or in another runtime.
    """
    artifact, found, params = artifact_of(role, facts), facts.evaluation, facts.params
    if found is None or facts.outcomes is None:
        name = "evaluation" if found is None else "predictions"
        raise unread(name, facts, f"the record {name} is missing")
    for name, got, expected in (
        ("kind", found.kind, params.task.kind),
        ("runtime", found.runtime, params.compress.runtime),
    ):
        if got != expected:
            raise UnjudgeableError("stale", f"evaluation.json: {name}: expected {expected!r}, got {got!r}")
    if role not in found.models:
        raise unmeasured(role, found.absent, "evaluation.json")
    if found.models[role].digest != artifact.digest:
        raise UnjudgeableError("stale", f"the evaluation measured another {role} than the one on disk")
    return found.models[role]


def unmeasured(role: str, absent: Mapping[str, str], record: str) -> UnjudgeableError:
    """Why a model that is there is not in a record."""
    if role in absent:
        return UnjudgeableError("not_comparable", f"{role} was left out of {record}: {absent[role]}")
    return UnjudgeableError("missing_metric", f"{role} is not in {record}")


def quality(question: Question, facts: Facts) -> Estimate:
    """A metric over the test examples, its interval from the paired outcomes."""
    roles = ["candidate", *([question.against] if question.rule.form in CHANGES else [])]
    recorded: dict[str, float] = {}
    for role in roles:
        figure = value_of(question, quality_of(role, facts), facts)
        if figure.value is None:
            reason = "not_finite" if figure.n else "too_few_examples"
            what = figure.reason or "not a finite number"
            raise UnjudgeableError(reason, f"{question.rule.metric} of {role}: {what}")
        recorded[role] = figure.value
    if facts.data is not None and facts.evaluation is not None and facts.evaluation.data_digest != facts.data.digest:
        raise UnjudgeableError("not_comparable", "the evaluation was made on other data than data.json describes")
    assert facts.evaluation is not None  # quality_of() saw both
    assert facts.outcomes is not None
    counts = {"predictions.npz": len(facts.outcomes.ids), "evaluation.json": facts.evaluation.n}
    if facts.data is not None and "test" in facts.data.splits:
        counts["data.json"] = facts.data.splits["test"].n
    if len(set(counts.values())) > 1:
        raise UnjudgeableError("not_comparable", f"expected one number of test examples, got {counts}")
    estimate = intervals.of_outcomes(question, facts.outcomes, facts.alpha)
    if estimate is None:
        raise UnjudgeableError(
            "missing_slice", f"{question.slice}: no per-example outcomes for {question.rule.metric} there"
        )
    least = max(question.rule.min_n or 1, estimate.fewest)
    if estimate.n is None or estimate.n < least:
        raise UnjudgeableError(
            "too_few_examples",
            f"expected {least} examples or more, got {estimate.n}",
            mending=FEWER_BOOTSTRAPPED if least == estimate.fewest > 1 else None,
        )
    for role, found in zip(roles, (estimate.observed, estimate.compared_to), strict=False):
        value = recorded[role]
        if found is None or not math.isclose(found, value, rel_tol=SAME, abs_tol=SAME):
            raise UnjudgeableError(
                "not_comparable",
                f"{question.rule.metric} of {role}: evaluation.json says {value}, the outcomes of its examples {found}",
            )
    return estimate


def value_of(question: Question, model: ModelQuality, facts: Facts) -> Value:
    """The figure that evaluate wrote down for the question.

    Raises:
        UnjudgeableError: it did not.
    """
    metric, part = question.rule.metric, question.slice
    if metric in BETWEEN_MODELS and question.rule.form not in CHANGES:
        return between(question, facts)
    found = model.metrics.get(metric) if part is None else model.slices.get(metric, {}).get(part)
    if found is not None:
        return found
    if part is not None and metric in model.slices:
        raise UnjudgeableError(
            "missing_slice", f"{metric} has no slice {part}: {', '.join(model.slices[metric])} were measured"
        )
    raise UnjudgeableError("missing_metric", f"{metric} was not produced: {', '.join(model.metrics)} were")


def between(question: Question, facts: Facts) -> Value:
    """Agreement or flips with the model that the rule is held against.

    Raises:
        UnjudgeableError: that model is not there, or evaluate did not compare the two.
    """
    quality_of(question.against, facts)
    assert facts.evaluation is not None  # quality_of() saw it
    metric, against, part = question.rule.metric, question.against, question.slice
    pairs, slices = facts.evaluation.pairs.get(against, {}), facts.evaluation.pair_slices.get(against, {})
    found = pairs.get(metric) if part is None else slices.get(metric, {}).get(part)
    if found is None:
        reason = "missing_metric" if part is None else "missing_slice"
        raise UnjudgeableError(reason, f"{metric} with the {against} was not produced{f' for {part}' if part else ''}")
    return found


def timed(question: Question, facts: Facts) -> Estimate:
    """A time: by pairs where the same call was timed side by side, else by the spread of this job's figures."""
    metric, rule = question.rule.metric, question.rule
    if facts.machine_digest not in (None, benchmark_of(facts).machine_digest):
        raise UnjudgeableError(
            "not_comparable", "benchmark.json was measured on another machine, or on this one changed"
        )
    role = "reference" if metric == "speedup" else question.against
    if metric == "speedup" and rule.form in CHANGES:
        raise UnjudgeableError("not_comparable", "speedup is a comparison itself: write min, or limit latency_ms")
    if metric == "speedup" or (rule.form in CHANGES and metric in paired_metrics(facts)):
        base = base_figure(metric, role, facts)
        return intervals.of_pairs(rule, trusted_pair(role, facts, intervals.limit_on_ratio(rule, base)), base)
    observed = spread_of(metric, "candidate", facts)
    compared_to = spread_of(metric, role, facts) if rule.form in CHANGES else None
    return intervals.of_spreads(observed, compared_to)


def paired_metrics(facts: Facts) -> tuple[str, ...]:
    """What the pairs speak of: they are timed at the first batch size, throughput is of the largest."""
    sizes = benchmark_of(facts).batch_sizes
    return ("latency_ms", "throughput_per_s") if sizes[0] == max(sizes) else ("latency_ms",)


def base_figure(metric: str, role: str, facts: Facts) -> float:
    """What a ratio of pairs is a share of: the other model's own figure; 1 for a speedup.

    Raises:
        UnjudgeableError: there is none.
    """
    if metric == "speedup":
        return 1.0
    figure = measurement_of(metric, role, facts)
    refuse_backwards(metric, role, figure.value)
    if figure.value is None:
        raise UnjudgeableError("not_finite", f"{metric} of {role}: {figure.reason or 'no value'}")
    return float(figure.value)


def trusted_pair(role: str, facts: Facts, limit: float) -> PairedTiming:
    """The paired timing against a role, to be judged by a limit on the ratio of times.

    Raises:
        UnjudgeableError: there is none, or its control saw a difference where there can be none.
    """
    for measured in (role, "candidate"):
        cost_of(measured, facts)
    pair = benchmark_of(facts).pairs.get(role)
    if pair is None:
        raise UnjudgeableError("missing_metric", f"the candidate was not timed against the {role}")
    if pair.reason is not None or pair.ratio is None:
        raise UnjudgeableError("untrusted_timing", pair.reason or "no ratio was reached")
    turns, control = ([np.array(turn) for turn in part] for part in (pair.blocks, pair.control_blocks))
    if not turns or not control or not all(len(turn) for turn in (*turns, *control)) or pair.pairs < 1:
        raise UnjudgeableError("untrusted_timing", "expected blocks of pairs and of a control, got none")
    for part, ratio, interval in (
        (turns, pair.ratio, pair.interval),
        (control, pair.control_ratio, pair.control_interval),
    ):
        found = timing_test.summary(part)
        if not same_times((ratio, *interval), (found[0], *found[1])):
            raise UnjudgeableError("untrusted_timing", f"ratio {ratio} in {interval} is not what its blocks make")
    if timing_test.control_alarms(control, turns, zone_of(limit).room):
        raise UnjudgeableError(
            "untrusted_timing", f"a model timed against its own copy came out at {pair.control_ratio}, not 1"
        )
    return pair


def same_times(told: Sequence[float | None], found: Sequence[float | None]) -> bool:
    """Whether figures are those that were found, to what rounding the blocks takes."""
    return all(
        (one is None) == (other is None) and math.isclose(one or 0.0, other or 0.0, rel_tol=SAME_TIME)
        for one, other in zip(told, found, strict=True)
    )


def refuse_backwards(metric: str, role: str, value: float | None) -> None:
    """Refuse a time, a rate or an energy that is not over zero, and bytes below it: nothing that works gives one.

    Raises:
        UnjudgeableError: it is not.
    """
    unit = metric.rpartition("_")[2]
    expected, cause = IMPOSSIBLE.get(unit, ("over zero", "the clock was set back"))
    if value is not None and (value < 0 or (value == 0 and unit != "bytes")):
        raise UnjudgeableError("untrusted_timing", f"{metric} of {role}: expected {expected}, got {value:g}: {cause}")


def spread_of(metric: str, role: str, facts: Facts) -> Any:
    """A measurement that has a value."""
    figure = measurement_of(metric, role, facts)
    refuse_backwards(metric, role, figure.value)
    if figure.value is None:
        # What an earlier model lacks no run of this commit can bring, and its reason says what else can be done.
        reason, mending = ("not_comparable", "") if role in EARLIER else ("not_finite", None)
        raise UnjudgeableError(reason, f"{metric} of {role}: {figure.reason or 'no value'}", mending=mending)
    if figure.low is None or figure.high is None or not figure.low <= figure.value <= figure.high:
        raise UnjudgeableError(
            "untrusted_timing",
            f"{metric} of {role}: {figure.samples} samples do not say how sure it is: raise benchmark.budget_s",
        )
    return figure


ESTIMATORS: dict[str, Callable[[Question, Facts], Estimate]] = {
    "exact": exact,
    "paired_proportion": quality,
    "paired_composite": quality,
    "timed": timed,
    "noisy_resource": timed,
}
