"""`selftest --timing`: live decisions on models of which the truth is known, under a load of its own."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compression_gate import registry
from compression_gate.errors import MeasurementError, ParamsError
from compression_gate.measurers.known_speed import SHAPES, model_file, slowed_file
from compression_gate.measurers.latency import Setting, sample_pair, together
from compression_gate.measurers.machine import timing_environment
from compression_gate.progress import tracked
from compression_gate.records.base import digest_of
from compression_gate.records.timing_selftest import Size, TimingCase, TimingDecision, TimingSelfTest
from compression_gate.runtimes import RUNTIMES
from compression_gate.selftest.timing_traces import rate_of, recorded, status_of

BUDGET_S: dict[Size, float] = {"small": 30.0, "large": 90.0}
QUICK, FULL = 10, 300
CALIBRATIONS = 3  # decisions whose pairs say together how slow a candidate really is
USUAL, NARROW = 0.05, 0.02
SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6): pass
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to decide, how often, and when to stop.

    Args:
        count: decisions of each kind that are wanted in all, those kept from earlier runs included.
        minutes: no new decision is begun after so long.
        kept: where decisions are kept, one JSON line each; None: nowhere.
    """

    cases: tuple[TimingCase, ...]
    count: int
    minutes: float
    kept: Path | None = None


def plan_of(
    *,
    full: bool,
    runtimes: Sequence[str],
    sizes: Sequence[Size],
    slowed: Sequence[float],
    load: int,
    minutes: float,
    kept: Path | None,
) -> Plan:
    """The cases: the same model and slowed ones, for each runtime and size, under the load.

    The limit is 5 %, and 2 % where a candidate is slowed by less than 5 %: it could not be told from the same model at
    a limit it is within.

    Raises:
        ParamsError: there is no such size or runtime, or a share is none.
    """
    for runtime in runtimes:
        registry.load("runtimes", runtime, RUNTIMES)
    problems = [
        f"--size: expected {' or '.join(SHAPES)}, got {size!r}: name one of them, or both by a comma"
        for size in sizes
        if size not in SHAPES
    ]
    problems += [
        f"--slowed: expected percentages of {100 * NARROW:g} or more, got {100 * share:g}: by how much candidates are "
        "to be slower; one that is slower by less is within the narrowest limit, and passes rightly"
        for share in slowed
        if not (share >= NARROW and math.isfinite(share))
    ]
    if problems:
        raise ParamsError(problems)
    limits = {share: USUAL if share >= USUAL else NARROW for share in slowed}
    wanted = [(0.0, limit) for limit in dict.fromkeys(limits.values())] + list(limits.items())
    cases = [
        TimingCase(runtime=runtime, size=size, slowed=share, limit=limit, load=load)
        for runtime in runtimes
        for size in sizes
        for share, limit in wanted
    ]
    return Plan(cases=tuple(cases), count=FULL if full else QUICK, minutes=minutes, kept=kept)


def shares_of(text: str) -> list[float]:
    """The shares that percentages by commas are.

    Raises:
        ParamsError: one is no number.
    """
    try:
        return [float(percentage) / 100 for percentage in text.split(",")]
    except ValueError as error:
        raise ParamsError(f"--slowed: expected percentages by commas, got {text!r}: 5, or 2,5") from error


def run(plan: Plan) -> TimingSelfTest:
    """Decide until every case has its number or the time is up; what was decided before counts."""
    start = time.monotonic()
    decisions = read(plan.kept)
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as name, busy(plan.cases[0].load):
        models = Models(Path(name))
        for number, case in tracked(open_cases(plan, decisions), len(plan.cases) * plan.count, "decisions"):
            if time.monotonic() - start > 60 * plan.minutes:
                break
            found = decided(case, *models.pair_of(case), seed=number)
            decisions.append(found)
            keep(found, plan.kept)
    wanted = [one for one in decisions if one.case in plan.cases]
    return TimingSelfTest(
        environment=timing_environment(1),
        live=tuple(rate_of(case, [one for one in wanted if one.case == case]) for case in plan.cases),
        replayed=recorded(),
        seconds=time.monotonic() - start,
    )


def open_cases(plan: Plan, decisions: Sequence[TimingDecision]) -> Iterator[tuple[int, TimingCase]]:
    """Cases in turn, so that a run cut short has some of each; each with the number of its decision."""
    done = {case: sum(one.case == case for one in decisions) for case in plan.cases}
    for number in range(plan.count):
        for case in plan.cases:
            if done[case] <= number:
                yield number, case


def decided(case: TimingCase, other: Path, candidate: Path, seed: int) -> TimingDecision:
    """One decision, as the benchmark and the gate reach it."""
    limits = (1 + case.limit,)
    inputs = SHAPES[case.size].inputs()
    setting = Setting(runtime=case.runtime, threads=1, inputs=inputs, seed=seed, limits=limits)
    began = time.monotonic()
    sampled = sample_pair(other, candidate, setting, BUDGET_S[case.size])
    whole_s = time.monotonic() - began
    timing = together([sampled]).timing
    return TimingDecision(
        case=case,
        status="untrusted" if timing.reason else status_of(timing.blocks, timing.control_blocks, case.limit),
        ratio=timing.ratio,
        seconds=sampled.sampling_s if sampled.sampling_s is not None else whole_s,
        whole_s=whole_s,
        pairs=timing.pairs,
        turns=timing.turns,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        blocks=timing.blocks,
        control_blocks=timing.control_blocks,
        reason=timing.reason,
    )


class Models:
    """The files that are timed, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slowed: dict[tuple[str, str, float], Path] = {}

    def pair_of(self, case: TimingCase) -> tuple[Path, Path]:
        """The reference and the candidate of a case: the candidate does so much more that it is slowed by its share."""
        other = model_file(case.runtime, SHAPES[case.size], 0, self.folder)
        if not case.slowed:
            return other, other
        key = (case.runtime, case.size, case.slowed)
        if key not in self.slowed:
            ratio_to = partial(ratio_of, case, other)
            self.slowed[key] = slowed_file(case.runtime, SHAPES[case.size], case.slowed, self.folder, ratio_to)
        return other, self.slowed[key]


def ratio_of(case: TimingCase, other: Path, candidate: Path) -> float:
    """How slow a candidate really is, from the pairs of several decisions: the mean over all turns [ratio].

    Raises:
        MeasurementError: no turn of them came to its end.
    """
    found = [decided(case, other, candidate, seed=1000 + number) for number in range(CALIBRATIONS)]
    medians = [statistics.median(turn) for one in found for turn in one.blocks]
    if not medians:
        raise MeasurementError(
            f"{case.runtime} {case.size}: the slowed candidate: expected pairs, got none: {found[-1].reason}"
        )
    return math.exp(statistics.fmean(medians))


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy while the block runs; they end with this process, however it ends."""
    words = [sys.executable, "-c", SPIN, str(os.getpid())]
    running = [subprocess.Popen(words) for _ in range(processes)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.wait()


def read(path: Path | None) -> list[TimingDecision]:
    """Decisions kept by earlier runs on this very machine; a last line cut short is left out."""
    if path is None or not path.exists():
        return []
    return list(whole_lines(path.read_text(encoding="utf-8").splitlines()))


def whole_lines(lines: Iterable[str]) -> Iterator[TimingDecision]:
    """The decisions of those lines that are whole, if they were made here."""
    here = digest_of(timing_environment(1))
    for line in lines:
        machine, _, text = line.partition(" ")
        if machine == here and text.endswith("}"):
            yield TimingDecision.model_validate_json(text)


def keep(decision: TimingDecision, path: Path | None) -> None:
    """Add a decision to those that are kept, at once: a run may be killed at any moment, within a line too."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{digest_of(timing_environment(1))} {decision.model_dump_json()}\n")
