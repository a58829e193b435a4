"""`ilp`: the control that trusts the table of sensitivities: the exact best spread, for budget after budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from compression_gate.errors import ParamsError
from compression_gate.methods.allocation import Choice, spread
from compression_gate.records.trial import Genome
from compression_gate.search.base import START, Proposal, Setup
from compression_gate.search.descriptors import Stop, settled, walk_of
from compression_gate.search.genes import Choice as Values
from compression_gate.search.objective import Score
from compression_gate.search.space import LEFT_OUT, Alternative
from compression_gate.search.uniform import GOLDEN

PLACES = 16  # of a range: strengths that the programme chooses from


class Ilp:
    """Walks from gentle to hard: every proposal loses least, by the table, of all spreads that save as much.

    Losses of layers are taken to add up, and so are the bytes they save. A walk has as many budgets as a generation has
    proposals. The first keeps the chain that the search starts from, with strengths by layer in all steps that may have
    them; on later ones what has no strength by layer is left to chance, and budgets lie between the earlier ones.

    Source: the programme is :func:`compression_gate.methods.allocation.spread`; K. Wang et al., HAQ, 2019, and
    Z. Yao et al., HAWQ-V3: Dyadic Neural Network Quantization, 2021, §3.4, spread bits so.

    Raises:
        ParamsError: no step has strengths by layer, or the table knows nothing of one that has.
    """

    def __init__(self, setup: Setup) -> None:
        self.space, self.coins = setup.space, random.Random(setup.seed)  # noqa: S311  # coins, not secrets
        self.start, self.budgets = list(setup.start), setup.population
        self.base = self.start[0] if self.start else None
        self.stops = walk_of(setup.space, setup.known).stops
        self.layered = layered_in(self.stops)
        self.asked = 0
        self.shift = self.coins.random()

    def ask(self) -> Proposal:
        """Return the best spread for the next budget."""
        if self.start:
            return Proposal(genome=self.start.pop(0), origin=START)
        walk, place = divmod(self.asked, self.budgets)
        self.asked += 1
        hard = min(1.0, (place + (self.shift + walk * GOLDEN) % 1) / (self.budgets - 1))
        genome = self.chain(walk)
        for owner, stops in self.layered:
            if self.is_taken(genome, owner):
                genome |= best_spread(stops, hard)
        return Proposal(genome=genome, origin=f"ilp {hard:.2f}")

    def chain(self, walk: int) -> Genome:
        """What has no strength by layer: as in the start, then by chance, always with some step that has them."""
        if walk == 0:
            genome = dict(self.base) if self.base is not None else self.gentle()
        else:
            genome = self.space.sample(self.coins)
        for slot in self.space.slots:
            own = [one.name for one in slot.alternatives if any(one is owner for owner, _ in self.layered)]
            if own and slot.pick.size > 1 and (walk == 0 or not self.any_taken(genome)):
                genome[f"{slot.name}.pick"] = self.coins.choice(own)
        return genome

    def gentle(self) -> Genome:
        """A chain of nothing, in the order in which the slots are written."""
        genome = settled(self.space.genes)
        for place, slot in enumerate(self.space.slots):
            if slot.optional:
                genome[f"{slot.name}.pick"] = LEFT_OUT
            if f"{slot.name}.place" in genome:
                genome[f"{slot.name}.place"] = (place + 0.5) / len(self.space.slots)
        return genome

    def is_taken(self, genome: Genome, owner: Alternative) -> bool:
        """Whether a genome takes a step."""
        genome = self.space.complete(genome)
        return any(slot.picked(genome) is owner for slot in self.space.slots)

    def any_taken(self, genome: Genome) -> bool:
        """Whether a genome takes any step with strengths by layer."""
        return any(self.is_taken(genome, owner) for owner, _ in self.layered)

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Learn nothing: the table says it all."""


def layered_in(stops: Sequence[Stop]) -> list[tuple[Alternative, list[Stop]]]:
    """Steps with strengths by layer, and their genes.

    Raises:
        ParamsError: there are none, or the table knows nothing of them.
    """
    found: dict[str, tuple[Alternative, list[Stop]]] = {}
    for stop in stops:
        if stop.owner is not None and stop.group is not None and stop.curve is not None:
            found.setdefault(stop.owner.name, (stop.owner, []))[1].append(stop)
    if found:
        return list(found.values())
    known = [stop.name for stop in stops if stop.group is not None]
    got = f"{known[0]}, of which the table of sensitivities has no figures" if known else "none"
    raise ParamsError(
        "params.yaml: search.searcher: ilp spreads strengths over layers: expected a step with an option by layer in "
        f"search.space, got {got}: declare one, such as `pruning_ratio: {{by_layer: {{low: 0.0, high: 0.8}}}}` or "
        "`bits: {by_layer: [8, 4, 2]}`, or take another searcher"
    )


def best_spread(stops: Sequence[Stop], hard: float) -> dict[str, Any]:
    """The strengths of least loss that save so much of what could be saved.

    Args:
        hard: 0 for what the gentlest strengths save, 1 for what the hardest do.
    """
    values = [strengths_of(stop) for stop in stops]
    rows = [
        [Choice(cost=-saved(stop, value), loss=lost(stop, value)) for value in some]
        for stop, some in zip(stops, values, strict=True)
    ]
    # the programme wants costs over 0: an offset of each group moves none of its strengths against the others
    offsets = [1 - min(choice.cost for choice in row) for row in rows]
    rows = [
        [Choice(cost=choice.cost + offset, loss=choice.loss) for choice in row]
        for row, offset in zip(rows, offsets, strict=True)
    ]
    gentlest = sum(max(choice.cost for choice in row) for row in rows)
    hardest = sum(min(choice.cost for choice in row) for row in rows)
    limit = gentlest + hard * (hardest - gentlest)
    picked = spread(rows, max(limit, hardest * (1 + 1e-9)))
    return {stop.name: some[index] for stop, some, index in zip(stops, values, picked, strict=True)}


def strengths_of(stop: Stop) -> list[Any]:
    """The strengths that a gene may have, or evenly spaced ones of a range."""
    if isinstance(stop.gene, Values):
        return list(stop.gene.values)
    return list(dict.fromkeys(stop.gene.at(place / PLACES) for place in range(PLACES + 1)))


def lost(stop: Stop, value: Any) -> float:
    """What a strength loses, by the table."""
    assert stop.curve is not None  # layered_in takes no others
    return stop.curve.loss(value)


def saved(stop: Stop, value: Any) -> float:
    """What a strength saves, by the table, in bytes."""
    assert stop.curve is not None
    return stop.curve.bytes_saved(value)
