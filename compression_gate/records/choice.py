"""How a chain was chosen for a target: what was tried, in which order and why, and what came of it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from compression_gate.records.base import Record


class Tried(Record):
    """One rung of the ladder.

    Args:
        why: why it stands here.
        steps: of its recipe, every option filled in; empty where none could be made.
        epochs: that were trained for it.
        size_bytes, accuracy: of its exported file, on the validation split; None where it was not made.
        reason: why it was left out, or what it missed; None where it met the target.
    """

    name: str
    why: str
    steps: tuple[dict[str, Any], ...] = ()
    epochs: int = Field(0, ge=0)
    size_bytes: int | None = None
    compression_ratio: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    reason: str | None = None


class Choice(Record):
    """What stands in `reports/compression.json` where `compress.target` was set.

    Args:
        compression_ratio, max_accuracy_drop, max_epochs: what was asked for.
        facts: what the rules went by: layer types, runtime.
        reference_accuracy: of the reference's exported file on ``n`` examples of the validation split.
        chosen: the rung that met the target; its ``steps`` may be copied to `compress.steps`.
    """

    compression_ratio: float
    max_accuracy_drop: float
    max_epochs: int
    facts: tuple[str, ...]
    reference_accuracy: float
    n: int
    tried: tuple[Tried, ...]
    chosen: str
