"""`reports/search/search.json`: what a search came to, and by what."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from compression_gate.errors import MetricsError
from compression_gate.records.base import Record
from compression_gate.records.search_params import Objective
from compression_gate.records.trial import Genome, Trial

log = logging.getLogger("compression_gate")
RECIPES = "recipes"  # of a suite; a search's front lies in a folder of its name there
FRONT = "front.json"
CONTROLS = ("random", "uniform")  # searchers that learn nothing


class ProxyRecord(Record):
    """How well cheap trials told the quality of full ones.

    Args:
        correlation: Spearman's; None with too few pairs. low, high: an interval of 80 %.
        used: whether cheap trials still chose what is carried out when the search ended.
        points: what each pair lost in quality, cheap and full.
    """

    pairs: int
    points: tuple[tuple[float, float], ...] = ()
    correlation: float | None = None
    low: float = -1.0
    high: float = 1.0
    used: bool = False


class Placed(Record):
    """A candidate of the front.

    Args:
        values: its objectives, in the order of the record's.
        recipe: the file that holds its recipe, relative to the suite.
    """

    values: tuple[float, ...]
    trial: Trial
    recipe: str | None = None


class Improvement(Record):
    """A trial that was better than all before it.

    Args:
        told: how many trials had been told then. at_s: seconds of search.
    """

    told: int
    at_s: float
    size_bytes: float
    quality_lost: float


class Row(Record):
    """A trial as plots need it.

    Args:
        values: its objectives; empty where it failed.
    """

    number: int
    genome: Genome
    values: tuple[float, ...]
    feasible: bool
    full: bool


class Control(Record):
    """What a control came to in the same space.

    Args:
        trials: as many as both searches had. size_bytes: of the recipe that it would have written then; None for none.
    """

    name: str
    searcher: str
    trials: int
    size_bytes: float | None


class SearchRecord(Record):
    """What came of a search.

    Args:
        digest: of all that the search rests on.
        objectives: what the values of the front are: shares of the reference's cost, or the quality lost.
        metric: what quality is; better: 1 where more of it is better, -1 where less is.
        reference: figures of the reference as it ships, on the validation split.
        ended: why: the budget of trials or minutes, a size that was reached, or an interruption.
        prefer: by which objective the best was chosen of those that are feasible.
        start: the trial of the steps in use when the search began, or of the nearest chain that the space has; None
            where it has none.
        best: the feasible candidate that was written down; nearest: where there is none, the one that breaks its
            limits least.
        recipe: the file that was written for either, relative to the suite.
        unmet: checks that no trial passed, with how far outside its limit the closest was, as a share of it; None where
            it could not be judged.
        unanswered: rules that trials cannot answer; the gate asks them afterwards.
        course: every trial that was better than all before it, oldest first.
        space_digest: of the space that was declared, or derived.
        controls: what stored controls of the same space, rules and reference came to.
        rules_digest: of the rules that trials were judged by; a front is of use while they are the same.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    name: str
    searcher: str
    executor: str
    seed: int
    digest: str
    package_version: str
    objectives: tuple[str, ...]
    metric: str
    better: Literal[1, -1] = 1
    reference: dict[str, float]
    reference_digest: str
    trials: int
    failed: int
    cached: int
    feasible: int
    seconds: float
    ended: str
    proxy: ProxyRecord | None = None
    prefer: Objective = "size_bytes"
    start: Trial | None = None
    best: Trial | None = None
    nearest: Trial | None = None
    recipe: str | None = None
    front: tuple[Placed, ...] = ()
    unmet: dict[str, float | None] = {}
    unanswered: tuple[str, ...] = ()
    started_from: int = 0
    course: tuple[Improvement, ...] = ()
    rules_digest: str = ""
    space_digest: str = ""
    controls: tuple[Control, ...] = ()

    def size_after(self, trials: int) -> float | None:
        """Bytes of the recipe that would have been written after so many trials; None for none."""
        return next((one.size_bytes for one in reversed(self.course) if one.told <= trials), None)

    def beside(self, others: Iterable[SearchRecord]) -> SearchRecord:
        """The record with what the controls among other searches came to, at the trials that both had."""
        found = [one for one in others if one.searcher in CONTROLS and one.space_digest == self.space_digest]
        controls = (
            Control(name=one.name, searcher=one.searcher, trials=trials, size_bytes=one.size_after(trials))
            for one in found
            for trials in [min(self.trials, one.trials)]
        )
        return self.model_copy(update={"controls": tuple(controls)})

    @property
    def improves(self) -> bool:
        """Whether the best is better than the start by what is preferred; where the start does not pass it is."""
        if self.best is None or self.start is None or not self.start.feasible:
            return self.best is not None
        return self.preferred(self.best) < self.preferred(self.start)

    def preferred(self, trial: Trial) -> float:
        """A trial by what is preferred, to be made small."""
        if self.prefer == "quality":
            return self.quality_lost(trial)
        if self.prefer == "latency":
            return round(trial.answer.figures["latency_ratio"], 2)  # as trials are compared
        return trial.answer.figures[self.prefer]

    def quality_lost(self, trial: Trial) -> float:
        """By how much a trial's quality is worse than the reference's, in the metric's own unit."""
        return self.better * (self.reference[self.metric] - trial.answer.figures[self.metric])


def stored_searches(suite: Path) -> list[SearchRecord]:
    """The searches whose fronts are kept beside their recipes; a damaged one is named and left out."""
    found = []
    for path in sorted((suite / RECIPES).glob(f"*/{FRONT}")):
        try:
            found.append(SearchRecord.read(path))
        except MetricsError as error:
            log.warning("%s", error)
    return found
