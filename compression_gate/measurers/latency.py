"""Latency of one model against another's: pairs of calls in one process, over several fresh processes.

`latency_worker` takes the samples, `gate.timing_test` decides; here is what lies between: turns, blocks, one record.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from compression_gate.errors import MeasurementError
from compression_gate.gate.timing_test import ALPHA, summary
from compression_gate.gate.timing_zone import Zone, zone_of
from compression_gate.measurers.children import FORKS
from compression_gate.measurers.workers import run_worker
from compression_gate.records.base import finite
from compression_gate.records.metrics import PairedTiming
from compression_gate.runtimes.base import Arrays

WORKER = "compression_gate.measurers.latency_worker"
TESTED = "sequential sign test of block medians and t-test of turns"
FORKED = f"interleaved pairs, each turn a fork; {TESTED}"
FRESH = f"interleaved pairs, each turn a fresh process; {TESTED}"
PROCEDURE = FORKED if FORKS else FRESH
PROCESSES = "fresh processes in the order A B B A, sequential sign test of their medians"
BLOCK_S = 0.01
WAITING = 0.05  # of the time that a pair works: beyond it something else had the core meanwhile
SILENT_S = 60.0  # a turn that takes so much longer than it should hangs
START_S = 90.0  # a process that has not answered so long after its time was up is taken for hung
USUAL_LIMIT = 1.05  # where no rule says what must be decided


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Samples of one process: ``cpu`` and ``wall`` ``(2, pairs)`` [s a call]; rows: the other model, the candidate.

    Args:
        repeats: each sample is the mean of so many calls.
        process_share: CPU time of the whole process over the thread's; over 1 where other threads work too.
    """

    cpu: np.ndarray
    wall: np.ndarray
    repeats: int = 1
    process_share: float = 1.0

    @classmethod
    def read(cls, path: Path) -> Turn:
        """Read one turn as the worker wrote it."""
        with np.load(path) as file:
            return cls(
                cpu=file["cpu"],
                wall=file["wall"],
                repeats=int(file["repeats"]),
                process_share=float(file["process_share"]),
            )

    @cached_property
    def logs(self) -> np.ndarray:
        """Logarithm of candidate over other, ``(pairs,)``."""
        return np.asarray(np.log(self.cpu[1] / self.cpu[0]))

    @cached_property
    def seen_share(self) -> float:
        """What part of a call the thread was seen to work: the median over all calls."""
        return float(np.median(self.cpu / self.wall))

    @cached_property
    def seen_apart(self) -> float:
        """By how much that part differs between the two sides of a pair: the median over pairs."""
        return float(np.median(np.diff(self.cpu / self.wall, axis=0)))

    @cached_property
    def interrupted(self) -> np.ndarray:
        """During which pairs something else ran on the core, ``(pairs,)``.

        The sum of both calls' waiting, which says nothing about which of the two is slower.
        """
        waiting, working = (self.wall - self.cpu).sum(0), self.cpu.sum(0)
        return np.asarray(waiting > WAITING * np.median(working))

    @cached_property
    def blocks(self) -> np.ndarray:
        """Medians of consecutive pairs that together take about 10 ms, an odd number; a rest joins the last.

        In a block with pairs that were interrupted and pairs that were not, the median is of those that were not: a
        call that finds its caches emptied takes longer by up to several times.
        """
        pair_s = float(np.median(self.wall.sum(0))) * self.repeats
        size = max(1, round(BLOCK_S / pair_s))
        size += (size + 1) % 2
        count = max(1, len(self.logs) // size)
        ends = np.arange(1, count) * size
        parts = zip(np.split(self.logs, ends), np.split(~self.interrupted, ends), strict=True)
        return np.array([np.median(logs[whole] if whole.any() else logs) for logs, whole in parts])


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How files are timed: in which runtime, with how many threads, on which inputs, and what is to be decided.

    Args:
        limits: ratios of times, each a limit that some rule sets; sampling stops once all are decided.
        alpha: how often a decision may be wrong at its line.
    """

    runtime: str
    threads: int
    inputs: Arrays
    seed: int = 0
    limits: tuple[float, ...] = (USUAL_LIMIT,)
    alpha: float = ALPHA

    @property
    def zones(self) -> list[Zone]:
        """The zones of the limits."""
        return [zone_of(limit) for limit in self.limits or (USUAL_LIMIT,)]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The raw samples of one attempt: turns of the pair, turns of the control, and why it did not come to its end.

    Args:
        procedure: how they were taken.
        needed_s: about how long it would have taken to decide, where the time was up before.
        sampling_s: how long it took, imports and reading files once not counted.
    """

    turns: list[Turn] = field(default_factory=list)
    control: list[Turn] = field(default_factory=list)
    reason: str | None = None
    procedure: str = PROCEDURE
    needed_s: float | None = None
    sampling_s: float | None = None


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
    return together([sample_pair(other, candidate, setting, budget_s)])


def sample_pair(other: Path, candidate: Path, setting: Setting, budget_s: float) -> Sampled:
    """Time ``candidate`` against ``other``, and ``other`` against a second copy of itself, until all is decided.

    ``budget_s`` seconds at most. A process that dies or hangs leaves the turns before it, and the reason.
    """
    coins = random.Random(setting.seed)  # noqa: S311  # coins, not secrets
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as name:
        folder = Path(name)
        with (folder / "inputs.npz").open("wb") as file:
            np.savez(file, **setting.inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
        request = {
            "runtime": setting.runtime,
            "threads": setting.threads,
            "files": [str(other), str(candidate)],
            "inputs": str(folder / "inputs.npz"),
            "folder": name,
            "zones": [asdict(zone) for zone in setting.zones],
            "alpha": setting.alpha,
            "budget_s": budget_s,
            "silent_s": SILENT_S,
            "procedure": PROCEDURE,
            "seed": coins.getrandbits(32),
        }
        what = f"timing {candidate} against {other}"
        reason = None
        try:
            run_worker(WORKER, request, threads=setting.threads, timeout_s=budget_s + START_S, what=what)
        except MeasurementError as error:
            reason = str(error)
        return read_samples(folder, what, reason)


def read_samples(folder: Path, what: str, reason: str | None) -> Sampled:
    """What the worker left: every turn that came to its end, in order, and what it says of the whole."""
    parts: dict[str, list[Turn]] = {"pairs": [], "control": []}
    for path in sorted(folder.glob("turn_*.npz")):
        turn = Turn.read(path)
        least = min(turn.cpu.min(), turn.wall.min())
        if not (np.isfinite(turn.cpu).all() and least > 0):
            reason = reason or f"{what}: expected positive times, got {least} s: a clock stepped"
            continue
        parts[path.stem.split("_")[2]].append(turn)
    summary = folder / "summary.json"
    told = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    return Sampled(
        turns=parts["pairs"],
        control=parts["control"],
        reason=reason or told.get("reason"),
        procedure=told.get("procedure", PROCEDURE),
        needed_s=told.get("needed_s"),
        sampling_s=told.get("sampling_s"),
    )


def together(attempts: Sequence[Sampled]) -> PairedSamples:
    """One record of all attempts' turns, in the order in which they were taken; the last attempt's failure included.

    The test may be looked at as often as one likes, so that further attempts need no correction: they only add blocks.
    """
    turns = [turn for attempt in attempts for turn in attempt.turns]
    control = [turn for attempt in attempts for turn in attempt.control]
    last = attempts[-1]
    procedures = dict.fromkeys(attempt.procedure for attempt in attempts if attempt.turns) or {last.procedure: None}
    reason = last.reason or (None if turns else "no turn came to its end")
    ratio, interval = summary_of(turns)
    control_ratio, control_interval = summary_of(control)
    timing = PairedTiming(
        procedure=", then ".join(procedures),
        clock=", then ".join("wall time" if one == PROCESSES else "thread CPU time" for one in procedures),
        ratio=None if reason else ratio,
        interval=(None, None) if reason else interval,
        confidence=1 - 2 * ALPHA,
        pairs=sum(len(turn.logs) for turn in turns),
        turns=len(turns),
        control_ratio=control_ratio,
        control_interval=control_interval,
        wall_ratio=None if reason else wall_ratio_of(turns),
        reason=reason,
        needed_s=last.needed_s,
        blocks=blocks_of(turns),
        control_blocks=blocks_of(control),
        attempts=len(attempts),
        attempt_ratios=tuple(None if one.reason else summary_of(one.turns)[0] for one in attempts),
    )
    return PairedSamples(timing=timing, turns=turns, control=control)


def blocks_of(turns: Sequence[Turn]) -> tuple[tuple[float, ...], ...]:
    """The blocks of every turn, to the millionth: what is judged is what the record holds."""
    return tuple(tuple(round(float(value), 6) for value in turn.blocks) for turn in turns)


def summary_of(turns: Sequence[Turn]) -> tuple[float | None, tuple[float | None, float | None]]:
    """Ratio and interval of some turns."""
    return summary([np.array(blocks) for blocks in blocks_of(turns)])


def wall_ratio_of(turns: Sequence[Turn]) -> float | None:
    """The same by the wall's clock, for comparison."""
    return finite(math.exp(float(np.median(np.concatenate([np.log(turn.wall[1] / turn.wall[0]) for turn in turns])))))
