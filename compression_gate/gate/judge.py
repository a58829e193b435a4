"""Rules and facts in, checks out. One function for each kind of metric; none of them knows policies or files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compression_gate.gate import intervals
from compression_gate.gate.facts import Facts, Question
from compression_gate.gate.intervals import Estimate
from compression_gate.gate.limits import CHANGES, Bound, bound_of, judged
from compression_gate.records.metric_table import METRICS
from compression_gate.records.metrics import Benchmark, ModelCost, ModelQuality, Value
from compression_gate.records.params import Rule
from compression_gate.records.verdict import Check, Level

ENOUGH_POWER, LEAST_POWER = 0.8, 0.5
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


class UnjudgeableError(Exception):
    """A rule that cannot be judged: the reason, and what exactly was found."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def judge(facts: Facts) -> list[Check]:
    """Judge every rule on each of its slices, in the order of the rules, then the recipe's steps."""
    checks = [check for name, rule in facts.params.gate.rules.items() for check in checks_of(name, rule, facts)]
    return [*checks, *broken_records(facts), *other_parents(facts), *ineffective_steps(facts)]


def checks_of(name: str, rule: Rule, facts: Facts) -> Iterator[Check]:
    """One check, or one per slice."""
    try:
        for part in slices_of(rule, facts):
            yield answered(Question(name=name, rule=rule, slice=part, against=held_against(rule, facts)), facts)
    except Exception as error:  # noqa: BLE001  # whatever a damaged record raises is an error of this rule
        yield refused(Question(name=name, rule=rule, slice=rule.slice, against=rule.against), unjudgeable(error))


def held_against(rule: Rule, facts: Facts) -> str:
    """The role a rule is held against; its fallback where there is no baseline yet."""
    if rule.against in facts.artifacts or rule.form not in CHANGES:
        return rule.against
    return rule.fallback or rule.against


def slices_of(rule: Rule, facts: Facts) -> list[str | None]:
    """The slices a rule speaks of, by the names they have in the evaluation.

    Raises:
        UnjudgeableError: the evaluation has no such slice.
    """
    if rule.slice is None:
        return [None]
    if facts.evaluation is None:
        raise UnjudgeableError("missing_metric", facts.missing.get("evaluation", "evaluation.json is missing"))
    quality_of("candidate", facts)
    # Of every model: a slice that only the candidate lacks must be missed, not skipped.
    models = facts.evaluation.models.values()
    known = dict.fromkeys(part for model in models for part in model.slices.get(rule.metric, {}))
    if not known:
        raise UnjudgeableError("missing_metric", f"{rule.metric} was not produced by slice")
    wanted = [part for part in known if part == rule.slice or part.partition("=")[0] == rule.slice]
    if not wanted:
        columns = sorted({part.partition("=")[0] for part in known})
        raise UnjudgeableError("missing_slice", f"no slice {rule.slice!r}: the test data have {', '.join(columns)}")
    return list(wanted)


def answered(question: Question, facts: Facts) -> Check:
    """Estimate, bound, decide; whatever cannot be estimated is an error, never a pass."""
    try:
        estimate = ESTIMATORS[kind_of(question.rule.metric)](question, facts)
        return decided(question, estimate)
    except Exception as error:  # noqa: BLE001  # whatever a damaged record raises is an error of this rule
        return refused(question, unjudgeable(error))


def unjudgeable(error: Exception) -> UnjudgeableError:
    """The reason an error gives, or that judging crashed."""
    if isinstance(error, UnjudgeableError):
        return error
    return UnjudgeableError("crashed", f"judging ended in {type(error).__name__}: {error}: a record is damaged")


def kind_of(metric: str) -> str:
    """The kind of evidence a metric is; a custom scorer's are composites."""
    return METRICS[metric].kind if metric in METRICS else "paired_composite"


def decided(question: Question, estimate: Estimate) -> Check:
    """Hold an estimate against its limit."""
    rule = question.rule
    bound = bound_of(rule, estimate.compared_to)
    if bound is None:
        raise UnjudgeableError(
            "not_comparable", f"a share of {estimate.compared_to} is no limit: write an absolute one for {rule.metric}"
        )
    figures = [estimate.observed, *estimate.interval, *([estimate.compared_to] if bound.is_change else [])]
    if any(value is None or not math.isfinite(value) for value in figures):
        raise UnjudgeableError("not_finite", f"{rule.metric}: expected finite figures, got {figures}")
    value = estimate.change if bound.is_change else estimate.observed
    status = judged(bound, value, estimate.interval)
    check = Check(
        rule=question.name,
        metric=rule.metric,
        slice=question.slice,
        against=question.against if bound.is_change else None,
        level=level_of(rule),
        status=status,
        observed=estimate.observed,
        compared_to=estimate.compared_to if bound.is_change else None,
        change=estimate.change if bound.is_change else None,
        interval=estimate.interval if estimate.statistical else None,
        limit=f"{rule.form} {rule.limit}",
        allowed=bound.allowed,
        headroom=bound.headroom(value),
        n=estimate.n,
        minimum_detectable=intervals.minimum_detectable_of(estimate, bound),
        message=estimate.note,
    )
    return with_power(check, rule, estimate, bound, value)


def level_of(rule: Rule) -> Level:
    """The rule's level; figures that a second run would not repeat only warn unless the user says otherwise."""
    noisy = kind_of(rule.metric) == "noisy_resource" and "level" not in rule.model_fields_set
    return "warn" if noisy else rule.level


def with_power(check: Check, rule: Rule, estimate: Estimate, bound: Bound, value: float) -> Check:
    """Refuse a blocking rule that could hardly ever be proven with these data, unless it is proven broken."""
    power = intervals.power_of(estimate, bound)
    if power is None or check.status == "fail":
        return check
    check = check.model_copy(update={"power": power})
    if power >= LEAST_POWER:
        if power < ENOUGH_POWER:
            note = f"equally good models would be proven so in {power:.0%} of cases only"
            return check.model_copy(update={"message": "; ".join(filter(None, [check.message, note]))})
        return check
    needed, wider = intervals.ways_out(estimate, bound)
    ways = (
        f"n = {estimate.n}: two equally good models would be proven so in {power:.0%} of cases. Three ways out: "
        f"{'more examples (no number suffices for a limit of 0)' if needed is None else f'{needed:,} examples'}; "
        f"a limit of {wider:.2g}; or accept_underpowered: true"
    )
    if rule.accept_underpowered:
        status = "pass" if bound.headroom(value) >= 0 else "fail"
        return check.model_copy(update={"status": status, "proven": False, "message": f"not proven: {ways}"})
    if rule.level != "block":
        return check.model_copy(update={"message": ways})
    return check.model_copy(
        update={"status": "error", "reason": "underpowered", "message": ways, "mending": MENDING["underpowered"]}
    )


def refused(question: Question, error: UnjudgeableError) -> Check:
    """The check of a rule that could not be judged."""
    rule = question.rule
    first_run = error.reason == "no_baseline"
    return Check(
        rule=question.name,
        metric=rule.metric,
        slice=question.slice,
        against=question.against if rule.form in CHANGES else None,
        # While the target branch has never recorded a verdict there is nothing to lose: told, and not blocking.
        level="info" if first_run else level_of(rule),
        status="error",
        reason=error.reason,
        limit=f"{rule.form} {rule.limit}",
        message=error.message,
        mending=MENDING[error.reason],
    )


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
    if role in ("baseline", "release"):
        reason, _, text = facts.absent[role].partition(": ")
        if reason in MENDING:  # one was recorded, and whoever looked for it says why it is not here
            raise UnjudgeableError(reason, f"no {role}: {text}")
        raise UnjudgeableError("no_baseline", f"no {role}: {facts.absent[role]}")
    raise UnjudgeableError("missing_metric", facts.missing.get(role, f"models/{role} is missing"))


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
        raise UnjudgeableError("missing_metric", facts.missing.get("benchmark", "benchmark.json is missing"))
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
        raise UnjudgeableError("missing_metric", facts.missing.get(name, f"the record {name} is missing"))
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
    recorded = {role: value_of(question, quality_of(role, facts)).value for role in roles}
    for role, value in recorded.items():
        if value is None:
            raise UnjudgeableError("not_finite", f"{question.rule.metric} of {role}: not a finite number")
    if facts.data is not None and facts.evaluation is not None and facts.evaluation.data_digest != facts.data.digest:
        raise UnjudgeableError("not_comparable", "the evaluation was made on other data than data.json describes")
    assert facts.evaluation is not None  # quality_of() saw both
    assert facts.outcomes is not None
    counts = {"predictions.npz": len(facts.outcomes.ids), "evaluation.json": facts.evaluation.n}
    if facts.data is not None and "test" in facts.data.splits:
        counts["data.json"] = facts.data.splits["test"].n
    if len(set(counts.values())) > 1:
        raise UnjudgeableError("not_comparable", f"expected one number of test examples, got {counts}")
    estimate = intervals.of_outcomes(question, facts.outcomes, facts.params.gate.confidence)
    if estimate is None:
        raise UnjudgeableError(
            "missing_slice", f"{question.slice}: no per-example outcomes for {question.rule.metric} there"
        )
    least = question.rule.min_n or 1
    if estimate.n is None or estimate.n < least:
        raise UnjudgeableError("too_few_examples", f"expected {least} examples or more, got {estimate.n}")
    for role, found in zip(roles, (estimate.observed, estimate.compared_to), strict=False):
        value = recorded[role]
        if found is None or value is None or not math.isclose(found, value, rel_tol=SAME, abs_tol=SAME):
            raise UnjudgeableError(
                "not_comparable",
                f"{question.rule.metric} of {role}: evaluation.json says {value}, the outcomes of its examples {found}",
            )
    return estimate


def value_of(question: Question, model: ModelQuality) -> Value:
    """The figure that evaluate wrote down for the question.

    Raises:
        UnjudgeableError: it did not.
    """
    metric, part = question.rule.metric, question.slice
    found = model.metrics.get(metric) if part is None else model.slices.get(metric, {}).get(part)
    if found is not None:
        return found
    if part is not None and metric in model.slices:
        raise UnjudgeableError(
            "missing_slice", f"{metric} has no slice {part}: {', '.join(model.slices[metric])} were measured"
        )
    raise UnjudgeableError("missing_metric", f"{metric} was not produced: {', '.join(model.metrics)} were")


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
        return intervals.of_pairs(metric, trusted_pair(role, facts), base_figure(metric, role, facts))
    observed = spread_of(metric, "candidate", facts)
    compared_to = spread_of(metric, role, facts) if rule.form in CHANGES else None
    return intervals.of_spreads(observed, compared_to)


def paired_metrics(facts: Facts) -> tuple[str, ...]:
    """What the pairs speak of: they are timed at the first batch size, throughput is of the largest."""
    sizes = benchmark_of(facts).batch_sizes
    return ("latency_ms", "throughput_per_s") if sizes[0] == max(sizes) else ("latency_ms",)


def base_figure(metric: str, role: str, facts: Facts) -> float | None:
    """What a ratio of pairs is a share of: the other model's own figure; 1 for a speedup."""
    return 1.0 if metric == "speedup" else measurement_of(metric, role, facts).value


def trusted_pair(role: str, facts: Facts) -> Any:
    """The paired timing against a role.

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
    ends = pair.interval
    if ends[0] is None or ends[1] is None or not 0 < ends[0] <= pair.ratio <= ends[1] or pair.pairs < 1:
        raise UnjudgeableError("untrusted_timing", f"ratio {pair.ratio} with an interval of {ends} is none")
    low, high = pair.control_interval
    if low is None or high is None or low > intervals.CONTROL_HIGH or high < 1 / intervals.CONTROL_HIGH:
        raise UnjudgeableError(
            "untrusted_timing", f"a model timed against its own copy came out at {low} to {high}, not 1"
        )
    return pair


def spread_of(metric: str, role: str, facts: Facts) -> Any:
    """A measurement that has a value."""
    figure = measurement_of(metric, role, facts)
    if figure.value is None:
        raise UnjudgeableError("not_finite", f"{metric} of {role}: {figure.reason or 'no value'}")
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


def broken_records(facts: Facts) -> Iterator[Check]:
    """A record that is not there fails the gate by itself, whatever the rules speak of."""
    for name, message in facts.missing.items():
        reason = "stale" if "run again" in message and "expected the files" in message else "missing_metric"
        yield Check(
            rule=f"record {name}", metric=name, status="error", reason=reason, message=message, mending=MENDING[reason]
        )


def other_parents(facts: Facts) -> Iterator[Check]:
    """A candidate that was made of another reference, or by another recipe than compression.json tells of."""
    reference, candidate = facts.artifacts.get("reference"), facts.artifacts.get("candidate")
    found = []
    if reference and candidate and candidate.parent_digest != reference.digest:
        found.append("the candidate was made of another reference than the one on disk")
    if candidate and facts.compression and candidate.recipe_digest != facts.compression.recipe_digest:
        found.append("the candidate was made by another recipe than compression.json tells of")
    for message in found:
        yield Check(
            rule="record candidate",
            metric="candidate",
            status="error",
            reason="stale",
            message=message,
            mending=MENDING["stale"],
        )


def ineffective_steps(facts: Facts) -> Iterator[Check]:
    """A step that changed nothing is not what the recipe says it is."""
    for number, step in enumerate(facts.compression.steps if facts.compression else ()):
        if not step.effective:
            yield Check(
                rule=f"step {number + 1} {step.method}",
                metric=step.effect,
                status="error",
                reason="no_effect",
                message=f"expected {step.effect.replace('_', ' ')}, and nothing changed",
                mending=MENDING["no_effect"],
            )
