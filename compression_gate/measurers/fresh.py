"""Figures that need a process nobody has used: load time, first call, memory, energy; several processes for each model.

Models take turns, so that a machine that gets busier does so for all of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate.errors import MeasurementError
from compression_gate.measurers.energy import ESTIMATED_W_PER_CORE
from compression_gate.measurers.order_statistics import median_of, range_of
from compression_gate.measurers.workers import answer_of, run_worker
from compression_gate.records.metrics import EnergySource, Measurement
from compression_gate.runtimes.base import Arrays

WORKER = "compression_gate.measurers.fresh_worker"
MOST_PROCESSES, LEAST_WARM, LEAST_COLD = 6, 3, 1  # six are the fewest whose ends hold the median with 95 %
CALLING_S = 0.05  # of calls whose energy is counted, in each process
START_S = 120.0
COUNTED = "the processor's energy counters (RAPL, whole packages)"
ESTIMATE = f"estimated: CPU time of the process × {ESTIMATED_W_PER_CORE:g} W per core; no energy counter can be read"


UNITS = {
    "load_time_ms": "ms",
    "load_time_cold_ms": "ms",
    "first_call_ms": "ms",
    "peak_memory_bytes": "bytes",
    "model_memory_bytes": "bytes",
    "energy_j": "J",
}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How files are opened and called: in which runtime, with how many threads, on which inputs, patient how long."""

    runtime: str
    threads: int
    inputs: Arrays
    patience_s: float = START_S


@dataclass(kw_only=True)
class Samples:
    """What the processes of one model told so far, and why there are no more of them."""

    warm: list[dict[str, Any]] = field(default_factory=list)
    cold: list[dict[str, Any]] = field(default_factory=list)
    why_no_warm: str | None = None
    why_no_cold: str | None = None

    def add_warm(self, take: Callable[[], dict[str, Any]]) -> None:
        """One more process that finds the file cached, unless an earlier one failed."""
        if self.why_no_warm is None:
            try:
                self.warm.append(take())
            except MeasurementError as error:
                self.why_no_warm = str(error)

    def add_cold(self, take: Callable[[], dict[str, Any]]) -> None:
        """One more process that does not; none where the file cannot be loaded at all."""
        if self.why_no_cold is None and self.why_no_warm is None:
            try:
                self.cold.append(take())
            except MeasurementError as error:
                self.why_no_cold = str(error)


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """One model's figures by name, unit last, and where those of energy come from."""

    figures: dict[str, Measurement]
    energy: EnergySource | None


def measure_fresh(
    files: dict[str, Path], conditions: Conditions, budget_s: float, least: int = LEAST_WARM
) -> dict[str, Fresh]:
    """Measure every file in processes of its own, by role.

    At least ``least`` processes find a file cached and one does not, whatever that takes; more while ``budget_s``
    lasts, six of each at most, the cached ones first. A model whose process dies, hangs or answers in another shape has
    no figures, but the reason.
    """
    samples = {role: Samples() for role in files}
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        inputs = Path(folder) / "inputs.npz"
        with inputs.open("wb") as out:
            np.savez(out, **conditions.inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
        end = time.monotonic() + budget_s
        for _ in rounds(least, end):
            for role, file in files.items():
                samples[role].add_warm(partial(one_process, file, conditions, inputs, cold=False))
        for _ in rounds(LEAST_COLD, end):
            for role, file in files.items():
                samples[role].add_cold(partial(one_process, file, conditions, inputs, cold=True))
    examples = len(next(iter(conditions.inputs.values())))
    return {role: told(found, examples) for role, found in samples.items()}


def rounds(least: int, end: float) -> Iterator[int]:
    """Count rounds: ``least``, and more while one as long as the longest so far ends before ``end``."""
    longest = 0.0
    for done in range(MOST_PROCESSES):
        began = time.monotonic()
        if done >= least and began + longest > end:
            return
        yield done
        longest = max(longest, time.monotonic() - began)


def one_process(file: Path, conditions: Conditions, inputs: Path, *, cold: bool) -> dict[str, Any]:
    """What one fresh process finds out; see :mod:`compression_gate.measurers.fresh_worker`.

    Raises:
        MeasurementError: it died, hung, ran out of memory or found the file or its answers wrong.
    """
    request = {
        "runtime": conditions.runtime,
        "threads": conditions.threads,
        "file": str(file.resolve()),
        "inputs": str(inputs),
        "cold": cold,
        "seconds": CALLING_S,
    }
    what = f"{'cold load' if cold else 'load, memory and energy'} of {file}"
    timeout_s = conditions.patience_s
    answer = run_worker(WORKER, request, threads=conditions.threads, timeout_s=timeout_s, what=what)
    return answer_of(answer, what)


def told(samples: Samples, examples: int) -> Fresh:
    """Figures out of samples; those that there are none of say why."""
    if samples.why_no_warm is not None or not samples.warm:
        reason = samples.why_no_warm or "no process was started"
        return Fresh(figures={name: absent(unit, reason) for name, unit in UNITS.items()}, energy=None)
    added = [one["added_bytes"] for one in samples.warm if one["added_bytes"] is not None]
    joules, source = energy_of([one["energy"] for one in samples.warm], examples)
    figures = {
        "load_time_ms": median_of(column(samples.warm, "load_s") * 1e3, "ms"),
        "load_time_cold_ms": cold_load(samples),
        "first_call_ms": median_of(column(samples.warm, "first_call_s") * 1e3, "ms"),
        "peak_memory_bytes": range_of(column(samples.warm, "peak_bytes"), "bytes"),
        "model_memory_bytes": range_of(np.array(added, dtype=float), "bytes")
        if added
        else absent("bytes", samples.warm[0]["why_not_added"]),
        "energy_j": joules,
    }
    return Fresh(figures=figures, energy=source)


def cold_load(samples: Samples) -> Measurement:
    """Load time of a file that is not cached; none where one attempt failed, since the others may have been warm."""
    if samples.why_no_cold is not None or not samples.cold:
        return absent("ms", samples.why_no_cold or "no process was started")
    return median_of(column(samples.cold, "load_s") * 1e3, "ms")


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """One field of every sample, ``(N,)``."""
    return np.array([row[name] for row in rows], dtype=float)


def absent(unit: str, reason: str) -> Measurement:
    """No figure, and why."""
    return Measurement(value=None, unit=unit, samples=0, reason=reason)


def energy_of(rows: list[dict[str, Any]], examples: int) -> tuple[Measurement, EnergySource]:
    """Energy per example [J] over processes, and what it was reckoned from.

    Args:
        rows: fields of :class:`compression_gate.measurers.energy.Used`, one row a process.
        examples: in one call.
    """
    counted = all(row["joules"] is not None for row in rows)
    joules = column(rows, "joules") if counted else column(rows, "cpu_s") * ESTIMATED_W_PER_CORE
    calls, wall_s = column(rows, "calls"), column(rows, "wall_s")
    source = EnergySource(
        source=COUNTED if counted else ESTIMATE,
        calls=int(calls.sum()),
        seconds=float(wall_s.sum()),
        busy_w=float(joules.sum() / wall_s.sum()),
        idle_w=float(np.median(column(rows, "idle_w"))) if counted else None,
    )
    return range_of(joules / (calls * examples), "J", estimated=not counted), source
