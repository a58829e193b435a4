"""Latency of one model against another's: pairs of calls in one process, over several fresh processes.

The plain form of paired timing. The interval is over medians of blocks, since calls that follow each other share the
machine's mood, and is widened by the spread between processes, since where a model lies in memory changes its speed.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

from compression_gate.errors import MeasurementError
from compression_gate.gate.looks import confidence_of
from compression_gate.measurers.workers import run_worker
from compression_gate.records.base import finite
from compression_gate.records.metrics import PairedTiming
from compression_gate.runtimes.base import Arrays

WORKER = "compression_gate.measurers.latency_worker"
PROCEDURE = "interleaved pairs in fresh processes; sign interval of block medians, widened by turns"
CONFIDENCE = 0.95
TURNS = 6  # five or more keep the widening by the spread between turns under 1.2 of their deviation
LEAST_TURNS = 3
CONTROL_SHARE = 0.35
BLOCK_S = 0.01
START_S = 90.0  # a process that has not answered so long after its time was up is taken for hung
SHORTEST_TURN_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Samples of one process: ``cpu`` and ``wall`` ``(2, pairs)`` [s a call]; rows: the other model, the candidate.

    Each sample is the mean of ``repeats`` calls.
    """

    cpu: np.ndarray
    wall: np.ndarray
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How files are timed: in which runtime, with how many threads, on which inputs."""

    runtime: str
    threads: int
    inputs: Arrays
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A ratio of times, its interval, and what it stands on."""

    ratio: float
    low: float
    high: float
    wall_ratio: float
    pairs: int
    turns: int


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The raw samples of one attempt: turns of the pair, turns of the control, and why it did not come to its end."""

    turns: list[Turn] = field(default_factory=list)
    control: list[Turn] = field(default_factory=list)
    reason: str | None = None

    def alone(self, threads: int) -> Estimate | None:
        """What this attempt says for itself; nothing where it failed."""
        return estimate(self.turns, threads=threads) if self.reason is None else None


@dataclass(frozen=True, kw_only=True)
class PairedSamples:
    """A record, and the raw samples behind it: those of every attempt."""

    timing: PairedTiming
    turns: list[Turn] = field(default_factory=list)
    control: list[Turn] = field(default_factory=list)

    def arrays(self, role: str) -> dict[str, np.ndarray]:
        """The samples under the names they have in ``timings.npz``."""
        return {
            f"{role}_{part}_{number}_{clock}": getattr(turn, clock)
            for part, turns in (("pairs", self.turns), ("control", self.control))
            for number, turn in enumerate(turns)
            for clock in ("cpu", "wall")
        }


def measure_pair(other: Path, candidate: Path, setting: Setting, budget_s: float) -> PairedSamples:
    """Time ``candidate`` against ``other`` once, and make a record of it; see :func:`sample_pair`."""
    return together([sample_pair(other, candidate, setting, budget_s)], threads=setting.threads)


def sample_pair(other: Path, candidate: Path, setting: Setting, budget_s: float) -> Sampled:
    """Time ``candidate`` against ``other``, and ``other`` against a second copy of itself, within about ``budget_s``.

    A process that dies or hangs leaves the turns before it, and the reason.
    """
    seeds = random.Random(setting.seed)  # noqa: S311  # coins, not secrets
    turns: list[Turn] = []
    control: list[Turn] = []
    reason = None
    try:
        for turn in take_turns((other, other), setting, budget_s * CONTROL_SHARE, LEAST_TURNS, seeds):
            control.append(turn)
        for turn in take_turns((other, candidate), setting, budget_s * (1 - CONTROL_SHARE), TURNS, seeds):
            turns.append(turn)
    except MeasurementError as error:
        reason = str(error)
    return Sampled(turns=turns, control=control, reason=reason)


def together(attempts: Sequence[Sampled], *, threads: int) -> PairedSamples:
    """One record of all attempts' turns, the last attempt's failure included; the more attempts, the wider.

    The control keeps its confidence: a wider interval would make it blind to a clock that cannot be trusted.
    """
    turns = [turn for attempt in attempts for turn in attempt.turns]
    control = [turn for attempt in attempts for turn in attempt.control]
    reason, confidence = attempts[-1].reason, confidence_of(len(attempts))
    found = estimate(turns, threads=threads, confidence=confidence) if reason is None else None
    noise = estimate(control, threads=threads) if len(control) >= LEAST_TURNS else None
    timing = PairedTiming(
        procedure=PROCEDURE,
        clock="thread CPU time" if threads == 1 else "wall time",
        ratio=finite(found.ratio) if found else None,
        interval=(finite(found.low), finite(found.high)) if found else (None, None),
        confidence=confidence,
        pairs=sum(turn.cpu.shape[1] for turn in turns),
        turns=len(turns),
        control_ratio=finite(noise.ratio) if noise else None,
        control_interval=(finite(noise.low), finite(noise.high)) if noise else (None, None),
        wall_ratio=finite(found.wall_ratio) if found else None,
        reason=reason,
        attempts=len(attempts),
        attempt_ratios=tuple(finite(alone.ratio) if (alone := one.alone(threads)) else None for one in attempts),
    )
    return PairedSamples(timing=timing, turns=turns, control=control)


def take_turns(
    files: tuple[Path, Path], setting: Setting, budget_s: float, most: int, seeds: random.Random
) -> Iterator[Turn]:
    """Take turns until ``most`` are done or the time is up, but not fewer than the least that show their spread.

    What starting a process costs is learned from the first, and taken off the time the others measure for.
    """
    start, overhead = time.monotonic(), 0.0
    for done in range(most):
        left = budget_s - (time.monotonic() - start)
        share = left / (most - done) - overhead
        if done >= LEAST_TURNS and share < SHORTEST_TURN_S:
            return
        began = time.monotonic()
        # The first turn is short: it also finds out what a start costs.
        seconds = max(SHORTEST_TURN_S, min(share, 2.0) if done else min(share / 2, 1.0))
        turn = take_turn(files, setting, seconds, seeds.getrandbits(32))
        overhead = max(0.0, time.monotonic() - began - seconds)
        yield turn


def take_turn(files: tuple[Path, Path], setting: Setting, seconds: float, seed: int) -> Turn:
    """One fresh process.

    Raises:
        MeasurementError: it died, hung, or measured nothing.
    """
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        inputs, samples = Path(folder) / "inputs.npz", Path(folder) / "samples.npz"
        with inputs.open("wb") as file:
            np.savez(file, **setting.inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
        request = {
            "runtime": setting.runtime,
            "threads": setting.threads,
            "files": [str(path) for path in files],
            "inputs": str(inputs),
            "samples": str(samples),
            "seconds": seconds,
            "seed": seed,
        }
        what = f"timing {files[1]} against {files[0]}"
        run_worker(WORKER, request, threads=setting.threads, timeout_s=seconds + START_S, what=what)
        with np.load(samples) as file:
            turn = Turn(cpu=file["cpu"], wall=file["wall"], repeats=int(file["repeats"]))
    if not (np.isfinite(turn.cpu).all() and (turn.wall > 0).all()):
        raise MeasurementError(f"{what}: expected positive times, got {turn.wall.min()} s: the clock stepped")
    return turn


def estimate(turns: list[Turn], *, threads: int = 1, confidence: float = CONFIDENCE) -> Estimate:
    """The candidate's time over the other's: exp of the median of log ratios, with an interval.

    Source: the sign interval of a median is W. J. Conover, Practical Nonparametric Statistics, 1999, §3.2 (exact,
    from the binomial). Departing from it, both ends are moved out by t · SD(medians of turns) / √turns.
    """
    logs = [np.log(ratios(turn, threads)) for turn in turns]
    blocks = np.sort(np.concatenate([block_medians(log, turn) for log, turn in zip(logs, turns, strict=True)]))
    medians = np.array([np.median(log) for log in logs])
    centre = float(np.median(np.concatenate(logs)))
    spread = 0.0
    if len(turns) > 1:
        quantile = float(stats.t.ppf((1 + confidence) / 2, len(turns) - 1))
        spread = quantile * float(medians.std(ddof=1)) / math.sqrt(len(turns))
    low, high = sign_interval(blocks, confidence)
    wall = np.concatenate([np.log(turn.wall[1] / turn.wall[0]) for turn in turns])
    return Estimate(
        ratio=math.exp(centre),
        low=math.exp(min(low, centre) - spread),
        high=math.exp(max(high, centre) + spread),
        wall_ratio=math.exp(float(np.median(wall))),
        pairs=sum(len(log) for log in logs),
        turns=len(turns),
    )


def ratios(turn: Turn, threads: int) -> np.ndarray:
    """Time ratios of a turn's pairs, by the thread's CPU clock; by the wall where a pool of threads does the work."""
    times = turn.cpu if threads == 1 and (turn.cpu > 0).all() else turn.wall
    return np.asarray(times[1] / times[0])


def block_medians(logs: np.ndarray, turn: Turn) -> np.ndarray:
    """Medians of consecutive pairs that together take about 10 ms; a remainder joins the last block."""
    pair_s = float(np.median(turn.wall.sum(0))) * turn.repeats
    size = max(1, round(BLOCK_S / pair_s))
    count = max(1, len(logs) // size)
    return np.array([np.median(part) for part in np.array_split(logs, count)])


def sign_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Exact interval for the median of sorted ``values``: order statistics k and n + 1 − k; ±∞ if there are too few."""
    count = len(values)
    below = int(stats.binom.ppf((1 - confidence) / 2, count, 0.5))
    if stats.binom.cdf(below, count, 0.5) > (1 - confidence) / 2:
        below -= 1
    if below < 0:
        return -math.inf, math.inf
    return float(values[below]), float(values[count - 1 - below])
