"""Rules and facts in, checks out. Nothing here knows policies, files, or how a figure is estimated (`evidence`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from compression_gate.gate import intervals, power
from compression_gate.gate.evidence import (
    EARLIER,
    ESTIMATORS,
    MENDING,
    UnjudgeableError,
    absence_of,
    quality_of,
    unread,
)
from compression_gate.gate.facts import Facts, Question
from compression_gate.gate.intervals import Estimate
from compression_gate.gate.limits import (
    ENOUGH_POWER,
    LEAST_POWER,
    Bound,
    between_models,
    bound_of,
    is_inside,
    judged,
)
from compression_gate.records.base import finite
from compression_gate.records.metric_table import kind_of
from compression_gate.records.params import GateParams
from compression_gate.records.rules import Rule
from compression_gate.records.verdict import Check, Level


def judge(facts: Facts) -> list[Check]:
    """Judge every rule on each of its slices, in the order of the rules, then the recipe's steps."""
    checks = [check for name, rule in facts.params.gate.rules.items() for check in checks_of(name, rule, facts)]
    checks += unread_limits(checks, facts)
    return [*checks, *broken_records(facts), *other_parents(facts), *ineffective_steps(facts)]


def checks_of(name: str, rule: Rule, facts: Facts) -> Iterator[Check]:
    """One check, or one per slice."""
    try:
        for part in slices_of(rule, facts):
            yield answered(Question(name=name, rule=rule, slice=part, against=held_against(rule, facts)), facts)
    except Exception as error:  # noqa: BLE001  # whatever a damaged record raises is an error of this rule
        yield refused(Question(name=name, rule=rule, slice=rule.slice, against=rule.against), unjudgeable(error))


def held_against(rule: Rule, facts: Facts) -> str:
    """The role a rule is held against; its fallback where no baseline was ever recorded, not where one is lost."""
    if rule.fallback is None or not between_models(rule) or rule.against in facts.artifacts:
        return rule.against
    never = rule.against in EARLIER and absence_of(rule.against, facts).harmless
    return rule.fallback if never else rule.against


def slices_of(rule: Rule, facts: Facts) -> list[str | None]:
    """The slices a rule speaks of, by the names they have in the evaluation.

    Raises:
        UnjudgeableError: the evaluation has no such slice.
    """
    if rule.slice is None:
        return [None]
    if facts.evaluation is None:
        raise unread("evaluation", facts, "evaluation.json is missing")
    quality_of("candidate", facts)
    # Of every model: a slice that only the candidate lacks must be missed, not skipped.
    models = facts.evaluation.models.values()
    known = dict.fromkeys(part for model in models for part in model.slices.get(rule.metric, {}))
    if not known:
        raise UnjudgeableError("missing_metric", f"{rule.metric} was not produced by slice")
    # And one that all of them lack, as long as there are examples of it.
    known |= dict.fromkeys(facts.outcomes.slices if facts.outcomes else ())
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


def decided(question: Question, estimate: Estimate) -> Check:
    """Hold an estimate against its limit, at its own level: a policy may correct it for the number of checks."""
    rule = question.rule
    bound = bound_of(rule, estimate.compared_to)
    if bound is None:
        raise UnjudgeableError(
            "not_comparable", f"a share of {estimate.compared_to} is no limit: write an absolute one for {rule.metric}"
        )
    # A sequential test that saw too little to bound anything still has its answer: undecided.
    ends = estimate.interval if estimate.answer is None else ()
    figures = [estimate.observed, *ends, *([estimate.compared_to] if bound.is_change else [])]
    if any(value is None or not math.isfinite(value) for value in figures):
        raise UnjudgeableError("not_finite", f"{rule.metric}: expected finite figures, got {figures}")
    value = estimate.change if bound.is_change else estimate.observed
    inside = is_inside(bound, value, estimate.observed, estimate.compared_to)
    certain = "pass" if inside else "fail"
    status = estimate.answer or (judged(bound, estimate.interval) if estimate.statistical else certain)
    check = Check(
        rule=question.name,
        metric=rule.metric,
        slice=question.slice,
        against=question.against if between_models(rule) else None,
        level=level_of(rule),
        status=status,
        observed=estimate.observed,
        compared_to=estimate.compared_to if bound.is_change else None,
        change=estimate.change if bound.is_change else None,
        interval=(finite(estimate.interval[0]), finite(estimate.interval[1])) if estimate.statistical else None,
        limit=f"{rule.form} {rule.limit}",
        allowed=bound.allowed,
        headroom=bound.headroom(value),
        n=estimate.n,
        minimum_detectable=intervals.minimum_detectable_of(estimate, bound),
        alpha=estimate.alpha if estimate.statistical else None,
        p_value=estimate.tail(bound.allowed, bound.sign) if estimate.tail else None,
        settled_by=None if status == "pass" else intervals.settling(estimate, bound),
        message=estimate.note,
    )
    return with_power(check, rule, estimate, bound)


def level_of(rule: Rule) -> Level:
    """The rule's level; figures that a second run would not repeat only warn unless the user says otherwise."""
    noisy = kind_of(rule.metric) == "noisy_resource" and "level" not in rule.model_fields_set
    return "warn" if noisy else rule.level


def with_power(check: Check, rule: Rule, estimate: Estimate, bound: Bound) -> Check:
    """Say what these examples can prove, and judge on the observed value where the user accepts that they cannot."""
    probability = intervals.power_of(estimate, bound)
    if probability is None:
        return check
    check = check.model_copy(update={"power": probability})
    if probability >= ENOUGH_POWER:
        return check
    if probability >= LEAST_POWER or check.status == "pass":
        note = f"equally good models would be proven so in {probability:.0%} of cases only"
        return check.model_copy(update={"message": "; ".join(filter(None, [check.message, note]))})
    assert estimate.n is not None  # power_of() saw it
    assert estimate.discordance is not None
    needed, wider = intervals.ways_out(estimate, bound)
    if not rule.accept_underpowered:
        ways = (
            f"n = {estimate.n:,}: two equally good models would be proven so in {probability:.0%} of cases. "
            "Three ways out: "
            f"{'more examples (no number suffices for a limit of 0)' if needed is None else f'{needed:,} examples'}; "
            f"a limit of {wider:.2g}; or accept_underpowered: true"
        )
        return check.model_copy(update={"message": ways})
    wrong = power.wrong_pass_at_limit(estimate.discordance, estimate.n, bound.margin)
    value = estimate.change if bound.is_change else estimate.observed
    status = "pass" if is_inside(bound, value, estimate.observed, estimate.compared_to) else "fail"
    told = f"not proven: n = {estimate.n:,}, wrong decision in {wrong:.0%} at the limit"
    return check.model_copy(update={"status": status, "proven": False, "message": told})


def refused(question: Question, error: UnjudgeableError) -> Check:
    """The check of a rule that could not be judged."""
    rule = question.rule
    return Check(
        rule=question.name,
        metric=rule.metric,
        slice=question.slice,
        against=question.against if between_models(rule) else None,
        # While the target branch has never recorded a verdict there is nothing to lose: told, and not blocking.
        level="info" if error.harmless else level_of(rule),
        status="error",
        reason=error.reason,
        limit=f"{rule.form} {rule.limit}",
        message=error.message,
        mending=error.mending,
    )


def unread_limits(checks: Sequence[Check], facts: Facts) -> Iterator[Check]:
    """The limits of a baseline that is lost: nobody can say whether this change loosened its own.

    Where a rule is held against the baseline that rule has said so.
    """
    if "baseline" in facts.artifacts or facts.history.baseline_gate is not None:
        return
    error = absence_of("baseline", facts)
    said = [one for one in checks if one.against == "baseline" and one.reason == error.reason and one.level != "info"]
    if not (error.harmless or said):
        yield unseen_limits(error, facts.params.gate)


def unseen_limits(error: UnjudgeableError, gate: GateParams) -> Check:
    """The check that a change's own limits were not compared; it blocks where the params want to know."""
    policies = gate.policies
    wanted = policies.get("self_loosening") == "block" or policies.get("history") == "required"
    return Check(
        rule="limits",
        metric="limits",
        against="baseline",
        level="block" if wanted else "info",
        status="error",
        reason=error.reason,
        message=f"whether this change loosened its own limits cannot be seen: {error.message}",
        mending=error.mending,
    )


def broken_records(facts: Facts) -> Iterator[Check]:
    """A record that is not there fails the gate by itself, whatever the rules speak of."""
    for name in facts.missing:
        error = unread(name, facts, "missing")
        yield Check(
            rule=f"record {name}",
            metric=name,
            status="error",
            reason=error.reason,
            message=error.message,
            mending=error.mending,
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
