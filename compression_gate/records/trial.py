"""What the search writes down: one line for each question and answer, and the front that came of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from compression_gate.records.base import Record
from compression_gate.records.params import Step

Genome = dict[str, Any]
SETTLED = ("pass", "waived")  # of a check: proven, or a person's decision
Verdict = Literal["pass", "undecided", "fail", "error"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A trial to be carried out.

    Args:
        steps: of the chain, as plain values.
        share: of the training examples.
    """

    number: int
    steps: tuple[dict[str, Any], ...]
    share: float = 1.0


class Distance(Record):
    """One check of the gate's judge, on validation data: how it ended, and how far outside its limit.

    Args:
        distance: beyond the limit, as a share of it; 0 within, None where nothing could be judged. Of a check that
            blocks because nothing is proven: of the worse end of its interval.
        blocking: whether it stops the candidate: by the policy, or since its figure is beyond a blocking rule's limit,
            proven or not.
    """

    rule: str
    slice: str | None = None
    status: str
    distance: float | None
    blocking: bool

    @property
    def check(self) -> str:
        """The rule, with the slice where it has one."""
        return f"{self.rule} {self.slice}" if self.slice else self.rule

    @property
    def in_the_way(self) -> float:
        """How far what blocks is outside its limit, as a share of it; 0 where nothing blocks."""
        if not self.blocking:
            return 0.0
        return math.inf if self.distance is None else self.distance


class Answer(Record):
    """What an executor returns of one trial.

    Args:
        figures: of the exported, reloaded file on the validation split; empty where the trial failed.
        verdict: of the gate's judge, under the search's policy.
        reason: why there are no figures: what the trial's process said, or why it was stopped.
        seconds: that the trial took, steps taken from the cache not counted.
        reused_steps: whose result was there from an earlier trial.
    """

    figures: dict[str, float] = {}
    checks: tuple[Distance, ...] = ()
    verdict: Verdict = "error"
    reason: str | None = None
    seconds: float = Field(0.0, ge=0)
    reused_steps: int = Field(0, ge=0)
    remarks: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there are figures."""
        return self.reason is None

    @property
    def violation(self) -> float:
        """How far the blocking rules that are broken are, together; infinite without figures."""
        if not self.complete:
            return float("inf")
        return sum(1.0 if one.distance is None else one.distance for one in self.checks if one.blocking)


class Trial(Record):
    """One candidate: its genome, the recipe it stands for, and what came of it.

    Args:
        number: in the order of asking.
        origin: who proposed it: ``genetic``, ``policy``, ``start``.
        share: of the training examples; 1 for a trial in full.
        cached: whether the same recipe had been answered before.
    """

    number: int = Field(ge=0)
    genome: Genome
    origin: str
    steps: tuple[Step, ...]
    recipe_digest: str
    share: float = Field(1.0, gt=0, le=1)
    answer: Answer
    cached: bool = False
    told_s: float = Field(0.0, ge=0)

    @property
    def feasible(self) -> bool:
        """Whether the gate would let it through, as far as validation data tell."""
        return self.answer.complete and self.answer.verdict == "pass" and self.answer.violation == 0

    @property
    def proven(self) -> bool:
        """Whether no check was left undecided on validation data."""
        return self.feasible and all(one.status in SETTLED for one in self.answer.checks)
