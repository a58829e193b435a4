"""What a searcher and an executor are: two contracts that know nothing of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from compression_gate.records.trial import Answer, Genome
from compression_gate.records.trial import Request as Request  # what an executor takes
from compression_gate.search.descriptors import Knowledge
from compression_gate.search.objective import Score
from compression_gate.search.space import Space

START = "start"  # the origin of what a searcher begins with


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A genome that a searcher wants to know about.

    Args:
        origin: what part of the searcher it came from, for the table.
    """

    genome: Genome
    origin: str


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a searcher is made with.

    Args:
        values: how many numbers a score has.
        population: how many proposals make one generation.
        start: genomes worth asking about first.
        known: what was measured of the layers; None where nothing was.
    """

    space: Space
    seed: int
    values: int
    population: int
    start: Sequence[Genome] = ()
    known: Knowledge | None = None


class Searcher(Protocol):
    """Proposes genomes and learns from what became of them; made from a :class:`Setup`.

    It asks nobody, reads no clock and throws its own coins, so that the same setup and the same answers in the same
    order give the same proposals: a journal that is replayed puts it back to where it was.
    """

    def ask(self) -> Proposal:
        """Return the next proposal; answers to earlier ones may still be open."""

    def tell(self, proposal: Proposal, score: Score) -> None:
        """Learn what became of a proposal; each is told once."""


class Executor(Protocol):
    """Carries trials out, some at a time, somewhere."""

    @property
    def free(self) -> int:
        """How many more requests would be begun at once."""

    def submit(self, request: Request) -> None:
        """Begin a trial; it may wait while others run."""

    def finished(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """Wait until at least one trial has ended, or the time is up; return those that did, by number.

        A trial that crashed, hung or took too much memory has ended as well, with its reason.
        """

    def close(self) -> None:
        """End everything that runs; nothing is left behind."""
