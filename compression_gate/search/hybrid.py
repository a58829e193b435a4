"""`hybrid`: a genetic population proposes chains, a policy tunes the strengths of its best, results go back to both."""

from __future__ import annotations

import random

from compression_gate.records.trial import Genome
from compression_gate.search.base import Proposal, Setup
from compression_gate.search.descriptors import Stop
from compression_gate.search.genetic import Genetic
from compression_gate.search.objective import Score
from compression_gate.search.policy import Policy
from compression_gate.search.proxy import order_of
from compression_gate.search.sampled import encoded


class Hybrid:
    """Every second proposal is the population's: picks, order and strengths by crossover and mutation.

    The others take a chain from the elite, with whatever has no strength, and let the policy settle its strengths. The
    population gets such a genome as if it were its own child; the policy learns from all trials, whoever proposed them.
    """

    def __init__(self, setup: Setup) -> None:
        self.population = Genetic(setup)
        self.policy = Policy(setup.space, setup.values, setup.seed, setup.known)
        self.size = setup.population
        self.coins = random.Random(setup.seed)  # noqa: S311  # coins, not secrets
        self.asked = 0
        self.elite: list[tuple[Genome, Score]] = []

    def ask(self) -> Proposal:
        """Return a chain of the population, or one of its elite with other strengths."""
        self.asked += 1
        if self.population.waiting > 0 or self.asked % 2 or not self.elite:
            return self.population.ask()
        tunable = [genome for genome, _ in self.elite if self.has_strengths(genome)]
        if not tunable:
            return self.population.ask()
        kept = self.coins.choice(tunable)
        genome = self.policy.propose(kept, keeps=has_no_strength)
        self.population.study.enqueue_trial(encoded(self.population.space.genes, genome))
        # the population's own copy: its numbers may differ from the policy's in the last digit
        return Proposal(genome=self.population.ask().genome, origin="policy")

    def has_strengths(self, genome: Genome) -> bool:
        """Whether there is anything to tune in a chain."""
        walk = self.policy.walk
        return any(used and stop.kind == "strength" for used, stop in zip(walk.used(genome), walk.stops, strict=True))

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Let both learn, and keep the best as the elite."""
        self.population.tell(proposal, score)
        self.policy.tell(proposal.genome, score)
        if score.complete:
            rows = [*self.elite, (proposal.genome, score)]
            order = order_of([one for _, one in rows])
            self.elite = [rows[index] for index in order[: self.size]]


def has_no_strength(stop: Stop) -> bool:
    """Whether a gene is what the population decides: what is in the chain, where, and choices without an order."""
    return stop.kind != "strength"
