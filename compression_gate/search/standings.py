"""What a search has come to, trial by trial: the best, the front, and the nearest miss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from compression_gate.records.search import Improvement
from compression_gate.records.trial import Trial
from compression_gate.search.base import START
from compression_gate.search.front import Row, extended
from compression_gate.search.objective import Goal, Score
from compression_gate.search.proxy import Correlation


@dataclass(kw_only=True)
class Standings:
    """What the trials that were told have come to.

    Args:
        full: share of the training examples that a trial has to have seen to be the best of anything.
        front: feasible candidates that nothing feasible dominates, each with its values.
        course: how the best became what it is.
        best: the feasible candidate to be written down; nearest: the one that breaks its limits least.
        start: the trial that the search began with: the steps in use, as near as the space has them.
        smallest: bytes of the smallest feasible candidate.
        closest: of each check, how far outside its limit the trial was that came closest to it; 0 where one was within.
        proxy: how well cheap trials told the quality of full ones; None before that was measured.
    """

    goal: Goal
    full: float
    told: int = 0
    failed: int = 0
    cached: int = 0
    feasible: int = 0
    front: list[Row[Trial]] = field(default_factory=list)
    course: list[Improvement] = field(default_factory=list)
    best: Trial | None = None
    nearest: Trial | None = None
    start: Trial | None = None
    smallest: float = math.inf
    closest: dict[str, float] = field(default_factory=dict)
    proxy: Correlation | None = None
    proxy_on: bool = False
    seconds: float = 0.0

    def weigh(self, trial: Trial, score: Score) -> None:
        """Count a trial, and keep it where it is the best of something."""
        self.told += 1
        self.failed += not score.complete
        self.cached += trial.cached
        if trial.share < self.full or not score.complete:
            return
        if trial.origin == START:
            self.start = self.start or trial
        for one in trial.answer.checks:
            self.closest[one.check] = min(one.in_the_way, self.closest.get(one.check, math.inf))
        if not trial.feasible:
            if self.nearest is None or score.violation < self.goal.score(self.nearest.answer).violation:
                self.nearest = trial
            return
        figures = trial.answer.figures
        self.feasible += 1
        self.smallest = min(self.smallest, figures["size_bytes"])
        values = tuple(self.goal.value(name, figures) for name in self.goal.objectives)
        self.front = extended(self.front, (values, trial))
        if self.best is None or self.preference(trial) < self.preference(self.best):
            self.best = trial
            lost, size = self.goal.quality_lost(figures), figures["size_bytes"]
            self.course.append(Improvement(told=self.told, at_s=self.seconds, size_bytes=size, quality_lost=lost))

    def preference(self, trial: Trial) -> tuple[bool, bool, bool, float, float]:
        """By what the recipe is chosen: proven on validation data before undecided, then as the params prefer.

        But better than a start that passes comes before as good, and that before worse, proven or not: nobody would
        adopt what saves nothing.
        """
        preferred = self.goal.preferred(trial.answer.figures)
        if self.start is None or not self.start.feasible:
            return (False, False, not trial.proven, *preferred)
        saved = self.goal.preferred(self.start.answer.figures)[0] - preferred[0]
        return (saved <= 0, saved < 0, not trial.proven, *preferred)
