"""The same search on one machine and on a Ray cluster of two nodes, a node killed in the middle, and the throughput.

    python benchmarks/search_cluster.py SUITE [--part front throughput] [--trials 24] [--seeds 3] [--write]
    python benchmarks/search_cluster.py --markdown      # the tables of docs/search_scaling.md

Both nodes are on this machine, a processor each: what a network adds is not in these figures. `front`: one suite, seeds
0, 1, …, the suite's searcher, generation-synchronous, objectives without latency; `local` against `ray` against `ray`
with one of three nodes killed after a quarter of the answers: the same proposals, answers and front are expected.
`throughput`: trials an hour and worker, of one worker and of two, with trials that only sleep (what the executor itself
costs) and with real ones (whose workers also share caches and memory).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.params import read_params
from compression_gate.records.trial import Request
from compression_gate.search.executors.base import Place
from compression_gate.search.executors.local import WORKER, LocalExecutor
from compression_gate.search.executors.ray_cluster import RayExecutor
from compression_gate.stages import search
from compression_gate.stages.search import Ask

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

RESULTS = Path(__file__).parent / "results" / "search_cluster.json"
SUPPORT = Path(__file__).parents[1] / "tests" / "support"  # where trials that sleep are
SLEEP_S, SLEEPS = 1.0, 20


def cluster_of(nodes: int) -> tuple[Cluster, list]:
    """A cluster on this machine, a processor a node."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    added = [cluster.add_node(num_cpus=1) for _ in range(nodes - 1)]
    cluster.wait_for_nodes()
    return cluster, added


def journal_of(suite: Path, name: str) -> list[dict]:
    lines = (suite / search.FOLDER / name / search.JOURNAL).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def told(suite: Path, name: str) -> tuple[list, dict]:
    """Proposals, and figures of answers, of a search."""
    events = journal_of(suite, name)
    proposals = [event["genome"] for event in events if event["event"] == "asked"]
    answers = {event["number"]: event["answer"]["figures"] for event in events if event["event"] == "answered"}
    return proposals, answers


def searched(suite: Path, ask: Ask, executor: str, workers: int = 2, address: str | None = None) -> dict:
    """One search, and what it came to."""
    start = time.monotonic()
    record = search.run(suite, dataclasses.replace(ask, executor=executor, address=address, workers=workers))
    return {
        "executor": executor,
        "workers": workers,
        "trials": record.trials,
        "failed": record.failed,
        "seconds": round(time.monotonic() - start, 1),
        "front": [[round(value, 6) for value in row.values] for row in record.front],
        "best": record.best.recipe_digest[:8] if record.best else None,
    }


def fronts(suite: Path, trials: int, seed: int) -> dict:
    """The same search three times, and whether the last two said what the first did."""
    shutil.rmtree(suite / search.FOLDER, ignore_errors=True)  # no journal of an earlier one, and no step
    params = read_params(suite).search
    ask = Ask(trials=trials, seed=seed)
    rows = {"local": searched(suite, dataclasses.replace(ask, name="local"), "local")}
    cluster, _ = cluster_of(2)
    rows["ray, two nodes"] = searched(suite, dataclasses.replace(ask, name="ray"), "ray", address=cluster.address)
    third = cluster.add_node(num_cpus=1)
    killed: list[int] = []

    def kill() -> None:
        path = suite / search.FOLDER / "killed" / search.JOURNAL
        while not (path.exists() and path.read_text(encoding="utf-8").count('"answered"') >= trials // 4):
            time.sleep(0.1)
        killed.append(path.read_text(encoding="utf-8").count('"answered"'))
        cluster.remove_node(third, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    ask = dataclasses.replace(ask, name="killed")
    rows["ray, a node killed"] = searched(suite, ask, "ray", workers=3, address=cluster.address)
    thread.join()
    cluster.shutdown()
    return {
        "seed": seed,
        "searcher": params.searcher,
        "population": params.population,
        "searches": rows,
        "answers_before_the_kill": killed[0],
        "same_as_local": [told(suite, name) == told(suite, "local") for name in ("ray", "killed")],
        "load": os.getloadavg()[0],
    }


def rate(executor, requests: list[Request], workers: int) -> float:
    """Trials an hour and worker, from when all workers have carried one out."""
    for number in range(2 * workers):
        executor.submit(Request(number=-1 - number, steps=requests[0].steps))
    done = 0
    while done < 2 * workers:
        done += len(executor.finished(1.0))
    start, done = time.monotonic(), 0
    for request in requests:
        executor.submit(request)
    while done < len(requests):
        done += len(executor.finished(1.0))
    return 3600 * done / (time.monotonic() - start) / workers


def throughput(suite: Path, folder: Path, real: int) -> list[dict]:
    """One worker against two, on one machine and on the cluster; sleeping trials and real ones."""
    os.environ["STANDIN_WAIT_S"] = str(SLEEP_S)
    sleeping = [Request(number=number, steps=({"do": "wait"},)) for number in range(SLEEPS)]
    steps = [({"method": "weight_only_quantization", "bits": 8, "ignore": []},)]
    reals = [Request(number=number, steps=steps[0]) for number in range(real)]
    cluster, _ = cluster_of(2)
    rows = []
    for kind, worker, requests in (("sleeping", "standin_trials", sleeping), ("real", WORKER, reals)):
        for name in ("local", "ray"):
            found = {}
            for workers in (1, 2):
                place = Place(suite=suite, folder=folder, workers=workers, address=cluster.address)
                executor = (LocalExecutor if name == "local" else RayExecutor)(place, worker)
                load = os.getloadavg()[0]
                found[workers] = rate(executor, requests, workers)
                executor.close()
            rows.append(
                {
                    "trials": kind,
                    "n": len(requests),
                    "executor": name,
                    "per_hour_and_worker": {str(key): round(value) for key, value in found.items()},
                    "two_against_one": round(found[2] / found[1], 3),
                    "load": load,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    cluster.shutdown()
    return rows


def markdown(results: dict) -> Iterator[str]:
    """The tables of the documents, the lines of each joined."""
    lines = [
        "| search | seed | searcher | trials | front of | workers | seconds | proposals, answers and front |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in results["front"]:
        same = dict(zip(("ray, two nodes", "ray, a node killed"), found["same_as_local"], strict=True))
        kind = f"`{found['searcher']}`, generations of {found['population']}"
        for name, row in found["searches"].items():
            words = "—" if name not in same else "the same as `local`" if same[name] else "other than `local`"
            figures = f"{row['trials']} | {len(row['front'])} | {row['workers']} | {row['seconds']:.0f}"
            lines.append(f"| {name} | {found['seed']} | {kind} | {figures} | {words} |")
    yield "\n".join(lines)
    lines = [
        "| trials | n | executor | an hour and worker, of one | of two | ratio | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["throughput"] + results.get("throughput_on_a_busy_machine", []):
        kind = f"sleeping {SLEEP_S:g} s" if row["trials"] == "sleeping" else row["trials"]
        one, two = row["per_hour_and_worker"]["1"], row["per_hour_and_worker"]["2"]
        rates = f"{one:,} | {two:,} | {row['two_against_one']:.2f} | {row['load']:.1f}"
        lines.append(f"| {kind} | {row['n']} | `{row['executor']}` | {rates} |")
    yield "\n".join(lines)


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "suite", type=Path, nargs="?", help="a suite with a reference, and a section `search` without latency"
    )
    parser.add_argument("--part", nargs="+", choices=["front", "throughput"], default=["front", "throughput"])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--real", type=int, default=12)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print what is stored")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if given.markdown:
        print("\n\n".join(markdown(results)))
        return
    results |= {"machine": machine_fingerprint()}
    if "front" in given.part:
        results["front"] = [fronts(given.suite, given.trials, seed) for seed in range(given.seeds)]
        print(json.dumps(results["front"], indent=1), flush=True)
    if "throughput" in given.part:
        folder = given.suite / search.FOLDER / "local"  # laid out by the searches above
        results["throughput"] = throughput(given.suite, folder, given.real)
    if given.write:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
