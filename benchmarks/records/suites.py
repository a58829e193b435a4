"""How few bytes networks of whole suites take: `python benchmarks/records/suites.py --work FOLDER [--rows NAME …]`.

For each row of ROWS and each seed the reference of its suite is trained with that seed under `--work` (kept and used
again), the row's steps are applied, and the coded file is decoded in a fresh process, exported, timed and asked once on
the test split. Steps were chosen on validation of seed 0. Rows go to `results/suites.json` here; what is there
is not made again. `--validation` stops before the test split and writes nothing: for choosing. Needs
`pip install zstandard`, and `python examples/speech/spoken_digits.py` once for `lstm`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from coded_file import sizes
from lenet import integers_of

from compression_gate.artifacts.decoding import factory_model, steps_taken
from compression_gate.codec.coded_model import decode_model
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import write_text
from compression_gate.records.params import read_params
from compression_gate.stages import benchmark, compress, evaluate, prepare, train
from compression_gate.tasks.task import open_task

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results" / "suites.json"
HALVED = {"method": "structured_pruning", "pruning_ratio": 0.5, "importance": "l2"}
TAUGHT = {"method": "distillation", "epochs": 1, "temperature": 4.0, "alpha": 0.3}
PRICED = {"method": "rate_aware_training", "levels": 3, "epochs": 5, "learning_rate": 0.003}


@dataclass(frozen=True)
class Row:
    """The steps, and whose they are: a suite's of this project, or a network's of the script beside this one."""

    steps: tuple[dict[str, Any], ...]
    suite: Path = ROOT
    network: str | None = None
    learning_rate: float = 0.003  # of the network's reference

    def params(self) -> dict[str, Any]:
        """Those of the suite, or a suite's around the network."""
        if self.network is None:
            return yaml.safe_load((self.suite / "params.yaml").read_text(encoding="utf-8"))
        return {
            "task": {"model": f"networks:{self.network}", "data": "compression_gate.tasks.fashion_mnist:load"},
            "train": {"epochs": 4, "batch_size": 128, "learning_rate": self.learning_rate},
            "benchmark": {"threads": 1, "budget_s": 20},
        }

    def files(self) -> tuple[Path, ...]:
        """What the suite needs beside its params."""
        if self.network is not None:
            return (HERE / "networks.py",)
        return tuple(one for one in (self.suite / "data", *self.suite.glob("*.py")) if one.exists())


ROWS = {
    "default, 1 point": Row((HALVED, TAUGHT, {**PRICED, "strength": 0.45, "epochs": 8})),
    "default, 0.5 points": Row((HALVED, TAUGHT, {**PRICED, "strength": 0.2, "epochs": 8})),
    "lstm": Row((TAUGHT | {"epochs": 2}, {**PRICED, "strength": 0.1, "epochs": 16}), ROOT / "examples/speech"),
    "mobilenet": Row(({**PRICED, "strength": 0.6, "epochs": 10},), ROOT / "examples/vision-mobile"),
    "resnet": Row(({**PRICED, "strength": 0.65, "epochs": 8},), network="ResidualNetwork"),
    "transformer": Row(({**PRICED, "strength": 0.4, "epochs": 8},), network="Transformer", learning_rate=0.002),
}


def suite_of(name: str, seed: int, work: Path) -> Path:
    """Write the suite of a row under ``work``, with its reference trained."""
    row = ROWS[name]
    suite = work / f"{name.partition(',')[0]} {seed}"
    suite.mkdir(parents=True, exist_ok=True)
    params = row.params()
    params["train"] = {**params.get("train", {}), "seed": seed}
    params["compress"] = {"format": "coded", "steps": list(row.steps)}
    params.pop("gate", None)
    for own in row.files():
        if not (suite / own.name).exists():
            (suite / own.name).symlink_to(own)
    (suite / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    if not (suite / "models/reference/artifact.json").exists():
        prepare.run(suite)
        train.run(suite)
    return suite


def validated(name: str, seed: int, work: Path) -> dict[str, Any]:
    """Compress with one seed; what the validation split says of it."""
    suite = suite_of(name, seed, work)
    start = time.monotonic()
    record = compress.run(suite)
    return {
        "row": name,
        "steps": list(ROWS[name].steps),
        "seed": seed,
        "bytes": record.size_bytes,
        "validation_reference": record.reference.quality["accuracy"],
        "integers": elsewhere(suite),
        "validation_drop": record.reference.quality["accuracy"] - record.steps[-1].quality["accuracy"],
        "remarks": list(record.steps[-1].remarks),
        "compress_seconds": round(time.monotonic() - start, 1),
    }


def elsewhere(suite: Path) -> dict[str, float]:
    """What the integers of the candidate's weights take, in a coded file of their own and in general compressors."""
    params, folder = read_params(suite), suite / "models/candidate"
    steps, normalize = steps_taken(suite, params), Artifact.open(folder).normalize
    model = decode_model(factory_model(open_task(params, suite), steps, normalize=normalize), folder / "model.cgz")
    weights = {name: value.detach() for name, value in model.named_parameters() if value.dim() > 1}
    return sizes({name: integers_of(value) for name, value in weights.items()})


def tested(found: dict[str, Any], work: Path) -> dict[str, Any]:
    """Evaluate and time what was compressed."""
    suite = suite_of(found["row"], found["seed"], work)
    models = evaluate.run(suite).models
    figures = benchmark.run(suite).models["candidate"].figures
    reference, candidate = (models[role].metrics["accuracy"] for role in ("reference", "candidate"))
    return {
        **found,
        "ratio": figures["compression_ratio"].value,
        "n": candidate.n,
        "test_reference": reference.value,
        "test_candidate": candidate.value,
        "test_drop": reference.value - candidate.value,
        "speedup": figures["speedup"].value,
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),
        "machine": {key: machine_fingerprint()[key] for key in ("processor", "cores", "torch", "python")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--validation", action="store_true")
    given = parser.parse_args()
    for seed in given.seeds:
        for name in given.rows:
            if (name, seed) in {(row["row"], row["seed"]) for row in stored()} and not given.validation:
                continue
            found = validated(name, seed, given.work)
            if not given.validation:
                found = tested(found, given.work)
                # Read anew: the rows of another process may have come in between.
                write_text(RESULTS, json.dumps([*stored(), found], indent=1) + "\n")
            print(json.dumps(found), flush=True)


def stored() -> list[dict[str, Any]]:
    """The rows there are, of every seed."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


if __name__ == "__main__":
    main()
