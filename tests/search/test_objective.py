"""Scores: what is made small, which limits count, and the scalar objectives with their signs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.records.search_params import FitnessParams, SearchParams
from compression_gate.records.trial import Answer, Distance
from compression_gate.search.objective import Goal, fitness, reward, sigmoid

REFERENCE = {"accuracy": 0.9, "rmse": 2.0, "size_bytes": 1000.0, "macs": 500.0, "loss": 0.4}
FIGURES = {"accuracy": 0.88, "rmse": 2.5, "size_bytes": 100.0, "macs": 250.0, "loss": 0.5, "latency_ratio": 0.4567}


def goal(**changes):
    values = {"objectives": ("quality", "size_bytes", "latency"), "metric": "accuracy", "reference": REFERENCE}
    return Goal(**values | changes)


def answer(*distances, figures=FIGURES, verdict="pass"):
    checks = tuple(
        Distance(rule=f"rule {number}", status=status, distance=distance, blocking=blocking)
        for number, (status, distance, blocking) in enumerate(distances)
    )
    return Answer(figures=figures, checks=checks, verdict=verdict)


def test_quality_is_what_is_lost_and_costs_are_shares():
    assert goal().score(answer()).values == pytest.approx((0.02, 0.1, 0.46))
    assert goal(metric="rmse", better=-1).score(answer()).values[0] == pytest.approx(0.5)
    assert goal(objectives=("loss", "macs")).score(answer()).values == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("metric", "forms", "better"),
    [("accuracy", [], 1), ("rmse", [], -1), ("wer", ["max_increase"], -1), ("dice", ["max_drop"], 1), ("dice", [], 1)],
)
def test_which_way_quality_improves_is_known_of_metrics_and_said_by_the_limits_of_scores(metric, forms, better):
    found = Goal.of(SearchParams(), metric, {metric: 1.0}, forms)
    assert found.quality_lost({metric: 1.0 - 0.25 * better}) == pytest.approx(0.25)


def test_only_what_blocks_is_a_violation():
    assert goal().score(answer(("fail", 0.5, True), ("fail", 0.2, False), ("pass", 0.0, False))).violation == 0.5
    assert goal().score(answer(("error", None, True))).violation == 1.0


@pytest.mark.parametrize("bad", [Answer(reason="crashed"), answer(figures={"accuracy": 0.9, "size_bytes": 100.0})])
def test_a_trial_that_lacks_a_figure_has_no_values(bad):
    score = goal().score(bad)
    assert not score.complete
    assert score.violation == math.inf


@pytest.mark.parametrize("missing", ["accuracy", "macs"])
def test_a_trial_that_cannot_be_chosen_by_what_is_preferred_failed(missing):
    chosen_by = goal(objectives=("size_bytes",), prefer="macs")
    figures = {name: value for name, value in FIGURES.items() if name != missing}
    assert chosen_by.score(answer()).complete
    assert not chosen_by.score(answer(figures=figures)).complete


@pytest.mark.parametrize("kind", ["fitness", "reward"])
def test_the_scalar_objectives_fall_with_loss_and_with_cost(kind):
    one = goal(kind=kind)
    (usual,) = one.score(answer()).values
    (worse,) = one.score(answer(figures={**FIGURES, "accuracy": 0.5})).values
    (larger,) = one.score(answer(figures={**FIGURES, "size_bytes": 900.0})).values
    assert usual < worse
    assert usual < larger
    assert one.names == (kind,)


def test_fitness_is_the_formula():
    constants = FitnessParams(beta=2.0, trade_off=0.5)
    assert fitness(0.3, 0.8, constants) == pytest.approx(1 / (1 + math.exp(2 * (0.3 + 0.5 * 0.8))))
    assert reward([(0.3, 1)], [(0.8, 1)], constants) == pytest.approx(sigmoid(-2 * 0.3 - 0.5 * 0.8))
    assert reward([(0.1, 1), (0.3, 1)], [(0.8, 1)], constants) == pytest.approx((sigmoid(-0.6) + sigmoid(-1.0)) / 2)
    assert reward([(0.1, 1), (0.3, 3)], [(0.8, 2)], constants) == pytest.approx((sigmoid(-0.6) + 3 * sigmoid(-1)) / 4)


def test_objectives_weigh_in_the_reward_what_the_params_say():
    bytes_count = goal(kind="reward", constants=FitnessParams(weights={"size_bytes": 9.0}))
    latency_counts = goal(kind="reward", constants=FitnessParams(weights={"latency": 9.0}))
    rewards = [-one.score(answer()).values[0] for one in (latency_counts, goal(kind="reward"), bytes_count)]
    assert rewards == sorted(rewards)  # a tenth of the bytes, half of the time
    assert len(set(rewards)) == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"objective": "fitness", "fitness": {"weights": {"quality": 2}}}, "expected objective: reward"),
        ({"objective": "reward", "fitness": {"weights": {"macs": 2}}}, "expected some of .*got macs"),
        ({"objective": "reward", "fitness": {"weights": {"speed": 2}}}, "speed"),
        ({"objective": "reward", "fitness": {"weights": {"quality": 0}}}, "greater than 0"),
    ],
)
def test_weights_that_count_nowhere_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        SearchParams.model_validate(given)


def test_the_largest_cost_is_a_hard_constraint():
    one = goal(constants=FitnessParams(max_cost=0.14))
    assert one.score(answer()).violation == pytest.approx((0.1 + 0.46) / 2 / 0.14 - 1)
    assert one.judged(one.judged(answer())) == one.judged(answer())
    assert one.judged(answer()).verdict == "fail"
    assert goal(constants=FitnessParams(max_cost=0.3)).score(answer()).violation == 0


def test_a_figure_that_is_none_is_the_reason_that_a_trial_failed():
    figures = {name: value for name, value in FIGURES.items() if name != "accuracy"}
    bad = answer(figures=figures).model_copy(update={"remarks": ("accuracy is nan",)})
    assert goal().judged(bad).reason == "not measured: accuracy; accuracy is nan"


@given(st.floats(-1e6, 1e6))
def test_sigmoid_never_overflows(value):
    assert 0 <= sigmoid(value) <= 1
    assert sigmoid(value) + sigmoid(-value) == pytest.approx(1)
