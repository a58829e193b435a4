"""The made-up networks that searchers are compared on: the same always, with limits, failures and interactions."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest

from compression_gate.records.params import Step

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not (FOLDER / "search_landscape.py").is_file():
    pytest.skip("the scripts are in the repository only", allow_module_level=True)
KINDS = pytest.mark.parametrize("kind", ["one strength", "by layer"])


@pytest.fixture(scope="module")
def landscape():
    spec = importlib.util.spec_from_file_location("search_landscape", FOLDER / "search_landscape.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def steps(*plain):
    return [Step.model_validate(one) for one in plain]


PRUNE = {"method": "structured_pruning", "pruning_ratio": 0.5}
TRAIN = {"method": "distillation", "epochs": 2, "alpha": 0.6, "temperature": 4.0}
ROUND = {"method": "weight_only_quantization", "bits": 4}


@KINDS
def test_network_answers_the_same_always_and_another_answers_otherwise(landscape, kind):
    genome = landscape.Landscape(variant=3, kind=kind).start
    first, again, other = (landscape.Landscape(variant=one, kind=kind).score(genome) for one in (3, 3, 4))
    assert first == again
    assert first != other


@KINDS
def test_network_has_trials_within_limits_outside_them_and_failed_ones(landscape, kind):
    one, coins = landscape.Landscape(variant=5, kind=kind), random.Random(0)
    scores = [one.score(one.space.sample(coins)) for _ in range(400)]
    assert 20 < sum(score.violation == 0 for score in scores) < 300
    assert any(not score.complete for score in scores)


def test_training_gives_back_what_was_lost_before_it_alone(landscape):
    one = landscape.Landscape(variant=1)
    before, behind, without = (
        one.of_steps(steps(*chain)).values[0] for chain in ((TRAIN, PRUNE), (PRUNE, TRAIN), (PRUNE,))
    )
    assert behind < before
    assert behind < without - 0.002


def test_bytes_fall_with_every_step_that_removes_something(landscape):
    one = landscape.Landscape(variant=1)
    sizes = [one.of_steps(steps(*chain)).values[1] for chain in ((), (PRUNE,), (PRUNE, ROUND))]
    assert sizes[0] == pytest.approx(1 + landscape.OVERHEAD)
    assert sizes[0] > 2 * sizes[1] > 8 * sizes[2]
