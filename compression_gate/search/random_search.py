"""`random`: the control that everything else has to beat."""

from __future__ import annotations

import random

from compression_gate.search.base import START, Proposal, Setup
from compression_gate.search.objective import Score


class Random:
    """Every value of every gene equally likely, whatever was seen before."""

    def __init__(self, setup: Setup) -> None:
        self.space, self.coins = setup.space, random.Random(setup.seed)  # noqa: S311  # coins, not secrets
        self.start = list(setup.start)

    def ask(self) -> Proposal:
        """Return a genome of pure chance, those to start with first."""
        if self.start:
            return Proposal(genome=self.start.pop(0), origin=START)
        return Proposal(genome=self.space.sample(self.coins), origin="random")

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Learn nothing."""
