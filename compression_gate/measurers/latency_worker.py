"""One turn of paired timing, in a process of its own: ``python -m compression_gate.measurers.latency_worker request``.

It builds both sessions in random order, warms them up, and calls them in pairs, a fair coin deciding which goes first.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate import registry
from compression_gate.errors import CompressionGateError
from compression_gate.runtimes import RUNTIMES

QUICK_S, REPEATED_S = 100e-6, 200e-6  # calls under 0.1 ms are repeated up to 0.2 ms: reading both clocks costs 1.5 µs
WARM_UP, WARM_UP_QUICK = 3, 100


def main(path: Path) -> None:
    """Read the request, time, write the samples ``(2, pairs)`` of both clocks [s]."""
    request = json.loads(path.read_text(encoding="utf-8"))
    coin = random.Random(request["seed"])  # noqa: S311  # a coin, not a secret
    with np.load(request["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    runtime = registry.load("runtimes", request["runtime"], RUNTIMES)()
    order = [0, 1]
    coin.shuffle(order)
    sessions: dict[int, Any] = {}
    for side in order:
        sessions[side] = runtime.load(Path(request["files"][side]), request["threads"])
    repeats = warm_up(sessions, inputs)
    gc.collect()
    gc.disable()
    cpu, wall = timed_pairs(sessions, inputs, repeats, coin, request["seconds"])
    with Path(request["samples"]).open("wb") as out:
        np.savez_compressed(out, cpu=cpu, wall=wall, repeats=repeats)


def warm_up(sessions: dict[int, Any], inputs: dict[str, np.ndarray]) -> int:
    """Call both until they are warm; returns how often a call is repeated within one sample, alike for both."""
    for session in sessions.values():
        for _ in range(WARM_UP):
            session(inputs)
    start = time.perf_counter()
    for session in sessions.values():
        session(inputs)
    mean = (time.perf_counter() - start) / len(sessions)
    if mean < 1e-3:
        for session in sessions.values():
            for _ in range(WARM_UP_QUICK):
                session(inputs)
    fastest = min(once(session, inputs, 1)[1] for session in sessions.values())
    return 1 if fastest >= QUICK_S else max(1, round(REPEATED_S / max(fastest, 1e-7)))


def once(session: Any, inputs: dict[str, np.ndarray], repeats: int) -> tuple[float, float]:
    """Thread CPU time and wall time of one call [s], the mean of ``repeats``."""
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(repeats):
        session(inputs)
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    return cpu / repeats, wall / repeats


def timed_pairs(
    sessions: dict[int, Any], inputs: dict[str, np.ndarray], repeats: int, coin: random.Random, seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of calls until the time is up, five at least."""
    cpu: list[tuple[float, float]] = []
    wall: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(cpu) < 5:
        first = coin.getrandbits(1)
        took = {side: once(sessions[side], inputs, repeats) for side in (first, 1 - first)}
        cpu.append((took[0][0], took[1][0]))
        wall.append((took[0][1], took[1][1]))
    return np.array(cpu).T, np.array(wall).T


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except CompressionGateError as error:
        sys.exit(f"{type(error).__name__}: {error}")
