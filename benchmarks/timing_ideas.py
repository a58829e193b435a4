"""Ideas against the procedure as it is: does a turn's median scatter less, or is an answer there sooner?

    python benchmarks/timing_ideas.py [--runtime onnxruntime] [--size small] [--turns 30] [--decisions 6] [--write]

One process takes turns of a model against itself, one of each way after another, so that the machine is as busy for all
of them; what is compared is the deviation of a turn's median and the seconds a turn takes. The variance times the
seconds says how long a way takes to the same precision. Decisions with turns of fixed length and of a length as long as
pays are taken one after another too. `--write` puts the figures beside those of other runtimes, sizes and loads.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import math
import os
import platform
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import stats

from compression_gate import registry
from compression_gate.errors import MeasurementError
from compression_gate.measurers import latency, latency_worker
from compression_gate.measurers.children import Fork, wait
from compression_gate.measurers.known_speed import SHAPES, model_file
from compression_gate.measurers.latency import Turn
from compression_gate.measurers.machine import timing_environment
from compression_gate.measurers.workers import environment
from compression_gate.records.timing_selftest import TimingCase
from compression_gate.runtimes import RUNTIMES
from compression_gate.runtimes.base import Preloading
from compression_gate.selftest.timing_traces import status_of
from compression_gate.stages.selftest_timing import BUDGET_S, Models, busy

RESULTS = Path(__file__).parent / "results" / "timing_ideas.json"
TURN_S, FIXED_S = 0.4, 0.4
SLICE_NS = 100_000_000  # the longest that Linux grants
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
FIRST_LINUX = (6, 12)  # from which a slice may be asked for
PLACES = 4  # in a turn that builds its models again and again
LARGEST_BALLAST = 1 << 20  # float64s
LIMIT, SLOWED = 0.05, 0.05
SILENT_S = 60.0
KEY = ("runtime", "size", "busy_processes")
USUAL, ALIKE = "as it is", "interrupted pairs count alike"


def ask_for_slice() -> None:
    """Ask the scheduler for a longer slice for this process; the struct is the system call's own.

    Raises:
        OSError: it is refused, or unknown here.
    """
    number = SCHED_SETATTR.get(platform.machine())
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if platform.system() != "Linux" or number is None or release < FIRST_LINUX:
        raise OSError(f"expected Linux from {FIRST_LINUX} on, got {platform.system()} {platform.release()}")
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = struct.pack("<IIQiIQQQ", 48, 0, 0, nice, 0, SLICE_NS, 0, 0)
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(number, 0, asked, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def with_slice(request: dict[str, Any], runtime: Any) -> None:
    """A turn with a longer slice."""
    ask_for_slice()
    latency_worker.measure(request, runtime)


def on_core(core: int, request: dict[str, Any], runtime: Any) -> None:
    """A turn held to one core."""
    os.sched_setaffinity(0, {core})
    latency_worker.measure(request, runtime)


def at_places(request: dict[str, Any], runtime: Any) -> None:
    """A turn that builds both models again in between, each time behind memory that was taken in the meantime."""
    coin, ballast, parts = random.Random(request["seed"]), [], []
    seconds = request["seconds"] / PLACES
    path = Path(request["samples"])
    with (
        mock.patch.object(latency_worker, "PAIRS_A_TURN", latency_worker.PAIRS_A_TURN // PLACES),
        mock.patch.object(latency_worker, "LONGEST_TURN_S", latency_worker.LONGEST_TURN_S / PLACES),
    ):
        for place in range(PLACES):
            part = path.with_name(f"{path.stem}_{place}.part.npz")
            own = {"seed": coin.getrandbits(32), "order": coin.sample((0, 1), 2), "samples": str(part)}
            latency_worker.measure(request | own | {"seconds": seconds}, runtime)
            parts.append(Turn.read(part))
            part.unlink()
            gc.collect()
            ballast.append(np.ones(coin.randrange(LARGEST_BALLAST)))
    latency_worker.write(
        path,
        cpu=np.concatenate([part.cpu for part in parts], axis=1),
        wall=np.concatenate([part.wall for part in parts], axis=1),
        repeats=parts[0].repeats,
        process_share=float(np.median([part.process_share for part in parts])),
    )


Work = Callable[[dict[str, Any], Any], None]


def ways() -> dict[str, Sequence[Work]]:
    """The ways to take a turn; where there are several works, they run at the same time."""
    found: dict[str, Sequence[Work]] = {
        USUAL: [latency_worker.measure],
        "a slice of 100 ms": [with_slice],
        f"{PLACES} places a turn": [at_places],
    }
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) == 2:
        found["two at once, a core each"] = [functools.partial(on_core, core) for core in cores]
    return found


def take(request: dict[str, Any]) -> None:
    """Take turns of all ways, one after another, in this process; write how long each took."""
    folder = Path(request["folder"])
    runtime = registry.load("runtimes", request["runtime"], RUNTIMES)()
    if isinstance(runtime, Preloading):
        for path in dict.fromkeys(request["files"]):
            runtime.preload(Path(path))
    gc.collect()
    gc.freeze()
    coin, seconds, refused = random.Random(0), {}, {}
    kinds = ways()
    for number in range(request["turns"]):
        order = list(kinds)
        coin.shuffle(order)
        for way in order:
            if way in refused:
                continue
            began = time.monotonic()
            children = []
            for part, work in enumerate(kinds[way]):
                name = f"{list(kinds).index(way)}_{number:04}_{part}"
                asked = {
                    **{key: request[key] for key in ("runtime", "threads", "inputs", "files")},
                    "kind": "pairs",
                    "samples": str(folder / f"{name}.npz"),
                    "seconds": TURN_S,
                    "seed": coin.getrandbits(32),
                    "order": coin.sample((0, 1), 2),
                }
                children.append(Fork(functools.partial(work, asked, runtime), folder / f"{name}.words"))
            try:
                for child in children:
                    wait(child, TURN_S + SILENT_S)
            except MeasurementError as error:
                refused[way] = str(error)
            finally:
                for child in children:
                    child.kill()
            seconds.setdefault(way, []).append((time.monotonic() - began) / len(children))
    told = {"ways": list(kinds), "seconds": seconds, "refused": refused}
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


class Fixed(latency_worker.Parent):
    """Turns of one length, whatever they cost."""

    def worthwhile_s(self, took_s: float) -> float:
        """The same for all."""
        return FIXED_S


def decide(path: Path) -> None:
    """Be the worker of one decision, with turns of fixed length."""
    with mock.patch.object(latency_worker, "SHORTEST_TURN_S", FIXED_S):  # the first turns too
        Fixed(json.loads(path.read_text(encoding="utf-8"))).sample()


@contextmanager
def turns_of_one_length() -> Iterator[None]:
    """Let decisions be taken by this script as their worker."""
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (
        mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(folders)),
        mock.patch.object(latency, "WORKER", Path(__file__).stem),
    ):
        yield


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How turns' medians scatter.

    Args:
        deviation: of a turn's median [log], with its exact 95 % interval, were they normal.
        seconds: that a turn takes. cost: variance × seconds, over that of the procedure as it is; cost_interval: exact
            95 %, were they normal, and none for what is made of the same turns.
        mean: of a model against itself: its distance from 0 should be a few deviations / √turns.
    """

    turns: int
    deviation: float
    interval: tuple[float, float]
    seconds: float
    mean: float
    interrupted: float
    cost: float | None = None
    cost_interval: tuple[float, float] | None = None


def spread_of(medians: Sequence[float], seconds: float, interrupted: float) -> Spread:
    """The scatter of some turns' medians."""
    n, deviation = len(medians), float(np.std(medians, ddof=1))
    low, high = (deviation * math.sqrt((n - 1) / stats.chi2.ppf(share, n - 1)) for share in (0.975, 0.025))
    mean = float(np.mean(medians))
    return Spread(
        turns=n, deviation=deviation, interval=(low, high), seconds=seconds, mean=mean, interrupted=interrupted
    )


def of_all_pairs(turn: Turn) -> float:
    """A turn's median as it would be if interrupted pairs counted like the others."""
    calm = Turn(cpu=turn.cpu, wall=turn.wall, repeats=turn.repeats, process_share=turn.process_share)
    calm.__dict__["interrupted"] = np.zeros(len(turn.logs), bool)  # in the place of the cached property
    return float(np.median(calm.blocks))


def spreads(runtime: str, size: str, turns: int, folder: Path) -> tuple[dict[str, Spread], dict[str, str]]:
    """The scatter of each way, and which were refused."""
    model = model_file(runtime, SHAPES[size], 0, folder)
    inputs = folder / "inputs.npz"
    np.savez(inputs, **SHAPES[size].inputs())
    request = {"runtime": runtime, "threads": 1, "inputs": str(inputs), "folder": str(folder), "turns": turns}
    asked = folder / "take.json"
    asked.write_text(json.dumps(request | {"files": [str(model)] * 2}), encoding="utf-8")
    # A process that has run no model, with one thread.
    subprocess.run([sys.executable, __file__, "--take", str(asked)], env=environment(1), check=True)
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    taken = {
        way: [Turn.read(path) for path in sorted(folder.glob(f"{number}_*.npz"))]
        for number, way in enumerate(told["ways"])
        if way not in told["refused"]
    }
    found = {}
    for way, each in taken.items():
        seconds = float(np.mean(told["seconds"][way]))
        share = float(np.mean([turn.interrupted.mean() for turn in each]))
        found[way] = spread_of([float(np.median(turn.blocks)) for turn in each], seconds, share)
        if way == USUAL:
            found[ALIKE] = spread_of([of_all_pairs(turn) for turn in each], seconds, share)
    return with_costs(found), told["refused"]


def with_costs(found: dict[str, Spread]) -> dict[str, Spread]:
    """The same with what each costs against the procedure as it is."""
    usual = found[USUAL]
    costed = {}
    for way, one in found.items():
        cost = one.deviation**2 * one.seconds / (usual.deviation**2 * usual.seconds)
        ends = [cost / stats.f.ppf(share, one.turns - 1, usual.turns - 1) for share in (0.975, 0.025)]
        independent = way not in (USUAL, ALIKE)
        costed[way] = replace(one, cost=cost, cost_interval=(ends[0], ends[1]) if independent else None)
    return costed


@dataclass
class Length:
    """Decisions with turns of one kind of length."""

    seconds: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)


def lengths(runtime: str, size: str, decisions: int, folder: Path) -> dict[str, dict[str, Length]]:
    """Decisions of an identical and of a slowed model, with fixed turns and with those that pay."""
    same = TimingCase.model_validate({"runtime": runtime, "size": size, "slowed": 0.0, "limit": LIMIT, "load": 0})
    models = Models(folder)
    cases = {"identical": same, "slowed": same.model_copy(update={"slowed": SLOWED})} if decisions else {}
    files = {kind: models.pair_of(case) for kind, case in cases.items()}
    kinds = {f"turns of {FIXED_S} s": turns_of_one_length, "turns as long as pays": nullcontext}
    found = {kind: {way: Length() for way in kinds} for kind in cases}
    for number in range(decisions):
        for kind, case in cases.items():
            for way, taken in kinds.items():
                with taken():
                    add_decision(found[kind][way], case, files[kind], seed=number)
    return found


def add_decision(length: Length, case: TimingCase, files: tuple[Path, Path], seed: int) -> None:
    """Take one decision and count it."""
    inputs = SHAPES[case.size].inputs()
    setting = latency.Setting(runtime=case.runtime, threads=1, inputs=inputs, seed=seed, limits=(1 + case.limit,))
    sampled = latency.sample_pair(*files, setting, BUDGET_S[case.size])
    timing = latency.together([sampled]).timing
    status = "untrusted" if timing.reason else status_of(timing.blocks, timing.control_blocks, case.limit)
    length.turns.append(timing.turns)
    length.statuses[status] = length.statuses.get(status, 0) + 1
    if sampled.sampling_s is not None:
        length.seconds.append(sampled.sampling_s)


def lines_of(row: dict[str, Any]) -> list[str]:
    """What was found, as tables."""
    told = [
        f"{row['runtime']}, {row['size']} model, {row['busy_processes']} busy processes (load average "
        f"{row['load_average']:.1f})",
        "",
        "| way | turns | deviation of a turn's median | mean | interrupted | seconds a turn | variance × seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, one in row["ways"].items():
        low, high = one["interval"]
        ends = " ({:.2f} to {:.2f})".format(*one["cost_interval"]) if one["cost_interval"] else ""
        told.append(
            f"| {way} | {one['turns']} | {one['deviation']:.2%} ({low:.2%} to {high:.2%}) | {one['mean']:+.2%} "
            f"| {one['interrupted']:.0%} | {one['seconds']:.2f} | × {one['cost']:.2f}{ends} |"
        )
    told += [f"{way}: not here: {why}" for way, why in row["refused"].items()]
    if row["decisions"]:
        told += ["", "| decisions | way | n | answers | seconds, mean | turns, mean |", "|---|---|---|---|---|---|"]
    for kind, by_way in row["decisions"].items():
        for way, length in by_way.items():
            told.append(
                f"| {kind} | {way} | {len(length['seconds'])} "
                f"| {', '.join(f'{count} {status}' for status, count in length['statuses'].items())} "
                f"| {np.mean(length['seconds']):.1f} | {np.mean(length['turns']):.1f} |"
            )
    return told


def merged(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with a new one, which takes the place of one of the same runtime, size and load."""
    kept = [old for old in rows if any(old[name] != row[name] for name in KEY)]
    return sorted([*kept, row], key=lambda each: tuple(each[name] for name in KEY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument("--turns", type=int, default=30, help="of each way")
    parser.add_argument("--decisions", type=int, default=6, help="of each kind and length")
    parser.add_argument("--load", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"store the figures in {RESULTS.name}")
    parser.add_argument("--take", type=Path, help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("request", type=Path, nargs="?", help=argparse.SUPPRESS)  # and how the package calls a worker
    given = parser.parse_args()
    if given.request:
        decide(given.request)
        return
    if given.take:
        take(json.loads(given.take.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as name, busy(given.load):
        found, refused = spreads(given.runtime, given.size, given.turns, Path(name))
        decisions = lengths(given.runtime, given.size, given.decisions, Path(name))
        load = os.getloadavg()[0]
    row = {
        "runtime": given.runtime,
        "size": given.size,
        "busy_processes": given.load,
        "load_average": load,
        "environment": timing_environment(1),
        "ways": {way: vars(one) for way, one in found.items()},
        "refused": refused,
        "decisions": {
            kind: {way: vars(length) for way, length in by_way.items()} for kind, by_way in decisions.items()
        },
    }
    print("\n".join(lines_of(row)))
    if given.write:
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
        text = json.dumps({"rows": merged(rows, row)}, indent=2, ensure_ascii=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
