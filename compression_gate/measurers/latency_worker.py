"""Takes paired samples until all is decided: ``python -m compression_gate.measurers.latency_worker request``.

A fresh process with one thread, which imports what is needed once, runs no model and holds none. Every turn is a fork
of it, so that it starts in milliseconds and still builds both models anew, in random order and in memory of its own;
where there is no safe fork it is a fresh process instead. Turns are written as they end: what a crash leaves can be
read.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate import registry
from compression_gate.errors import CompressionGateError
from compression_gate.gate.timing_test import LEAST_TURNS, Zone, blocks_needed, decide
from compression_gate.measurers.latency import PROCEDURE, PROCESSES, Turn
from compression_gate.records.base import replacing
from compression_gate.runtimes import RUNTIMES

log = logging.getLogger("compression_gate")
QUICK_S, REPEATED_S = 100e-6, 200e-6  # calls under 0.1 ms are repeated up to 0.2 ms: reading both clocks costs 1.5 µs
WARM_UP, WARM_UP_QUICK, QUICK_CALL_S = 3, 100, 1e-3
TURN_S, LONGEST_TURN_S, PAIRS_A_TURN = 0.4, 1.0, 25
CONTROL_EVERY, CONTROL_SHARE = 4, 0.4  # every fourth turn, less than half as long: a tenth of the time
LEAST_PAIRS = 5
PROCESS_S = 0.5  # one observation of the process procedure
POOL, SHARES_APART = 1.03, 0.10  # process over thread CPU time, and CPU over wall between the sides
GRACE_S = 60.0
FORKS = hasattr(os, "fork") and sys.platform == "linux"


def main(path: Path) -> None:
    """Read a request; be the parent, or one turn where the request says so."""
    request = json.loads(path.read_text(encoding="utf-8"))
    if "kind" in request:
        measure(request)
        return
    Parent(request).sample()


class Parent:
    """Starts turns, looks at what they found, and stops when nothing is open any more."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.folder = Path(request["folder"])
        self.zones = [Zone(**zone) for zone in request["zones"]]
        self.coin = random.Random(request["seed"])  # noqa: S311  # a coin, not a secret
        self.end = time.monotonic() + request["budget_s"]
        self.turns: list[Turn] = []
        self.number = 0
        # Its import alone; a session made here would start threads that no fork survives.
        registry.load("runtimes", request["runtime"], RUNTIMES)

    def sample(self) -> None:
        """Take pairs; where the thread's clock does not see the work, take processes instead."""
        pairs = self.request["threads"] == 1
        done = self.take_pairs() if pairs else self.take_processes()
        if pairs and self.pooled():
            self.turns = []
            for old in self.folder.glob("turn_*.npz"):
                old.unlink()
            pairs, done = False, self.take_processes()
        summary = {"procedure": PROCEDURE if pairs else PROCESSES, "needed_s": None if done else self.needed_s()}
        (self.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")

    def take_pairs(self) -> bool:
        """Turns of pairs, a control among every few; True if everything was decided in time."""
        seconds, started = TURN_S, time.monotonic()
        while True:
            control = self.number % CONTROL_EVERY == 1
            self.turn("pairs", self.request["files"], seconds * (CONTROL_SHARE if control else 1), control=control)
            if not self.turns:
                continue
            if not control and self.decided():
                return True
            pair_s = float(np.median(self.turns[-1].wall.sum(0))) * self.turns[-1].repeats
            seconds = min(max(TURN_S, PAIRS_A_TURN * pair_s), LONGEST_TURN_S)
            if len(self.turns) == LEAST_TURNS and not control:
                self.warn(self.needed_s() - (time.monotonic() - started))
            # A turn costs more than it measures for: building, warming up, forking.
            if time.monotonic() + 1.3 * seconds > self.end and len(self.turns) >= LEAST_TURNS and self.number > 1:
                return False

    def take_processes(self) -> bool:
        """One observation a process, in the order A B B A, so that drift cancels; the controls are of A and A."""
        files = self.request["files"]
        while True:
            control = self.number % CONTROL_EVERY == 1
            sides = (0, 1) if self.coin.getrandbits(1) else (1, 0)
            self.turn("process", [files[0], files[0 if control else 1]], PROCESS_S, control=control, order=sides)
            if not control and self.decided():
                return True
            if time.monotonic() + 2 * PROCESS_S > self.end and len(self.turns) >= LEAST_TURNS:
                return False

    def turn(
        self, kind: str, files: list[str], seconds: float, *, control: bool, order: tuple[int, int] = (0, 1)
    ) -> None:
        """One turn: a child of its own, or two for the process procedure."""
        part = "control" if control else "pairs"
        path = self.folder / f"turn_{self.number:04}_{part}.npz"
        self.number += 1
        common = {name: self.request[name] for name in ("runtime", "threads", "inputs")}
        asked = {**common, "seconds": seconds, "seed": self.coin.getrandbits(32)}
        if kind == "pairs":
            files = [files[0], files[0]] if control else files
            self.child({**asked, "kind": "pairs", "files": files, "samples": str(path)})
        else:
            sides = {}
            for side in order:
                one = self.folder / f"side_{side}.npz"
                self.child({**asked, "kind": "process", "files": [files[side]], "samples": str(one)})
                with np.load(one) as file:
                    sides[side] = float(file["wall"])
            wall = np.array([[sides[0]], [sides[1]]])
            write(path, cpu=wall, wall=wall, repeats=1, by_cpu=False)
        if not control:
            self.turns.append(Turn.read(path))

    def child(self, request: dict[str, Any]) -> None:
        """Run one child to its end; a silent one is ended.

        Raises:
            SystemExit: it failed, with its last words.
        """
        path = self.folder / "child.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        limit = time.monotonic() + request["seconds"] + GRACE_S
        if not FORKS:
            words = [sys.executable, "-m", __spec__.name, str(path)]
            done = subprocess.run(
                words, timeout=request["seconds"] + GRACE_S, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                sys.exit(done.stderr.strip() or f"a turn ended with {done.returncode}")
            return
        words_path = self.folder / "last_words"
        pid = os.fork()
        if pid == 0:
            forked(request, words_path)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                sys.exit(f"a turn of {request['seconds']:.1f} s was silent for {GRACE_S:.0f} s more: the model hangs")
            time.sleep(0.004)
        if status != 0:
            told = words_path.read_text(encoding="utf-8") if words_path.exists() else ""
            how = (
                f"killed by signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"exit {os.WEXITSTATUS(status)}"
            )
            sys.exit(told or f"a turn ended ({how})")

    def decided(self) -> bool:
        """Whether every limit has its answer."""
        if len(self.turns) < LEAST_TURNS:
            return False
        blocks = [turn.blocks for turn in self.turns]
        return all(decide(blocks, zone).status != "undecided" for zone in self.zones)

    def pooled(self) -> bool:
        """Whether some turn's work was done by other threads than the one whose clock is read."""
        return bool(self.turns) and sum(not turn.by_cpu for turn in self.turns) * 2 > len(self.turns)

    def needed_s(self) -> float:
        """About how many seconds of pairs the narrowest zone takes, from how the blocks scatter so far."""
        blocks = np.concatenate([turn.blocks for turn in self.turns])
        spread = float(np.median(np.abs(blocks - np.median(blocks)))) * 1.4826
        per_block = sum(float(turn.wall.sum()) * turn.repeats for turn in self.turns) / len(blocks)
        return max(blocks_needed(spread, zone) for zone in self.zones) * per_block * 1.3

    def warn(self, left_s: float) -> None:
        """Say beforehand that the time will hardly do."""
        if left_s > self.end - time.monotonic():
            log.info(
                "timing: about %.0f s more are needed to decide, %.0f s are left: raise benchmark.budget_s, or see "
                "`run --again`",
                left_s,
                self.end - time.monotonic(),
            )


def forked(request: dict[str, Any], last_words: Path) -> None:
    """The life of a forked child; it never returns."""
    code = 1
    try:
        measure(request)
        code = 0
    except BaseException as error:  # noqa: BLE001  # a fork must not run on into its parent's code
        last_words.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(code)


def measure(request: dict[str, Any]) -> None:
    """Be one turn: build, warm up, time, write."""
    with np.load(request["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    runtime = registry.load("runtimes", request["runtime"], RUNTIMES)()
    coin = random.Random(request["seed"])  # noqa: S311  # a coin, not a secret
    order = list(range(len(request["files"])))
    coin.shuffle(order)
    sessions: dict[int, Any] = {}
    for side in order:
        sessions[side] = runtime.load(Path(request["files"][side]), request["threads"])
    repeats = warm_up(sessions, inputs)
    gc.collect()
    gc.disable()
    if request["kind"] == "process":
        walls = timed_calls(sessions[0], inputs, request["seconds"])
        write(Path(request["samples"]), wall=np.median(walls))
        return
    process, thread = time.process_time(), time.thread_time()
    cpu, wall = timed_pairs(sessions, inputs, repeats, coin, request["seconds"])
    process, thread = time.process_time() - process, time.thread_time() - thread
    shares = cpu.sum(1) / wall.sum(1)
    by_cpu = process <= POOL * thread and abs(shares[0] - shares[1]) <= SHARES_APART
    write(Path(request["samples"]), cpu=cpu, wall=wall, repeats=repeats, by_cpu=by_cpu)


def write(path: Path, **arrays: Any) -> None:
    """Write samples whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, **arrays)


def warm_up(sessions: dict[int, Any], inputs: dict[str, np.ndarray]) -> int:
    """Call all until they are warm; returns how often a call is repeated within one sample, alike for all."""
    for session in sessions.values():
        for _ in range(WARM_UP):
            session(inputs)
    start = time.perf_counter()
    for session in sessions.values():
        session(inputs)
    mean = (time.perf_counter() - start) / len(sessions)
    if mean < QUICK_CALL_S:
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
    """Pairs of calls until the time is up, five at least; ``(2, pairs)`` of each clock."""
    cpu: list[tuple[float, float]] = []
    wall: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(cpu) < LEAST_PAIRS:
        first = coin.getrandbits(1)
        took = {side: once(sessions[side], inputs, repeats) for side in (first, 1 - first)}
        cpu.append((took[0][0], took[1][0]))
        wall.append((took[0][1], took[1][1]))
    return np.array(cpu).T, np.array(wall).T


def timed_calls(session: Any, inputs: dict[str, np.ndarray], seconds: float) -> np.ndarray:
    """Wall time of calls until the time is up [s], five at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST_PAIRS:
        times.append(once(session, inputs, 1)[1])
    return np.array(times)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        main(Path(sys.argv[1]))
    except CompressionGateError as error:
        sys.exit(f"{type(error).__name__}: {error}")
