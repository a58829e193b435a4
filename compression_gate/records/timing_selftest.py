"""What `selftest --timing` finds: single decisions, kept as they are made, and the rates that follow from them."""

from __future__ import annotations

from typing import Literal

from compression_gate.records.base import Record

Size = Literal["small", "large"]
NOT_MEASURED = 4


class TimingCase(Record):
    """A kind of decision: what is timed, how much slower the candidate was made, and under which load.

    Args:
        size: ``small``: under 1 ms a call; ``large``: 10 to 30 ms.
        slowed: by which share the candidate takes longer, at least; 0 for the very same model.
        limit: by which share it may.
        load: how many busy processes the harness ran beside.
    """

    runtime: str
    size: Size
    slowed: float
    limit: float
    load: int


class TimingDecision(Record):
    """One live decision.

    Args:
        status: ``pass``, ``fail``, ``undecided``, or ``untrusted`` where the control alarmed or nothing was measured.
        ratio: as measured. seconds: of sampling; whole_s: with the start of the process and its imports.
        load_average: of the machine, when it ended. blocks, control_blocks: of every turn.
        reason: why nothing was measured.
    """

    case: TimingCase
    status: str
    ratio: float | None
    seconds: float
    whole_s: float
    pairs: int
    turns: int
    load_average: float | None = None
    blocks: tuple[tuple[float, ...], ...] = ()
    control_blocks: tuple[tuple[float, ...], ...] = ()
    reason: str | None = None


class TimingRate(Record):
    """All decisions of one kind.

    Args:
        wrong: how often it failed the same model, or passed one slower than the limit. low, high: exact one-sided 99 %
            bounds of that rate.
        missed: how often it did not fail a slowed model, for want of an answer too; None for the same model.
            missed_low, missed_high: bounds of that rate.
        claim, missed_claim: what the rates are at most.
        median_ratio: over the decisions, what the slowed model really came to.
        load_average: of the machine, the median over the decisions. whole_s: the mean with imports.
        reasons: each reason for which nothing was measured, once.
    """

    case: TimingCase
    n: int
    wrong: int
    undecided: int
    untrusted: int
    low: float
    high: float
    claim: float
    missed: int | None
    missed_low: float
    missed_high: float
    missed_claim: float
    median_ratio: float | None
    mean_s: float | None
    p95_s: float | None
    whole_s: float | None = None
    load_average: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """False only where even the lower bound of a rate exceeds its claim."""
        return self.low <= self.claim and (self.missed is None or self.missed_low <= self.missed_claim)


class TimingSelfTest(Record):
    """All rates, live ones first, then those of recorded traces replayed."""

    environment: dict[str, str]
    live: tuple[TimingRate, ...]
    replayed: tuple[TimingRate, ...] = ()
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 where every rate held, 1 where one did not, 4 where a live one has no decision to speak of."""
        if not all(rate.n for rate in self.live):
            return NOT_MEASURED
        return 0 if all(rate.held for rate in (*self.live, *self.replayed)) else 1
