"""`genetic`: NSGA-II over genomes."""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

from compression_gate.errors import ParamsError
from compression_gate.records.recipe import recipe_digest
from compression_gate.records.trial import Genome
from compression_gate.search.base import Proposal, Setup
from compression_gate.search.children import Children
from compression_gate.search.front import dominates
from compression_gate.search.sampled import VIOLATION, Sampled, decoded, encoded

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

TRIES = 12  # at a chain that is new


class Genetic(Sampled):
    """Non-dominated sorting with crowding, broken limits counting more than any objective; no chain twice.

    Source: K. Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002, §III and §VI (constrained
    domination). Optuna's ``NSGAIISampler`` chooses who has children, :class:`Children` makes them.
    """

    origin = "genetic"

    def __init__(self, setup: Setup) -> None:
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import NSGAIISampler

        self.coins = random.Random(setup.seed)  # noqa: S311  # coins, not secrets
        self.children = Children(setup.space, self.coins)
        self.known: set[str | None] = {None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.sampler = NSGAIISampler(
                population_size=setup.population, seed=setup.seed, child_generation_strategy=self.child
            )
        super().__init__(setup, self.sampler)

    def child(self, study: Study, genes: Any, parents: list[FrozenTrial]) -> dict[str, Any]:
        """Return a child of two of the population, as optuna names its values."""
        pair = [self.winner(parents) for _ in range(2)]
        names = self.space.genes
        one, other = ({name: decoded(gene, trial.params[name]) for name, gene in names.items()} for trial in pair)
        return encoded(names, self.children.of(one, other))

    def winner(self, parents: list[FrozenTrial]) -> FrozenTrial:
        """Return the better one of two of the population."""
        one, other = self.coins.choice(parents), self.coins.choice(parents)
        broken = [trial.constraints[VIOLATION] for trial in (one, other)]
        if broken[0] != broken[1]:
            return one if broken[0] < broken[1] else other
        return other if dominates(other.values, one.values) else one

    def ask(self) -> Proposal:
        """Return a chain that was not proposed before, where some tries find one."""
        for _ in range(TRIES):
            proposal = self.entered(super().ask())
            if (chain := self.chain_of(proposal.genome)) not in self.known:
                self.known.add(chain)
                return proposal
            self.withdraw()
        return self.entered(super().ask())

    def take(self, genome: Genome) -> Proposal:
        """Propose a genome of somebody else's making; its chain is known from then on."""
        self.known.add(self.chain_of(genome))
        return self.entered(super().take(genome))

    def entered(self, proposal: Proposal) -> Proposal:
        """Make the newest trial one of the generation: optuna leaves out those whose genome it was given."""
        _, trial = self.open[-1]
        self.sampler.get_trial_generation(trial.study, trial.study._storage.get_trial(trial._trial_id))
        return proposal

    def chain_of(self, genome: Genome) -> str | None:
        """The digest of the chain that a genome stands for; None where a method refuses an option."""
        try:
            return recipe_digest(self.space.steps_of(genome))
        except ParamsError:
            return None

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
