"""`genetic`: NSGA-II over genomes."""

from __future__ import annotations

from compression_gate.search.base import Setup
from compression_gate.search.sampled import Sampled


class Genetic(Sampled):
    """Non-dominated sorting with crowding, broken limits counting more than any objective.

    Source: K. Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002, §III and §VI (constrained
    domination); optuna's ``NSGAIISampler``.
    """

    origin = "genetic"

    def __init__(self, setup: Setup) -> None:
        from optuna.samplers import NSGAIISampler

        sampler = NSGAIISampler(population_size=setup.population, seed=setup.seed)
        super().__init__(setup, sampler)
