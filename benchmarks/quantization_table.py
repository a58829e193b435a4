"""Quantization on the default task: `python benchmarks/quantization_table.py --folder FOLDER`.

For each seed the reference of `params.yaml` is trained once, kept in FOLDER, and quantized in each way of `WAYS`; no
option was tuned to this task. Accuracy is that of the exported ONNX file, loaded again, on the test split, which is
read once for each row; the validation figure is the module's, before export. Rows go to
`benchmarks/results/quantization_table.json`, what is there already is not measured again. `--ways` picks rows,
`--markdown` prints the table of the documents.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.base import replacing

if TYPE_CHECKING:
    from distillation_table import Bench

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quantization_table.json"
STATIC: dict[str, Any] = {"method": "static_quantization"}
WEIGHTS: dict[str, Any] = {"method": "weight_only_quantization"}
TRAINED: dict[str, Any] = {"method": "quantization_aware_training", "epochs": 2}
GROUPS: dict[str, Any] = {"granularity": "per_group", "group_size": 32, "symmetric": False}

WAYS: dict[str, list[dict[str, Any]]] = {
    "reference": [],
    "static, 8 bits": [STATIC],
    "static, 8 bits, percentile": [{**STATIC, "calibration": "percentile"}],
    "static, 8 bits, entropy": [{**STATIC, "calibration": "entropy"}],
    "static, 8 bits, mse": [{**STATIC, "calibration": "mse"}],
    "static, 4 bits, activations 8": [{**STATIC, "bits": 4, "calibration": "mse"}],
    "static, 4 bits, activations 4": [{**STATIC, "bits": 4, "activation_bits": 4, "calibration": "mse"}],
    "weights alone, 8 bits": [{**WEIGHTS, "bits": 8}],
    "weights alone, 4 bits": [{**WEIGHTS, "bits": 4}],
    "weights alone, 3 bits": [{**WEIGHTS, "bits": 3}],
    "weights alone, 2 bits": [{**WEIGHTS, "bits": 2}],
    "weights alone, 4 bits, groups of 32": [{**WEIGHTS, "bits": 4, **GROUPS}],
    "weights alone, 3 bits, groups of 32": [{**WEIGHTS, "bits": 3, **GROUPS}],
    "weights alone, 2 bits, groups of 32": [{**WEIGHTS, "bits": 2, **GROUPS}],
    "trained, 4 bits, activations 8": [{**TRAINED, "bits": 4}],
    "trained, 4 bits, activations 4": [{**TRAINED, "bits": 4, "activation_bits": 4}],
    "trained, 2 bits, activations 8": [{**TRAINED, "bits": 2}],
    "static, 2 bits, activations 8": [{**STATIC, "bits": 2, "calibration": "mse"}],
}


def measured(bench: Bench, way: str) -> dict[str, Any]:
    """Quantize in one way and read the test split from the exported file."""
    start = time.monotonic()
    model, _ = bench.applied(WAYS[way])
    seconds = time.monotonic() - start
    accuracy = bench.exported_accuracy(model)
    return {
        "way": way,
        "steps": WAYS[way],
        "seed": bench.seed,
        "n": len(bench.task.split("test")),
        "validation_accuracy": bench.validation_accuracy(model),
        "test_accuracy": accuracy,
        "size_bytes": (bench.folder / "model.onnx").stat().st_size,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine_fingerprint(),
    }


def rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def markdown(found: list[dict[str, Any]]) -> str:
    """The table of the documents: mean and range over seeds, points of accuracy lost against the seed's reference."""
    whole = {row["seed"]: row for row in found if row["way"] == "reference"}
    lines = ["| | seeds | points lost, mean (least to most) | bytes | of the reference's |", "|---|---|---|---|---|"]
    for way in WAYS:
        here = [row for row in found if row["way"] == way and row["seed"] in whole]
        if not here or way == "reference":
            continue
        lost = [100 * (whole[row["seed"]]["test_accuracy"] - row["test_accuracy"]) for row in here]
        size = round(statistics.mean(row["size_bytes"] for row in here))
        share = size / whole[here[0]["seed"]]["size_bytes"]
        span = f"{statistics.mean(lost):.2f} ({min(lost):.2f} to {max(lost):.2f})"
        lines.append(f"| {way} | {len(here)} | {span} | {size:,} | {share:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every row that the results lack, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where references are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.markdown:
        print(markdown(rows()))
        return
    from distillation_table import Bench  # a script beside this one, found when this one is run

    for seed in options.seeds:
        wanted = [way for way in options.ways if not any((r["way"], r["seed"]) == (way, seed) for r in rows())]
        bench = Bench(options.folder, seed) if wanted else None
        for way in wanted:
            assert bench is not None  # made above
            row = measured(bench, way)
            with replacing(RESULTS) as temporary:
                temporary.write_text(json.dumps([*rows(), row], indent=2) + "\n")
            print(way, seed, row["test_accuracy"], row["size_bytes"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
