"""`selftest --timing`: live decisions on models of which the truth is known, under a load of its own."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compression_gate.gate.proportions import clopper_pearson
from compression_gate.gate.timing_test import control_alarms, decide, zone_of
from compression_gate.measurers.latency import Setting, sample_pair, together
from compression_gate.measurers.machine import timing_environment
from compression_gate.progress import tracked
from compression_gate.records.base import digest_of
from compression_gate.records.timing_selftest import (
    Size,
    TimingCase,
    TimingDecision,
    TimingRate,
    TimingSelfTest,
)

LIMIT, WRONG_AT_MOST, BOUND_ALPHA = 1.05, 0.01, 0.01
BUDGET_S: dict[Size, float] = {"small": 20.0, "large": 60.0}
# Rows of the input, width of a layer, layers of the reference: about 0.3 ms, and about 15 ms, on one core.
SHAPES: dict[Size, tuple[int, int, int]] = {"small": (1, 128, 100), "large": (32, 512, 80)}
QUICK, FULL = 10, 300
MARGIN = 0.005  # so that a candidate meant to be over the limit is
CALIBRATIONS = 3  # decisions whose pairs say together how slow a candidate really is
SLOWED = (0.0, 0.05)


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
    *, full: bool, runtimes: Sequence[str], sizes: Sequence[Size], load: int, minutes: float, kept: Path | None
) -> Plan:
    """The cases: the same model and one slowed by 5 %, for each runtime and size, under the load."""
    cases = [
        TimingCase(runtime=runtime, size=size, slowed=slowed, load=load)
        for runtime in runtimes
        for size in sizes
        for slowed in SLOWED
    ]
    return Plan(cases=tuple(cases), count=FULL if full else QUICK, minutes=minutes, kept=kept)


def run(plan: Plan) -> TimingSelfTest:
    """Decide until every case has its number or the time is up; what was decided before counts."""
    start = time.monotonic()
    decisions = read(plan.kept)
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as name, busy(plan.cases[0].load):
        folder = Path(name)
        models = {case: pair_of(case, folder) for case in plan.cases}
        for number, case in tracked(open_cases(plan, decisions), len(plan.cases) * plan.count, "decisions"):
            if time.monotonic() - start > 60 * plan.minutes:
                break
            found = decided(case, *models[case], seed=number)
            decisions.append(found)
            keep(found, plan.kept)
    wanted = [one for one in decisions if one.case in plan.cases]
    return TimingSelfTest(
        environment=timing_environment(1),
        live=tuple(rate_of(case, [one for one in wanted if one.case == case]) for case in plan.cases),
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
    rows, width, _ = SHAPES[case.size]
    inputs = {"input": np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)}
    setting = Setting(runtime=case.runtime, threads=1, inputs=inputs, seed=seed, limits=(LIMIT,))
    began = time.monotonic()
    timing = together([sample_pair(other, candidate, setting, BUDGET_S[case.size])]).timing
    seconds = time.monotonic() - began
    turns = [np.array(turn) for turn in timing.blocks]
    zone = zone_of(LIMIT)
    alarmed = control_alarms([np.array(turn) for turn in timing.control_blocks], zone.room)
    return TimingDecision(
        case=case,
        status="untrusted" if timing.reason or alarmed else decide(turns, zone).status,
        ratio=timing.ratio,
        seconds=seconds,
        pairs=timing.pairs,
        turns=timing.turns,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        blocks=timing.blocks,
    )


def rate_of(case: TimingCase, decisions: Sequence[TimingDecision]) -> TimingRate:
    """How often a kind of decision was wrong, with exact bounds."""
    wrong_status = "pass" if case.slowed else "fail"
    wrong = sum(one.status == wrong_status for one in decisions)
    low, high = clopper_pearson(wrong, len(decisions), BOUND_ALPHA) if decisions else (0.0, 1.0)
    seconds = [one.seconds for one in decisions]
    ratios = [one.ratio for one in decisions if one.ratio is not None]
    return TimingRate(
        case=case,
        n=len(decisions),
        wrong=wrong,
        undecided=sum(one.status == "undecided" for one in decisions),
        untrusted=sum(one.status == "untrusted" for one in decisions),
        low=low,
        high=high,
        claim=WRONG_AT_MOST,
        median_ratio=float(np.median(ratios)) if ratios else None,
        mean_s=float(np.mean(seconds)) if seconds else None,
        p95_s=float(np.quantile(seconds, 0.95)) if seconds else None,
    )


def pair_of(case: TimingCase, folder: Path) -> tuple[Path, Path]:
    """The reference and the candidate of a case: the candidate has more layers, as many as make it so much slower.

    What a call costs beside its layers is found out first, and the number of layers chosen by it.
    """
    layers = SHAPES[case.size][2]
    other = model_file(case, layers, folder)
    if not case.slowed:
        return other, other
    few = seconds_of(case, model_file(case, layers // 2, folder))
    many = seconds_of(case, other)
    a_layer = (many - few) / (layers - layers // 2)
    more = max(1, round(many * (case.slowed + MARGIN) / a_layer))
    while ratio_of(case, other, candidate := model_file(case, layers + more, folder)) < 1 + case.slowed:
        more += 1
    return other, candidate


def ratio_of(case: TimingCase, other: Path, candidate: Path) -> float:
    """How slow a candidate really is, from the pairs of several decisions."""
    found = [decided(case, other, candidate, seed=1000 + number) for number in range(CALIBRATIONS)]
    blocks = [block for one in found for turn in one.blocks for block in turn]
    return math.exp(float(np.median(blocks))) if blocks else math.inf


def seconds_of(case: TimingCase, path: Path) -> float:
    """Seconds of a call: the least of the medians of three processes."""
    rows, width, _ = SHAPES[case.size]
    setting = Setting(
        runtime=case.runtime, threads=1, inputs={"input": np.zeros((rows, width), np.float32)}, limits=(LIMIT,)
    )
    turns = sample_pair(path, path, replace(setting, seed=1), 3.0).turns
    return min(float(np.median(turn.cpu)) for turn in turns)


def model_file(case: TimingCase, layers: int, folder: Path) -> Path:
    """A file of the runtime's own with so many equal layers."""
    rows, width, _ = SHAPES[case.size]
    suffix = "onnx" if case.runtime == "onnxruntime" else "pt2"
    path = folder / f"{case.runtime}-{case.size}-{layers}.{suffix}"
    if path.exists():
        return path
    import torch
    from torch import nn

    from compression_gate import registry
    from compression_gate.runtimes import RUNTIMES

    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers)]
    runtime = registry.load("runtimes", case.runtime, RUNTIMES)()
    runtime.export(nn.Sequential(*blocks).eval(), torch.zeros(max(rows, 2), width), path, {})
    return path


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy while the block runs."""
    spin = "import itertools\nfor _ in itertools.count(): pass"
    running = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(processes)]
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
    """Add a decision to those that are kept, at once: a run may be killed at any moment."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{digest_of(timing_environment(1))} {decision.model_dump_json()}\n")
