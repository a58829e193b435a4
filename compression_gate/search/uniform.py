"""`uniform`: the control that a user without a search would be: one strength for everything, turned up step by step."""

from __future__ import annotations

import random

from compression_gate.records.trial import Genome
from compression_gate.search.base import START, Proposal, Setup
from compression_gate.search.genes import Choice, Gene
from compression_gate.search.objective import Score

GOLDEN = 0.6180339887498949


class Uniform:
    """Every number of a chain at the same place of its range: all gentle, all middling, all hard.

    Places follow a sequence that covers [0, 1) evenly however long it goes on (multiples of the golden ratio); which
    steps are in the chain, and what has no order, is left to chance.
    """

    def __init__(self, setup: Setup) -> None:
        self.space, self.coins = setup.space, random.Random(setup.seed)  # noqa: S311  # coins, not secrets
        self.start, self.place = list(setup.start), self.coins.random()

    def ask(self) -> Proposal:
        """Return the next strength."""
        if self.start:
            return Proposal(genome=self.start.pop(0), origin=START)
        self.place = (self.place + GOLDEN) % 1
        genome: Genome = {name: self.value(name, gene) for name, gene in self.space.genes.items()}
        return Proposal(genome=genome, origin=f"uniform {self.place:.2f}")

    def value(self, name: str, gene: Gene) -> object:
        """The gene's value at the place that all share; chance for what has no order, and for the order of steps."""
        return gene.at(self.coins.random() if isinstance(gene, Choice) or name.endswith(".place") else self.place)

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Learn nothing."""
