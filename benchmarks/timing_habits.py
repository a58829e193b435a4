"""The same calls given to other tools' habits: how often each alarms at identical code, and at one 5 % slower.

    python benchmarks/timing_habits.py [--trials 40] [--load 2] [--write]

Every trial takes pairs of an identical and of a slowed model live (`stages.selftest_timing`), under busy processes that
the script starts itself. A stored figure is that of the trial before, as a tool that compares with the last run has it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from compression_gate.gate.proportions import clopper_pearson
from compression_gate.gate.timing_test import decide, zone_of
from compression_gate.measurers.latency import Sampled, Setting, sample_pair
from compression_gate.measurers.machine import timing_environment
from compression_gate.records.timing_selftest import TimingCase
from compression_gate.stages.selftest_timing import BUDGET_S, SHAPES, busy, pair_of

RESULTS = Path(__file__).parent / "results" / "timing_habits.json"
LIMIT = 1.05


def calls(sampled: Sampled, side: int) -> np.ndarray:
    """Wall time of every call of one side [s], as a tool with a stop watch has it."""
    return np.concatenate([turn.wall[side] for turn in sampled.turns])


def stored(figure: Callable[[np.ndarray], float], factor: float) -> Callable[[Sampled, Sampled], bool]:
    """Alarm where this run's figure is over the last run's times a factor."""
    return lambda last, now: bool(figure(calls(now, 1)) > factor * figure(calls(last, 0)))


def two_processes(_: Sampled, now: Sampled) -> bool:
    """Alarm at a ratio over 1.1 and a Mann–Whitney p under 0.002, calls taken as independent."""
    other, candidate = calls(now, 0), calls(now, 1)
    p_value = stats.mannwhitneyu(candidate, other, alternative="greater").pvalue
    return bool(np.median(candidate) > 1.1 * np.median(other) and p_value < 0.002)


def ours(_: Sampled, now: Sampled) -> bool:
    """The sequential test at a limit of 5 %."""
    return decide([turn.blocks for turn in now.turns], zone_of(LIMIT)).status == "fail"


HABITS: dict[str, Callable[[Sampled, Sampled], bool]] = {
    "stored mean, fail at 5 %": stored(np.mean, LIMIT),
    "stored minimum, fail at 5 %": stored(np.min, LIMIT),
    "stored mean, fail at 200 %": stored(np.mean, 2.0),
    "ratio 1.1 and Mann–Whitney p < 0.002": two_processes,
    "interleaved pairs, sequential test (ours)": ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--load", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"store the rows in {RESULTS.name}")
    given = parser.parse_args()
    counts = {name: {"identical": 0, "slowed": 0} for name in HABITS}
    ratios: dict[str, list[float]] = {"identical": [], "slowed": []}
    same = TimingCase(runtime="onnxruntime", size="small", slowed=0.0, load=given.load)
    with tempfile.TemporaryDirectory() as name, busy(given.load):
        cases = {"identical": same, "slowed": same.model_copy(update={"slowed": 0.05})}
        files = {kind: pair_of(case, Path(name)) for kind, case in cases.items()}
        rows, width, _ = SHAPES["small"]
        inputs = {"input": np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)}
        last: dict[str, Sampled] = {}
        for trial in range(given.trials + 1):
            for kind, (other, candidate) in files.items():
                setting = Setting(runtime="onnxruntime", threads=1, inputs=inputs, seed=trial, limits=(LIMIT,))
                now = sample_pair(other, candidate, setting, BUDGET_S["small"])
                if trial:
                    ratios[kind].append(float(np.exp(np.median(np.concatenate([turn.logs for turn in now.turns])))))
                    for habit, alarms in HABITS.items():
                        counts[habit][kind] += alarms(last[kind], now)
                last[kind] = now
    n = given.trials
    for habit, found in counts.items():
        parts = []
        for kind in ("identical", "slowed"):
            low, high = clopper_pearson(found[kind], n, 0.025)
            parts.append(f"{kind} {found[kind]} of {n} ({low:.0%} to {high:.0%})")
        print(f"{habit}: alarms at {', '.join(parts)}")
    print({kind: f"median ratio {np.median(values):.3f}" for kind, values in ratios.items()})
    if given.write:
        record = {
            "trials": n,
            "busy_processes": given.load,
            "load_average": os.getloadavg()[0],
            "environment": timing_environment(1),
            "median_ratio": {kind: float(np.median(values)) for kind, values in ratios.items()},
            "alarms": counts,
        }
        RESULTS.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
