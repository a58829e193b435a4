"""The policy: what it learns, where its actions are clipped, and that it leaves the global coins alone."""

import dataclasses

import numpy as np
import pytest
import torch
from small_space import BYTES, FAILED, LAYERS, known, space, start

from compression_gate.search.base import Setup
from compression_gate.search.clipping import Clipping
from compression_gate.search.descriptors import place_of, walk_of
from compression_gate.search.genes import Choice, Number
from compression_gate.search.objective import Score
from compression_gate.search.policy import Policy
from compression_gate.search.reinforcement import Reinforcement
from compression_gate.search.space import Units, space_of

GENES = [
    Choice(values=("a", "b", "c")),
    Number(low=0.1, high=0.9),
    Number(low=1, high=64, log=True),
    Number(low=0.01, high=1.0, log=True),
    Number(low=1, high=5),
    Number(low=0.2, high=0.8, step=0.1),
]
HALF = sum(BYTES.values()) / 2


def setup_of(**changes):
    return Setup(**({"space": space(), "seed": 0, "values": 1, "population": 8, "known": known()} | changes))


def wanted(genome):
    """How many of four wishes a chain does not fulfil: two picks, a strength, a group's bits."""
    missed = [
        genome["1.pick"] != "1.low_rank",
        genome["3.pick"] != "3.weight_only_quantization",
        abs(place_of(space().genes["1.low_rank.ratio"], genome["1.low_rank.ratio"]) - 0.8) > 0.2,
        genome["3.weight_only_quantization.bits.0"] != 4,
    ]
    return Score(values=(float(sum(missed)),), violation=0.0)


@pytest.mark.parametrize("gene", GENES, ids=str)
def test_place_of_a_value_leads_back_to_it(gene):
    for place in np.linspace(0, 0.999, 23):
        value = gene.at(place)
        assert gene.at(place_of(gene, value)) == pytest.approx(value)


def test_walk_settles_picks_before_the_strengths_of_their_steps():
    walk = walk_of(space(), known())
    kinds = [stop.kind for stop in walk.stops]
    assert kinds[:8] == ["pick"] * 4 + ["place"] * 4
    assert not {"pick", "place"} & set(kinds[8:])
    assert {stop.name for stop in walk.stops} == set(space().genes)
    genome = start(space())
    used = [stop.name for stop, is_used in zip(walk.stops, walk.used(genome), strict=True) if is_used]
    assert "1.low_rank.ratio" not in used
    assert "3.static_quantization.calibration" in used
    assert "3.weight_only_quantization.bits.0" not in used


def test_policy_learns_what_is_rewarded():
    searcher = Reinforcement(setup_of())
    missed = []
    for _ in range(120):
        proposal = searcher.ask()
        score = wanted(proposal.genome)
        searcher.tell(proposal, score)
        missed.append(score.values[0])
    assert np.mean(missed[-30:]) < np.mean(missed[:30]) - 1


def test_policy_moves_away_from_what_breaks_limits_and_from_what_fails():
    searcher = Reinforcement(setup_of())
    bad = []
    for _ in range(100):
        proposal = searcher.ask()
        pruned = proposal.genome["0.pick"] != "left out"
        shared = proposal.genome["3.pick"] == "3.static_quantization"
        bad.append(pruned or shared)
        good = Score(values=(0.5,), violation=0.0)
        searcher.tell(proposal, FAILED if shared else dataclasses.replace(good, violation=2.0) if pruned else good)
    assert np.mean(bad[-30:]) < 0.3  # two in three by chance


def test_trials_within_limits_stand_before_those_outside_and_failed_ones_last():
    policy = Policy(space(), 2, 0)
    genome = start(space())
    for score in (
        FAILED,
        Score(values=(0.0, 0.0), violation=2.0),
        Score(values=(0.0, 0.0), violation=0.1),
        Score(values=(0.9, 0.1), violation=0.0),
        Score(values=(0.1, 0.9), violation=0.0),
    ):
        policy.tell(genome, score)
    assert list(policy.trials.order(np.array([1.0, 0.01]))) == [4, 3, 2, 1, 0]
    assert list(policy.trials.order(np.array([0.01, 1.0]))) == [4, 3, 2, 0, 1]


def test_policy_forgets_the_middling_trials_of_long_ago(monkeypatch):
    monkeypatch.setattr("compression_gate.search.policy.REMEMBERED", 40)
    policy = Policy(space(), 2, 0)
    best = {3: (0.0, 1.0), 5: (1.0, 0.0), 7: (0.4, 0.4)}  # of each objective, and of both
    for number in range(200):
        values = best.get(number, (0.5 + number / 400, 0.6 + number / 400))
        policy.tell(start(space()) | {"number": number}, Score(values=values, violation=0.0))
        assert len(policy.trials) <= 2 * 40
    kept = [one.genome["number"] for one in policy.trials.episodes]
    assert kept == sorted(kept)
    assert set(best) <= set(kept)
    assert set(range(180, 200)) <= set(kept)


def test_walk_is_clipped_to_the_bytes_that_the_gate_lets_through():
    """Wherever pruning by layer is the one step that makes the file smaller, it saves half or more."""
    policy = Policy(space(), 1, 0, known(most_bytes=HALF))
    kept = start(space()) | {"0.pick": "0.structured_pruning", "3.pick": "left out"}
    for _ in range(20):
        genome = policy.propose(kept, keeps=lambda stop: stop.kind != "strength")
        saved = policy.clipping.saved(genome, policy.walk.used(genome)).sum()
        assert saved >= 0.5 - 1e-3


def test_walk_without_a_limit_is_not_clipped():
    policy = Policy(space(), 1, 0, known())
    kept = start(space()) | {"0.pick": "0.structured_pruning", "3.pick": "left out"}
    found = [policy.propose(kept, keeps=lambda stop: stop.kind != "strength") for _ in range(20)]
    assert min(policy.clipping.saved(one, policy.walk.used(one)).sum() for one in found) < 0.5


def test_bits_of_another_step_count_towards_the_budget():
    """With 8 bits in place of 32 a quarter is left whatever is pruned, so that nothing has to be."""
    policy = Policy(space(), 1, 0, known(most_bytes=HALF))
    kept = start(space()) | {"0.pick": "0.structured_pruning", "3.pick": "3.static_quantization"}
    found = [policy.propose(kept, keeps=lambda stop: stop.kind != "strength") for _ in range(20)]
    assert min(policy.clipping.saved(one, policy.walk.used(one)).sum() for one in found) < 0.5


@pytest.mark.parametrize("bits", [8, 2])
def test_bits_that_are_settled_are_what_pruning_has_to_make_up_for(bits):
    """Not the fewest that might have been chosen."""
    slots = (
        {"method": "weight_only_quantization", "bits": [8, 2]},
        {"method": "structured_pruning", "pruning_ratio": {"by_layer": {"low": 0.0, "high": 0.9}}},
    )
    declared = space_of(slots, free_order=False, units=Units(of={"structured_pruning": LAYERS}))
    allowed = 0.15 * sum(BYTES.values())
    clipping = Clipping(walk=walk_of(declared, known()), known=known(most_bytes=allowed))
    genome = {name: gene.at(0.5) for name, gene in declared.genes.items()} | {"0.weight_only_quantization.bits": bits}
    for index, stop in enumerate(clipping.walk.stops):
        if stop.curve is not None:
            genome[stop.name] = clipping.clipped(index, genome, 0.0)
    kept = 1 - sum(clipping.share_saved(stop, genome) for stop in clipping.walk.stops if stop.curve is not None)
    assert bits / 32 * kept <= 0.15 + 1e-6


def test_the_more_bits_the_less_is_saved():
    walk = walk_of(space(), known())
    curve = next(stop.curve for stop in walk.stops if stop.name == "3.weight_only_quantization.bits.0")
    assert curve.bytes_saved(2) > curve.bytes_saved(4) > curve.bytes_saved(8) > 0
    assert curve.loss(2) > curve.loss(4) > curve.loss(8) > 0
    assert curve.loss(0) == curve.bytes_saved(0) == 0


def test_global_coins_of_torch_are_left_alone():
    before = torch.random.get_rng_state()
    searcher = Reinforcement(setup_of())
    for _ in range(12):
        proposal = searcher.ask()
        searcher.tell(proposal, wanted(proposal.genome))
    assert torch.equal(torch.random.get_rng_state(), before)
