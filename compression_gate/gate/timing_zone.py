"""The two lines around a limit on a ratio of times: where an alarm is promised, and up to where silence is."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDE, SILENT, SILENT_SHARE, EVEN = 0.05, 0.02, 0.4, 0.015


@dataclass(frozen=True, kw_only=True)
class Zone:
    """The two lines, as ratios of times, and how much placement may shift a turn [log]."""

    low: float
    high: float
    room: float

    @property
    def middle(self) -> float:
        """Half way between the lines [log]."""
        return (math.log(self.low) + math.log(self.high)) / 2


def zone_of(limit: float) -> Zone:
    """The zone of a limit on the ratio of times: 1.05 where the candidate may be 5 % slower, 0.5 where it must halve.

    Raises:
        ValueError: a ratio that no time has.
    """
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"limit: expected a ratio of times over zero, got {limit}")
    excess = limit - 1
    if abs(excess) < 1e-9:
        return Zone(low=1 - EVEN, high=1 + EVEN, room=EVEN)
    if excess < 0:
        # As far under the limit as silence is under a limit of 5 %.
        return Zone(low=limit * (1 + SILENT) / (1 + WIDE), high=limit, room=math.log1p(SILENT))
    silent = SILENT if excess >= WIDE else SILENT_SHARE * excess
    return Zone(low=1 + silent, high=limit, room=math.log1p(silent))
