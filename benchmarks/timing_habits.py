"""The same calls given to other tools' habits: how often each alarms at identical code, and at one 5 % slower.

    python benchmarks/timing_habits.py [--runtime onnxruntime] [--size small] [--trials 40] [--load 2] [--write]

Every trial takes pairs of an identical and of a slowed model live (`stages.selftest_timing`), under busy processes that
the script starts itself, and hands all of them to every habit; what a tool would not see of them, its rule leaves out.
A stored figure is that of the trial before, as a tool that compares with the last run has it. Ours is what the gate
makes of the pairs, its control included. `--write` puts the rows beside those of other runtimes, sizes and loads;
`--trials 0` prints what is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from compression_gate.gate.proportions import clopper_pearson
from compression_gate.measurers.known_speed import SHAPES
from compression_gate.measurers.latency import Sampled, Setting, Turn, sample_pair, together
from compression_gate.measurers.machine import timing_environment
from compression_gate.records.timing_selftest import TimingCase
from compression_gate.selftest.timing_traces import status_of
from compression_gate.stages.selftest_timing import BUDGET_S, Models, busy

RESULTS = Path(__file__).parent / "results" / "timing_habits.json"
LIMIT, SLOWED = 0.05, 0.05
# What asv takes by default: two rounds of a process for each commit, in each five samples of 10 ms.
ROUNDS, SAMPLES, SAMPLE_S = 2, 5, 0.01
KEY = ("runtime", "size", "busy_processes")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one trial gave: its pairs, and what the gate makes of them."""

    sampled: Sampled
    status: str


def calls(turns: Sequence[Turn], side: int) -> np.ndarray:
    """Wall time of every call of one side [s], as a tool with a stop watch has it."""
    return np.concatenate([turn.wall[side] for turn in turns])


def stored(figure: Callable[[np.ndarray], float], factor: float) -> Callable[[Trial, Trial], bool]:
    """Alarm where this run's figure is over the last run's times a factor."""
    return lambda last, now: bool(figure(calls(now.sampled.turns, 1)) > factor * figure(calls(last.sampled.turns, 0)))


def samples(turns: Sequence[Turn], side: int) -> np.ndarray:
    """The first few samples of each turn: the mean call of 10 ms."""
    found: list[float] = []
    for turn in turns:
        each = max(1, round(SAMPLE_S / (float(np.median(turn.wall[side])) * turn.repeats)))
        count = min(SAMPLES, max(1, turn.wall.shape[1] // each))
        found += [float(part.mean()) for part in np.split(turn.wall[side][: count * each], count)]
    return np.array(found)


def two_processes(_: Trial, now: Trial) -> bool:
    """Alarm at medians over 1.1 apart and a Mann–Whitney p under 0.002; the commits' processes take turns."""
    turns = now.sampled.turns[: 2 * ROUNDS]
    other, candidate = samples(turns[0::2], 0), samples(turns[1::2], 1)
    p_value = stats.mannwhitneyu(candidate, other).pvalue
    return bool(np.median(candidate) > 1.1 * np.median(other) and p_value < 0.002)


def ours(_: Trial, now: Trial) -> bool:
    """The gate's own answer at a limit of 5 %."""
    return now.status == "fail"


HABITS: dict[str, Callable[[Trial, Trial], bool]] = {
    "store the mean, compare with the last run, fail at 5 % (pytest-benchmark, mean:5%)": stored(np.mean, 1 + LIMIT),
    "the same with the minimum (pytest-benchmark, min:5%)": stored(np.min, 1 + LIMIT),
    "the mean at 200 % (github-action-benchmark)": stored(np.mean, 2.0),
    "two rounds of processes, factor 1.1 and Mann–Whitney p < 0.002 (asv continuous)": two_processes,
    "interleaved pairs, sequential test (ours)": ours,
}


@dataclass
class Count:
    """What came of the trials of one kind, identical or slowed."""

    alarms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HABITS, 0))
    statuses: dict[str, int] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, last: Trial, now: Trial) -> None:
        """Count one trial."""
        for habit, alarms in HABITS.items():
            self.alarms[habit] += alarms(last, now)
        self.statuses[now.status] = self.statuses.get(now.status, 0) + 1
        self.ratios.append(float(np.exp(np.mean([np.median(turn.blocks) for turn in now.sampled.turns]))))
        self.seconds.append(now.sampled.sampling_s or 0.0)


def tried(case: TimingCase, other: Path, candidate: Path, seed: int) -> Trial:
    """Take one trial's pairs, and judge them as the gate does."""
    inputs = SHAPES[case.size].inputs()
    setting = Setting(runtime=case.runtime, threads=1, inputs=inputs, seed=seed, limits=(1 + case.limit,))
    sampled = sample_pair(other, candidate, setting, BUDGET_S[case.size])
    timing = together([sampled]).timing
    if len(sampled.turns) < 2 * ROUNDS:
        raise SystemExit(f"{case.runtime}, {case.size}: expected {2 * ROUNDS} turns, got {timing.reason}")
    judged = status_of(timing.blocks, timing.control_blocks, case.limit)
    return Trial(sampled=sampled, status="untrusted" if timing.reason else judged)


def row_of(same: TimingCase, trials: int) -> dict[str, Any]:
    """All trials of one runtime and size."""
    cases = {"identical": same, "slowed": same.model_copy(update={"slowed": SLOWED})}
    counts = {kind: Count() for kind in cases}
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as name, busy(same.load):
        models = Models(Path(name))
        files = {kind: models.pair_of(case) for kind, case in cases.items()}
        last = {kind: tried(case, *files[kind], seed=0) for kind, case in cases.items()}
        for number in range(1, trials + 1):
            for kind, case in cases.items():
                now = tried(case, *files[kind], seed=number)
                counts[kind].add(last[kind], now)
                last[kind] = now
            loads.append(os.getloadavg()[0])
            print(f"  {number} of {trials}", flush=True)
    return {
        "runtime": same.runtime,
        "size": same.size,
        "busy_processes": same.load,
        "trials": trials,
        "load_average": float(np.median(loads)),
        "environment": timing_environment(1),
        "median_ratio": {kind: float(np.median(count.ratios)) for kind, count in counts.items()},
        "mean_s": {kind: float(np.mean(count.seconds)) for kind, count in counts.items()},
        "ours": {kind: count.statuses for kind, count in counts.items()},
        "alarms": {
            habit: {kind: count.alarms[habit] for kind, count in counts.items()}
            for habit in HABITS  # in the order of the table
        },
    }


def markdown(row: dict[str, Any]) -> list[str]:
    """The table of one runtime and size, what it was measured on above it."""
    n, slower = row["trials"], row["median_ratio"]["slowed"] - 1
    lines = [
        f"{row['runtime']}, {row['size']} model, {row['busy_processes']} busy processes (load average "
        f"{row['load_average']:.1f}), {n} trials of each kind; the slowed candidate took {slower:.1%} longer",
        "",
        "| habit | alarms at identical code | alarms at the slowed candidate |",
        "|---|---|---|",
    ]
    for habit, found in row["alarms"].items():
        cells = [told(found[kind], n) for kind in ("identical", "slowed")]
        lines.append(f"| {habit} | {cells[0]} | {cells[1]} |")
    return lines


def told(count: int, of: int) -> str:
    """A count with the exact 95 % interval of its rate."""
    low, high = clopper_pearson(count, of, 0.025)
    return f"{count} of {of} ({low:.0%} to {high:.0%})"


def rows_on_file(path: Path = RESULTS) -> list[dict[str, Any]]:
    """What is stored."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []


def merged(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with a new one, which takes the place of one of the same runtime, size and load."""
    kept = [old for old in rows if any(old[name] != row[name] for name in KEY)]
    return sorted([*kept, row], key=lambda each: tuple(each[name] for name in KEY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--load", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"store the rows in {RESULTS.name}")
    given = parser.parse_args()
    if given.trials == 0:
        for row in rows_on_file():
            print("\n".join([*markdown(row), ""]))
        return
    same = TimingCase(runtime=given.runtime, size=given.size, slowed=0.0, limit=LIMIT, load=given.load)
    row = row_of(same, given.trials)
    print("\n".join(markdown(row)))
    print(f"ours: {row['ours']}, mean seconds {row['mean_s']}")
    if given.write:
        text = json.dumps({"rows": merged(rows_on_file(), row)}, indent=2, ensure_ascii=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
