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
import math
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from compression_gate import registry
from compression_gate.errors import CompressionGateError, MeasurementError
from compression_gate.gate.timing_test import LEAST_TURNS, LOOKS, OFFSETS_INSIDE, blocks_needed, decide, share_of
from compression_gate.gate.timing_zone import Zone
from compression_gate.measurers.children import Child, Fork, Fresh, wait
from compression_gate.measurers.latency import FORKED, PROCESSES, Turn
from compression_gate.records.base import replacing
from compression_gate.runtimes import RUNTIMES
from compression_gate.runtimes.base import Preloading, Runtime

log = logging.getLogger("compression_gate")
QUICK_S, REPEATED_S = 100e-6, 200e-6  # calls under 0.1 ms are repeated up to 0.2 ms: reading both clocks costs 1.5 µs
WARM_UP, WARM_UP_QUICK, QUICK_CALL_S = 3, 100, 1e-3
SHORTEST_TURN_S, LONGEST_TURN_S, PAIRS_A_TURN = 0.25, 1.0, 100
CONTROL_SHARE = 0.5  # of a turn's length, one control between two looks: about a tenth of the time
CONTROL_EVERY = 4  # observations of the process procedure
LEAST_PAIRS = 5
SAME_PLACE = 0.001  # places in memory always differ by about so much [log]
PROCESS_S = 0.5  # one observation of the process procedure
POOL, SHARES_APART = 1.03, 0.10  # process over thread CPU time, and CPU over wall between the sides


def main(path: Path) -> None:
    """Read a request; be the parent, or one turn where the request says so."""
    request = json.loads(path.read_text(encoding="utf-8"))
    if "kind" in request:
        measure(request, registry.load("runtimes", request["runtime"], RUNTIMES)())
        return
    Parent(request).sample()


class Parent:
    """Starts turns, looks at what they found, and stops when nothing is open any more."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.folder = Path(request["folder"])
        self.zones = [Zone(**zone) for zone in request["zones"]]
        self.coin = random.Random(request["seed"])  # noqa: S311  # a coin, not a secret
        self.started = time.monotonic()
        self.end = self.started + request["budget_s"]
        self.turns: list[Turn] = []
        self.number = 0
        # Of building or of processes, for what comes: of the pair (False) and of the control.
        self.orders: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        # No session is made here: it would start threads that no fork survives.
        self.runtime = registry.load("runtimes", request["runtime"], RUNTIMES)()
        self.forks = request["procedure"] == FORKED
        # With several threads, reading may start some.
        if self.forks and request["threads"] == 1 and isinstance(self.runtime, Preloading):
            for path in dict.fromkeys(request["files"]):
                self.runtime.preload(Path(path))
        # What is here by now is no garbage of any turn: looking through it would copy the pages that forks share.
        gc.collect()
        gc.freeze()

    def sample(self) -> None:
        """Take pairs; where the thread's clock does not see the work, take processes instead."""
        began, pairs = time.monotonic(), self.request["threads"] == 1
        done = self.take_pairs() if pairs else self.take_processes()
        if pairs and self.pooled():
            self.turns = []
            for old in self.folder.glob("turn_*.npz"):
                old.unlink()
            pairs, done = False, self.take_processes()
        summary = {
            "procedure": self.request["procedure"] if pairs else PROCESSES,
            "needed_s": None if done else self.needed_s(),
            "sampling_s": time.monotonic() - began,
        }
        (self.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")

    def take_pairs(self) -> bool:
        """Turns of pairs, a control among every few; True if everything was decided in time."""
        seconds, self.started = SHORTEST_TURN_S, time.monotonic()
        self.turn_of_pairs(seconds * CONTROL_SHARE, control=True)
        for count in LOOKS:
            while len(self.turns) < count and not self.late():
                began = time.monotonic()
                self.turn_of_pairs(seconds, control=False)
                seconds = self.worthwhile_s(time.monotonic() - began)
            if self.pooled() or self.decided():
                return True
            if count == LEAST_TURNS:
                self.warn()
            if self.late():
                return False
            self.turn_of_pairs(seconds * CONTROL_SHARE, control=True)
        return False

    def worthwhile_s(self, took_s: float) -> float:
        """How long the next turn should be, so that the mean over turns is known best after a given time.

        A turn's median differs from the truth by its place in memory, which only another turn helps against, and by the
        scatter of its blocks, which falls with its length. The best length is √(what starting a turn costs × scatter of
        a second ÷ scatter of places), in variances; ``took_s``: the last turn with all that.
        """
        if len(self.turns) < LEAST_TURNS:
            return SHORTEST_TURN_S
        of_medians = float(np.var([np.median(turn.blocks) for turn in self.turns], ddof=1))
        # A median of n scatters by π/2 of a mean.
        within = float(np.median([scatter(turn.blocks) ** 2 * math.pi / 2 / len(turn.blocks) for turn in self.turns]))
        places = max(of_medians - within, SAME_PLACE**2)
        last_s = float(self.turns[-1].wall.sum()) * self.turns[-1].repeats
        best = math.sqrt(max(took_s - last_s, 0.0) * within * last_s / places)
        return min(max(SHORTEST_TURN_S, best), LONGEST_TURN_S)

    def take_processes(self) -> bool:
        """One observation a process, in the order A B B A, so that drift cancels; the controls are of A and A."""
        files, self.started = self.request["files"], time.monotonic()
        while not self.late():
            control = self.number % CONTROL_EVERY == 1
            sides = [files[0], files[0 if control else 1]]
            self.turn_of_processes(sides, self.next_order(control=control), control=control)
            if not control and self.decided():
                return True
            if not control and len(self.turns) == LEAST_TURNS:
                self.warn()
        return False

    def turn_of_pairs(self, seconds: float, *, control: bool) -> None:
        """One turn of the pair, or of its first model and a copy."""
        files = [self.request["files"][0]] * 2 if control else self.request["files"]
        path = self.next_path(control=control)
        self.run(self.asked("pairs", files, path, seconds, self.next_order(control=control)))
        if not control:
            self.turns.append(Turn.read(path))

    def turn_of_processes(self, files: list[str], order: tuple[int, int], *, control: bool) -> None:
        """One observation of each side, one process after the other."""
        path, sides = self.next_path(control=control), {}
        for side in order:
            one = self.folder / f"side_{side}.npz"
            self.run(self.asked("process", [files[side]], one, PROCESS_S))
            with np.load(one) as file:
                sides[side] = float(file["wall"])
        wall = np.array([[sides[0]], [sides[1]]])
        write(path, cpu=wall, wall=wall, repeats=1, process_share=1.0)
        if not control:
            self.turns.append(Turn.read(path))

    def next_path(self, *, control: bool) -> Path:
        """Where the next turn writes its samples."""
        self.number += 1
        return self.folder / f"turn_{self.number - 1:04}_{'control' if control else 'pairs'}.npz"

    def asked(
        self, kind: str, files: list[str], samples: Path, seconds: float, order: Sequence[int] = (0,)
    ) -> dict[str, Any]:
        """The request of one child."""
        common = {name: self.request[name] for name in ("runtime", "threads", "inputs")}
        own = {"kind": kind, "files": files, "samples": str(samples), "seconds": seconds, "order": order}
        return {**common, **own, "seed": self.coin.getrandbits(32)}

    def next_order(self, *, control: bool) -> tuple[int, int]:
        """In which order the two come: by a coin for one turn, the other way round for the next of its kind."""
        orders = self.orders[control]
        if not orders:
            orders += self.coin.sample([(0, 1), (1, 0)], 2)
        return orders.pop()

    def run(self, request: dict[str, Any]) -> None:
        """Run one child to its end.

        Raises:
            MeasurementError: it failed or was silent.
        """
        last_words = Path(request["samples"]).with_suffix(".words")
        if self.forks:
            child: Child = Fork(partial(measure, request, self.runtime), last_words)
        else:
            path = Path(request["samples"]).with_suffix(".json")
            path.write_text(json.dumps(request), encoding="utf-8")
            child = Fresh(["-m", __spec__.name, str(path)], last_words)
        wait(child, request["seconds"] + self.request["silent_s"])

    def decided(self) -> bool:
        """Whether every limit has its answer."""
        blocks = [turn.blocks for turn in self.turns]
        return all(decide(blocks, zone, self.request["alpha"]).status != "undecided" for zone in self.zones)

    def pooled(self) -> bool:
        """Whether the work is done by other threads than the one whose clock is read, in most turns alike."""
        if len(self.turns) < LEAST_TURNS:
            return False
        return (
            abs(median_of("seen_apart", self.turns)) > SHARES_APART
            or median_of("process_share", self.turns) > POOL
            or median_of("seen_share", self.turns) == 0  # a clock that ticks rarely stands still during most calls
        )

    def turn_s(self) -> float:
        """What a turn took on average: starting it, building, warming up, and its share of the controls [s]."""
        return (time.monotonic() - self.started) / len(self.turns)

    def late(self) -> bool:
        """Whether another turn would end after the time is up; never before the least number of them."""
        return len(self.turns) >= LEAST_TURNS and time.monotonic() + self.turn_s() > self.end

    def needed_s(self) -> float:
        """About how long the narrowest zone takes in all, from how blocks and turns scatter so far."""
        return max(turns_needed(self.turns, zone, self.request["alpha"]) for zone in self.zones) * self.turn_s()

    def warn(self) -> None:
        """Say beforehand that the time will hardly do."""
        now = time.monotonic()
        more_s, left_s = self.needed_s() - (now - self.started), max(0.0, self.end - now)
        if more_s > left_s:
            log.info(
                "timing: about %.0f s more are needed to decide, %.0f s are left",
                math.ceil(more_s),
                left_s,
            )


def turns_needed(turns: Sequence[Turn], zone: Zone, alpha: float) -> int:
    """About how many turns decide a candidate at one of the lines: the first look to come at which both would do.

    Blocks, as many as they need by their scatter; and turns, by the deviation of their medians, in Student's t and in
    the room that their places leave.
    """
    blocks = np.concatenate([turn.blocks for turn in turns])
    for_blocks = blocks_needed(scatter(blocks), zone, alpha) * len(turns) / len(blocks)
    deviation = float(np.std([np.median(turn.blocks) for turn in turns], ddof=1))
    width = math.log(zone.high) - math.log(zone.low)
    for look, count in enumerate(LOOKS):
        error = deviation / math.sqrt(count)
        apart = float(special.stdtrit(count - 1, 1 - alpha * share_of(look))) * error
        if count > max(len(turns), for_blocks) and apart <= width and OFFSETS_INSIDE * error <= zone.room:
            return count
    return math.ceil(max(for_blocks, LOOKS[-1]))


def median_of(figure: str, turns: Sequence[Turn]) -> float:
    """The median turn's figure."""
    return float(np.median([getattr(turn, figure) for turn in turns]))


def scatter(values: np.ndarray) -> float:
    """The standard deviation of normal values, by their distances from their median: some lie far off."""
    return float(np.median(np.abs(values - np.median(values)))) * 1.4826


def measure(request: dict[str, Any], runtime: Runtime) -> None:
    """Be one turn: build, warm up, time, write."""
    with np.load(request["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    coin = random.Random(request["seed"])  # noqa: S311  # a coin, not a secret
    sessions: dict[int, Any] = {}
    for side in request["order"]:
        sessions[side] = runtime.load(Path(request["files"][side]), request["threads"])
    shapes = shapes_of(sessions, inputs)
    repeats = warm_up(sessions, inputs)
    gc.collect()
    gc.disable()
    if request["kind"] == "process":
        walls = timed_calls(sessions[0], inputs, request["seconds"])
        refuse_other_shapes(request["files"], shapes, shapes_of(sessions, inputs))
        write(Path(request["samples"]), wall=np.median(walls))
        return
    process, thread = time.process_time(), time.thread_time()
    cpu, wall = timed_pairs(sessions, inputs, repeats, coin, request["seconds"])
    process, thread = time.process_time() - process, time.thread_time() - thread
    refuse_other_shapes(request["files"], shapes, shapes_of(sessions, inputs))
    write(Path(request["samples"]), cpu=cpu, wall=wall, repeats=repeats, process_share=process / max(thread, 1e-9))


def shapes_of(sessions: dict[int, Any], inputs: dict[str, np.ndarray]) -> dict[int, tuple[int, ...]]:
    """What every model answers in."""
    return {side: np.shape(session(inputs)) for side, session in sessions.items()}


def refuse_other_shapes(
    files: list[str], before: dict[int, tuple[int, ...]], after: dict[int, tuple[int, ...]]
) -> None:
    """A model that answers otherwise than at first did other work than was asked of it.

    Raises:
        MeasurementError: one does.
    """
    for side, shape in before.items():
        if after[side] != shape:
            raise MeasurementError(f"{files[side]}: expected outputs {shape} as at first, got {after[side]}")


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
    """Pairs of calls; ``(2, pairs)`` of each clock.

    Until the time is up and there are a hundred; but five at least, and no more than those after a second.
    """
    cpu: list[tuple[float, float]] = []
    wall: list[tuple[float, float]] = []
    start = time.perf_counter()
    while (since := time.perf_counter() - start) < seconds or len(cpu) < PAIRS_A_TURN:
        if since > LONGEST_TURN_S and len(cpu) >= LEAST_PAIRS:
            break
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
