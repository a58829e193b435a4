"""`tpe`: tree-structured Parzen estimators over genomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compression_gate.search.base import Setup
from compression_gate.search.sampled import Sampled

if TYPE_CHECKING:
    from optuna.study import Study

NEWEST, FRONT = 256, 64  # trials that are kept when a study is renewed


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

    def renewed(self) -> Study:
        """The newest trials and the newest of the front: with thousands, each question would take a second.

        Good trials are few (a tenth, 25 at most), and the rest are told apart as well by some hundred as by all.
        """
        import optuna

        trials = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        front = {one.number for one in self.study.best_trials[-FRONT:]}
        newest = {one.number for one in trials[-NEWEST:]}
        fresh = optuna.create_study(directions=self.study.directions, sampler=self.study.sampler)
        fresh.add_trials([one for one in trials if one.number in front | newest])
        return fresh
