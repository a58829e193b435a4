"""The population and the policy: who proposes what, and that both learn from everything."""

from optuna.trial import TrialState
from small_space import FAILED, known, scored, space, start

from compression_gate.search.base import Setup
from compression_gate.search.descriptors import walk_of
from compression_gate.search.hybrid import Hybrid
from compression_gate.search.objective import Score


def made(**changes):
    given = {"space": space(), "seed": 0, "values": 2, "population": 8, "start": (start(space()),), "known": known()}
    return Hybrid(Setup(**(given | changes)))


def told(searcher, count, score=scored):
    found = []
    for _ in range(count):
        found.append(searcher.ask())
        searcher.tell(found[-1], score(found[-1].genome))
    return found


def test_population_and_policy_take_turns():
    origins = [one.origin for one in told(made(), 40)]
    assert origins[0] == "start"
    assert 10 <= origins.count("policy") + origins.count("table") <= 20
    assert origins.count("genetic") >= 19


def test_policy_changes_nothing_but_strengths_of_an_earlier_chain():
    rest = [stop.name for stop in walk_of(space()).stops if stop.kind != "strength"]
    seen = []
    for proposal in told(made(), 40):
        if proposal.origin == "policy":
            assert any(all(one[name] == proposal.genome[name] for name in rest) for one in seen)
        seen.append(proposal.genome)


def test_what_the_policy_proposed_is_part_of_the_population():
    searcher = made()
    proposals = told(searcher, 24)
    trials = searcher.population.study.get_trials(states=[TrialState.COMPLETE])
    assert len(trials) == len(searcher.policy.trials) == len(proposals)
    assert all(searcher.population.sampler._get_generation_key() in one.system_attrs for one in trials)


def test_elite_is_what_is_within_limits_and_best():
    searcher = made(start=())
    good = Score(values=(0.1, 0.1), violation=0.0)
    answers = iter([FAILED, good, *[Score(values=(0.5, 0.5), violation=1.0)] * 22])
    proposals = told(searcher, 24, lambda genome: next(answers))
    drawn = [searcher.policy.elite(searcher.policy.preference()) for _ in range(100)]
    best = sum(genome is proposals[1].genome for genome in drawn)
    assert best > 5 * sum(genome is proposals[0].genome for genome in drawn)
    assert best > 100 / 24


def test_first_generation_holds_spreads_by_the_table_where_there_is_one():
    assert [one.origin for one in told(made(), 16)].count("table") == 4
    assert "table" not in {one.origin for one in told(made(known=None), 16)}


def test_chains_without_strengths_are_left_to_the_population():
    searcher = made()
    bare = start(space()) | {"0.pick": "left out", "2.pick": "left out"}
    assert not searcher.has_strengths(bare)
    assert searcher.has_strengths(start(space()))
    searcher = made(start=(), known=None)
    searcher.policy.tell(bare, Score(values=(0.1, 0.1), violation=0.0))
    assert {searcher.ask().origin for _ in range(4)} == {"genetic"}
