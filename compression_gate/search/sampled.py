"""Searchers that are optuna's: a study without storage, told in the order of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compression_gate.records.trial import Genome
from compression_gate.search.base import START, Proposal, Setup
from compression_gate.search.genes import Choice, Gene
from compression_gate.search.objective import Score

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial

VIOLATION = "violation"
RENEWED = 256  # trials after which a study is rid of the old ones: asking takes longer with each that it holds


class Sampled:
    """A study of one of optuna's samplers over the space's genes."""

    origin = "sampled"

    def __init__(self, setup: Setup, sampler: BaseSampler) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = setup.space
        self.distributions = {name: distribution(gene) for name, gene in setup.space.genes.items()}
        self.study = optuna.create_study(directions=["minimize"] * setup.values, sampler=sampler)
        self.open: list[tuple[Genome, Trial]] = []
        self.told = 0
        for genome in setup.start:
            self.study.enqueue_trial(encoded(setup.space.genes, genome))
        self.waiting = len(setup.start)

    def ask(self) -> Proposal:
        """Return what the sampler wants to know next."""
        trial = self.study.ask(self.distributions)
        genome = {name: decoded(gene, trial.params[name]) for name, gene in self.space.genes.items()}
        self.open.append((genome, trial))
        origin = START if self.waiting > 0 else self.origin
        self.waiting -= 1
        return Proposal(genome=genome, origin=origin)

    def take(self, genome: Genome) -> Proposal:
        """Propose a genome of somebody else's making; numbers may differ in the last digit."""
        self.study.enqueue_trial(encoded(self.space.genes, genome))
        return Sampled.ask(self)

    def withdraw(self) -> None:
        """Take the newest proposal back: nobody will be told what became of it."""
        from optuna.trial import TrialState

        _, trial = self.open.pop()
        trial.study.tell(trial, state=TrialState.FAIL)

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Pass the answer on; a trial without figures is one that failed."""
        from optuna.trial import TrialState

        place = next(index for index, (genome, _) in enumerate(self.open) if genome is proposal.genome)
        _, trial = self.open.pop(place)
        if score.complete:
            trial.set_constraint(VIOLATION, score.violation)
            frozen = trial.study.tell(trial, list(score.values))
            if trial.study is not self.study:  # it was renewed since this was asked
                self.study.add_trial(frozen)
        else:
            trial.study.tell(trial, state=TrialState.FAIL)
        self.told += 1
        if self.told % RENEWED == 0:
            self.study = self.renewed()

    def renewed(self) -> Study:
        """The study without what its sampler looks at no more; as it is, where that is all of it."""
        return self.study


def distribution(gene: Gene) -> BaseDistribution:
    """The gene as optuna knows it; of a choice the number of the value, since values may be lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(gene, Choice):
        return CategoricalDistribution(range(gene.size))
    if gene.whole:
        return IntDistribution(int(gene.low), int(gene.high), log=gene.log, step=int(gene.step or 1))
    return FloatDistribution(gene.low, gene.high, log=gene.log, step=gene.step)


def decoded(gene: Gene, value: Any) -> Any:
    """The gene's own value of what optuna proposes."""
    return gene.values[value] if isinstance(gene, Choice) else value


def encoded(genes: dict[str, Gene], genome: Genome) -> dict[str, Any]:
    """A genome as optuna names its values."""
    return {
        name: gene.values.index(genome[name]) if isinstance(gene, Choice) else genome[name]
        for name, gene in genes.items()
    }
