"""`power`: what the rules can prove, before a run and after one, and that the verdict then says the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from finished_run import finished

from compression_gate.errors import ParamsError
from compression_gate.gate import power as planning
from compression_gate.records.power import Planned, PowerReport
from compression_gate.stages import gate, power
from compression_gate.stages.power import ASSUMED_DISCORDANCE, Given

__all__ = ["finished"]
NOTHING = Given()


def edit(path: Path, change: Callable[[dict], object]) -> None:
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    values = load(path.read_text())
    change(values)
    path.write_text(dump(values))


def with_rules(suite: Path, **rules: dict) -> Path:
    edit(suite / "params.yaml", lambda values: values["gate"].update(rules=rules))
    return suite


def only(report: PowerReport) -> Planned:
    assert len(report.rules) == 1
    return report.rules[0]


def test_after_a_run_the_discordance_is_measured_and_the_verdict_says_the_same(finished: Path) -> None:
    rows = {(one.rule, one.slice): one for one in power.run(finished, NOTHING).rules}
    checks = {(one.rule, one.slice): one for one in gate.run(finished).checks}
    assert rows.keys() == {("accuracy", None), *(("classes", f"class={label}") for label in range(4))}
    for key, row in rows.items():
        assert row.measured
        assert (row.n, row.power) == (checks[key].n, pytest.approx(checks[key].power))
        assert row.minimum_detectable == pytest.approx(checks[key].minimum_detectable)


WITHOUT_POWER = {
    "floor": "an absolute limit",
    "size": "exact",
    "rate": "exact",
    "speed": "timed",
    "f1": "bootstrap",
}


def test_every_rule_is_planned_or_says_why_not(finished: Path) -> None:
    report = power.run(finished, NOTHING)
    assert {row.rule for row in report.rules}.isdisjoint(report.unplanned)
    for rule, word in WITHOUT_POWER.items():
        assert word in report.unplanned[rule]


def test_a_relative_limit_has_no_margin_yet(finished: Path) -> None:
    report = power.run(with_rules(finished, one={"metric": "accuracy", "max_drop": "1%"}), NOTHING)
    assert "relative" in report.unplanned["one"]


def test_an_assumption_takes_the_place_of_what_was_measured(finished: Path) -> None:
    with_rules(finished, one={"metric": "accuracy", "max_drop": 0.01})
    row = only(power.run(finished, Given(n=5000)))
    assert (row.n, row.discordance, row.measured) == (5000, ASSUMED_DISCORDANCE, False)
    row = only(power.run(finished, Given(discordance=0.2)))
    assert (row.n, row.discordance, row.measured) == (4000, 0.2, False)


def test_what_is_said_to_be_enough_is_enough_and_one_less_is_not(finished: Path) -> None:
    with_rules(finished, one={"metric": "accuracy", "max_drop": 0.01})
    row = only(power.run(finished, Given(n=500, discordance=0.05)))
    assert row.power < 0.5
    assert row.examples_needed is not None
    enough = [planning.power_of_pass(0.05, n, 0.01, 0.05) for n in (row.examples_needed - 1, row.examples_needed)]
    assert enough[0] < 0.8 <= enough[1]
    assert only(power.run(finished, Given(n=row.examples_needed, discordance=0.05))).power >= 0.8
    assert planning.power_of_pass(0.05, 500, row.margin_needed, 0.05) == pytest.approx(0.8, abs=1e-6)


def test_no_number_of_examples_proves_that_nothing_was_lost(finished: Path) -> None:
    row = only(power.run(with_rules(finished, one={"metric": "accuracy", "max_drop": 0}), NOTHING))
    assert (row.power, row.examples_needed) == (0.0, None)


def before_a_run(suite: Path, class_counts: dict[str, int] | None = None) -> Path:
    """What `prepare` leaves behind, and no more."""
    for name in ("evaluation.json", "predictions.npz"):
        (suite / "reports" / name).unlink()
    edit(suite / "reports/data.json", lambda v: v["splits"]["test"].update(class_counts=class_counts))
    return suite


def test_before_a_run_the_examples_are_those_that_prepare_counted(finished: Path) -> None:
    row = only(power.run(before_a_run(with_rules(finished, one={"metric": "accuracy", "max_drop": 0.01})), NOTHING))
    assert (row.n, row.discordance, row.measured) == (4000, ASSUMED_DISCORDANCE, False)


@pytest.mark.parametrize(
    ("part", "expected"), [("class", {"class=a": 3000, "class=b": 1000}), ("class=b", {"class=b": 1000})]
)
def test_before_a_run_a_class_has_the_examples_that_prepare_counted(finished: Path, part: str, expected: dict) -> None:
    with_rules(finished, one={"metric": "recall", "slice": part, "max_drop": 0.05})
    report = power.run(before_a_run(finished, {"a": 3000, "b": 1000, "c": 0}), NOTHING)
    assert {row.slice: row.n for row in report.rules} == expected


def test_without_data_there_is_nothing_to_go_by(finished: Path) -> None:
    with_rules(before_a_run(finished), one={"metric": "accuracy", "max_drop": 0.01})
    (finished / "reports/data.json").unlink()
    report = power.run(finished, NOTHING)
    assert report.rules == ()
    assert "--n" in report.unplanned["one"]
    assert only(power.run(finished, Given(n=100))).n == 100


def test_a_test_set_that_wears_out_is_planned_at_its_level(finished: Path) -> None:
    before = only(power.run(with_rules(finished, one={"metric": "accuracy", "max_drop": 0.01}), NOTHING))
    edit(
        finished / "params.yaml",
        lambda v: v["gate"].update(policies={"test_reuse": {"uses": 50, "mode": "non_adaptive"}}),
    )
    report = power.run(finished, NOTHING)
    assert report.alpha == pytest.approx(0.001)
    assert only(report).power < before.power


WRONG = [(Given(n=0), "--n"), (Given(discordance=1.5), "--discordance"), (Given(discordance=-0.1), "--discordance")]


@pytest.mark.parametrize(("given", "named"), WRONG)
def test_an_impossible_assumption_is_named(finished: Path, given: Given, named: str) -> None:
    with pytest.raises(ParamsError, match=named):
        power.run(finished, given)


def test_fifty_uses_at_one_point_need_about_nine_thousand_examples(finished: Path) -> None:
    """What docs/gate.md says, at 5 % discordance."""
    with_rules(finished, one={"metric": "accuracy", "max_drop": 0.01})
    edit(
        finished / "params.yaml",
        lambda v: v["gate"].update(policies={"test_reuse": {"uses": 50, "mode": "non_adaptive"}}),
    )
    needed = only(power.run(finished, Given(n=1000, discordance=0.05))).examples_needed
    assert 7_500 < needed < 10_000
