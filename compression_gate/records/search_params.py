"""The section ``search`` of ``params.yaml``: where to look for a recipe, by what, and for how long."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compression_gate.records.section import Section

Objective = Literal["quality", "loss", "size_bytes", "latency", "macs"]
COSTS: tuple[Objective, ...] = ("size_bytes", "latency", "macs")
Share = Annotated[float, Field(gt=0, lt=1)]


class SearchBudget(Section):
    """When the search ends: whichever comes first.

    Args:
        trials: that were told to the searcher, cached ones among them; 100 where neither they nor minutes are given.
        minutes: of this run of the search, the trials that were running included.
        size_bytes: ends once a feasible candidate is as small.
    """

    trials: int | None = Field(100, ge=1)
    minutes: float | None = Field(None, gt=0)
    size_bytes: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def minutes_alone(cls, values: Any) -> Any:
        """Who gives minutes means these: the usual number of trials would end the search long before."""
        if isinstance(values, dict) and values.get("minutes") is not None:
            return {"trials": None, **values}
        return values

    @model_validator(mode="after")
    def has_an_end(self) -> SearchBudget:
        """A search that nothing ends is a mistake."""
        if self.trials is None and self.minutes is None:
            raise ValueError("expected trials or minutes, got neither: the search would never end")
        return self


class ProxyParams(Section):
    """Cheap trials first: chains that train see part of the training data, and only the better ones all of it.

    Args:
        train_share: of the training examples that a cheap trial sees; several, rising: one after the other.
        keep: share of a batch that goes on from each to the next, and from the last to a trial in full.
        least_correlation: with a smaller rank correlation the proxy is switched off.
    """

    train_share: Share | tuple[Share, ...] = 0.25
    keep: float = Field(0.5, gt=0, lt=1)
    least_correlation: float = Field(0.3, ge=-1, le=1)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the training examples, rung by rung."""
        return self.train_share if isinstance(self.train_share, tuple) else (self.train_share,)

    @model_validator(mode="after")
    def shares_rise(self) -> ProxyParams:
        """A rung that sees no more than the one before tells nothing new."""
        if not self.shares or any(after <= before for before, after in pairwise(self.shares)):
            raise ValueError(f"train_share: expected a share, or several that rise, got {list(self.shares)}")
        return self


class FitnessParams(Section):
    """The constants of the scalar objectives, see ``search.objective``.

    Args:
        weights: of objectives in the reward; 1 where none is given.
    """

    beta: float = Field(1.0, gt=0)
    trade_off: float = Field(1.0, ge=0)
    weights: dict[Objective, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    max_cost: float | None = Field(None, gt=0)


class SearchParams(Section):
    """How ``compression-gate search`` looks for a recipe.

    Args:
        name: of the file that is written, ``recipes/<name>.yaml``.
        space: slots, each a step or alternatives; derived from the model where left out.
        order: ``free``: steps come in any order that makes sense; ``written``: in that of the slots.
        objectives: what is minimised at once (multi-objective); quality is the loss of it.
        objective: ``pareto``, or a single number of the source articles: ``fitness`` or ``reward``.
        train_share: of the training examples that every trial sees; the recipe that is found is trained on all of them.
        prefer: which of the feasible candidates is written down as the recipe.
        workers: processes; None for as many as cores and memory allow.
        latency_budget_s: for pairs of calls, in each trial.
        trial_timeout_s, trial_memory_bytes: a trial that takes more is stopped and recorded as failed.
        address: of a Ray cluster; None for one on this machine.
    """

    name: str = Field("found", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    searcher: str = "genetic"
    seed: int = Field(0, ge=0)
    space: tuple[dict[str, Any], ...] | None = None
    order: Literal["free", "written"] = "free"
    objectives: tuple[Objective, ...] = Field(("quality", "size_bytes", "latency"), min_length=1)
    objective: Literal["pareto", "fitness", "reward"] = "pareto"
    prefer: Objective = "size_bytes"
    budget: SearchBudget = SearchBudget()
    population: int = Field(16, ge=2)
    train_share: float = Field(1.0, gt=0, le=1)
    synchronous: bool = True
    proxy: ProxyParams | None = None
    fitness: FitnessParams = FitnessParams()
    executor: str = "local"
    workers: int | None = Field(None, ge=1)
    address: str | None = None
    latency_budget_s: float = Field(3.0, gt=0)
    trial_timeout_s: float = Field(900.0, gt=0)
    trial_memory_bytes: int | None = Field(None, ge=1)
    policy: Literal["pull_request", "release"] = "pull_request"

    @model_validator(mode="after")
    def each_once(self) -> SearchParams:
        """An objective that stands twice would count twice."""
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives: expected each once, got {', '.join(self.objectives)}")
        return self

    @model_validator(mode="after")
    def cheap_is_cheaper(self) -> SearchParams:
        """A proxy that sees as much as the trial itself saves nothing."""
        if self.proxy is not None and (most := self.proxy.shares[-1]) >= self.train_share:
            raise ValueError(f"proxy.train_share: expected less than train_share, {self.train_share:g}, got {most:g}")
        return self

    @model_validator(mode="after")
    def cost_is_counted(self) -> SearchParams:
        """A limit on the cost is one on those among the objectives."""
        if self.fitness.max_cost is not None and not set(COSTS) & set(self.objectives):
            raise ValueError(
                f"fitness.max_cost: expected a cost among the objectives, one of {', '.join(COSTS)}, "
                f"got {', '.join(self.objectives)}"
            )
        return self

    @model_validator(mode="after")
    def weights_are_used(self) -> SearchParams:
        """A weight counts in the reward alone, and there of an objective."""
        weighed = self.fitness.weights
        if weighed and self.objective != "reward":
            raise ValueError(f"fitness.weights: expected objective: reward, which counts them, got {self.objective}")
        if unused := [one for one in weighed if one not in self.objectives]:
            raise ValueError(f"fitness.weights: expected some of {', '.join(self.objectives)}, got {', '.join(unused)}")
        return self
