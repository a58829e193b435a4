"""What `power` says of each rule."""

from __future__ import annotations

from compression_gate.records.base import Record


class Planned(Record):
    """One rule on one slice, before it is judged.

    Args:
        margin: the degradation allowed. n, discordance: of the examples; ``measured`` says whether the latter was.
        power: P(pass | no drop). minimum_detectable: the smallest drop that fails with probability 0.8.
        examples_needed, margin_needed: which would give a power of 0.8; None where no number does.
    """

    rule: str
    slice: str | None
    margin: float
    n: int
    discordance: float
    measured: bool
    power: float
    minimum_detectable: float
    examples_needed: int | None
    margin_needed: float


class PowerReport(Record):
    """Every rule that has a power to plan, and why the others have none. ``alpha`` is of each bound."""

    alpha: float
    rules: tuple[Planned, ...]
    unplanned: dict[str, str]
