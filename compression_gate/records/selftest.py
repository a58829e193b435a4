"""What `selftest` found: the gate's own numbers, each with its claim, and what became of every mutation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record


class Claim(Record):
    """One number of the gate.

    Args:
        text: what is claimed, in a sentence.
        direction, limit: the claim; ``limit`` is None where the figure is for information.
        observed: the rate found. low, high: its exact one-sided 99 % bounds; both are ``observed`` where the rate was
            enumerated, not sampled.
        n: replays, or cases that were enumerated. events: how many replays did what is counted; None if enumerated.
        note: what a reader should know of how it was found.
        held: false only where the whole of [low, high] is on the wrong side of the claim.
    """

    text: str
    direction: Literal["at most", "at least"] = "at most"
    limit: float | None = None
    observed: float
    low: float
    high: float
    n: int
    events: int | None = None
    note: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether the claim stands; a figure for information cannot fall."""
        if self.limit is None:
            return True
        return self.low <= self.limit if self.direction == "at most" else self.high >= self.limit


class Damage(Record):
    """One mutation: what was done to a finished run, and what the gate said.

    Args:
        name: which row of `selftest.mutations`. entry: the entry of the list in docs/gate.md that it is a case of.
        exit_code, expected_code: of the last word that was called. expected: what must be said; said: what was.
        stale_code: the code of `check` alone, before anything was judged anew; None where nothing was judged anew.
    """

    name: str
    entry: str
    exit_code: int
    expected_code: int
    expected: str
    said: str
    stale_code: int | None = None

    @property
    def held(self) -> bool:
        """Whether it ended as it must: non-zero, with its own reason."""
        return self.exit_code == self.expected_code != 0 and self.stale_code != 0 and self.expected in self.said


class SelfTest(Record):
    """All of it.

    Args:
        full: whether the replays were as many as the claims need to be proven, not only to be refuted.
        left_out: mutation -> what it needs that `selftest` has not: those are held by the project's own tests.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    full: bool
    claims: tuple[Claim, ...]
    mutations: tuple[Damage, ...]
    left_out: dict[str, str] = {}
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 where everything held, 1 where a claim or a mutation did not."""
        return 0 if all(one.held for one in self.claims) and all(one.held for one in self.mutations) else 1
