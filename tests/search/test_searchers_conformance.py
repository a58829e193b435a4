"""Every searcher of the table: made from a setup, asked and told, in a space with all kinds of genes."""

import functools
import itertools
import math

import pytest

from compression_gate import registry
from compression_gate.methods.chain import built
from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Setup
from compression_gate.search.descriptors import Knowledge, walk_of
from compression_gate.search.genes import Choice
from compression_gate.search.objective import Score
from compression_gate.search.space import LEFT_OUT, Units, space_of

LAYERS = {"conv": ("conv",), "hidden": ("hidden",), "out": ("out",)}
SLOTS = [
    {"method": "structured_pruning", "pruning_ratio": {"by_layer": {"low": 0.0, "high": 0.8}}, "optional": True},
    {"method": "low_rank", "ratio": {"low": 0.15, "high": 0.8, "step": 0.05}, "optional": True},
    {
        "method": "distillation",
        "epochs": {"low": 1, "high": 3},
        "temperature": {"low": 1.0, "high": 8.0, "log": True},
        "alpha": {"value": 0.5},
        "optional": True,
    },
    {
        "any_of": [
            {"method": "weight_only_quantization", "bits": {"by_group": [8, 4, 2], "groups": 2}},
            {"method": "static_quantization", "bits": 8, "calibration": ["minmax", "mse"]},
        ],
        "optional": True,
    },
]
BYTES = {"conv": 4_000, "hidden": 80_000, "out": 16_000}
BEARS = {"conv": 0.3, "hidden": 0.05, "out": 0.1}
POPULATION = 8
FAILED = Score(values=(), violation=math.inf)

NAMES = pytest.mark.parametrize("name", list(SEARCHERS))


def row(layer, method, option, strength, harm, share):
    return Sensitivity(
        layer=layer,
        members=(layer,),
        method=method,
        option=option,
        strength=strength,
        loss_rise=BEARS[layer] * harm,
        outputs_moved=harm,
        bytes_saved=round(BYTES[layer] * share),
    )


def table():
    rows = [
        row(layer, "structured_pruning", "pruning_ratio", ratio, ratio**2, ratio)
        for layer, ratio in itertools.product(LAYERS, (0.25, 0.5, 0.75))
    ] + [
        row(layer, "weight_only_quantization", "bits", bits, 1 / bits**2, 1 - bits / 32)
        for layer, bits in itertools.product(LAYERS, (2, 4, 8))
    ]
    return SensitivityTable(
        weights_digest="0", n=100, metric="accuracy", loss=0.3, quality=0.9, rows=tuple(rows), seconds=1.0
    )


@functools.cache
def space():
    known = {"structured_pruning": LAYERS, "weight_only_quantization": LAYERS}
    return space_of(SLOTS, free_order=True, units=Units(of=known))


@functools.cache
def walk():
    return walk_of(space())


def start(space):
    genome = {name: gene.at(0.5) for name, gene in space.genes.items()}
    return genome | {"1.pick": LEFT_OUT, "3.pick": "3.static_quantization"}


def made(name, seed=0, **changes):
    one = space()
    setup = {
        "space": one,
        "seed": seed,
        "values": 2,
        "population": POPULATION,
        "budget": 100,
        "start": (start(one),),
        "known": Knowledge(table=table(), stored_bytes=sum(BYTES.values())),
    }
    return registry.load("searchers", name, SEARCHERS)(Setup(**(setup | changes)))


def scored(genome):
    """A loss and a cost of every gene's place, a limit on the loss, and a corner that crashes."""
    places = walk().places(genome)
    if places[:2].sum() > 1.7:
        return FAILED
    lost, cost = float((places**2).mean()), float((1 - places).mean())
    return Score(values=(lost, cost), violation=max(0.0, lost / 0.3 - 1))


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
