"""Energy of calls: the processor's own counters where they may be read, else an estimate from CPU time, called one.

Counters are RAPL's (running average power limit), of Intel and AMD, as Linux shows them under ``/sys/class/powercap``.
They count whole packages, whatever runs there; the power of an idle machine is measured before and told beside the
figure, never subtracted. Since Linux 5.10 only root may read them, unless an administrator allows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
IDLE_S = 0.1
LEAST_CALLS = 3
ESTIMATED_W_PER_CORE = 4.0
"""Watts of a core that is busy, where nothing counts them.

Source: codecarbon (github.com/mlco2/codecarbon, codecarbon/core/cpu.py, DEFAULT_POWER_PER_CORE), its assumption for
processors whose thermal design power it does not know. Departing from it, it is multiplied with this process's CPU time
and not with the load of the machine. The same constant for both models: their ratio does not depend on it.
"""


@dataclass(frozen=True, kw_only=True)
class Counter:
    """One package's counter, in microjoules: a file that is read, and where it starts again at 0."""

    path: Path
    range_uj: int

    def read(self) -> int:
        """Its value now [µJ]."""
        return int(self.path.read_text(encoding="ascii"))

    def joules(self, before: int, after: int) -> float:
        """Energy between two readings, at most one start at 0 apart [J]."""
        return (after - before if after >= before else after - before + self.range_uj) * 1e-6


@dataclass(frozen=True, kw_only=True)
class Used:
    """What calls took.

    Args:
        joules: of all packages together; None where no counter can be read.
        idle_w: power of the packages just before, with nothing of ours running [W]; None likewise.
        calls: how many.
        cpu_s: CPU time of this process and all its threads [s].
        wall_s: how long the calls took [s].
    """

    joules: float | None
    idle_w: float | None
    calls: int
    cpu_s: float
    wall_s: float


def counters(folder: Path = POWERCAP) -> list[Counter]:
    """The packages' counters; none where there are none or they may not be read.

    A package's parts (cores, memory) lie under it as ``intel-rapl:0:0`` and are in its count already. AMD's have the
    same names.
    """
    found = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii")
            if zone.name.count(":") != 1 or not name.startswith("package"):
                continue
            range_uj = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            counter = Counter(path=zone / "energy_uj", range_uj=range_uj)
            counter.read()
        except (OSError, ValueError):
            return []  # a part of the packages would be told as the whole
        found.append(counter)
    return found


def used_by(call: Callable[[], object], seconds: float, packages: list[Counter]) -> Used:
    """Call for about ``seconds``, three times at least, and tell what it took."""
    idle_w = idle_power(packages) if packages else None
    calls = 0
    before, cpu, start = [package.read() for package in packages], time.process_time(), time.perf_counter()
    while calls < LEAST_CALLS or time.perf_counter() - start < seconds:
        call()
        calls += 1
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return Used(
        joules=joules_since(packages, before) if packages else None,
        idle_w=idle_w,
        calls=calls,
        cpu_s=cpu_s,
        wall_s=wall_s,
    )


def idle_power(packages: list[Counter]) -> float:
    """Power of the packages while this process sleeps [W]."""
    before, start = [package.read() for package in packages], time.perf_counter()
    time.sleep(IDLE_S)
    return joules_since(packages, before) / (time.perf_counter() - start)


def joules_since(packages: list[Counter], before: list[int]) -> float:
    """Energy of all packages since they were read [J]."""
    return sum(package.joules(then, package.read()) for package, then in zip(packages, before, strict=True))
