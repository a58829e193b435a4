"""Is a model slower than its limit? A sequential test on pairs of calls that may be looked at after every block.

Time drifts by 20 to 60 % between runs on a shared machine, so nothing here compares with a stored figure: the two
models were called in turn in one process, and what is judged is the logarithm of the ratio of each pair. Consecutive
pairs make blocks of about 10 ms, and only the sign of a block counts: whether it lies over a line or under it. Signs
care neither for the shape of the noise nor for its bursts.

Two lines: from ``high`` on, the user's limit, an alarm is promised; up to ``low`` silence is. Between them either
answer is right.

Source: the evidence is an e-value, the likelihood ratio of a coin with an unknown bias, uniform over (1/2, 1), against
a fair one. It may be looked at after every block, and after every further attempt, without correction (Ville 1939;
V. Vovk and R. Wang 2021, E-values: calibration, combination and applications, Annals of Statistics 49, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

ALPHA = 0.005  # how often a decision may be wrong at its line
LEAST_TURNS = 3
OFFSETS_INSIDE = 3.0  # deviations of the mean offset of a turn that must fit into the zone of silence
MOST_LOG = 700.0  # beyond it no number holds the ratio
UNKNOWN_BIAS = 3.0  # what an e-value that must find the bias itself lags behind one that knows it [log]
WIDE, SILENT, SILENT_SHARE, EVEN = 0.05, 0.02, 0.4, 0.015

Status = Literal["pass", "fail", "undecided"]
Turns = Sequence[np.ndarray]


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


def log_evidence(over: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Logarithm of the e-value that signs fall on one side more often than on the other.

    Args:
        over: how many did. of: of how many, one number a look.

    ``2ⁿ · 2 ∫ p^k (1 − p)^(n − k) dp`` over (1/2, 1), by the incomplete beta function.
    """
    k, n = np.asarray(over, dtype=np.float64), np.asarray(of, dtype=np.float64)
    with np.errstate(divide="ignore"):
        tail = np.log(special.betainc(n - k + 1, k + 1, 0.5))
    return np.asarray((n + 1) * math.log(2) + special.betaln(k + 1, n - k + 1) + tail)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What pairs prove.

    Args:
        status: ``pass``: faster than the limit is proven; ``fail``: slower than the lower line is; else ``undecided``.
        ratio: of the times, candidate over the other; interval: the sign interval that matches the decision.
        p_value: of "not slower than the lower line", valid at any look; blocks: how many were looked at.
        reason: why nothing is decided, in a clause.
    """

    status: Status
    ratio: float
    interval: tuple[float, float]
    p_value: float
    blocks: int
    turns: int
    reason: str = ""


def decide(turns: Turns, zone: Zone, alpha: float = ALPHA) -> Decision:
    """Look after every block, in the order in which they were taken, and stop at the first answer.

    Args:
        turns: for each process the medians of its blocks, logarithms of candidate over other.
        zone: the two lines. alpha: how often either answer may be wrong at its line.

    What was decided at a look stays decided: further turns cannot take it back.
    """
    blocks = np.concatenate(turns) if turns else np.empty(0)
    if len(turns) < LEAST_TURNS:
        return told(
            "undecided", turns, blocks, 1.0, alpha, f"{LEAST_TURNS} processes are needed, {len(turns)} were timed"
        )
    ends = np.cumsum([len(turn) for turn in turns])
    looks = np.arange(1, len(blocks) + 1)
    failing = log_evidence(np.cumsum(blocks > math.log(zone.low)), looks)
    passing = log_evidence(np.cumsum(blocks < math.log(zone.high)), looks)
    needed, reason = math.log(1 / alpha), "time is up before either is proven"
    # Placement differs between processes: before so many turns nobody knows by how much.
    first = int(ends[LEAST_TURNS - 1]) - 1
    open_looks = np.flatnonzero(((failing >= needed) | (passing >= needed)) & (looks > first))
    apart = "the models' places in memory differ more between processes than the limit leaves room for"
    for look in open_looks.tolist():
        seen = turns[: 1 + int(np.searchsorted(ends, look + 1))]
        if passing[look] >= needed:
            if processes_agree(seen, zone.high, -1, alpha):
                return told("pass", seen, blocks[: look + 1], 1.0, alpha)
            reason = apart
        elif np.median(blocks[: look + 1]) >= zone.middle:
            if offsets_fit(seen, zone) and processes_agree(seen, zone.low, 1, alpha):
                return told("fail", seen, blocks[: look + 1], p_of(failing), alpha)
            reason = apart
        else:
            reason = "it is slower than the line of silence, and not proven within the limit"
    return told("undecided", turns, blocks, 1.0, alpha, reason)


def p_of(evidence: np.ndarray) -> float:
    """The p-value that holds at any look: one over the largest e-value of all that was seen."""
    return math.exp(-max(float(evidence.max()), 0.0))


def told(status: Status, turns: Turns, blocks: np.ndarray, p_value: float, alpha: float, reason: str = "") -> Decision:
    """Put an answer together from what had been seen by then."""
    low, high = sign_interval(blocks, alpha)
    return Decision(
        status=status,
        ratio=math.exp(float(np.median(blocks))) if len(blocks) else math.nan,
        interval=(math.exp(low), math.exp(high)),
        p_value=p_value,
        blocks=len(blocks),
        turns=len(turns),
        reason=reason,
    )


def offsets_fit(turns: Turns, zone: Zone) -> bool:
    """Whether the mean offset of a turn is known well enough to stay inside the zone of silence."""
    medians = np.array([np.median(turn) for turn in turns])
    return bool(zone.room >= OFFSETS_INSIDE * medians.std(ddof=1) / math.sqrt(len(turns)))


def processes_agree(turns: Turns, line: float, side: int, alpha: float) -> bool:
    """Whether the turns, each taken as one observation, lie over a line (``side`` 1) or under it (-1) by themselves.

    Blocks of one process share its place in memory: thousands of them are no more than one sample of that. Source:
    Student's t of the turns' medians, at the same error.
    """
    medians = np.array([np.median(turn) for turn in turns])
    distance = side * (float(medians.mean()) - math.log(line))
    error = float(medians.std(ddof=1)) / math.sqrt(len(medians))
    return distance >= float(special.stdtrit(len(medians) - 1, 1 - alpha)) * error


def sign_interval(blocks: np.ndarray, alpha: float) -> tuple[float, float]:
    """The interval whose ends the evidence just proves the median to lie inside of; ±∞ where there are too few blocks.

    An interval for a fixed number of blocks would not hold at a stop that the data chose.
    """
    n = len(blocks)
    counts = np.arange(n // 2, n + 1)
    enough = counts[log_evidence(counts, np.full(len(counts), n)) >= math.log(1 / alpha)]
    if not len(enough):
        return -math.inf, math.inf
    ordered, k = np.sort(blocks), int(enough[0])
    return float(ordered[n - k]), float(ordered[k - 1])


def summary(turns: Turns) -> tuple[float | None, tuple[float | None, float | None]]:
    """Ratio and interval of blocks, as a record holds them; None where there is none, or no end."""
    blocks = np.concatenate(turns) if turns else np.empty(0)
    if not len(blocks):
        return None, (None, None)
    low, high = (math.exp(end) if abs(end) < MOST_LOG else None for end in sign_interval(blocks, ALPHA))
    return math.exp(float(np.median(blocks))), (low, high)


def control_alarms(turns: Turns, room: float, alpha: float = ALPHA) -> bool:
    """Whether a model timed against a copy of itself comes out slower or faster by more than ``room`` [log]."""
    blocks = np.concatenate(turns) if turns else np.empty(0)
    looks = np.arange(1, len(blocks) + 1)
    sides = [np.cumsum(side > room) for side in (blocks, -blocks)]
    return any(bool((log_evidence(side, looks) >= math.log(2 / alpha)).any()) for side in sides)


def blocks_needed(spread: float, zone: Zone, alpha: float = ALPHA) -> int:
    """About how many blocks a decision takes where blocks scatter by ``spread`` [log] around one of the lines.

    From the information that a sign carries about the other line, and what not knowing the bias costs.
    """
    distance = math.log(zone.high) - math.log(zone.low)
    share = float(special.ndtr(distance / max(spread, 1e-9)))
    gain = math.log(2) + sum(part * math.log(part) for part in (share, 1 - share) if part > 0)
    return math.ceil((math.log(1 / alpha) + UNKNOWN_BIAS) / max(gain, 1e-9))
