"""`genetic`: NSGA-II over genomes."""

from __future__ import annotations

from compression_gate.search.base import Setup
from compression_gate.search.sampled import Sampled

MUTATED = 4.0  # genes of a child, on average: about half of them belong to steps that are left out and change nothing
MOST_MUTATED = 0.5


class Genetic(Sampled):
    """Non-dominated sorting with crowding, broken limits counting more than any objective.

    Source: K. Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002, §III and §VI (constrained
    domination); optuna's ``NSGAIISampler``.
    """

    origin = "genetic"

    def __init__(self, setup: Setup) -> None:
        from optuna.samplers import NSGAIISampler

        share = min(MOST_MUTATED, MUTATED / max(1, len(setup.space.genes)))
        sampler = NSGAIISampler(population_size=setup.population, seed=setup.seed, mutation_prob=share)
        super().__init__(setup, sampler)
