"""What limits a search with many workers: the real driver, journal and searchers, with trials that only a clock takes.

    python benchmarks/search_driver.py [--durations FILE] [--part workers overhead] [--write]
    python benchmarks/search_driver.py --markdown      # the tables of docs/search_scaling.md

FILE: `reports/search/trials.csv` of a search, or the table of `search_replay.py`.

Trials take as long as recorded ones did (their `seconds`), else as a stated distribution says; a virtual clock jumps
from one end of a trial to the next, and goes on by the driver's own real time, so that workers wait for it as they
would. Figures are made up from the genome. The journal is a real file, each line on disk before the next.

`workers`: 1 to 1,000 of them, synchronous (a generation as large as the workers, at least 16) and asynchronous (16).
`overhead`: the searcher's own time a trial (ask and tell), the driver's, and the driver's memory, over 10,000 trials
told in generations of 16; the journal lies in memory here. A searcher that takes too long is stopped, and the row says
how far it came.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil

from compression_gate import registry
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.search_params import SearchParams
from compression_gate.records.trial import Answer
from compression_gate.search import SEARCHERS
from compression_gate.search.base import Setup
from compression_gate.search.driver import Driver
from compression_gate.search.journal import Header, begin
from compression_gate.search.objective import Goal
from compression_gate.search.space import Units, space_of

RESULTS = Path(__file__).parent / "results" / "search_driver.json"
MEDIAN_S, SIGMA = 60.0, 0.8  # log-normal where nothing was recorded: 90 % of trials take 16 to 224 s
WORKERS = (1, 10, 100, 1_000)
ROUNDS, FEWEST = 4, 500  # trials for each worker, and in all
SEARCHERS_TIMED = ("random", "genetic", "reinforcement", "hybrid", "tpe")
AT = (100, 1_000, 10_000)
WINDOW = 64
STOP_S = 600.0
REFERENCE = {"accuracy": 0.9, "size_bytes": 1e6}
PRUNE = {"method": "structured_pruning", "pruning_ratio": {"low": 0.05, "high": 0.85}, "importance": ["l2", "taylor"]}
DISTIL = {"method": "distillation", "epochs": [1, 2], "alpha": {"low": 0.0, "high": 0.9}}
WHOLE = [{"method": "static_quantization", "bits": 8}, {"method": "weight_only_quantization", "bits": [8, 4, 3, 2]}]
SPACE = [
    {**PRUNE, "optional": True},
    {"method": "low_rank", "ratio": {"low": 0.15, "high": 0.8}, "optional": True},
    {**DISTIL, "optional": True},
    {"any_of": WHOLE, "optional": True},
]


class VirtualExecutor:
    """Workers that are busy for as long as trials take, by a clock of their own."""

    def __init__(self, workers: int, durations: list[float], seed: int) -> None:
        self.workers, self.durations, self.coins = workers, durations, random.Random(seed)
        self.now, self.mark, self.busy_s, self.real_s = 0.0, time.perf_counter(), 0.0, 0.0
        self.running: list[tuple[float, int]] = []
        self.waiting: list = []
        self.steps: dict[int, tuple] = {}
        self.spans: list[tuple[float, float]] = []

    @property
    def busy_share_while_asking(self) -> float:
        """Share of the workers' time that trials took, until the last was begun: the budget's end has no part in it."""
        last = max(start for start, _ in self.spans)
        return sum(min(end, last) - start for start, end in self.spans) / (self.workers * last)

    @property
    def free(self) -> int:
        return self.workers - len(self.running) - len(self.waiting)

    def tick(self) -> None:
        """Let the virtual clock go on by what the driver took."""
        spent = time.perf_counter() - self.mark
        self.now, self.real_s, self.mark = self.now + spent, self.real_s + spent, time.perf_counter()

    def submit(self, request) -> None:
        self.tick()
        self.waiting.append(request)
        self.start()

    def start(self) -> None:
        while self.waiting and len(self.running) < self.workers:
            request = self.waiting.pop(0)
            took = self.coins.choice(self.durations)
            self.busy_s += took
            self.spans.append((self.now, self.now + took))
            self.steps[request.number] = request.steps
            heapq.heappush(self.running, (self.now + took, request.number))

    def finished(self, timeout_s: float = 0.0) -> list[tuple[int, Answer]]:
        self.tick()
        if not self.running:
            return []
        end, number = heapq.heappop(self.running)
        self.now = max(self.now, end)
        answer = Answer(figures=figures_of(self.steps.pop(number)), verdict="pass", seconds=1.0)
        self.start()
        self.mark = time.perf_counter()
        return [(number, answer)]


def figures_of(steps) -> dict[str, float]:
    """Made-up figures: every step makes the file smaller by its strength, and costs accuracy in proportion."""
    size, lost = 1e6, 0.0
    for step in steps:
        strength = sum(value for value in step.values() if isinstance(value, float)) % 1.0
        size *= 0.9 - 0.6 * strength
        lost += 0.05 * strength**2
    return {"accuracy": 0.9 - lost, "size_bytes": size, "macs": 1.0}


class Timed:
    """A searcher whose time is noted, and how stale what it goes by is."""

    def __init__(self, searcher) -> None:
        self.searcher, self.asked, self.told = searcher, [], []
        self.at: dict[int, int] = {}
        self.stale: list[int] = []

    def ask(self):
        start = time.perf_counter()
        proposal = self.searcher.ask()
        self.asked.append(time.perf_counter() - start)
        self.at[id(proposal)] = len(self.told)
        return proposal

    def tell(self, proposal, score) -> None:
        self.stale.append(len(self.told) - self.at.pop(id(proposal)))
        start = time.perf_counter()
        self.searcher.tell(proposal, score)
        self.told.append(time.perf_counter() - start)

    def ms_before(self, trial: int) -> float:
        """Ask and tell of a trial [ms]: the mean of those before."""
        low = max(0, trial - WINDOW)
        return 1e3 * float(np.mean(self.asked[low:trial]) + np.mean(self.told[low:trial]))


def driver_of(name: str, trials: int, population: int, folder: Path, *, synchronous: bool, seed: int):
    """A driver with all that is real: searcher, goal, journal."""
    space = space_of(SPACE, free_order=True, units=Units())
    params = SearchParams(
        searcher=name,
        seed=seed,
        objectives=("quality", "size_bytes"),
        budget={"trials": trials},
        population=population,
        synchronous=synchronous,
    )
    goal = Goal.of(params, "accuracy", REFERENCE)
    setup = Setup(space=space, seed=seed, values=2, population=population)
    searcher = Timed(registry.load("searchers", name, SEARCHERS)(setup))
    journal = begin(folder / "journal.jsonl", Header(digest="", told={}))
    return Driver(space, searcher, goal, params, journal), searcher


def timed_journal(journal, spent: dict[str, float]) -> None:
    """Note what the journal takes."""
    for name in ("append", "answered_at"):
        call = getattr(journal, name)

        def noted(*arguments, call=call, name=name):
            start = time.perf_counter()
            found = call(*arguments)
            spent[name] += time.perf_counter() - start
            return found

        setattr(journal, name, noted)


def loop(driver: Driver, executor, stop_s: float = math.inf, on_told=lambda told: None) -> None:
    """The loop of the stage, without a clock of its own."""
    start = time.perf_counter()
    while not driver.done and time.perf_counter() - start < stop_s:
        while driver.wants(executor.free):
            driver.ask()
        for request in driver.requests():
            executor.submit(request)
        if not driver.batch:
            continue
        for number, answer in executor.finished(1.0):
            driver.answer(number, answer, executor.now)
        on_told(driver.standings.told)


def simulated(workers: int, durations: list[float], *, synchronous: bool, seed: int) -> dict:
    """One search with so many workers."""
    trials = max(FEWEST, ROUNDS * workers)
    population = max(16, workers) if synchronous else 16
    with tempfile.TemporaryDirectory() as name:
        driver, searcher = driver_of("genetic", trials, population, Path(name), synchronous=synchronous, seed=seed)
        spent: dict[str, float] = defaultdict(float)
        timed_journal(driver.journal, spent)
        executor = VirtualExecutor(workers, durations, seed)
        loop(driver, executor)
        executor.tick()
        driver.journal.close()
    told = driver.standings.told
    return {
        "workers": workers,
        "synchronous": synchronous,
        "population": population,
        "trials": told,
        "seed": seed,
        "known_already": driver.standings.cached,
        "busy_share": executor.busy_s / (workers * executor.now),
        "busy_share_while_asking": executor.busy_share_while_asking,
        "hours": executor.now / 3600,
        "trials_per_hour": 3600 * told / executor.now,
        "driver_ms_a_trial": 1e3 * executor.real_s / told,
        "searcher_ms_a_trial": 1e3 * (sum(searcher.asked) + sum(searcher.told)) / told,
        "journal_ms_a_trial": 1e3 * sum(spent.values()) / told,
        "driver_share_of_time": executor.real_s / executor.now,
        "staleness_mean": float(np.mean(searcher.stale)),
        "staleness_most": max(searcher.stale),
    }


def overhead(name: str, seed: int, trials: int) -> dict:
    """One searcher's own time and memory over many trials; in a process of its own, for the memory."""
    rows, memory = {}, {}
    process = psutil.Process()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # the disk has no part in this
        driver, searcher = driver_of(name, trials, 16, Path(folder), synchronous=True, seed=seed)
        spent: dict[str, float] = defaultdict(float)
        timed_journal(driver.journal, spent)
        executor = VirtualExecutor(16, [1.0], seed)

        def look(told: int) -> None:
            for at in (*AT, 2_000, 5_000):
                if told >= at and at not in memory:
                    memory[at] = process.memory_info().rss
                    if at in AT:
                        rows[at] = searcher.ms_before(at)

        loop(driver, executor, STOP_S, look)
        driver.journal.close()
    told = driver.standings.told
    first = 1_000 if 1_000 in memory else min(memory, default=0)
    growth = (process.memory_info().rss - memory[first]) / (told - first) if told > 2 * first > 0 else None
    return {
        "searcher": name,
        "seed": seed,
        "trials": told,
        "searcher_ms_a_trial_at": {str(at): rows.get(at) for at in AT},
        "searcher_ms_a_trial_last": searcher.ms_before(told),
        "driver_ms_a_trial": 1e3 * executor.real_s / told,
        "journal_ms_a_trial": 1e3 * sum(spent.values()) / told,
        "memory_growth_bytes_a_trial": growth,
        "memory_bytes": {str(at): value for at, value in sorted(memory.items())},
    }


def durations_of(path: Path | None) -> tuple[list[float], str]:
    """How long trials take [s], and whence that is known."""
    if path is None:
        coins = random.Random(0)
        drawn = [MEDIAN_S * math.exp(SIGMA * coins.gauss(0, 1)) for _ in range(10_000)]
        return drawn, f"log-normal, median {MEDIAN_S:g} s, sigma {SIGMA:g} (none were recorded)"
    if path.suffix == ".json":
        found = [row["seconds"] for row in json.loads(path.read_text(encoding="utf-8"))["trials"]]
    else:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["cached"] == "False" and not row["reason"]]
        found = [float(row["seconds"]) for row in rows]
    return found, f"{len(found)} trials of {path.name}, median {np.median(found):.1f} s"


def markdown(results: dict) -> Iterator[str]:
    """The tables of the documents, a list of lines each joined: means over seeds."""
    lines = [
        "| workers | generations | seeds | trials | busy | trials an hour | stale, mean and most | driver a trial |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for rows in grouped(results["workers"], "workers", "synchronous"):
        one = rows[0]
        kind = f"synchronous, {one['population']:,}" if one["synchronous"] else "asynchronous"
        lines.append(
            f"| {one['workers']:,} | {kind} | {len(rows)} | {mean(rows, 'trials'):,.0f} | "
            f"{mean(rows, 'busy_share_while_asking'):.0%} | {mean(rows, 'trials_per_hour'):,.0f} | "
            f"{mean(rows, 'staleness_mean'):,.0f}, {max(row['staleness_most'] for row in rows):,} | "
            f"{mean(rows, 'driver_ms_a_trial'):.0f} ms |"
        )
    yield "\n".join(lines)
    lines = ["| searcher | seeds | trials | ask and tell, at 100 | at 1,000 | at the end | memory a trial |"]
    lines.append("|---|---|---|---|---|---|---|")
    for rows in grouped(results["overhead"], "searcher"):
        early = [np.mean([row["searcher_ms_a_trial_at"][at] for row in rows]) for at in ("100", "1000")]
        grown = [row["memory_growth_bytes_a_trial"] for row in rows if row["memory_growth_bytes_a_trial"] is not None]
        lines.append(
            f"| `{rows[0]['searcher']}` | {len(rows)} | {mean(rows, 'trials'):,.0f} | {early[0]:.2g} ms | "
            f"{early[1]:.2g} ms | {mean(rows, 'searcher_ms_a_trial_last'):.2g} ms | "
            f"{f'{np.mean(grown):,.0f} bytes' if grown else 'not told'} |"
        )
    yield "\n".join(lines)


def grouped(rows: list[dict], *keys: str) -> list[list[dict]]:
    """Rows that agree in these keys, in the order of their first."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.values())


def mean(rows: list[dict], key: str) -> float:
    """The mean of a figure."""
    return float(np.mean([row[key] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--durations", type=Path)
    parser.add_argument("--part", nargs="+", choices=["workers", "overhead"], default=["workers", "overhead"])
    parser.add_argument("--workers", nargs="+", type=int, default=WORKERS)
    parser.add_argument("--searchers", nargs="+", default=SEARCHERS_TIMED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=max(AT))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print what is stored")
    given = parser.parse_args()
    if given.markdown:
        print("\n\n".join(markdown(json.loads(RESULTS.read_text(encoding="utf-8")))))
        return
    if given.one:
        print(json.dumps(overhead(given.one, given.seeds, given.trials)))
        return
    durations, told = durations_of(given.durations)
    results: dict = {"machine": machine_fingerprint()}
    if "workers" in given.part:
        rows = []
        for workers in given.workers:
            for synchronous in (True, False):
                for seed in range(given.seeds):
                    rows.append(simulated(workers, durations, synchronous=synchronous, seed=seed))
                    print(json.dumps(rows[-1]), flush=True)
        results |= {"workers": rows, "durations": told, "workers_load": os.getloadavg()}
    if "overhead" in given.part:
        rows = []
        for name in given.searchers:
            for seed in range(given.seeds):
                command = [sys.executable, __file__, "--one", name, "--seeds", str(seed), "--trials", str(given.trials)]
                rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                print(json.dumps(rows[-1]), flush=True)
        results |= {"overhead": rows, "overhead_load": os.getloadavg()}
    if given.write:
        stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(stored | results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
