"""Is a model slower than its limit? A sequential test on pairs of calls, taken in turns of several processes.

Time drifts by 20 to 60 % between runs on a shared machine, so nothing here compares with a stored figure: the two
models were called in turn in one process, and what is judged is the logarithm of the ratio of each pair. Consecutive
pairs make blocks of about 10 ms, and only the sign of a block counts: whether it lies over a line or under it. Signs
care neither for the shape of the noise nor for its bursts.

Two lines: from ``high`` on, the user's limit, an alarm is promised; up to ``low`` silence is. Between them either
answer is right.

Blocks of one process share its place in memory, which shifts them all alike: thousands of blocks from three processes
are three samples of that. So the processes, each one observation, must prove the same by themselves.

Source: the evidence is an e-value, the likelihood ratio of a coin with an unknown bias, uniform over (1/2, 1), against
a fair one. It may be looked at after every block, and after every further attempt, without correction (Ville 1939;
V. Vovk and R. Wang 2021, E-values: calibration, combination and applications, Annals of Statistics 49, section 2).
Student's t of the processes may not be looked at freely: it has looks of its own, and shares its error among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from compression_gate.gate.timing_zone import Zone

ALPHA = 0.005  # how often a decision may be wrong at its line
# Numbers of processes after which they are asked, each time with half the error of the time before: in all ALPHA at
# most (Lan and DeMets 1983, Biometrika 70, have the idea). Asking at ALPHA after every process would be wrong in 3.6 %.
LOOKS = (4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 113, 150, 200, 266, 354)
LEAST_TURNS = LOOKS[0]
OFFSETS_INSIDE = 3.0  # deviations of the mean offset of a turn that must fit into the zone of silence
MOST_LOG = 700.0  # beyond it no number holds the ratio
UNKNOWN_BIAS = 3.0  # what an e-value that must find the bias itself lags behind one that knows it [log]

APART = "the models' places in memory differ more between processes than the limit leaves room for"

Status = Literal["pass", "fail", "undecided"]
Turns = Sequence[np.ndarray]


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
    """Look after 4, 6, 8, 11 … processes, in the order in which they were taken, and stop at the first answer.

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
    counts = np.arange(1, len(blocks) + 1)
    failing = log_evidence(np.cumsum(blocks > math.log(zone.low)), counts)
    passing = log_evidence(np.cumsum(blocks < math.log(zone.high)), counts)
    needed, reason = math.log(1 / alpha), "time is up before either is proven"
    for look, seen in looks(turns):
        end = int(ends[len(seen) - 1])
        if passing[end - 1] >= needed:
            if p_of_processes(seen, zone.high, -1) <= alpha * share_of(look):
                return told("pass", seen, blocks[:end], 1.0, alpha)
            reason = APART
        elif failing[end - 1] >= needed:
            if np.median(blocks[:end]) < zone.middle:
                reason = "it is slower than the line of silence, and not proven within the limit"
            elif offsets_fit(seen, zone) and p_of_processes(seen, zone.low, 1) <= alpha * share_of(look):
                return told("fail", seen, blocks[:end], p_of(failing, turns, zone), alpha)
            else:
                reason = APART
    return told("undecided", turns, blocks, 1.0, alpha, reason)


def looks(turns: Turns) -> Iterator[tuple[int, Turns]]:
    """The looks that so many processes allow, each with those seen by then."""
    for look, count in enumerate(LOOKS):
        if count <= len(turns):
            yield look, turns[:count]


def share_of(look: int) -> float:
    """The share of the error that a look may use: a half, a quarter, and so on."""
    return 0.5 ** (look + 1)


def p_of(failing: np.ndarray, turns: Turns, zone: Zone) -> float:
    """The p-value of "not slower than the lower line" that holds at any look, over all that was seen.

    The larger of what the blocks say, one over their largest e-value, and of what the processes say.
    """
    of_processes = min(p_of_processes(seen, zone.low, 1) / share_of(look) for look, seen in looks(turns))
    return max(math.exp(-max(float(failing.max()), 0.0)), min(of_processes, 1.0))


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


def p_of_processes(turns: Turns, line: float, side: int) -> float:
    """How likely processes that lie at the line would lie so far over (``side`` 1) or under it (-1).

    Source: Student's t of the turns' medians, each taken as one observation.
    """
    medians = np.array([np.median(turn) for turn in turns])
    distance = side * (float(medians.mean()) - math.log(line))
    error = float(medians.std(ddof=1)) / math.sqrt(len(medians))
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(special.stdtr(len(medians) - 1, -distance / error))


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


def control_alarms(control: Turns, turns: Turns, room: float, alpha: float = ALPHA) -> bool:
    """Whether a model timed against a copy of itself comes out slower or faster by more than ``room`` [log].

    Its blocks must say so, and its processes more than their places in memory explain: those differ as much as the
    processes of the pair, ``turns``, do, since there are few of its own.
    """
    if not control or len(turns) < LEAST_TURNS:
        return False
    blocks = np.concatenate(control)
    counts = np.arange(1, len(blocks) + 1)
    sides = [np.cumsum(side > room) for side in (blocks, -blocks)]
    if not any(bool((log_evidence(side, counts) >= math.log(2 / alpha)).any()) for side in sides):
        return False
    deviation = float(np.std([np.median(turn) for turn in turns], ddof=1))
    beyond = abs(float(np.mean([np.median(turn) for turn in control]))) - room
    return beyond >= float(special.stdtrit(len(turns) - 1, 1 - alpha / 2)) * deviation / math.sqrt(len(control))


def blocks_needed(spread: float, zone: Zone, alpha: float = ALPHA) -> int:
    """About how many blocks a decision takes where blocks scatter by ``spread`` [log] around one of the lines.

    From the information that a sign carries about the other line, and what not knowing the bias costs.
    """
    distance = math.log(zone.high) - math.log(zone.low)
    share = float(special.ndtr(distance / max(spread, 1e-9)))
    gain = math.log(2) + sum(part * math.log(part) for part in (share, 1 - share) if part > 0)
    return math.ceil((math.log(1 / alpha) + UNKNOWN_BIAS) / max(gain, 1e-9))
