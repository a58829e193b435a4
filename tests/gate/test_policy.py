"""The policy table: which statuses block, at which level, under which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from compression_gate.errors import ParamsError
from compression_gate.gate.policy import POLICIES, Decision, alpha_of_times, decide, decide_again
from compression_gate.records.rules import Rule
from compression_gate.records.verdict import Check, FormerRules, Verdict
from compression_gate.records.waivers import Waiver

TABLE = [  # status, level, policy, exit code
    ("pass", "block", "pull_request", 0),
    ("fail", "block", "pull_request", 1),
    ("fail", "warn", "pull_request", 0),
    ("undecided", "block", "pull_request", 0),
    ("undecided", "block", "release", 3),
    ("undecided", "warn", "release", 0),
    ("error", "block", "pull_request", 4),
    ("error", "warn", "pull_request", 4),
    ("error", "info", "release", 0),
    ("waived", "block", "pull_request", 0),
    ("waived", "block", "release", 1),
]


def one(status: str, level: str = "block") -> Check:
    return Check(rule="r", metric="accuracy", status=status, level=level)


@pytest.mark.parametrize(("status", "level", "policy", "code"), TABLE)
def test_table(status: str, level: str, policy: str, code: int) -> None:
    assert decide([one(status, level)], policy).exit_code == code


def test_the_worst_of_error_fail_undecided_pass_decides() -> None:
    checks = [one("pass"), one("undecided"), one("fail"), one("error")]
    assert [decide(checks[:last], "release").exit_code for last in (1, 2, 3, 4)] == [0, 3, 1, 4]


def test_what_does_not_block_is_a_warning() -> None:
    decision = decide([one("fail", "warn"), one("pass")], "pull_request")
    assert [check.status for check in decision.warnings] == ["fail"]


def test_an_override_makes_undecided_block() -> None:
    assert decide([one("undecided")], "pull_request", {"pull_request": {"undecided": "block"}}).exit_code == 3


BAD = [
    ({"pull": {}}, "gate.policies.pull: expected one of pull_request, release"),
    ({"release": {"error": "warn"}}, "error always"),
    ({"release": {"fail": "no"}}, "block or warn"),
    ({"release": 3}, "mapping"),
]


@pytest.mark.parametrize(("overrides", "named"), BAD)
def test_a_bad_override_is_refused(overrides: dict, named: str) -> None:
    with pytest.raises(ParamsError, match=named):
        decide([], "pull_request", overrides)


def asked(p_value: float, status: str = "undecided", **fields: Any) -> Check:
    """A statistical check with room for doubt, as the judge hands it over."""
    power = None if fields.get("metric") == "latency_ms" else 0.9
    values = {"rule": "r", "metric": "accuracy", "alpha": 0.05, "power": power} | fields
    return Check(status=status, p_value=p_value, **values)


def statuses(decision: Decision) -> list[str]:
    return [check.status for check in decision.checks]


QUIET = 0.5


@pytest.mark.parametrize(("policy", "status", "code"), [("pull_request", "undecided", 0), ("release", "fail", 1)])
def test_a_lone_small_p_value_among_twenty_is_no_alarm_in_a_pull_request(policy: str, status: str, code: int) -> None:
    """0.03 is more than 0.05/20, and under 0.05: one of twenty is expected there by chance."""
    checks = [asked(0.03, "fail"), *(asked(QUIET) for _ in range(19))]
    decision = decide(checks, policy)
    assert (decision.checks[0].status, decision.blocking[0].status if code == 1 else "undecided") == (status, status)
    assert decide([checks[0]], "pull_request").exit_code == 1
    assert (decision.exit_code, statuses(decision)[0]) == (code, status)


def test_holm_goes_on_where_the_smallest_is_proven() -> None:
    """0.001 ≤ 0.05/3, then 0.02 ≤ 0.05/2, then 0.06 > 0.05."""
    decision = decide([asked(0.06), asked(0.001), asked(0.02)], "pull_request")
    assert statuses(decision) == ["undecided", "fail", "fail"]


OUTSIDE_THE_FAMILY = [
    {"metric": "size_bytes", "p_value": None, "status": "fail"},
    {"metric": "latency_ms", "p_value": 0.2},
    {"level": "warn", "slice": "class=1", "p_value": 0.2},
    {"level": "info", "p_value": 0.2},
    {"p_value": None, "status": "error", "reason": "missing_metric"},
    {"p_value": 0.2, "proven": False, "status": "pass"},
]


@pytest.mark.parametrize("fields", OUTSIDE_THE_FAMILY, ids=str)
def test_only_blocking_qualities_take_of_the_level(fields: dict) -> None:
    """Twenty checks of another kind beside one at 0.04 do not make it stricter."""
    checks = [asked(0.04), *(asked(**{"status": "undecided", **fields}) for _ in range(20))]
    assert decide(checks, "pull_request").checks[0].status == "fail"


def test_slices_that_warn_may_be_wrong_in_a_tenth() -> None:
    """Benjamini and Hochberg at 10 %: of ten, 0.019 stands (second of ten), 0.2 does not; each alone would at 0.05."""
    p_values = [0.001, 0.019, 0.04, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    checks = [asked(p, "fail", level="warn", slice=f"class={n}") for n, p in enumerate(p_values)]
    decision = decide(checks, "pull_request")
    assert statuses(decision) == ["fail"] * 2 + ["undecided"] * 8
    assert decision.exit_code == 0
    assert statuses(decide(checks, "release"))[:4] == ["fail"] * 3 + ["undecided"]


TIMES = [  # p-values of blocking times, statuses in a pull request
    ([0.009], ["fail"]),
    ([0.011], ["undecided"]),
    ([0.004, 0.006], ["fail", "undecided"]),
    ([0.0019, 0.5, 0.5, 0.5, 0.5], ["fail", *["undecided"] * 4]),
]


@pytest.mark.parametrize(("p_values", "expected"), TIMES)
def test_blocking_times_share_one_percent(p_values: list[float], expected: list[str]) -> None:
    checks = [asked(p, "fail", metric="latency_ms") for p in p_values]
    assert statuses(decide(checks, "pull_request")) == expected
    assert statuses(decide(checks, "release")) == ["fail" if p <= 0.05 else "undecided" for p in p_values]


def test_a_time_that_only_warns_stands_alone() -> None:
    checks = [asked(0.03, metric="latency_ms", level="warn") for _ in range(3)]
    assert statuses(decide(checks, "pull_request")) == ["fail"] * 3


def test_a_warning_about_all_examples_stands_alone() -> None:
    """Benjamini and Hochberg would let 0.08 stand among three; at its own level it does not, and 0.04 does."""
    checks = [asked(p, level="warn") for p in (0.04, 0.08, 0.09)]
    assert statuses(decide(checks, "pull_request")) == ["fail", "undecided", "undecided"]


def test_correction_never_takes_a_pass_away_nor_gives_one() -> None:
    checks = [asked(QUIET, "pass"), asked(0.03, "fail"), *(asked(QUIET) for _ in range(30))]
    for policy in POLICIES:
        assert [status == "pass" for status in statuses(decide(checks, policy))] == [True, *[False] * 31]


def test_a_weak_blocking_rule_is_refused_and_a_weak_warning_is_not() -> None:
    weak = asked(QUIET, power=0.3)
    assert [(one.status, one.reason) for one in decide([weak], "pull_request").checks] == [("error", "underpowered")]
    assert decide([weak], "pull_request").exit_code == 4
    assert statuses(decide([weak.model_copy(update={"level": "warn"})], "pull_request")) == ["undecided"]
    assert statuses(decide([asked(0.001, power=0.3)], "pull_request")) == ["fail"]


def test_what_was_applied_is_told() -> None:
    checks = [asked(0.5), asked(0.5), asked(0.5, metric="latency_ms"), asked(0.5, level="warn", slice="class=1")]
    told = " ".join(decide(checks, "pull_request", {"pull_request": {"undecided": "block"}}).applied)
    for words in ("blocking quality checks: 2", "Holm", "blocking times: 1", "slices that warn: 1", "undecided: block"):
        assert words in told
    assert "4 statistical checks, each at its full level" in " ".join(decide(checks, "release").applied)


def waiver(*, release: bool = False, ceiling: float = 0.02) -> Waiver:
    fields = {"rule": "r", "ceiling": {"value": ceiling}, "reason": "x", "owner": "y", "expires": "2999-12-31"}
    return Waiver.model_validate(fields | {"release": release})


BROKEN = asked(1e-6, "fail", limit="max_drop 0.01", against="reference", observed=0.885, compared_to=0.9, change=-0.015)
WAIVED = [  # policy, given for a release, ceiling, status, exit code
    ("pull_request", False, 0.02, "waived", 0),
    ("release", False, 0.02, "waived", 1),
    ("release", True, 0.02, "waived", 0),
    ("pull_request", True, 0.012, "fail", 1),
]


@pytest.mark.parametrize(("policy", "release", "ceiling", "status", "code"), WAIVED)
def test_a_waiver_covers_up_to_its_ceiling_and_a_release_only_where_it_says_so(
    policy: str, release: bool, ceiling: float, status: str, code: int
) -> None:
    decision = decide([BROKEN], policy, waivers=[waiver(release=release, ceiling=ceiling)])
    assert (decision.checks[0].status, decision.exit_code) == (status, code)


def test_what_is_only_undecided_needs_no_waiver() -> None:
    unsure = BROKEN.model_copy(update={"p_value": 0.3, "status": "undecided"})
    assert statuses(decide([unsure], "pull_request", waivers=[waiver()])) == ["undecided"]


def former(*checks: Check, **policies: Any) -> FormerRules:
    return FormerRules(commit="b" * 40, gate={"policies": policies}, checks=checks)


BLOCK = {"self_loosening": "block"}
PASSES = BROKEN.model_copy(update={"status": "pass", "limit": "max_drop 0.02"})
LOOSER = {  # what this change made of a broken rule
    "the limit raised": [PASSES],
    "the rule deleted": [],
    "the level lowered": [BROKEN.model_copy(update={"level": "warn"})],
    "the confidence raised until nothing is proven": [BROKEN.model_copy(update={"p_value": 1e-4, "alpha": 1e-5})],
    "more rules added until it is lost among them": [
        BROKEN.model_copy(update={"p_value": 0.03}),
        *(asked(QUIET) for _ in range(20)),
    ],
    "held against something else": [PASSES.model_copy(update={"against": "baseline"})],
    "accepted as unproven": [PASSES.model_copy(update={"proven": False, "limit": "max_drop 0.01"})],
}


@pytest.mark.parametrize("name", LOOSER)
def test_a_change_that_passes_only_because_it_loosened_a_limit_is_told_so(name: str) -> None:
    checks = LOOSER[name]
    told = decide(checks, "pull_request", former=former(BROKEN))
    assert told.exit_code == 0
    assert told.warnings[-1].metric == "self_loosening"
    assert "r (max_drop 0.01), as the baseline bbbbbbbbbb has it" in told.warnings[-1].message
    assert decide(checks, "pull_request", former=former(BROKEN, **BLOCK)).exit_code == 1
    assert decide(checks, "pull_request", BLOCK, former=former(BROKEN)).exit_code == 1


def test_what_the_old_rules_would_not_have_stopped_is_no_loosening() -> None:
    """The old rules are judged as a family too: 0.03 among twenty would have been undecided there."""
    before = former(asked(0.03, "fail"), *(asked(QUIET) for _ in range(19)), **BLOCK)
    assert decide([], "pull_request", former=before).checks == ()
    assert decide([], "release", former=before).exit_code == 1


def test_a_lower_confidence_is_loosening_where_undecided_blocks() -> None:
    unsure = asked(QUIET, alpha=0.01)
    sure = asked(QUIET, "pass", alpha=0.2)
    assert decide([sure], "pull_request", former=former(unsure, **BLOCK)).exit_code == 0  # it did not block there
    assert decide([sure], "release", former=former(unsure, **BLOCK)).exit_code == 1
    strict = {"pull_request": {"undecided": "block"}}
    assert decide([sure], "pull_request", strict, former=former(unsure, **BLOCK, **strict)).exit_code == 1


NO_LOOSER = {
    "the rule renamed": [BROKEN.model_copy(update={"rule": "another"})],
    "the limit tightened": [BROKEN.model_copy(update={"limit": "max_drop 0.001"})],
    "nothing": [BROKEN],
}


@pytest.mark.parametrize("name", NO_LOOSER)
def test_what_fails_all_the_same_is_no_loosening(name: str) -> None:
    decision = decide(NO_LOOSER[name], "pull_request", former=former(BROKEN, **BLOCK))
    assert [check.metric for check in decision.blocking] == ["accuracy"]


def test_a_waived_limit_is_not_loosened() -> None:
    decision = decide([BROKEN], "pull_request", BLOCK, [waiver()], former(BROKEN))
    assert decision.exit_code == 0
    assert statuses(decision) == ["waived"]


OUTVOTING = [  # what a change writes into gate.policies to let itself through
    {"self_loosening": "warn"},
    {"pull_request": {"fail": "warn"}},
    {"pull_request": {"fail": "warn"}, "self_loosening": "warn"},
    {},
]


@pytest.mark.parametrize("overrides", OUTVOTING, ids=str)
@pytest.mark.parametrize("checks", [[PASSES], []], ids=["raised", "deleted"])
def test_a_change_cannot_vote_itself_out_of_the_baselines_policy(checks: Sequence[Check], overrides: dict) -> None:
    assert decide(checks, "pull_request", overrides, former=former(BROKEN, **BLOCK)).exit_code == 1


def test_the_policy_itself_may_be_what_was_loosened() -> None:
    overrides = {"pull_request": {"fail": "warn"}}
    assert decide([BROKEN], "pull_request", overrides, former=former(BROKEN, **BLOCK)).exit_code == 1


def written(decision: Decision, waivers: Sequence[Waiver] = (), before: FormerRules | None = None) -> Verdict:
    """The verdict that `gate` writes of a decision."""
    return Verdict(
        status=decision.status,
        exit_code=decision.exit_code,
        policy=decision.policy,
        checks=decision.checks,
        params_digest="p",
        sources_digest="s",
        package_version="0",
        waivers=tuple(waivers),
        former=before,
    )


FACTS = {
    "many": [asked(0.03, "fail"), *(asked(QUIET) for _ in range(19))],
    "waived": [BROKEN, asked(0.9, "pass")],
    "weak": [asked(QUIET, power=0.2), asked(0.04, "fail", power=0.2)],
    "times": [asked(0.008, "fail", metric="latency_ms"), asked(0.03, "fail", metric="speedup")],
    "loosened": [PASSES],
    "a user's rule that is called limits": [BROKEN.model_copy(update={"rule": "limits"})],
}


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("now", POLICIES)
@pytest.mark.parametrize("then", POLICIES)
def test_a_verdict_written_under_one_policy_is_worth_under_the_other_what_its_facts_are(
    name: str, then: str, now: str
) -> None:
    facts, waivers = FACTS[name], [waiver(release=True)] if name == "waived" else []
    before = former(BROKEN, **BLOCK) if name == "loosened" else None
    verdict = written(decide(facts, then, {}, waivers, before), waivers, before)
    assert decide_again(verdict, now, {}, waivers) == decide(facts, now, {}, waivers, before)


def test_each_blocking_time_is_decided_at_its_share() -> None:
    """What only warns, or is no time, takes nothing from the others' share."""
    times = [Rule(metric="latency_ms", max=5), Rule(metric="speedup", min=2), Rule(metric="throughput_per_s", min=1)]
    beside = [Rule(metric="accuracy", min=0.5), Rule(metric="latency_ms", max=9, level="warn")]
    assert alpha_of_times([*times, *beside]) == pytest.approx(0.01 / 3)
    assert alpha_of_times(beside) == pytest.approx(0.01)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_blocking_times_without_pairs_are_counted_and_said_to_be_uncorrected(policy: str) -> None:
    paired = asked(QUIET, metric="latency_ms", alpha=0.005)
    own = [Check(rule=name, metric=name, status="pass", alpha=0.025) for name in ("load_time_ms", "first_call_ms")]
    lost = Check(rule="lost", metric="load_time_ms", status="error", reason="missing_metric")
    applied = decide([paired, *own, lost], policy).applied
    assert "blocking times without pairs: 2; each by its own intervals of 95 %, uncorrected" in applied
    assert not any("without pairs" in line for line in decide([paired, lost], policy).applied)
