"""Children: of two parents, slot by slot, and hardly changed; the population they belong to asks no chain twice."""

import random

import pytest
from small_space import known, scored, space, start

from compression_gate.records.recipe import recipe_digest
from compression_gate.search import children
from compression_gate.search.base import Setup
from compression_gate.search.children import Children
from compression_gate.search.genes import Choice, Number
from compression_gate.search.genetic import Genetic
from compression_gate.search.objective import Score


@pytest.fixture
def unchanged(monkeypatch):
    monkeypatch.setattr(children, "CHANGED", 0.0)
    monkeypatch.setattr(children, "DRIFTING", 0.0)


def test_options_of_a_step_that_only_one_parent_holds_come_from_that_parent_together(unchanged):
    one = space()
    coins = random.Random(0)
    maker = Children(one, coins)
    for _ in range(200):
        mother, father = one.sample(coins), one.sample(coins)
        child = maker.of(mother, father)
        for slot in one.slots:
            pick, names = f"{slot.name}.pick", maker.names[slot.name]
            if pick in one.genes and mother[pick] != father[pick]:
                assert {name: child[name] for name in names} in [
                    {name: parent[name] for name in names} for parent in (mother, father)
                ]
            assert all(child[name] in (mother[name], father[name]) for name in names)


def test_a_changed_genome_differs_in_about_three_genes_in_use_and_stays_in_the_space():
    one, coins = space(), random.Random(0)
    maker, counts = Children(one, coins), []
    for _ in range(500):
        genome = one.sample(coins)
        changed = maker.changed(genome)
        counts.append(sum(changed[name] != genome[name] for name in maker.used(genome) & one.genes.keys()))
        assert all(gene.nearest(changed[name]) == changed[name] for name, gene in one.genes.items())
    assert 1.8 < sum(counts) / len(counts) < 3.2


@pytest.mark.parametrize(
    "gene",
    [
        Number(low=1, high=5),
        Number(low=0.1, high=0.9, step=0.2),
        Number(low=0.001, high=10.0, log=True),
        Number(low=1, high=64, log=True),
        Number(low=-1.0, high=1.0),
    ],
)
def test_the_place_of_a_value_leads_back_to_it(gene):
    for value in (gene.at(place / 40) for place in range(41)):
        assert gene.at(gene.place(value)) == pytest.approx(value)


def test_a_choice_that_moves_becomes_another_one():
    maker = Children(space(), random.Random(0))
    assert {maker.moved(Choice(values=("a", "b", "c")), "b") for _ in range(50)} == {"a", "c"}
    assert maker.moved(Choice(values=("a",)), "a") == "a"


def population(**changes):
    one = space()
    setup = {"space": one, "seed": 0, "values": 2, "population": 8, "start": (start(one),), "known": known()}
    return Genetic(Setup(**(setup | changes)))


def test_no_chain_is_proposed_twice_while_there_are_others():
    searcher, seen = population(), []
    for _ in range(20):
        batch = [searcher.ask() for _ in range(8)]
        seen += [recipe_digest(searcher.space.steps_of(one.genome)) for one in batch]
        for one in batch:
            searcher.tell(one, scored(one.genome))
    assert len(set(seen)) == len(seen)


def test_what_the_search_starts_from_and_what_others_made_have_children():
    searcher = population(start=())
    first = [searcher.ask() for _ in range(7)]
    given = searcher.take(start(searcher.space))
    for one in first:
        searcher.tell(one, Score(values=(1.0, 1.0), violation=5.0))
    searcher.tell(given, Score(values=(0.0, 0.5), violation=0.0))
    children = [searcher.ask().genome for _ in range(64)]
    ages = [one.number for one in searcher.sampler.get_parent_population(searcher.study, 1)]
    assert 7 in ages
    names = searcher.children.used(given.genome) & searcher.space.genes.keys()
    assert sum(sum(one[name] != given.genome[name] for name in names) <= len(names) // 2 for one in children) > 4


def test_of_two_parents_the_one_that_breaks_limits_less_wins_and_then_the_one_that_dominates():
    searcher = population(start=())
    scores = [Score(values=(1.0, 1.0), violation=0.0), Score(values=(0.5, 1.0), violation=0.0)]
    scores += [Score(values=(0.0, 0.0), violation=1.0)] * 6
    batch = [searcher.ask() for _ in scores]
    for one, score in zip(batch, scores, strict=True):
        searcher.tell(one, score)
    parents = searcher.study.get_trials(deepcopy=False)
    won = [searcher.winner(parents).number for _ in range(2000)]
    counts = [won.count(number) for number in range(3)]
    assert counts[1] > 1.1 * counts[0]
    assert counts[0] > 2 * counts[2] > 0
