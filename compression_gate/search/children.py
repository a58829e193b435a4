"""Children of a genetic search: slots of either parent, with a few of the genes in use changed."""

from __future__ import annotations

import random
from typing import Any

from compression_gate.records.trial import Genome
from compression_gate.search.genes import Choice, Gene
from compression_gate.search.space import Slot, Space

CHANGED = 3.0  # genes in use of a child, on average
MOST_CHANGED = 0.5  # of them
DRIFTING = 0.5  # of the genes that are not in use: they cost nothing, and are new should they come into use
FAR = 0.5  # of the changes of a number: to anywhere; the others are small
NEAR = 0.15  # standard deviation of those, as a share of the range


class Children:
    """Makes genomes of genomes.

    A slot in which both parents hold the same step mixes their options; of one in which they differ all comes from one
    of them, since options that were chosen for a step say nothing of another.

    Args:
        coins: for every choice.
    """

    def __init__(self, space: Space, coins: random.Random) -> None:
        self.space, self.coins = space, coins
        self.names = {slot.name: [name for name in space.genes if belongs(name, slot)] for slot in space.slots}

    def of(self, one: Genome, other: Genome) -> Genome:
        """Return a child of two."""
        child = dict(one)
        for slot in self.space.slots:
            names, pick = self.names[slot.name], pick_of(slot)
            if one.get(pick) == other.get(pick):
                taken = [name for name in names if self.coins.random() < 0.5]
            else:
                taken = names if self.coins.random() < 0.5 else []
            child |= {name: other[name] for name in taken}
        return self.changed(child)

    def changed(self, genome: Genome) -> Genome:
        """Return a genome that differs in some of the genes that are in use."""
        used = self.used(genome)
        share = min(MOST_CHANGED, CHANGED / max(1, len(used)))
        return {
            name: self.moved(gene, genome[name])
            if self.coins.random() < (share if name in used else DRIFTING)
            else genome[name]
            for name, gene in self.space.genes.items()
        }

    def used(self, genome: Genome) -> set[str]:
        """Return the genes that have a part in the chain: every slot's pick, and all of the steps that are picked."""
        complete = self.space.complete(genome)
        found = {pick_of(slot) for slot in self.space.slots}
        for slot in self.space.slots:
            if (one := slot.picked(complete)) is not None:
                found |= {f"{slot.name}.place", *one.flat()}
        return found

    def moved(self, gene: Gene, value: Any) -> Any:
        """Return another value of a gene: any other choice; of a number one that is near, or any."""
        if isinstance(gene, Choice):
            return self.coins.choice([one for one in gene.values if one != value] or [value])
        if self.coins.random() < FAR:
            return gene.at(self.coins.random())
        return gene.at(min(max(gene.place(value) + self.coins.gauss(0, NEAR), 0.0), 1.0))


def pick_of(slot: Slot) -> str:
    """The gene that says which step a slot holds; there is none where it leaves no choice."""
    return f"{slot.name}.pick"


def belongs(name: str, slot: Slot) -> bool:
    """Whether a gene is one of a slot's."""
    return name.partition(".")[0] == slot.name
