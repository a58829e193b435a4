"""What a change gives and takes: in a word, axis by axis, and where each model stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compression_gate.gate.trade_off import beats, outcome_of, trade_off
from compression_gate.records.metrics import Value
from compression_gate.records.params import read_params
from compression_gate.records.rules import Rule
from compression_gate.records.verdict import Axis, TradeOff
from compression_gate.selftest import finished_run
from compression_gate.stages import gate

Candidate = Callable[..., Path]


@pytest.fixture
def candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """A finished run whose candidate is of this size [bytes], wrong so often in 1,000, this much slower."""

    def write(size: int = 10_000, wrong: int = 100, ratio: float = 1.0) -> Path:
        monkeypatch.setitem(finished_run.SIZES, "candidate", size)
        monkeypatch.setitem(finished_run.WRONG, "candidate", wrong)
        suite = finished_run.write(tmp_path / "suite")
        path = suite / "reports/benchmark.json"
        record = json.loads(path.read_text())
        record["pairs"]["reference"] = finished_run.pair_of(ratio).model_dump(mode="json")
        path.write_text(json.dumps(record))
        return suite

    return write


def found(suite: Path) -> TradeOff:
    whole = trade_off(gate.read_facts(suite, read_params(suite)))
    assert whole is not None
    return whole


FASTER, SLOWER = 0.5, 2.0
WHOLES = [  # the candidate, each axis, the whole
    ({"size": 1_000, "ratio": FASTER}, ("same", "better", "better"), "dominates"),
    ({"size": 1_000, "wrong": 95}, ("better", "better", "same"), "dominates"),
    ({"size": 1_000, "wrong": 105, "ratio": FASTER}, ("worse", "better", "better"), "trades"),
    ({"size": 1_000, "ratio": SLOWER}, ("same", "better", "worse"), "trades"),
    ({"size": 10_001}, ("same", "worse", "same"), "dominated"),
    ({"size": 12_000, "wrong": 105, "ratio": SLOWER}, ("worse", "worse", "worse"), "dominated"),
    ({}, ("same", "same", "same"), "same"),
]


@pytest.mark.parametrize(("given", "axes", "outcome"), WHOLES)
def test_the_whole_follows_from_the_axes(candidate: Candidate, given: dict, axes: tuple, outcome: str) -> None:
    whole = found(candidate(**given))
    assert [axis.metric for axis in whole.axes] == ["accuracy", "size_bytes", "latency_ms"]
    assert tuple(axis.outcome for axis in whole.axes) == axes
    assert (whole.outcome, whole.against) == (outcome, "reference")


def test_a_difference_within_noise_is_none(candidate: Candidate) -> None:
    """The reference and the candidate differ in 2 of 4,000 examples, both lost: not proven at 95 %."""
    suite = candidate(size=1_000)
    facts = gate.read_facts(suite, read_params(suite))
    facts.outcomes.predicted["candidate"][[0, 4]] += 1
    facts.evaluation.models["candidate"].metrics["accuracy"].__dict__["value"] = 0.9 - 2 / 4000
    axis = trade_off(facts).axes[0]
    assert axis.observed < axis.compared_to
    assert axis.outcome == "same"


def test_a_baseline_comes_before_the_reference(tmp_path: Path) -> None:
    whole = found(finished_run.write_recorded(tmp_path / "suite"))
    assert whole.against == "baseline"
    assert {axis.metric: axis.outcome for axis in whole.axes}["size_bytes"] == "better"
    assert {point.role for point in whole.points} == {"reference", "baseline", "candidate"}


FRONTS = [  # the candidate, who is on the front
    ({"size": 1_000}, {"candidate"}),
    ({"size": 1_000, "wrong": 105}, {"reference", "candidate"}),
    ({"size": 12_000, "wrong": 105}, {"reference"}),
    ({}, {"reference", "candidate"}),
]


@pytest.mark.parametrize(("given", "front"), FRONTS)
def test_on_the_front_is_who_is_beaten_by_nobody(candidate: Candidate, given: dict, front: set[str]) -> None:
    suite = candidate(**given)
    path = suite / "reports/benchmark.json"
    record = json.loads(path.read_text())
    for model in record["models"].values():
        model["figures"]["latency_ms"]["value"] = 1.0
    path.write_text(json.dumps(record))
    assert {point.role for point in found(suite).points if point.on_front} == front


def test_what_cannot_be_compared_is_no_axis(candidate: Candidate) -> None:
    suite = candidate(size=1_000)
    path = suite / "reports/benchmark.json"
    record = json.loads(path.read_text())
    record["pairs"].clear()
    path.write_text(json.dumps(record))
    assert [axis.metric for axis in found(suite).axes] == ["accuracy", "size_bytes"]


def test_where_nothing_compares_there_is_no_trade_off(finished: Path) -> None:
    for name in ("evaluation.json", "benchmark.json"):
        (finished / "reports" / name).unlink()
    assert trade_off(gate.read_facts(finished, read_params(finished))) is None
    assert gate.run(finished).trade_off is None


def test_the_verdict_holds_it(finished: Path) -> None:
    assert gate.run(finished).trade_off == found(finished)


def axis(outcome: str) -> Axis:
    return Axis(metric="m", observed=1.0, compared_to=1.0, outcome=outcome)


@pytest.mark.parametrize(
    ("outcomes", "word"),
    [
        (("better", "worse", "same"), "trades"),
        (("better", "same"), "dominates"),
        (("worse", "same"), "dominated"),
        (("same",), "same"),
    ],
)
def test_the_order_of_axes_does_not_matter(outcomes: tuple[str, ...], word: str) -> None:
    assert outcome_of([axis(one) for one in outcomes]) == outcome_of([axis(one) for one in outcomes[::-1]]) == word


def test_nobody_beats_an_equal_and_a_score_counts_upwards() -> None:
    one = {"accuracy": 0.9, "size_bytes": 10.0, "iou": 0.5}
    up = {"accuracy": 1, "size_bytes": -1, "iou": 1}
    assert not beats(one, one, up)
    assert beats(one | {"iou": 0.6}, one, up)
    assert beats(one | {"size_bytes": 9.0}, one, up)
    assert not beats(one | {"size_bytes": 9.0, "iou": 0.4}, one, up)


SIDES = [  # limits on the score, its axis
    ([{"max_increase": 0.01}], "worse"),
    ([{"max": 0.2}], "worse"),
    ([{"max_drop": 0.01}], "better"),
    ([{"min": 0.2}, {"max_drop": 0.01}], "better"),
    ([{"min": 0.2}, {"max": 0.9}], None),
    ([], None),
]


@pytest.mark.parametrize(("limits", "outcome"), SIDES)
def test_which_way_a_score_of_the_user_is_better_follows_from_its_limits(
    finished: Path, limits: list[dict], outcome: str | None
) -> None:
    """A word error rate that rises is worse where ``max_increase`` limits it, and no axis where nothing does."""
    facts = gate.read_facts(finished, read_params(finished))
    n = len(facts.outcomes.ids)
    scores = {"reference": np.arange(n) % 10 / 100, "candidate": np.arange(n) % 10 / 50}
    evaluation = facts.evaluation.model_copy(
        update={
            "kind": "custom",
            "models": {
                role: facts.evaluation.models[role].model_copy(
                    update={"metrics": {"wer": Value(value=float(score.mean()), n=n)}, "slices": {}}
                )
                for role, score in scores.items()
            },
        }
    )
    rules = {
        f"r{number}": Rule.model_validate({"metric": "wer", name: {"value": value}})
        for number, limit in enumerate(limits)
        for name, value in limit.items()
    }
    params = facts.params.model_copy(
        update={
            "gate": facts.params.gate.model_copy(update={"rules": rules}),
            "task": facts.params.task.model_copy(update={"kind": "custom"}),
            "evaluate": facts.params.evaluate.model_copy(update={"metrics": ("wer",)}),
        }
    )
    outcomes = replace(facts.outcomes, predicted={}, scores={role: {"wer": one} for role, one in scores.items()})
    whole = trade_off(replace(facts, params=params, evaluation=evaluation, outcomes=outcomes))
    assert {axis.metric: axis.outcome for axis in whole.axes}.get("wer") == outcome
    assert all(("wer" in point.figures) == bool(outcome) for point in whole.points)
