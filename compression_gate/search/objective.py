"""What the search goes by: figures of a trial become numbers to be made small.

Source: the scalar objectives are those of the articles that this product began with: a fitness
1 / (1 + exp(β·(L + λ·C))) of the loss L and the cost C, a reward Σ wᵢ·max(0, σ(−β·lᵢ − λ·cᵢ)) over parts, and
C ≤ C_max as a hard constraint. With the sign of their listings both would reward loss; here β and λ are positive, so
that fitness and reward fall where loss or cost rise, and both are made large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from compression_gate.records.rules import direction_by
from compression_gate.records.search_params import COSTS, FitnessParams, Objective, SearchParams
from compression_gate.records.trial import Answer, Distance

LATENCY = "latency_ratio"
Weighted = tuple[float, float]  # a value, and what it weighs
MAX_COST = "fitness.max_cost"  # as a check beside the gate's rules
TOLD_APART = 2  # decimals: a few seconds of pairs do not tell less than a percent apart


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a searcher is told of a trial.

    Args:
        values: one for each objective, each to be made small; empty where the trial failed.
        violation: how far the blocking limits that are broken are, together; 0 where the gate would let it through.
    """

    values: tuple[float, ...]
    violation: float

    @property
    def complete(self) -> bool:
        """Whether there is anything to learn from it but that it failed."""
        return bool(self.values)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The objectives, and the reference's figures that they are held against.

    Args:
        metric: what quality is of this task: accuracy, rmse, or the scorer's first.
        better: 1 where more of it is better, -1 where less is.
        reference: figures of the reference's own file on the same examples.
        prefer: by which of the feasible candidates one is chosen; its figure is needed like an objective's.
        timed: whether trials are; those with fewer training data are not, and count as no faster than the reference.
    """

    objectives: tuple[Objective, ...]
    metric: str
    reference: Mapping[str, float]
    better: Literal[1, -1] = 1
    prefer: Objective = "size_bytes"
    kind: str = "pareto"
    constants: FitnessParams = field(default_factory=FitnessParams)
    timed: bool = True

    @classmethod
    def of(cls, params: SearchParams, metric: str, reference: Mapping[str, float], forms: Iterable[str] = ()) -> Goal:
        """The goal that the params name.

        Args:
            forms: of the limits on the metric, which say of a custom score which way it improves; else upwards.
        """
        return cls(
            objectives=params.objectives,
            metric=metric,
            reference=reference,
            better=direction_by(metric, forms) or 1,
            prefer=params.prefer,
            kind=params.objective,
            constants=params.fitness,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What each value of a score is."""
        return self.objectives if self.kind == "pareto" else (self.kind,)

    @property
    def needed(self) -> tuple[str, ...]:
        """The figures that a trial must have, and the reference too."""
        names = dict.fromkeys(self.figure_of(one) for one in ("quality", *self.objectives, self.prefer))
        return tuple(name for name in names if self.timed or name != LATENCY)

    def figure_of(self, objective: Objective) -> str:
        """The figure that an objective is made of."""
        return {"quality": self.metric, "latency": LATENCY}.get(objective, objective)

    @property
    def divisors(self) -> tuple[str, ...]:
        """Those of the reference's figures that others are held against as shares."""
        asked = (*self.objectives, self.prefer)
        return tuple(name for name in COSTS if name in asked and name != "latency")

    def value(self, objective: Objective, figures: Mapping[str, float]) -> float:
        """One objective of a trial, to be made small: a loss of quality, or a share of the reference's cost."""
        if objective == "quality":
            return self.quality_lost(figures)
        if objective == "loss":
            return figures["loss"]
        if objective == "latency":
            return round(figures[LATENCY], TOLD_APART) if self.timed else 1.0
        return figures[objective] / self.reference[objective]

    def quality_lost(self, figures: Mapping[str, float]) -> float:
        """By how much the task's metric is worse than the reference's, in its own unit."""
        return self.better * (self.reference[self.metric] - figures[self.metric])

    def preferred(self, figures: Mapping[str, float]) -> tuple[float, float]:
        """What feasible candidates are chosen by, to be made small: the cost that is preferred, then quality lost."""
        return self.value(self.prefer, figures), self.quality_lost(figures)

    def judged(self, answer: Answer) -> Answer:
        """The answer as the search sees it: failed where a needed figure lacks, the limit on cost a check."""
        if not answer.complete or any(one.rule == MAX_COST for one in answer.checks):
            return answer
        if lacking := [name for name in self.needed if name not in answer.figures]:
            reason = "; ".join((f"not measured: {', '.join(lacking)}", *answer.remarks))
            return answer.model_copy(update={"reason": reason, "verdict": "error"})
        most = self.constants.max_cost
        if most is None or (not self.timed and "latency" in self.objectives):
            return answer
        distance = max(0.0, self.cost([self.value(one, answer.figures) for one in self.objectives]) / most - 1)
        check = Distance(rule=MAX_COST, status="fail" if distance else "pass", distance=distance, blocking=distance > 0)
        verdict = "fail" if distance and answer.verdict in ("pass", "undecided") else answer.verdict
        return answer.model_copy(update={"checks": (*answer.checks, check), "verdict": verdict})

    def score(self, answer: Answer) -> Score:
        """What a searcher is told; a trial that lacks a figure that is minimised or chosen by is one that failed."""
        answer = self.judged(answer)
        if not answer.complete:
            return Score(values=(), violation=math.inf)
        values = tuple(self.value(one, answer.figures) for one in self.objectives)
        if self.kind != "pareto":
            values = (-self.scalar(values),)
        return Score(values=values, violation=answer.violation)

    def cost(self, values: Sequence[float]) -> float:
        """C: the mean of the costs among the objectives, each a share of the reference's."""
        costs = [value for one, value in zip(self.objectives, values, strict=True) if one in COSTS]
        return sum(costs) / len(costs) if costs else 0.0

    def scalar(self, values: Sequence[float]) -> float:
        """The fitness or the reward of a trial, larger being better."""
        losses: list[Weighted] = []
        costs: list[Weighted] = []
        for one, value in zip(self.objectives, values, strict=True):
            (costs if one in COSTS else losses).append((value, self.constants.weights.get(one, 1.0)))
        if self.kind == "fitness":
            return fitness(sum(loss for loss, _ in losses), self.cost(values), self.constants)
        return reward(losses or [(0.0, 1.0)], costs or [(0.0, 1.0)], self.constants)


def fitness(loss: float, cost: float, constants: FitnessParams) -> float:
    """1 / (1 + exp(β·(L + λ·C))), in (0, 0.5] for losses and costs of zero or more."""
    return sigmoid(-constants.beta * (loss + constants.trade_off * cost))


def reward(losses: Sequence[Weighted], costs: Sequence[Weighted], constants: FitnessParams) -> float:
    """Σ wᵢ·max(0, σ(−β·lᵢ − λ·cᵢ)) over every pair of a loss and a cost, each a value with its weight.

    A pair weighs the product of both, and all pairs together 1.
    """
    pairs = [
        (one * other, max(0.0, sigmoid(-constants.beta * loss - constants.trade_off * cost)))
        for loss, one in losses
        for cost, other in costs
    ]
    return sum(weight * part for weight, part in pairs) / sum(weight for weight, _ in pairs)


def sigmoid(value: float) -> float:
    """1 / (1 + exp(−x)), without overflow at either end."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
