"""Laws of judging and policy together, over invented outcomes and invented checks."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compression_gate.gate import intervals
from compression_gate.gate.evidence import UnjudgeableError
from compression_gate.gate.facts import Outcomes as Answers
from compression_gate.gate.facts import Part, Question
from compression_gate.gate.intervals import Estimate
from compression_gate.gate.judge import decided, refused
from compression_gate.gate.policy import POLICIES, Decision, decide, decide_again
from compression_gate.records.rules import Rule
from compression_gate.records.verdict import Check, Verdict
from compression_gate.records.waivers import Waiver

LIMITS = st.sampled_from([0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0])
COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 4_000))  # lost, won, kept
POLICY = st.sampled_from(sorted(POLICIES))


def estimated(lost: int, won: int, kept: int, alpha: float = 0.05) -> Estimate:
    """The accuracy of a candidate that lost and won so many examples, estimated as the judge does it."""
    n = lost + won + kept
    target = np.zeros(n, dtype=np.int64)
    reference, candidate = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    candidate[:lost] = reference[lost : lost + won] = 1
    outcomes = Answers(ids=np.arange(n), target=target, predicted={"reference": reference, "candidate": candidate})
    return intervals.of_share("accuracy", Part(outcomes=outcomes), "reference", "reference", alpha)


def checked(name: str, limit: float, estimate: Estimate, **fields: Any) -> Check:
    """A rule ``max_drop`` of an accuracy, judged."""
    rule = Rule.model_validate({"metric": "accuracy", "max_drop": {"value": limit}, **fields})
    try:
        return decided(Question(name=name, rule=rule, slice=None, against="reference"), estimate)
    except UnjudgeableError as error:
        return refused(Question(name=name, rule=rule, slice=None, against="reference"), error)


@settings(max_examples=40)  # each judges up to a dozen rules
@given(
    rules=st.lists(
        st.tuples(COUNTS, LIMITS, st.sampled_from(["block", "warn"]), st.booleans()), min_size=1, max_size=6
    ),
    place=st.integers(0, 5),
    tighter=LIMITS,
    policy=POLICY,
)
def test_tightening_one_limit_of_many_never_turns_a_verdict_that_fails_into_one_that_passes(
    rules: list, place: int, tighter: float, policy: str
) -> None:
    place %= len(rules)

    def verdict(limits: list[float]) -> Decision:
        checks = [
            checked(f"r{number}", limit, estimated(*counts), level=level, accept_underpowered=accepted)
            for number, (limit, (counts, _, level, accepted)) in enumerate(zip(limits, rules, strict=True))
        ]
        return decide(checks, policy)

    limits = [limit for _, limit, _, _ in rules]
    before = verdict(limits)
    after = verdict([min(limit, tighter) if number == place else limit for number, limit in enumerate(limits)])
    failed = {check.rule for check in before.checks if check.status == "fail"}
    assert not failed & {check.rule for check in after.checks if check.status == "pass"}
    if before.status == "fail":
        assert after.status != "pass"


def facts() -> st.SearchStrategy[list[Check]]:
    """Lists of checks as a judge may leave them: statistical, exact, timed, unjudgeable, strong and weak."""
    statistical = st.builds(
        lambda status, p_value, power, level, part, metric: Check(
            rule=f"{metric}-{part}",
            metric=metric,
            slice=part,
            against="reference",
            level=level,
            status=status,
            p_value=p_value,
            alpha=0.05,
            power=None if metric == "latency_ms" else power,
            observed=0.885,
            compared_to=0.9,
            change=-0.015,
            limit="max_drop 0.01",
        ),
        st.sampled_from(["pass", "fail", "undecided"]),
        st.floats(0, 1),
        st.sampled_from([0.3, 0.6, 0.95]),
        st.sampled_from(["block", "warn", "info"]),
        st.sampled_from([None, "class=1", "class=2"]),
        st.sampled_from(["accuracy", "f1", "latency_ms"]),
    )
    exact = st.builds(
        lambda status, level: Check(rule="size", metric="size_bytes", status=status, level=level),
        st.sampled_from(["pass", "fail"]),
        st.sampled_from(["block", "warn", "info"]),
    )
    broken = st.builds(
        lambda reason, level: Check(rule="broken", metric="recall", status="error", reason=reason, level=level),
        st.sampled_from(["missing_metric", "no_baseline", "not_finite"]),
        st.sampled_from(["block", "warn", "info"]),
    )
    return st.lists(st.one_of(statistical, exact, broken), max_size=12)


def waivers() -> st.SearchStrategy[tuple[Waiver, ...]]:
    """Waivers of some of those checks."""
    one = st.builds(
        lambda rule, ceiling, release: Waiver.model_validate(
            {
                "rule": rule,
                "ceiling": {"value": ceiling},
                "reason": "known",
                "owner": "somebody",
                "expires": "2999-12-31",
                "release": release,
            }
        ),
        st.sampled_from(["accuracy-None", "accuracy-class=1", "f1-None"]),
        st.sampled_from([0.012, 0.02]),
        st.booleans(),
    )
    return st.lists(one, max_size=2).map(tuple)


@given(checks=facts(), allowed=waivers(), policy=POLICY, seed=st.integers(0, 99))
def test_the_order_of_checks_does_not_matter(checks: list[Check], allowed: tuple, policy: str, seed: int) -> None:
    shuffled = list(checks)
    random.Random(seed).shuffle(shuffled)
    one, other = decide(checks, policy, waivers=allowed), decide(shuffled, policy, waivers=allowed)
    assert (one.status, one.exit_code) == (other.status, other.exit_code)

    def texts(decision: Decision) -> list[str]:
        return sorted(check.model_dump_json() for check in decision.checks)

    # Of two checks that are equal but for their place, either may be the one that Holm stops at.
    assert texts(one) == texts(other)


@given(checks=facts(), allowed=waivers(), then=POLICY, now=POLICY)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_verdict_written_and_read_back_is_worth_under_any_policy_what_its_facts_are(
    tmp_path: Path, checks: list[Check], allowed: tuple, then: str, now: str
) -> None:
    decision = decide(checks, then, waivers=allowed)
    verdict = Verdict(
        status=decision.status,
        exit_code=decision.exit_code,
        policy=then,
        checks=decision.checks,
        params_digest="p",
        sources_digest="s",
        package_version="0",
        waivers=allowed,
        applied=decision.applied,
    )
    verdict.write(tmp_path / "verdict.json")
    read = Verdict.read(tmp_path / "verdict.json")
    assert read == verdict
    assert decide_again(read, now, {}, read.waivers) == decide(checks, now, waivers=allowed)


@given(checks=facts(), allowed=waivers(), policy=POLICY)
def test_deciding_twice_is_equal_and_nothing_given_is_changed(checks: list[Check], allowed: tuple, policy: str) -> None:
    before = [check.model_dump_json() for check in checks]
    assert decide(checks, policy, waivers=allowed) == decide(checks, policy, waivers=allowed)
    assert [check.model_dump_json() for check in checks] == before


@given(checks=facts(), policy=POLICY, block=st.sampled_from(["undecided", "waived", "fail"]))
def test_a_stricter_policy_never_passes_what_another_stops(checks: list[Check], policy: str, block: str) -> None:
    plain, strict = decide(checks, policy), decide(checks, policy, {policy: {block: "block"}})
    assert plain.status == "pass" or strict.status != "pass"


NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


@given(
    observed=st.one_of(st.floats(0, 1), NOT_FINITE),
    other=st.one_of(st.floats(0, 1), NOT_FINITE, st.none()),
    low=st.one_of(st.floats(-1, 1), NOT_FINITE),
    high=st.one_of(st.floats(-1, 1), NOT_FINITE),
    accepted=st.booleans(),
    policy=POLICY,
)
def test_nothing_that_is_not_finite_or_absent_passes(
    observed: float, other: float | None, low: float, high: float, accepted: bool, policy: str
) -> None:
    estimate = Estimate(
        observed=observed, compared_to=other, interval=(low, high), statistical=True, n=100, discordance=0.01
    )
    check = checked("r", 1.0, estimate, accept_underpowered=accepted)
    if not all(value is not None and math.isfinite(value) for value in (observed, other, low, high)):
        assert check.status == "error"
        assert decide([check], policy).exit_code == 4
