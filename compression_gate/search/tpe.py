"""`tpe`: tree-structured Parzen estimators over genomes."""

from __future__ import annotations

from compression_gate.search.base import Setup
from compression_gate.search.sampled import Sampled


class TreeParzen(Sampled):
    """A model of what the better trials have in common against the rest, all genes together.

    Source: J. Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011, §4; of several objectives, Y. Ozaki
    et al., Multiobjective Tree-Structured Parzen Estimator, 2022; optuna's ``TPESampler``.
    """

    origin = "tpe"

    def __init__(self, setup: Setup) -> None:
        from optuna.samplers import TPESampler

        sampler = TPESampler(
            seed=setup.seed,
            multivariate=True,
            n_startup_trials=setup.population,
            constant_liar=True,
        )
        super().__init__(setup, sampler)
