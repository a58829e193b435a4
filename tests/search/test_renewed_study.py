"""A search of any length holds few of its trials; genetic in generations proposes what it would with all of them."""

import random

import pytest

from compression_gate.search import sampled, tpe
from compression_gate.search.base import Setup
from compression_gate.search.genetic import Genetic
from compression_gate.search.objective import Score
from compression_gate.search.space import Units, space_of
from compression_gate.search.tpe import TreeParzen

SPACE = space_of(
    [
        {"method": "structured_pruning", "pruning_ratio": {"low": 0.1, "high": 0.7}, "optional": True},
        {"method": "weight_only_quantization", "bits": [8, 4, 2], "optional": True},
    ],
    free_order=True,
    units=Units(),
)
TRIALS = 300


def score_of(genome, coins):
    """Figures with broken limits and failures among them."""
    chance = coins.random()
    if chance < 0.05:
        return Score(values=(), violation=float("inf"))
    ratio = genome["0.structured_pruning.pruning_ratio"]
    return Score(values=(ratio + 0.1 * chance, 1 - ratio), violation=max(0.0, chance - 0.8))


def proposals_of(kind, open_at_once, trials=TRIALS):
    """All proposals of a search that tells with so many others open, and its study."""
    searcher = kind(Setup(space=SPACE, seed=3, values=2, population=8))
    coins, asked, waiting = random.Random(5), [], []
    while len(asked) < trials:
        while len(waiting) < open_at_once:
            waiting.append(searcher.ask())
            asked.append(waiting[-1].genome)
        while len(waiting) > (0 if open_at_once == 8 else open_at_once - 1):
            proposal = waiting.pop(0)
            searcher.tell(proposal, score_of(proposal.genome, coins))
    return asked, searcher.study


@pytest.mark.parametrize("open_at_once", [8, 1], ids=["generations", "one after the other"])
def test_a_renewed_genetic_study_proposes_what_the_whole_one_does(monkeypatch, open_at_once):
    monkeypatch.setattr(sampled, "RENEWED", 10**9)
    whole, study = proposals_of(Genetic, open_at_once)
    assert len(study.trials) >= TRIALS
    for often in (16, 37):
        monkeypatch.setattr(sampled, "RENEWED", often)
        renewed, study = proposals_of(Genetic, open_at_once)
        assert renewed == whole
        assert len(study.trials) < TRIALS / 2


@pytest.mark.parametrize("searcher", [Genetic, TreeParzen])
def test_a_renewed_study_with_trials_open_is_small_and_proposes_the_same_again(monkeypatch, searcher):
    monkeypatch.setattr(sampled, "RENEWED", 16)
    monkeypatch.setattr(tpe, "NEWEST", 16)
    monkeypatch.setattr(tpe, "FRONT", 8)
    first, study = proposals_of(searcher, 5, trials=100)
    assert len(study.trials) < 60
    assert proposals_of(searcher, 5, trials=100)[0] == first
