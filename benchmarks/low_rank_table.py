"""Low rank, weight sharing and sparsity training on the default task: `python benchmarks/low_rank_table.py`.

For each seed the reference of `params.yaml` is trained with that seed in a suite of its own under `--work` (kept and
used again). Each row of ROWS is a chain of steps for the compress stage, and the file that it exports is asked in
onnxruntime. Options were chosen on the validation split; the test split is read once a row
and seed, for the table. Rows go to `benchmarks/results/low_rank_table.json` as they come, with the machine; what is
there is not measured again. `--markdown` prints the tables of `docs/methods.md` from that file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.params import read_params
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.stages import compress, prepare, train
from compression_gate.tasks.calling import named
from compression_gate.tasks.task import Task, open_task

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "low_rank_table.json"
LOW, SHARE = {"method": "low_rank"}, {"method": "weight_sharing", "clusters": 16}
SPARSITY, CUT = {"method": "sparsity_training", "epochs": 1}, {"method": "magnitude_pruning", "sparsity": 0.8}
WIDE = {**LOW, "ratio": 0.5, "ignore": ["model.conv1", "model.fc2"]}  # the first and last layer have little to give
ROWS: dict[str, tuple[str, list[dict[str, Any]]]] = {  # name -> table, steps
    "reference": ("reference", []),
    "budget 0.5": ("low_rank", [{**LOW, "budget": 0.5}]),
    "16 values, density, 1 epoch": ("weight_sharing", [{**SHARE, "init": "density", "epochs": 1}]),
    "budget 0.5, weights only": ("low_rank", [{**LOW, "budget": 0.5, "calibrated": False}]),
    "16 values, density": ("weight_sharing", [{**SHARE, "init": "density"}]),
    "budget 0.25": ("low_rank", [{**LOW, "budget": 0.25}]),
    "16 values": ("weight_sharing", [SHARE]),
    "ratio 0.5, two widest layers": ("low_rank", [WIDE]),
    "ratio 0.5, two widest layers, cp": ("low_rank", [{**WIDE, "kind": "cp"}]),
    "l1, then 80 % zeros": ("sparsity_training", [{**SPARSITY, "penalty": "l1"}, CUT]),
    "random, then 80 % zeros": ("sparsity_training", [{**SPARSITY, "penalty": "random"}, CUT]),
    "ratio 0.5 in every layer": ("low_rank", [{**LOW, "ratio": 0.5}]),
    "budget 0.25, 1 epoch": ("low_rank", [{**LOW, "budget": 0.25, "epochs": 1}]),
    "16 values, one table": ("weight_sharing", [{**SHARE, "scope": "global"}]),
    "16 values, one table, 1 epoch": ("weight_sharing", [{**SHARE, "scope": "global", "epochs": 1}]),
}


def suite_of(seed: int, work: Path, steps: list[dict[str, Any]]) -> Path:
    """Return the suite of this seed with these steps; its reference is trained if it is not there."""
    suite = work / f"seed{seed}"
    suite.mkdir(parents=True, exist_ok=True)
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    own["train"]["seed"], own["compress"] = seed, {"steps": steps}
    (suite / "params.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    if not (suite / "models" / "reference" / "artifact.json").exists():
        prepare.run(suite)
        train.run(suite)
    return suite


def accuracy(task: Task, path: Path, split: str) -> float:
    """Share of a split that the exported file predicts right."""
    session, right = OnnxRuntime().load(path, 1), 0
    for batch in task.batches(split, 500):
        inputs = {name: value.numpy() for name, value in named(batch.inputs).items()}
        right += int((session(inputs).argmax(1) == np.asarray(batch.targets)).sum())
    return right / len(task.split(split))


def measured(row: str, seed: int, work: Path, splits: tuple[str, ...]) -> dict[str, object]:
    """Run the compress stage with one row's steps and measure the file that it exports."""
    table, steps = ROWS[row]
    suite = suite_of(seed, work, steps)
    start = time.monotonic()
    record = compress.run(suite)
    seconds = time.monotonic() - start
    task, path = open_task(read_params(suite), suite), suite / "models" / "candidate" / "model.onnx"
    last = record.steps[-1] if record.steps else record.reference
    return {
        "row": row,
        "table": table,
        "seed": seed,
        **{f"{split}_accuracy": accuracy(task, path, split) for split in splits},
        "test_examples": len(task.split("test")),
        "macs": last.macs,
        "parameters": last.parameters,
        "onnx_bytes": path.stat().st_size,
        "distinct_values": last.distinct_values,
        "validation_by_step": [step.quality["accuracy"] for step in record.steps],
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": machine_fingerprint(),
    }


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in points."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def markdown(rows: list[dict[str, Any]], table: str) -> list[str]:
    """Lines of one table: loss against each seed's own reference, and what is left of MACs, weights and bytes."""
    references = {row["seed"]: row for row in rows if row["row"] == "reference"}
    lines = ["| | seeds | points lost, test | MACs | weights | `model.onnx` |", "|---|---|---|---|---|---|"]
    for name, (kind, _) in ROWS.items():
        own = [row for row in rows if row["row"] == name]
        if kind != table or not own:
            continue
        losses = [references[row["seed"]]["test_accuracy"] - row["test_accuracy"] for row in own]
        shares = [
            statistics.mean(row[key] / references[row["seed"]][key] for row in own)
            for key in ("macs", "parameters", "onnx_bytes")
        ]
        lines.append(
            f"| {name} | {len(own)} | {spread(losses)} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |"
        )
    return lines


def main() -> None:
    """Measure every row and seed that the results lack, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "compression_gate_low_rank")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--validation", action="store_true", help="print validation figures of seed 0, store nothing")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    if options.markdown:
        for table in dict.fromkeys(kind for kind, _ in ROWS.values()):
            print("\n".join([f"{table}:", *markdown(rows, table), ""]))
        return
    torch.set_num_threads(1)
    for name in options.rows:  # in their order: the rows that matter most come first
        for seed in range(1 if options.validation else options.seeds):
            if options.validation:
                found = measured(name, seed, options.work, ("validation",))
                print(name, found["validation_accuracy"], found["macs"], found["seconds"], flush=True)
                continue
            if any((row["row"], row["seed"]) == (name, seed) for row in rows):
                continue
            rows.append(measured(name, seed, options.work, ("validation", "test")))
            RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            print(name, seed, rows[-1]["validation_accuracy"], rows[-1]["test_accuracy"], flush=True)


if __name__ == "__main__":
    main()
