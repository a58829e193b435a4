"""Accuracy of the default suite's reference in float32 and bfloat16, over seeds: `python benchmarks/default_task.py`.

Trains the model of `params.yaml` as it says, for each precision and seed, and reads the test split once for each. The
rows go to `benchmarks/results/default_task.json` with the machine and its load; what is there already is not measured
again. `--seeds 1 --precisions float32` is the short form.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.params import Params, read_params
from compression_gate.stages.train import normalized
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "default_task.json"


def params_with(params: Params, precision: str, seed: int) -> Params:
    """The suite's params with another precision and seed."""
    return params.model_copy(update={"train": params.train.model_copy(update={"precision": precision, "seed": seed})})


@torch.no_grad()
def accuracy(model: torch.nn.Module, task: Task, split: str) -> float:
    """Share of a split predicted right."""
    right = sum(int((call(model, batch.inputs).argmax(1) == batch.targets).sum()) for batch in task.batches(split, 500))
    return right / len(task.split(split))


def measured(precision: str, seed: int) -> dict[str, object]:
    """Train once and measure once."""
    params = params_with(read_params(ROOT), precision, seed)
    task = open_task(params, ROOT)
    model = normalized(task.build_model(), task, params)
    start = time.monotonic()
    fit(model, task, Fitting(options=params.train, label=f"{precision}, seed {seed}"))
    return {
        "precision": precision,
        "seed": seed,
        "validation_accuracy": accuracy(model, task, "validation"),
        "test_accuracy": accuracy(model, task, "test"),
        "seconds": round(time.monotonic() - start, 1),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine_fingerprint(),
    }


def main() -> None:
    """Measure every pair that the results lack, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for seed in range(options.seeds):
        for precision in options.precisions:
            if any((row["precision"], row["seed"]) == (precision, seed) for row in rows):
                continue
            rows.append(measured(precision, seed))
            RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
            print(precision, seed, rows[-1]["test_accuracy"])  # a script's answer


if __name__ == "__main__":
    main()
