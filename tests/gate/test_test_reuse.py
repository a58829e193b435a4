"""A test set that wears out: what counts as a use, at which level, what is told when it is spent, what is withheld."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.gate.policy import decide
from compression_gate.gate.test_reuse import ANSWERS, PREMISES, is_answer, level, reuse_of, spent, unjudged, withheld
from compression_gate.records.history import History
from compression_gate.records.params import GateParams
from compression_gate.records.policies import REUSE_MODES
from compression_gate.records.verdict import Check, Verdict
from compression_gate.records.verdict import TestReuse as Reuse  # pytest takes Test… for tests
from compression_gate.stages import check, gate, power, report

RULES = {
    "accuracy": {"metric": "accuracy", "max_drop": 0.01},
    "f1": {"metric": "f1", "max_drop": 0.02},
    "size": {"metric": "size_bytes", "max": 2000},
}
ADAPTIVE = {"uses": 2, "mode": "adaptive"}


def gate_params(reuse: dict | None, rules: dict | None = None) -> GateParams:
    values = {"rules": rules or {"accuracy": RULES["accuracy"]}, "policies": {"test_reuse": reuse}}
    for rule in values["rules"].values():
        rule.update({name: {"value": rule[name]} for name in ("max", "max_drop") if isinstance(rule.get(name), float)})
    return GateParams.model_validate_json(json.dumps(values))


def edit(suite: Path, change: Callable[[dict], object]) -> None:
    path = suite / "params.yaml"
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values))


def reusing(suite: Path, reuse: dict, rules: dict[str, Any] | None = None) -> None:
    """Say how often the test set may be asked, and by which rules."""
    edit(suite, lambda v: v["gate"].update(policies={"test_reuse": reuse}, **({"rules": rules} if rules else {})))


COUNTS = [  # of the history, of this checkout, this candidate, how many
    ((), (), None, 0),
    ((), (), "c", 1),
    (("a", "b"), (), "c", 3),
    (("a", "b"), ("b", "c"), "c", 3),
    (("a", "a"), ("a",), "a", 1),
]


@pytest.mark.parametrize(("recorded", "own", "candidate", "judged"), COUNTS)
def test_a_use_is_a_candidate_and_none_counts_twice(
    recorded: tuple[str, ...], own: tuple[str, ...], candidate: str | None, judged: int
) -> None:
    history = History(judged={"test": recorded, "other": ("x", "y")})
    assert reuse_of(gate_params(None), "test", history, own, candidate).judged == judged


def test_without_test_data_nothing_is_counted() -> None:
    assert reuse_of(gate_params(ADAPTIVE), None, History(judged={"d": ("a",)}), ("b",), "c") == Reuse()


@pytest.mark.parametrize("mode", [None, *REUSE_MODES])
def test_the_premise_is_told_with_the_count(mode: str | None) -> None:
    found = reuse_of(gate_params({"uses": 3, "mode": mode} if mode else None), "d", History(), (), "c")
    assert (found.mode, found.premise) == (mode, PREMISES[mode])
    assert found.premise


LEVELS = [  # test_reuse, number of quality rules, error of each bound
    (None, 1, 0.05),
    ({"uses": 1, "mode": "non_adaptive"}, 1, 0.05),
    ({"uses": 50, "mode": "non_adaptive"}, 2, 0.001),
    ({"uses": 1, "mode": "adaptive"}, 1, 0.05 / ANSWERS),
    ({"uses": 10, "mode": "adaptive"}, 2, 0.05 / 2 / ANSWERS**10),
]


@pytest.mark.parametrize(("reuse", "quality", "alpha"), LEVELS)
def test_levels(reuse: dict | None, quality: int, alpha: float) -> None:
    rules = {f"r{number}": {"metric": "accuracy", "max_drop": 0.01} for number in range(quality)}
    asked = gate_params(reuse, {**rules, "size": {"metric": "size_bytes", "max": 10.0}})
    assert level(asked) == pytest.approx(alpha)


def test_a_use_pays_for_the_answer_of_every_level() -> None:
    rules = {level: {"metric": "accuracy", "max_drop": 0.01, "level": level} for level in ("block", "warn", "info")}
    asked = gate_params({"uses": 4, "mode": "adaptive"}, rules)
    assert level(asked) == pytest.approx(0.05 / 3 / ANSWERS**12)


def test_more_answers_than_a_level_can_pay_for_are_refused(finished: Path) -> None:
    reusing(finished, {"uses": 300, "mode": "adaptive"})
    edit(finished, lambda v: v["gate"]["rules"]["accuracy"].update(level="warn"))
    with pytest.raises(ParamsError, match=r"test_reuse.uses: expected a whole number of 1 to 250, got 300"):
        gate.run(finished)


def test_the_smallest_level_is_still_a_number_that_a_bound_can_be_taken_at() -> None:
    from compression_gate.gate.proportions import tango_bounds

    low, high = tango_bounds(3, 1, 1000, level(gate_params({"uses": 500, "mode": "adaptive"})))
    assert -1 <= low < 0.002 < high <= 1


def test_a_verdict_is_judged_at_the_level_of_its_uses(finished: Path) -> None:
    plain = {one.rule: one for one in gate.run(finished).checks}
    reusing(finished, {"uses": 50, "mode": "non_adaptive"})
    checks = {one.rule: one for one in gate.run(finished).checks}
    assert checks["accuracy"].alpha == pytest.approx(0.001)
    assert checks["accuracy"].interval[0] < plain["accuracy"].interval[0]
    assert checks["speed"].alpha == plain["speed"].alpha  # times say nothing of the test data


def test_judging_one_candidate_again_is_no_further_use(finished: Path) -> None:
    assert [gate.run(finished).test_reuse.judged for _ in range(2)] == [1, 1]
    known = json.loads((finished / gate.JUDGED).read_text())
    assert known == {"d": [gate.run(finished).candidate.digest]}


def test_candidates_of_this_checkout_and_of_the_history_count_together(finished: Path) -> None:
    state = finished / ".compression_gate"
    History(judged={"d": ("one", "two"), "others": ("x",)}).write(state / "history.json")
    (finished / gate.JUDGED).write_text(json.dumps({"d": ["two", "three"]}))
    assert gate.run(finished).test_reuse.judged == 4


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"d": 3}'])
def test_a_damaged_list_of_uses_stops_nothing(finished: Path, text: str) -> None:
    (finished / gate.JUDGED).write_text(text)
    assert gate.run(finished).test_reuse.judged == 1


def test_as_many_uses_as_allowed_are_not_spent() -> None:
    assert spent(Reuse(judged=5, uses=5, mode="non_adaptive")) == []
    assert spent(Reuse(judged=500)) == []


@pytest.mark.parametrize(("policy", "code"), [("pull_request", 0), ("release", 3)])
@pytest.mark.parametrize("mode", REUSE_MODES)
def test_spent_warns_in_a_pull_request_and_blocks_a_release(policy: str, code: int, mode: str) -> None:
    checks = spent(Reuse(digest="d", judged=6, uses=5, mode=mode))
    decision = decide(checks, policy)
    assert decision.exit_code == code
    assert [one.rule for one in (decision.blocking or decision.warnings)] == ["test_reuse"]
    assert "6 candidates" in checks[0].message
    assert checks[0].mending


def test_a_spent_test_set_is_told_by_the_verdict(finished: Path) -> None:
    reusing(finished, {"uses": 1, "mode": "non_adaptive"})
    History(judged={"d": ("one",)}).write(finished / gate.HISTORY)
    verdict = gate.run(finished)
    assert verdict.exit_code == 0
    assert any(text.startswith("test_reuse: undecided: 2 candidates") for text in verdict.warnings)
    assert check.check(finished, "release").exit_code == 3


FIGURES = ("observed", "compared_to", "change", "interval", "allowed", "headroom", "p_value", "power", "settled_by")


def test_a_change_that_allows_itself_more_uses_is_told_so(finished: Path) -> None:
    baseline = {"rules": {}, "policies": {"test_reuse": {"uses": 1, "mode": "non_adaptive"}}}
    history = History(judged={"d": ("one",)}, baseline_commit="b" * 40, baseline_gate=baseline)
    history.write(finished / gate.HISTORY)
    reusing(finished, {"uses": 50, "mode": "non_adaptive"})
    told = [one for one in gate.run(finished, "release").checks if one.rule == "limits"]
    assert len(told) == 1
    assert "loosened test_reuse (max 1)" in told[0].message


def test_a_rule_that_warns_is_answered_in_the_verdict(finished: Path) -> None:
    """Alone it makes no blocking check, and failing it is told."""
    warns = {"accuracy": {"metric": "accuracy", "max_drop": 0.002, "level": "warn"}, "size": RULES["size"]}
    reusing(finished, ADAPTIVE, warns)
    verdict = gate.run(finished)
    assert answers(verdict) == {"quality warn": "fail", "size": "pass"}
    assert any(text.startswith("quality warn: fail") for text in verdict.warnings)
    assert check.check(finished, "pull_request").exit_code == 0


def answers(verdict: Verdict) -> dict[str, str]:
    return {one.rule: one.status for one in verdict.checks}


def test_an_adaptive_test_set_answers_once_and_without_a_figure(finished: Path) -> None:
    reusing(finished, ADAPTIVE, RULES)
    verdict = gate.run(finished)
    assert set(answers(verdict)) == {"quality", "size"}
    one = verdict.checks[0]
    assert all(getattr(one, name) is None for name in (*FIGURES, "minimum_detectable"))
    assert verdict.trade_off is None
    assert check.check(finished, "pull_request").exit_code == verdict.exit_code


def test_no_text_that_a_run_writes_for_people_holds_a_withheld_figure(finished: Path) -> None:
    """The raw records on the machine do, and docs/gate.md says so."""
    reusing(finished, ADAPTIVE, RULES)
    gate.run(finished)
    report.run(finished)
    written = ("reports/verdict.json", "reports/metrics.json", "reports/report.md")
    for text in ((finished / name).read_text() for name in written):
        assert "0.895" not in text
        assert "89.5" not in text
        assert "0.005" not in text


def test_power_plans_with_an_assumption_where_the_discordance_must_stay_hidden(finished: Path) -> None:
    reusing(finished, ADAPTIVE)
    assert [one.measured for one in power.run(finished, power.Given()).rules if one.rule == "accuracy"] == [False]


def test_a_rule_that_could_not_be_measured_stays_named(finished: Path) -> None:
    rules = {**RULES, "ghost": {"metric": "precision", "max_drop": 0.1}}
    reusing(finished, ADAPTIVE, rules)
    verdict = gate.run(finished)
    assert answers(verdict)["ghost"] == "error"
    assert next(one for one in verdict.checks if one.rule == "ghost").reason == "missing_metric"
    assert verdict.exit_code == 4


def quality(status: str, *, level: str = "block", reason: str | None = None) -> Check:
    return Check(rule="r", metric="accuracy", status=status, level=level, reason=reason, observed=0.9, n=100)


WHOLES = [  # statuses of blocking checks, what is answered
    (["pass", "pass"], "pass"),
    (["pass", "undecided"], "undecided"),
    (["undecided", "fail"], "fail"),
    (["fail", "underpowered"], "error"),
]


@pytest.mark.parametrize(("found", "answer"), WHOLES)
def test_the_one_answer_is_the_worst(found: list[str], answer: str) -> None:
    checks = [
        quality("error", reason="underpowered") if status == "underpowered" else quality(status) for status in found
    ]
    assert [one.status for one in withheld(checks)] == [answer]


LEVELS_ANSWERED = [  # (status, level) of each check, (rule, status) of each answer
    ([("pass", "block"), ("fail", "warn")], [("quality", "pass"), ("quality warn", "fail")]),
    (
        [("fail", "warn"), ("pass", "warn"), ("undecided", "info")],
        [("quality warn", "fail"), ("quality info", "undecided")],
    ),
    ([("fail", "info"), ("fail", "block")], [("quality", "fail"), ("quality info", "fail")]),
]


@pytest.mark.parametrize(("found", "answered"), LEVELS_ANSWERED)
def test_each_level_has_an_answer_of_its_own(found: list, answered: list) -> None:
    """A warning does not vanish behind what blocks, and nothing blocking is said to pass where nothing blocks."""
    answers = withheld([quality(status, level=level) for status, level in found])
    assert [(one.rule, one.status) for one in answers] == answered
    assert all(one.level == (one.rule.removeprefix("quality").strip() or "block") for one in answers)


def test_an_answer_that_rests_on_an_observed_value_is_not_called_proven() -> None:
    """``accept_underpowered`` decides without a level: no number of uses is paid for by that."""
    accepted = quality("pass").model_copy(update={"proven": False})
    answer = withheld([quality("pass"), accepted])[0]
    assert (answer.status, answer.proven) == ("pass", False)
    assert "not proven" in answer.message
    assert withheld([quality("pass")])[0].proven
    assert [one.proven for one in withheld([quality("pass"), accepted.model_copy(update={"level": "warn"})])] == [
        True,
        False,
    ]


def test_an_answer_tells_no_more_kinds_of_things_than_the_level_is_made_for() -> None:
    told = [quality(status) for status in ("pass", "fail", "undecided")]
    told += [quality("error", reason="underpowered")]
    assert all(is_answer(one) for one in told)
    assert len({(one.status, one.reason) for answer in told for one in withheld([answer])}) <= ANSWERS


def test_where_nothing_of_quality_was_asked_nothing_is_answered() -> None:
    times = [Check(rule="speed", metric="speedup", status="pass", observed=2.0)]
    assert withheld(times) == times


UNJUDGED = [  # what params say of uses, rules with a check, rules that lack one
    (ADAPTIVE, ["quality", "size"], []),
    (ADAPTIVE, ["quality"], ["size"]),
    (ADAPTIVE, ["size"], ["accuracy", "f1"]),
    (ADAPTIVE, [], ["accuracy", "f1", "size"]),
    (ADAPTIVE, ["quality warn", "size"], ["accuracy", "f1"]),
    ({"uses": 2, "mode": "non_adaptive"}, ["quality", "size"], ["accuracy", "f1"]),
    (None, ["accuracy", "f1", "size"], []),
]


@pytest.mark.parametrize(("reuse", "judged", "lacking"), UNJUDGED)
def test_the_one_answer_speaks_for_rules_of_quality_and_for_no_other(reuse, judged, lacking) -> None:
    checks = [Check(rule=name, metric="m", status="pass") for name in judged]
    assert unjudged(gate_params(reuse, {name: dict(rule) for name, rule in RULES.items()}), checks) == lacking
