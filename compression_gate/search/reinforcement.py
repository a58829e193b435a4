"""`reinforcement`: an agent that walks through a chain, gene by gene and layer by layer."""

from __future__ import annotations

from compression_gate.search.base import START, Proposal, Setup
from compression_gate.search.objective import Score
from compression_gate.search.policy import Policy


class Reinforcement:
    """Every genome is one episode of the policy; the trial's score is its reward.

    Source: see :mod:`compression_gate.search.policy`.
    """

    def __init__(self, setup: Setup) -> None:
        self.policy = Policy(setup.space, setup.values, setup.seed, setup.known)
        self.start = list(setup.start)

    def ask(self) -> Proposal:
        """Return the end of a walk."""
        if self.start:
            return Proposal(genome=self.start.pop(0), origin=START)
        return Proposal(genome=self.policy.propose(), origin="policy")

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Learn from what became of it."""
        self.policy.tell(proposal.genome, score)
