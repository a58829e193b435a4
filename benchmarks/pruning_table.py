"""What pruning costs and gains on the default task: `python benchmarks/pruning_table.py --work FOLDER`.

For each seed the reference of `params.yaml` is trained once and kept in FOLDER. Then, of every recipe below: the
candidate is saved, loaded, exported, and its file measured in onnxruntime: accuracy on the test split against the
reference's file, and the processor time of one call, both files in turns. The scope of the sparse ones was chosen on
the validation split of seed 0; epochs, rates and shares were set beforehand and not searched. Beside it, on the
validation split alone: every importance of structured pruning without any training.

Rows go to `benchmarks/results/pruning_table.json`; what is there is not measured again. `--seeds 1` is the short form.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compression_gate.measurers.cost import costs_of
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.methods.base import Context
from compression_gate.methods.chain import method_of
from compression_gate.modules.checkpoints import STATE_FILE, build_reference, load_reference, save_reference
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import weights
from compression_gate.records.base import replacing
from compression_gate.records.params import Params, Step, read_params
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.stages.train import normalized
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pruning_table.json"
HALF = {"method": "structured_pruning", "pruning_ratio": 0.5}
TAUGHT = {"method": "distillation", "epochs": 2, "temperature": 2.0, "alpha": 0.3}  # distillation_table.py chose them
SPARSE = {"method": "magnitude_pruning", "sparsity": 0.9}
OVERALL = {"scope": "global"}
TUNED = {"epochs": 3, "learning_rate": 0.003}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "half the channels": [HALF],
    "half the channels, distilled": [HALF, TAUGHT],
    "half the channels at random, distilled": [HALF | {"importance": "random"}, TAUGHT],
    "half the MACs, distilled": [{"method": "structured_pruning", "macs_ratio": 0.5}, TAUGHT],
    "half the MACs in multiples of 16, distilled": [
        {"method": "structured_pruning", "macs_ratio": 0.5, "round_to": 16},
        TAUGHT,
    ],
    "90 % of each layer at once": [SPARSE],
    "90 % of each layer at once, tuned": [SPARSE | TUNED],
    "90 % at once": [SPARSE | OVERALL],
    "90 % gradually": [SPARSE | OVERALL | TUNED | {"schedule": "gradual"}],
    "90 % at once, tuned": [SPARSE | OVERALL | TUNED],
    "90 % gradually with regrowth": [SPARSE | OVERALL | TUNED | {"schedule": "gradual", "regrowth": 0.3}],
    "2:4 at once": [{"method": "magnitude_pruning", "pattern": "2:4"}],
    "2:4, tuned": [{"method": "magnitude_pruning", "pattern": "2:4"} | TUNED | {"epochs": 1}],
}
IMPORTANCES = ("l1", "l2", "taylor", "activation", "random")
TURNS, CALLS = 60, 40


def reference_of(task: Task, params: Params, folder: Path) -> nn.Module:
    """Train the reference, or load the one that is there."""
    if not (folder / STATE_FILE).exists():
        model = normalized(task.build_model(), task, params)
        fit(model, task, Fitting(options=params.train, label=f"reference, seed {params.train.seed}"))
        folder.mkdir(parents=True, exist_ok=True)
        save_reference(model, folder)
    return load_reference(task, folder, normalize=params.train.normalize)


def compressed(steps: list[dict[str, Any]], reference: nn.Module, task: Task, params: Params) -> nn.Module:
    """Apply the steps in order."""
    model = reference
    for step in steps:
        model = method_of(Step(**step)).apply(model, Context(task=task, reference=reference, train=params.train))
    return model


@torch.no_grad()
def validation_accuracy(model: nn.Module, task: Task) -> float:
    """Share of the validation split predicted right, by the module itself."""
    batches = task.batches("validation", 500)
    right = sum(int((call(model, batch.inputs).argmax(1) == batch.targets).sum()) for batch in batches)
    return right / len(task.split("validation"))


def session_of(model: nn.Module, task: Task, path: Path) -> Any:
    """Export the model and load the file, one thread."""
    runtime = OnnxRuntime()
    runtime.export(model, task.example_inputs(1), path, {})
    return runtime.load(path, 1)


def test_accuracy(session: Any, task: Task) -> float:
    """Share of the test split predicted right, by the file."""
    right = 0
    for batch in task.batches("test", 500):
        right += int((session({"input": batch.inputs.numpy()}).argmax(1) == batch.targets.numpy()).sum())  # type: ignore[union-attr]
    return right / len(task.split("test"))


def speedups(reference: Any, candidate: Any, task: Task) -> list[float]:
    """Ratios of processor time of one call at batch 1, of blocks that take turns."""
    inputs = {"input": np.asarray(task.example_inputs(1))}
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(TURNS + 5):  # the first five warm up
        for which, session in enumerate((reference, candidate)):
            start = time.thread_time()
            for _ in range(CALLS):
                session(inputs)
            if turn >= 5:
                times[which].append(time.thread_time() - start)
    return [slow / fast for slow, fast in zip(times[0], times[1], strict=True)]


def measured(name: str, reference: nn.Module, task: Task, params: Params) -> dict[str, Any]:
    """Compress once and measure the file."""
    start = time.monotonic()
    model = compressed(RECIPES[name], reference, task, params)
    seconds = time.monotonic() - start
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        factory = build_reference(task, normalize=params.train.normalize)
        save_model(model, factory, folder)
        model = load_model(factory, folder)
        before = session_of(reference, task, folder / "reference.onnx")
        after = session_of(model, task, folder / "candidate.onnx")
        ratios = speedups(before, after, task)
        accuracies = [test_accuracy(session, task) for session in (before, after)]
        size_bytes = (folder / "candidate.onnx").stat().st_size
    inputs = task.example_inputs(1)
    costs, whole = costs_of(model, inputs), costs_of(reference, inputs)
    matrices = list(weights(model).values())
    return {
        "recipe": name,
        "steps": RECIPES[name],
        "seed": params.train.seed,
        "n": len(task.split("test")),
        "validation_accuracy": validation_accuracy(model, task),
        "reference_validation_accuracy": validation_accuracy(reference, task),
        "test_accuracy": accuracies[1],
        "reference_test_accuracy": accuracies[0],
        "speedup": round(statistics.median(ratios), 3),
        "speedup_quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)],
        "size_bytes": size_bytes,
        "parameters": costs.parameters,
        "zero_share": round(
            sum(int((weight == 0).sum()) for weight in matrices) / sum(weight.numel() for weight in matrices), 4
        ),
        "macs": costs.macs,
        "reference_macs": whole.macs,
        "seconds": round(seconds, 1),
        **place(),
    }


def untrained(importance: str, reference: nn.Module, task: Task, params: Params) -> dict[str, Any]:
    """Half the channels by one importance, nothing trained, on the validation split."""
    model = compressed([HALF | {"importance": importance}], reference, task, params)
    return {
        "recipe": f"half the channels by {importance}",
        "seed": params.train.seed,
        "n": len(task.split("validation")),
        "validation_accuracy": validation_accuracy(model, task),
        "reference_validation_accuracy": validation_accuracy(reference, task),
        **place(),
    }


def place() -> dict[str, Any]:
    """Where and how busy."""
    return {
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine_fingerprint(),
    }


def main() -> None:
    """Measure every row that the results lack, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", help="these alone, by name")
    parser.add_argument(
        "--work", type=Path, default=Path(".compression_gate/pruning_table"), help="where references are kept"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of what is there, and measure nothing")
    options = parser.parse_args()
    if options.markdown:
        print(table(stored()))  # a script's answer
        return
    torch.set_num_threads(1)
    suite = read_params(ROOT)
    chosen = options.recipes or [*RECIPES, *(f"half the channels by {importance}" for importance in IMPORTANCES)]
    for name in chosen:
        for seed in range(options.seeds):
            if any((row["recipe"], row["seed"]) == (name, seed) for row in stored()):
                continue
            params = suite.model_copy(update={"train": suite.train.model_copy(update={"seed": seed})})
            task = open_task(params, ROOT)
            reference = reference_of(task, params, options.work / f"reference-{seed}")
            if name in RECIPES:
                keep(measured(name, reference, task, params))
            else:
                keep(untrained(name.rpartition(" ")[2], reference, task, params))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the documents: mean and standard deviation over seeds, losses in points."""
    lines = ["| recipe | seeds | points lost, test | validation | speedup | parameters | zeros | MACs |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in RECIPES:
        if found := [row for row in rows if row["recipe"] == name]:
            lost = [
                spread(found, f"reference_{split}_accuracy", f"{split}_accuracy") for split in ("test", "validation")
            ]
            means = {key: statistics.mean(row[key] for row in found) for key in ("speedup", "parameters", "zero_share")}
            macs = statistics.mean(row["macs"] / row["reference_macs"] for row in found)
            lines.append(
                f"| {name} | {len(found)} | {lost[0]} | {lost[1]} | {means['speedup']:.2f} × "
                f"| {means['parameters']:,.0f} | {means['zero_share']:.0%} | {macs:.0%} |"
            )
    lines += ["", "| importance, nothing trained | seeds | points lost, validation |", "|---|---|---|"]
    for importance in IMPORTANCES:
        if found := [row for row in rows if row["recipe"] == f"half the channels by {importance}"]:
            lost = [spread(found, "reference_validation_accuracy", "validation_accuracy")]
            lines.append(f"| `{importance}` | {len(found)} | {lost[0]} |")
    return "\n".join(lines)


def spread(rows: list[dict[str, Any]], before: str, after: str) -> str:
    """Mean loss in points with the standard deviation over seeds."""
    points = [100 * (row[before] - row[after]) for row in rows]
    return f"{statistics.mean(points):.2f}" + (f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else "")


def stored() -> list[dict[str, Any]]:
    """Return the rows that are there."""
    return list(json.loads(RESULTS.read_text())) if RESULTS.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Add a row to the file, which another run may write as well, and show it."""
    RESULTS.parent.mkdir(exist_ok=True)
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps([*stored(), row], indent=2) + "\n")
    shown = ("recipe", "seed", "validation_accuracy", "test_accuracy", "reference_test_accuracy", "speedup")
    print(*(row.get(key) for key in shown))  # a script's answer


if __name__ == "__main__":
    main()
