"""Every searcher of the table: made from a setup, asked and told, in a space with all kinds of genes."""

import pytest
from small_space import FAILED, known, scored, space, start

from compression_gate import registry
from compression_gate.methods.chain import built
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Setup
from compression_gate.search.genes import Choice
from compression_gate.search.objective import Score
from compression_gate.search.space import LEFT_OUT

POPULATION = 8
NAMES = pytest.mark.parametrize("name", list(SEARCHERS))


def made(name, seed=0, **changes):
    one = space()
    setup = {
        "space": one,
        "seed": seed,
        "values": 2,
        "population": POPULATION,
        "start": (start(one),),
        "known": known(),
    }
    return registry.load("searchers", name, SEARCHERS)(Setup(**(setup | changes)))


def told(searcher, count, score=scored):
    """Ask and tell a generation at a time; return the proposals."""
    found = []
    while len(found) < count:
        batch = [searcher.ask() for _ in range(min(POPULATION, count - len(found)))]
        for proposal in batch:
            searcher.tell(proposal, score(proposal.genome))
        found += batch
    return found


def genomes(proposals):
    return [one.genome for one in proposals]


@NAMES
def test_searcher_proposes_the_same_for_the_same_seed_and_answers(name):
    first, second = told(made(name), 24), told(made(name), 24)
    assert [(one.genome, one.origin) for one in first] == [(one.genome, one.origin) for one in second]


@NAMES
def test_searcher_proposes_others_for_another_seed(name):
    assert genomes(told(made(name), 16))[1:] != genomes(told(made(name, seed=1), 16))[1:]


@NAMES
def test_searcher_begins_with_the_genomes_to_start_from(name):
    one = space()
    first, second = start(one), start(one) | {"2.pick": LEFT_OUT}
    searcher = made(name, start=(first, second))
    proposals = [searcher.ask() for _ in range(3)]
    assert genomes(proposals)[:2] == [first, second]
    assert [proposal.origin == "start" for proposal in proposals] == [True, True, False]


@NAMES
def test_searcher_needs_no_genome_to_start_from(name):
    assert len(told(made(name, start=()), 16)) == 16


@NAMES
def test_proposals_lie_in_the_space_and_stand_for_chains_whose_order_makes_sense(name):
    one = space()
    for proposal in told(made(name), 40):
        assert set(proposal.genome) == set(one.genes)
        for key, gene in one.genes.items():
            value = proposal.genome[key]
            if isinstance(gene, Choice):
                assert value in gene.values, key
            else:
                assert gene.low <= value <= gene.high, key
                assert value == pytest.approx(gene.nearest(value)), key
        built(one.steps_of(proposal.genome), "steps")


@NAMES
@pytest.mark.parametrize(
    "score",
    [
        pytest.param(lambda genome: FAILED, id="all fail"),
        pytest.param(lambda genome: Score(values=(0.5, 0.5), violation=3.0), id="all break limits alike"),
        pytest.param(lambda genome: Score(values=(0.5, 0.5), violation=0.0), id="all alike"),
    ],
)
def test_searcher_goes_on_whatever_it_is_told(name, score):
    assert len(told(made(name), 24, score)) == 24


@NAMES
def test_answers_in_another_order_than_asked_are_taken(name):
    def run():
        searcher, found, still_open = made(name), [], []
        for number in range(24):
            still_open.append(searcher.ask())
            found.append(still_open[-1])
            if number % 3 == 2:
                proposal = still_open.pop(number % len(still_open))
                searcher.tell(proposal, scored(proposal.genome))
        return genomes(found)

    assert run() == run()


@NAMES
def test_recorded_answers_put_a_searcher_back_to_where_it_was(name):
    """As a resumed search does: what was told comes from a file, and the next generation is the same."""
    searcher = made(name)
    proposals = told(searcher, 2 * POPULATION)
    recorded = [scored(proposal.genome) for proposal in proposals]
    answers = iter(recorded)
    again = made(name)
    replayed = told(again, 2 * POPULATION, lambda genome: next(answers))
    assert genomes(replayed) == genomes(proposals)
    assert [again.ask().genome for _ in range(POPULATION)] == [searcher.ask().genome for _ in range(POPULATION)]


@NAMES
def test_a_score_of_one_number_is_learned_from(name):
    """The scalar objectives make scores of one value."""
    score = lambda genome: Score(values=(scored(genome).values or (1.0,))[:1], violation=0.0)  # noqa: E731
    assert len(told(made(name, values=1), 16, score)) == 16
