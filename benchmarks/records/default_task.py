"""How few bytes the default suite's network takes: `python benchmarks/records/default_task.py --seeds 0,1,2`.

For each seed the reference of `params.yaml` is trained with that seed under `--work` (kept and used again), RECIPE is
applied, and the coded file is decoded in a fresh process, exported, timed and asked once on the 10,000 test images. The
recipe was chosen on the validation split of seed 0. Rows go to `benchmarks/records/results/default_task.json`, one a
seed; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.stages import benchmark, compress, evaluate, prepare, train

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "default_task.json"
RECIPE: list[dict[str, Any]] = [
    {"method": "structured_pruning", "pruning_ratio": 0.5, "importance": "l2"},
    {"method": "distillation", "epochs": 1, "temperature": 4.0, "alpha": 0.3},
    {"method": "rate_aware_training", "strength": 0.25, "levels": 3, "epochs": 5, "learning_rate": 0.003},
]


def row_of(seed: int, work: Path) -> dict[str, Any]:
    """Train, compress, evaluate and time with one seed."""
    suite = work / f"seed{seed}"
    suite.mkdir(parents=True, exist_ok=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["seed"] = seed
    params["compress"] = {"format": "coded", "steps": RECIPE}
    (suite / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (suite / "data").mkdir(exist_ok=True)
    if not (suite / "data/fashion-mnist").exists():
        (suite / "data/fashion-mnist").symlink_to(ROOT / "data/fashion-mnist")
    if not (suite / "models/reference/artifact.json").exists():
        prepare.run(suite)
        train.run(suite)
    start = time.monotonic()
    record = compress.run(suite)
    seconds = time.monotonic() - start
    models = evaluate.run(suite).models
    figures = benchmark.run(suite).models["candidate"].figures
    reference, candidate = (models[role].metrics["accuracy"].value for role in ("reference", "candidate"))
    return {
        "seed": seed,
        "bytes": record.size_bytes,
        "ratio": figures["compression_ratio"].value,
        "validation_drop": record.reference.quality["accuracy"] - record.steps[-1].quality["accuracy"],
        "test_reference": reference,
        "test_candidate": candidate,
        "test_drop": reference - candidate,
        "speedup": figures["speedup"].value,
        "compress_seconds": seconds,
        "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"recipe": RECIPE, "rows": []}
    for seed in map(int, given.seeds.split(",")):
        if seed not in {row["seed"] for row in stored["rows"]}:
            stored["rows"].append(row_of(seed, given.work))
            stored["machine"] = machine_fingerprint()
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(stored["rows"][-1]), flush=True)


if __name__ == "__main__":
    main()
