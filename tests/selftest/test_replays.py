"""Replays: what is drawn is what the scene says, the same each time, and a gate that lies is found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compression_gate.selftest import replays
from compression_gate.selftest.replays import (
    TRIALS,
    Scene,
    Trial,
    claims,
    decided,
    equal_scene,
    facts_of,
    failed,
    params_of,
    worse_scene,
)

BY_TEXT = {trial.text: trial for trial in TRIALS}


def shares(scene: Scene, seed: int) -> tuple[float, float]:
    """Share of examples lost, and won, by the candidate."""
    outcomes = facts_of(scene, params_of(), np.random.default_rng(seed)).outcomes
    assert outcomes is not None
    mine, other = (outcomes.predicted[role] == outcomes.target for role in ("candidate", "reference"))
    return float((other & ~mine).mean()), float((~other & mine).mean())


def test_a_scene_is_drawn_as_it_says() -> None:
    lost, won = shares(Scene(n=200_000, drop=0.02, discordance=0.03), 1)
    assert lost == pytest.approx(0.025, abs=0.002)
    assert won == pytest.approx(0.005, abs=0.001)


def test_no_discordance_is_the_very_same_model() -> None:
    assert shares(Scene(n=1000, drop=0.0, discordance=0.0), 2) == (0.0, 0.0)


@pytest.mark.parametrize("number", range(4))
def test_every_rule_of_a_replay_is_judged(number: int) -> None:
    for scene in (equal_scene(number), worse_scene(number)):
        decision = decided(scene, params_of(), [number])
        assert {check.rule for check in decision.checks} == set(replays.RULES)
        assert len(decision.checks) == len(replays.RULES) + replays.CLASSES - 1


def test_a_replay_that_cannot_be_judged_is_no_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**replays.RULES, "odd": {"metric": "precision", "max_drop": 0.1}}
    monkeypatch.setattr(replays, "RULES", broken)
    with pytest.raises(RuntimeError, match="odd: expected a check that can be judged"):
        decided(equal_scene(0), params_of(), [1])


def test_equally_good_models_do_not_fail_and_worse_ones_do() -> None:
    assert not any(failed(decided(equal_scene(number), params_of(), [7, number])) for number in range(8))
    assert sum(failed(decided(worse_scene(number), params_of("accuracy"), [7, number])) for number in range(20)) >= 18


def test_every_trial_holds_in_small_numbers_and_is_the_same_each_time() -> None:
    small = tuple(replace(trial, few=6) for trial in TRIALS)
    first, second = ([one.model_copy(update={"seconds": 0.0}) for one in claims(trials=small)] for _ in range(2))
    assert first == second
    assert all(one.held for one in first)
    assert [one.n for one in first] == [6] * len(TRIALS)


LIES = [  # a trial whose scenes are the contrary of what it claims
    Trial(text="worse ones called good", scene=worse_scene, rules=("accuracy",), few=12, many=12, limit=0.01),
    Trial(
        text="good ones called worse",
        scene=lambda number: equal_scene(2 * number + 1),
        rules=("accuracy",),
        few=12,
        many=12,
        limit=0.9,
        direction="at least",
    ),
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.text)
def test_a_claim_falls_where_its_bound_lies_on_the_wrong_side(lie: Trial) -> None:
    (claim,) = claims(trials=(lie,))
    assert not claim.held
    assert claim.low <= claim.observed <= claim.high


def test_full_is_enough_to_prove_the_claim_on_good_commits() -> None:
    """No failure among so many bounds the rate under the claim; among the usual number it does not."""
    from compression_gate.gate.proportions import clopper_pearson

    trial = BY_TEXT[replays.EQUAL]
    assert trial.limit is not None
    assert clopper_pearson(0, trial.many, 0.01)[1] < trial.limit < clopper_pearson(0, trial.few, 0.01)[1]
