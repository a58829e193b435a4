"""The exact spread: against every spread there is, and what is said where there is nothing to spread."""

import itertools

import pytest
from small_space import known, space, start

from compression_gate.errors import ParamsError
from compression_gate.search.base import Setup
from compression_gate.search.descriptors import walk_of
from compression_gate.search.ilp import Ilp, best_spread, strengths_of
from compression_gate.search.space import Units, space_of

HARD = (0.0, 0.2, 0.5, 0.8, 1.0)
PLAIN = [{"method": "low_rank", "ratio": {"low": 0.2, "high": 0.8}}]


def made(**changes):
    given = {"space": space(), "seed": 0, "values": 2, "population": 8, "start": (start(space()),), "known": known()}
    return Ilp(Setup(**(given | changes)))


def stops_of(owner):
    return [stop for stop in walk_of(space(), known()).stops if stop.owner and stop.owner.name == owner]


def sums(stops, values):
    lost = sum(stop.curve.loss(value) for stop, value in zip(stops, values, strict=True))
    return lost, sum(stop.curve.bytes_saved(value) for stop, value in zip(stops, values, strict=True))


@pytest.mark.parametrize("owner", ["0.structured_pruning", "3.weight_only_quantization"])
@pytest.mark.parametrize("hard", HARD)
def test_no_other_spread_saves_as_much_and_loses_less(owner, hard):
    stops = stops_of(owner)
    found = best_spread(stops, hard)
    every = [sums(stops, values) for values in itertools.product(*map(strengths_of, stops))]
    least, most = (end(saved for _, saved in every) for end in (min, max))
    lost, saved = sums(stops, [found[stop.name] for stop in stops])
    wanted = least + hard * (most - least)
    assert saved >= wanted - 1
    assert lost == pytest.approx(min(lost for lost, saved in every if saved >= wanted - 1e-6), rel=1e-6)


def test_first_walk_goes_from_gentle_to_hard_with_the_chain_it_starts_from():
    searcher = made()
    genomes = [searcher.ask().genome for _ in range(9)][1:]
    stops = stops_of("0.structured_pruning")
    saved = [sums(stops, [genome[stop.name] for stop in stops])[1] for genome in genomes]
    assert saved == sorted(saved)
    assert saved[-1] > saved[0]
    assert all(genome["0.pick"] == "0.structured_pruning" for genome in genomes)
    assert all(genome["1.pick"] == "left out" for genome in genomes)


def test_every_proposal_has_a_step_with_strengths_by_layer():
    searcher = made(start=())
    owners = ("0.structured_pruning", "3.weight_only_quantization")
    for _ in range(24):
        genome = searcher.ask().genome
        assert genome["0.pick"] in owners or genome["3.pick"] in owners


NOTHING = [
    pytest.param(space_of(PLAIN, free_order=True, units=Units()), known(), "got none", id="one strength for all"),
    pytest.param(space(), None, "no figures", id="no table"),
]


@pytest.mark.parametrize(("found", "table", "said"), NOTHING)
def test_a_space_with_nothing_to_spread_is_refused_with_what_to_declare(found, table, said):
    with pytest.raises(ParamsError, match=rf"searcher: ilp .*by layer.*{said}.*by_layer"):
        made(space=found, known=table, start=())
