"""A total spread by sensitivity against the same for every layer, on the default task.

`python benchmarks/budget_table.py --references FOLDER`.

FOLDER holds the references of `params.yaml`, `reference-<seed>` for each, and is made where it lacks one. Nothing is
trained after compression. Accuracy is on the validation examples that the table of sensitivities was not measured on
(4,000 of 6,000), of the module before export. Rows go to `benchmarks/results/budget_table.json`; what is there is not
measured again. `--markdown` prints the table of the documents.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression_gate.codec.coded_size import coded_bytes
from compression_gate.measurers.quality import validation_quality
from compression_gate.methods.base import Context
from compression_gate.methods.chain import method_of
from compression_gate.methods.sensitivity import EXAMPLES, reduced
from compression_gate.modules.checkpoints import STATE_FILE, load_reference, save_reference
from compression_gate.records.base import write_text
from compression_gate.records.params import Params, Step, read_params
from compression_gate.stages.train import normalized
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "budget_table.json"
PRUNED, STATIC, WEIGHTS = (
    {"method": name} for name in ("magnitude_pruning", "static_quantization", "weight_only_quantization")
)
EVEN = {"zeros": PRUNED, "static": STATIC, "weights alone": WEIGHTS}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    **{
        f"{share:.0%} zeros": {
            "the same share in each layer": PRUNED | {"sparsity": share},
            "one threshold for all": PRUNED | {"sparsity": share, "scope": "global"},
            "budget": PRUNED | {"budget": share},
        }
        for share in (0.8, 0.9)
    },
    **{
        f"{bits} bits a weight, {name}": {
            "the same share in each layer": step | {"bits": bits},
            "budget": step | {"budget": bits},
        }
        for bits in (3, 4)
        for name, step in (("static", STATIC), ("weights alone", WEIGHTS))
    },
    # A little over whole bits: the widest layer keeps these, and the others have room.
    "3.1 bits a weight, static": {"budget": STATIC | {"budget": 3.1}},
    # As many bytes, by the coder, as the same strength in each layer takes: `budget_bytes` names that step here.
    **{
        f"bytes of {told}, {name}": {
            "the same share in each layer": step,
            "budget_bytes": EVEN[name] | {"budget_bytes": step},
        }
        for name, told, step in (
            ("weights alone", "3 bits", WEIGHTS | {"bits": 3}),
            ("weights alone", "4 bits", WEIGHTS | {"bits": 4}),
            ("static", "3 bits", STATIC | {"bits": 3}),
            ("static", "4 bits", STATIC | {"bits": 4}),
            ("zeros", "80% zeros", PRUNED | {"sparsity": 0.8}),
            ("zeros", "90% zeros", PRUNED | {"sparsity": 0.9}),
        )
    },
}


def reference_of(task: Task, params: Params, folder: Path) -> torch.nn.Module:
    """Load the reference, or train it."""
    if not (folder / STATE_FILE).exists():
        model = normalized(task.build_model(), task, params)
        fit(model, task, Fitting(options=params.train, label=f"reference, seed {params.train.seed}"))
        folder.mkdir(parents=True)
        save_reference(model, folder)
    return load_reference(task, folder, normalize=params.train.normalize)


def unseen(task: Task) -> Task:
    """The task with those validation examples that the table was not measured on."""
    split = task.split("validation")
    rest = np.setdiff1d(split.indices, reduced(task, EXAMPLES).split("validation").indices)
    return dataclasses.replace(task, splits={**task.splits, "validation": dataclasses.replace(split, indices=rest)})


def measured(step: dict[str, Any], task: Task, params: Params, reference: torch.nn.Module) -> dict[str, Any]:
    """Apply one step and ask the module."""
    context = Context(task=task, reference=reference, train=params.train)
    given = step
    if isinstance(even := step.get("budget_bytes"), dict):
        quiet = Context(task=task, reference=reference, train=params.train)
        given = step | {"budget_bytes": coded_bytes(method_of(Step.model_validate(even)).apply(reference, quiet))}
    start = time.monotonic()
    model = method_of(Step.model_validate(given)).apply(reference, context)
    rest = unseen(task)
    return {
        "step": step,
        "coded_bytes": coded_bytes(model),
        "seed": params.train.seed,
        "n": len(rest.split("validation")),
        "accuracy": validation_quality(model, rest)["accuracy"],
        "reference_accuracy": validation_quality(reference, rest)["accuracy"],
        "remarks": context.notes.remarks,
        "seconds": round(time.monotonic() - start, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Points lost, mean and standard deviation over seeds."""
    ways = list(dict.fromkeys(way for found in WAYS.values() for way in found))
    lines = ["| total | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for total, steps in WAYS.items():
        cells = []
        for way in ways:
            found = [row for row in rows if row["step"] == steps.get(way)]
            lost = [100 * (row["reference_accuracy"] - row["accuracy"]) for row in found]
            spread = f" ± {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
            cells.append(f"{statistics.mean(lost):.2f}{spread}" if lost else "")
        lines.append(f"| {total} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stored() -> list[dict[str, Any]]:
    """The rows that are there."""
    return list(json.loads(RESULTS.read_text())) if RESULTS.exists() else []


def main() -> None:
    """Measure what the results lack, and write after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--totals", nargs="+", default=list(WAYS), help="these alone, by name")
    parser.add_argument("--references", type=Path, default=Path(".compression_gate/budget_table"))
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.markdown:
        print(table(stored()))  # a script's answer
        return
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    for seed in options.seeds:
        suite = read_params(ROOT)
        params = suite.model_copy(update={"train": suite.train.model_copy(update={"seed": seed})})
        task = dataclasses.replace(open_task(params, ROOT), folder=options.references)
        reference = reference_of(task, params, options.references / f"reference-{seed}")
        for step in (step for total in options.totals for step in WAYS[total].values()):
            if not any((row["step"], row["seed"]) == (step, seed) for row in stored()):
                row = measured(step, task, params, reference)
                write_text(RESULTS, json.dumps([*stored(), row], indent=2) + "\n")
                print(seed, step, row["accuracy"])  # a script's answer


if __name__ == "__main__":
    main()
