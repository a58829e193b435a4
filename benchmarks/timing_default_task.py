"""The default suite's latency rule, asked ten times: of the identical candidate, and of one with one operation more.

    python benchmarks/timing_default_task.py [--times 10] [--work FOLDER] [--write]

A scratch repository is made in a temporary folder, with a remote and this repository's `params.yaml`. Its first commit
takes the whole road (`compression-gate run`, `record --push`) and is the baseline; the second changes a comment. Then
`benchmark` and `gate` are run again and again, each time without the pairs of the times before. The slowed candidate is
the same `model.onnx` with one node more, of a short list the one that makes it 5.5 % slower or just over; which one is
measured beforehand, with pairs that are judged nowhere. `--work` keeps the repository, and goes on with it where it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compression_gate.gate.proportions import clopper_pearson
from compression_gate.measurers.latency import Setting, sample_pair, together
from compression_gate.measurers.machine import timing_environment
from compression_gate.records.artifact import FILE_NAME, Artifact, entries
from compression_gate.records.params import read_params
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.stages.benchmark import inputs_of
from compression_gate.tasks.fashion_mnist_files import ENVIRONMENT_VARIABLE, locate
from compression_gate.tasks.task import open_task

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "timing_default_task.json"
EVIDENCE = Path(".compression_gate/evidence")
BASELINE = Path(".compression_gate/references/baseline")
CANDIDATE = Path("models/candidate")
SLOWED = 1.055  # an operation's cost differs by half a point with what else the machine does: 5 % or more at any time
LOOK_S, LOOKS, MORE_LOOKS = 4.0, 1, 3  # decisions to sort the operations by, and to be sure of those that may do
NEAR = 1.04  # looked at again from here on
KEPT_RULES = ("latency", "speed", "accuracy")


@dataclass(frozen=True, kw_only=True, eq=False)  # one of the list below, not another with the same fields
class Operation:
    """One node more, behind a tensor: its type, its constant inputs, its attributes."""

    kind: str
    behind: str
    constants: tuple[np.ndarray, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.kind} behind {self.behind}"


# None of them changes an output by a bit: the input has one channel and nothing under zero.
CHANNEL = np.array([1])
OPERATIONS = (
    Operation(kind="ReduceSum", behind="input", constants=(CHANNEL,)),
    Operation(kind="ReduceMax", behind="input", constants=(CHANNEL,)),
    Operation(kind="ReduceMean", behind="input", constants=(CHANNEL,)),
    Operation(kind="AveragePool", behind="input", attributes={"kernel_shape": [1, 1]}),
    Operation(kind="Celu", behind="input"),
    Operation(kind="Gather", behind="input", constants=(np.arange(28),), attributes={"axis": 3}),
)


def ask(folder: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a program, insist on its exit code, and return what it said."""
    environment = os.environ | {
        ENVIRONMENT_VARIABLE: str(locate().resolve()),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def gate(suite: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run one of the package's commands."""
    return ask(suite, sys.executable, "-m", "compression_gate", *words, codes=codes)


def commit(suite: Path, message: str) -> None:
    """Commit all that is the user's."""
    ask(suite, "git", "add", "-A", "--", ".", ":!dvc.lock")
    ask(suite, "git", "commit", "-q", "-m", message)


def with_baseline(folder: Path) -> Path:
    """A suite at its second commit, with the first one's candidate as the baseline."""
    remote, suite = folder / "remote.git", folder / "suite"
    if (suite / BASELINE / FILE_NAME).exists():
        return suite
    ask(folder, "git", "init", "-q", "--bare", "-b", "main", str(remote))
    ask(folder, "git", "clone", "-q", str(remote), str(suite))
    ask(suite, "git", "checkout", "-q", "-B", "main")
    shutil.copy(ROOT / "params.yaml", suite)
    gate(suite, "init")
    ask(suite, sys.executable, "-m", "dvc", "init", "-q")
    commit(suite, "The default suite")
    print(gate(suite, "run", "--target", "main").splitlines()[0], flush=True)
    ask(suite, "git", "push", "-q", "origin", "main")
    gate(suite, "record", "--push")
    ask(suite, "git", "checkout", "-q", "-b", "change")
    with (suite / "params.yaml").open("a") as file:
        file.write("# A comment.\n")
    commit(suite, "A comment")
    print(gate(suite, "run", "--target", "main").splitlines()[0], flush=True)
    if not (suite / BASELINE / FILE_NAME).exists():
        raise SystemExit(f"{suite / BASELINE}: expected the first commit's candidate, got none")
    return suite


def place(suite: Path, model: Path) -> None:
    """Make ``model`` the candidate's file, its record consistent, and evaluate it."""
    folder = suite / CANDIDATE
    shutil.copy(model, folder / "model.onnx.new")
    (folder / "model.onnx.new").replace(folder / "model.onnx")  # what lies in DVC's cache may be the same file
    placed = Artifact.read(folder / FILE_NAME).model_copy(update={"files": entries(folder)})
    placed.sealed().write(folder / FILE_NAME)
    gate(suite, "evaluate")


def with_one_more(model: Path, operation: Operation, folder: Path) -> Path:
    """A copy of a model with one node more."""
    proto = onnx.load(model)
    graph, behind = proto.graph, operation.behind
    outward = behind in {value.name for value in graph.output}
    old, new = (f"{behind}_before", behind) if outward else (behind, f"{behind}_after")
    for node in graph.node:
        names = node.output if outward else node.input
        names[:] = [(old if outward else new) if name == behind else name for name in names]
    constants = [f"{behind}_constant_{number}" for number in range(len(operation.constants))]
    for name, value in zip(constants, operation.constants, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    made = [number for number, node in enumerate(graph.node) if old in node.output]
    graph.node.insert(
        made[0] + 1 if made else 0,
        helper.make_node(operation.kind, [old, *constants], [new], **operation.attributes),
    )
    onnx.checker.check_model(proto)
    path = folder / f"{operation.kind}-{behind}.onnx"
    onnx.save(proto, path)
    return path


@dataclass(frozen=True, kw_only=True)
class Slowness:
    """How slow a file really is: the mean over the medians of all turns, and its standard error [ratio]."""

    ratio: float
    error: float
    turns: int


class Stopwatch:
    """Times files against the identical candidate, for nothing but to know how slow they are."""

    def __init__(self, suite: Path, model: Path) -> None:
        self.model = model
        self.inputs = inputs_of(open_task(read_params(suite), suite), 1)
        self.medians: dict[Path, list[float]] = {}
        self.seed = 1000

    def time(self, path: Path, looks: int) -> Slowness:
        """Take so many more decisions' pairs."""
        medians = self.medians.setdefault(path, [])
        for _ in range(looks):
            self.seed += 1
            setting = Setting(runtime="onnxruntime", threads=1, inputs=self.inputs, seed=self.seed)
            timing = together([sample_pair(self.model, path, setting, LOOK_S)]).timing
            medians += [float(np.median(turn)) for turn in timing.blocks]
        mean, error = np.mean(medians), np.std(medians, ddof=1) / math.sqrt(len(medians))
        return Slowness(ratio=float(np.exp(mean)), error=float(error), turns=len(medians))

    def same_answer(self, path: Path) -> bool:
        """Whether a file answers as the model does."""
        one, other = (OnnxRuntime().load(each, 1)(self.inputs) for each in (self.model, path))
        return bool((one == other).all())


def slowed(suite: Path, model: Path, folder: Path) -> tuple[Path, Operation, dict[str, Slowness]]:
    """The model with that one operation more which makes it slower by 5 % or just over."""
    watch = Stopwatch(suite, model)
    files = {operation: with_one_more(model, operation, folder) for operation in operations(watch, model, folder)}
    looked = {operation: watch.time(path, LOOKS) for operation, path in files.items()}
    for operation, found in looked.items():
        print(f"  {operation.name}: {found.ratio:.4f} ± {found.error:.4f}", flush=True)
    for operation in sorted(looked, key=lambda operation: looked[operation].ratio):
        if looked[operation].ratio < NEAR:
            continue
        looked[operation] = watch.time(files[operation], MORE_LOOKS)
        found = looked[operation]
        print(f"  {operation.name}: {found.ratio:.4f} ± {found.error:.4f} over {found.turns} turns", flush=True)
        if found.ratio >= SLOWED:
            return files[operation], operation, {each.name: slowness for each, slowness in looked.items()}
    raise SystemExit(f"expected one of the operations to cost {SLOWED - 1:.1%} or more, got none")


def operations(watch: Stopwatch, model: Path, folder: Path) -> Iterator[Operation]:
    """Those that keep the answer on this machine too."""
    for operation in OPERATIONS:
        if watch.same_answer(with_one_more(model, operation, folder)):
            yield operation


def asked(suite: Path, times: int) -> list[dict[str, Any]]:
    """Take benchmark and gate anew so often, each for itself."""
    rows = []
    for number in range(times):
        # With the evidence of the times before, all of them together would be judged.
        shutil.rmtree(suite / EVIDENCE, ignore_errors=True)
        load, began = os.getloadavg()[0], time.monotonic()
        gate(suite, "benchmark")
        seconds = time.monotonic() - began
        gate(suite, "gate")
        verdict = json.loads((suite / "reports/verdict.json").read_text())
        pair = json.loads((suite / "reports/benchmark.json").read_text())["pairs"]["baseline"]
        checks = {check["rule"]: check for check in verdict["checks"] if check["rule"] in KEPT_RULES}
        rows.append(
            {
                "latency": checks["latency"]["status"],
                "against": checks["latency"]["against"],
                "reason": checks["latency"]["reason"],
                "others": {name: check["status"] for name, check in checks.items() if name != "latency"},
                "exit_code": verdict["exit_code"],
                "ratio": pair["ratio"],
                "turns": pair["turns"],
                "pairs": pair["pairs"],
                "attempts": pair["attempts"],
                "benchmark_s": round(seconds, 1),
                "load_average": round(load, 2),
            }
        )
        print(f"  {number + 1}: {told(rows[-1])}", flush=True)
    return rows


def told(row: dict[str, Any]) -> str:
    """One time in a line."""
    ratio = "no ratio" if row["ratio"] is None else f"ratio {row['ratio']:.4f}"
    why = f" ({row['reason']})" if row["reason"] else ""
    return (
        f"latency {row['latency']}{why}, {ratio}, {row['turns']} turns, exit code {row['exit_code']}, "
        f"benchmark {row['benchmark_s']:.0f} s at load {row['load_average']:.1f}"
    )


def markdown(kinds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table: how often each kind was refused and passed."""
    lines = [
        "| candidate | refused | passed | undecided or untrusted | ratios | benchmark stage |",
        "|---|---|---|---|---|---|",
    ]
    for kind, rows in kinds.items():
        counts = [sum(row["latency"] == status for row in rows) for status in ("fail", "pass")]
        bounds = [f"{count} of {len(rows)} ({span(count, len(rows))})" for count in counts]
        ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
        seconds = [row["benchmark_s"] for row in rows]
        lines.append(
            f"| {kind} | {bounds[0]} | {bounds[1]} | {len(rows) - sum(counts)} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | {min(seconds):.0f} to {max(seconds):.0f} s |"
        )
    return lines


def span(count: int, of: int) -> str:
    """The exact 95 % interval of a rate."""
    low, high = clopper_pearson(count, of, 0.025)
    return f"{low:.0%} to {high:.0%}"


@contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """The folder to work in: one that stays, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--work", type=Path, help="keep the repository there")
    parser.add_argument("--write", action="store_true", help=f"store the rows in {RESULTS.name}")
    given = parser.parse_args(words)
    with folder_of(given.work) as folder:
        suite = with_baseline(folder)
        same = shutil.copy(suite / BASELINE / "model.onnx", folder / "same.onnx")
        print("one operation more, how much slower:", flush=True)
        slow, operation, looked = slowed(suite, Path(same), folder)
        kinds = {}
        for kind, model in (("identical", Path(same)), (f"with one {operation.name}", slow)):
            place(suite, model)
            print(f"{kind}:", flush=True)
            kinds[kind] = asked(suite, given.times)
    print("\n".join(markdown(kinds)))
    if given.write:
        record = {
            "times": given.times,
            "operation": operation.name,
            "slower": {name: vars(found) for name, found in looked.items()},
            "environment": timing_environment(1),
            "rows": kinds,
        }
        RESULTS.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
