"""LeNet-300-100 and LeNet-5 on MNIST, the recipe found by `search`: `python benchmarks/search_lenet.py FOLDER`.

    python benchmarks/search_lenet.py FOLDER [--nets mlp cnn] [--minutes 20] [--seed 0] [--work FOLDER] [--write]

FOLDER holds the four idx files of MNIST. For each net a suite is laid into `--work`, its reference trained by the
product's own stages, and `compression-gate search --adopt` called on it for so many minutes: no augmentation, no
teacher but the net's own reference, nothing chosen by hand but the space and the least accuracy. Trials are judged on
5,000 of the training images; then `compression-gate run` carries the recipe out and asks the 10,000 test images once. A
search that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import write_text
from compression_gate.records.metrics import Evaluation
from compression_gate.records.search import SearchRecord

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search_lenet.json"
RATE_AWARE = {
    "method": "rate_aware_training",
    "strength": {"low": 0.1, "high": 20.0, "log": True},
    "levels": [1, 2, 3],
    "learning_rate": {"low": 0.001, "high": 0.006, "log": True},
    "alpha": [0.0, 0.4, 0.7],
}
PRUNING = {
    "method": "structured_pruning",
    "pruning_ratio": {"low": 0.1, "high": 0.7},
    "importance": ["l2", "taylor"],
    "optional": True,
}
NARROWER = {
    "method": "distillation",
    "student": {
        "model": "lenet:LeNet5",
        "model_args": {"first": [5, 8, 10, 20], "second": [10, 16, 20, 50], "third": [24, 32, 40, 80], "dropout": 0.0},
    },
    "epochs": [1, 2],
    "temperature": 2.0,
    "alpha": [0.0, 0.7],
    "learning_rate": 0.004,
}
NETS: dict[str, dict[str, Any]] = {
    # The least accuracy is to be proven on 5,000 validation images, which are harder than the test images.
    "mlp": {
        "model": "lenet:Mlp",
        "float_bytes": 1_066_440,
        "train": {"epochs": 6, "batch_size": 128, "learning_rate": 0.002},
        "space": [PRUNING, RATE_AWARE | {"epochs": [4, 8, 12]}],
        "least_accuracy": 0.975,
    },
    "cnn": {
        "model": "lenet:LeNet5",
        "float_bytes": 1_724_320,
        "train": {"epochs": 2, "batch_size": 128, "learning_rate": 0.002},
        "space": [NARROWER, RATE_AWARE | {"epochs": [3, 5, 8]}],
        "least_accuracy": 0.983,
    },
}


def lay_out(net: str, asked: argparse.Namespace) -> Path:
    """Write the suite of a net, and return its folder."""
    folder, one, seed = asked.work / f"{net}-{asked.seed}", NETS[net], asked.seed
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "records" / "lenet.py", folder / "lenet.py")
    params = {
        "task": {
            "model": one["model"],
            "data": "lenet:load",
            "data_args": {"folder": str(asked.data.resolve()), "copies": 0},
        },
        "train": one["train"] | {"seed": seed},
        "compress": {"format": "coded", "steps": []},
        "evaluate": {"metrics": ["accuracy"]},
        "gate": {
            "rules": {
                "floor": {"metric": "accuracy", "min": one["least_accuracy"]},
                "rate": {"metric": "compression_ratio", "min": 50},
            }
        },
        "search": {
            "name": "lenet",
            "seed": seed,
            "objectives": ["quality", "size_bytes"],
            "order": "written",
            "space": one["space"],
        },
    }
    if not (folder / "params.yaml").exists():  # else the search has adopted what it found
        subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
        called(folder, "init", "--model", one["model"], "--data", "lenet:load")
        write_text(folder / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    return folder


def called(folder: Path, *words: str, fine: tuple[int, ...] = (0,)) -> int:
    """Call a word of the product.

    Raises:
        RuntimeError: it ended with another code than these.
    """
    command = [sys.executable, "-m", "compression_gate", words[0], "-C", str(folder), *words[1:]]
    code = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
    if code not in fine:
        raise RuntimeError(f"{' '.join(command)}: expected {' or '.join(map(str, fine))}, got {code}")
    return code


def row_of(net: str, folder: Path, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Search, adopt, carry out, and ask the test images once."""
    if not (folder / "models/reference").exists():
        called(folder, "prepare")
        called(folder, "train")
    if not (folder / "recipes/lenet.yaml").exists():
        going_on = ("--resume",) if (folder / ".compression_gate/search/lenet/journal.jsonl").exists() else ()
        words = ("--minutes", str(asked.minutes), "--searcher", asked.searcher, "--workers", str(asked.workers))
        called(folder, "search", *words, "--adopt", *going_on)
    code = called(folder, "run", fine=(0, 1, 3))
    search = SearchRecord.read(folder / "reports/search/search.json")
    evaluation = Evaluation.read(folder / "reports/evaluation.json")
    size = Artifact.open(folder / "models/candidate").size_bytes
    assert search.best is not None
    correct = {role: one.metrics["accuracy"].value or 0.0 for role, one in evaluation.models.items()}
    return {
        "net": net,
        "seed": seed,
        "searcher": search.searcher,
        "trials": search.trials,
        "failed": search.failed,
        "feasible": search.feasible,
        "minutes": round(search.seconds / 60, 1),
        "workers": asked.workers,
        "least_accuracy": NETS[net]["least_accuracy"],
        "recipe": [step.model_dump(mode="json") for step in search.best.steps],
        "bytes": size,
        "ratio": round(NETS[net]["float_bytes"] / size, 1),
        "validation_error": error_of(search.best.answer.figures["accuracy"]),
        "test_error": error_of(correct["candidate"]),
        "reference_test_error": error_of(correct["reference"]),
        "exit_code": code,
        "front": [
            {
                "bytes": int(one.trial.answer.figures["size_bytes"]),
                "validation_error": error_of(one.trial.answer.figures["accuracy"]),
            }
            for one in search.front
        ],
        "load": round(os.getloadavg()[0], 2),
        "machine": {key: machine_fingerprint()[key] for key in ("processor", "cores", "torch", "python")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def error_of(accuracy: float) -> float:
    """The share of wrong answers [%]."""
    return round(100 - 100 * accuracy, 2)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the documents."""
    lines = [
        "| net | seed | trials | minutes | bytes | times smaller | validation error | test error | dense test error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        size = f"{row['bytes']:,} | {row['ratio']:,.0f}"
        errors = " | ".join(f"{row[key]:.2f} %" for key in ("validation_error", "test_error", "reference_test_error"))
        name = {"mlp": "LeNet-300-100", "cnn": "LeNet-5"}[row["net"]]
        lines.append(f"| {name} | {row['seed']} | {row['trials']} | {row['minutes']:.0f} | {size} | {errors} |")
    return "\n".join(lines)


def main() -> None:
    """Make the rows and show them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--searcher", default="genetic")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "compression_gate_lenet")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print what is stored")
    asked = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    if asked.markdown:
        print(markdown(rows))
        return
    for net in asked.nets:
        row = row_of(net, lay_out(net, asked), asked.seed, asked)
        key = (net, asked.seed, row["searcher"])
        rows = [*(one for one in rows if (one["net"], one["seed"], one["searcher"]) != key), row]
        print(json.dumps({name: row[name] for name in row if name not in ("front", "machine")}))
        if asked.write:
            write_text(RESULTS, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
