"""`genetic`: NSGA-II over genomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compression_gate.search.base import Setup
from compression_gate.search.sampled import Sampled

if TYPE_CHECKING:
    from optuna.study import Study

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
        self.sampler = NSGAIISampler(population_size=setup.population, seed=setup.seed, mutation_prob=share)
        super().__init__(setup, self.sampler)

    def renewed(self) -> Study:
        """The newest generation and its parents: nothing else has a part in what is proposed from here on."""
        import optuna

        generation, parents = self.sampler._get_generation_key(), self.sampler._get_parent_cache_key_prefix()
        trials = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        newest = max((trial.system_attrs.get(generation, 0) for trial in trials), default=0)
        chosen = {
            name: set(numbers)
            for name, numbers in self.study._storage.get_study_system_attrs(self.study._study_id).items()
            if name.startswith(parents) and int(name.removeprefix(parents)) >= newest
        }
        needed = set().union(*chosen.values())
        kept = [one for one in trials if one.system_attrs.get(generation, 0) == newest or one._trial_id in needed]
        fresh = optuna.create_study(directions=self.study.directions, sampler=self.sampler)
        fresh.add_trials(kept)
        places = {old._trial_id: new._trial_id for old, new in zip(kept, fresh.get_trials(deepcopy=False), strict=True)}
        for name, numbers in chosen.items():
            fresh._storage.set_study_system_attr(fresh._study_id, name, [places[number] for number in sorted(numbers)])
        return fresh
