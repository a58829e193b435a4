"""`hybrid`: a genetic population proposes chains, a policy tunes the strengths of its best, results go back to both."""

from __future__ import annotations

import dataclasses

from compression_gate.errors import ParamsError
from compression_gate.records.trial import Genome
from compression_gate.search.base import START, Proposal, Setup
from compression_gate.search.descriptors import Stop
from compression_gate.search.genetic import Genetic
from compression_gate.search.ilp import Ilp
from compression_gate.search.objective import Score
from compression_gate.search.policy import Policy


class Hybrid:
    """Every second proposal is the population's: picks, order and strengths by crossover and mutation.

    The others take a chain that is among the best under some preference, with whatever has no strength, and let the
    policy settle its strengths for that preference. The population gets such a genome as if it were its own child; the
    policy learns from all trials, whoever proposed them.

    Where layers have strengths of their own, half of the first generation are exact spreads by the table of
    sensitivities: what is known beforehand need not be found out.
    """

    def __init__(self, setup: Setup) -> None:
        self.population = Genetic(setup)
        self.policy = Policy(setup.space, setup.values, setup.seed, setup.known)
        self.asked = 0
        self.spreads = spreads_of(setup)

    def ask(self) -> Proposal:
        """Return a chain of the population, or one of its elite with other strengths."""
        self.asked += 1
        if self.population.waiting > 0 or self.asked % 2:
            return self.population.ask()
        if self.spreads:
            return self.as_child(self.spreads.pop(0), "table")
        preference = self.policy.preference()
        kept = self.policy.elite(preference) if len(self.policy.trials) else None
        if kept is None or not self.has_strengths(kept):
            return self.population.ask()
        return self.as_child(self.policy.propose(kept, has_no_strength, preference), "policy")

    def as_child(self, genome: Genome, origin: str) -> Proposal:
        """Give a genome to the population as if it were of its own making."""
        return dataclasses.replace(self.population.take(genome), origin=origin)

    def has_strengths(self, genome: Genome) -> bool:
        """Whether there is anything to tune in a chain."""
        walk = self.policy.walk
        return any(used and stop.kind == "strength" for used, stop in zip(walk.used(genome), walk.stops, strict=True))

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Let both learn."""
        self.population.tell(proposal, score)
        self.policy.tell(proposal.genome, score)


def spreads_of(setup: Setup) -> list[Genome]:
    """Spreads by the table from gentle to hard, over the chain that the search starts from; none without a table."""
    try:
        table = Ilp(dataclasses.replace(setup, start=setup.start[:1], population=max(2, setup.population // 2)))
    except ParamsError:  # nothing has strengths by layer: there is nothing to know
        return []
    proposals = [table.ask() for _ in range(table.budgets + len(table.start))]
    return [one.genome for one in proposals if one.origin != START]


def has_no_strength(stop: Stop) -> bool:
    """Whether a gene is what the population decides: what is in the chain, where, and choices without an order."""
    return stop.kind != "strength"
