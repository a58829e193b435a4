"""Kinds of distillation side by side on the default task: `python benchmarks/distillation_table.py --folder FOLDER`.

For each seed the reference of `params.yaml` is trained, half of its channels are removed, and what is left is trained
for two epochs in each way of `WAYS`, nothing else differing; ensembles of such models stand below. Options were chosen
by `--choose`, on the validation split and seed 0 alone; the test split is read once for each final row, from the
exported ONNX file loaded again. Rows go to `benchmarks/results/distillation_table.json`, what is there already is not
measured again; models are kept in FOLDER. `--markdown` prints the table of the documents.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compression_gate.measurers.cost import costs_of
from compression_gate.measurers.machine import machine_fingerprint
from compression_gate.measurers.quality import predict
from compression_gate.methods.base import Context
from compression_gate.methods.chain import method_of
from compression_gate.modules.checkpoints import STATE_FILE, load_reference, save_reference
from compression_gate.records.params import Params, Step, read_params
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.stages.train import normalized
from compression_gate.tasks.calling import call
from compression_gate.tasks.fashion_mnist_files import ENVIRONMENT_VARIABLE, locate
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Fitting, fit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "distillation_table.json"
PRUNING = {"method": "structured_pruning", "pruning_ratio": 0.5, "importance": "l2"}
LAYERS = [["model.fc1", "model.fc1"]]  # the last hidden layer: 64 features of the student, 128 of the teacher
DISTILLATION: dict[str, Any] = {"method": "distillation", "epochs": 2}

WAYS: dict[str, list[dict[str, Any]]] = {
    "no training": [],
    "labels alone": [{**DISTILLATION, "alpha": 0.0}],
    "soft": [{**DISTILLATION}],
    "hard": [{**DISTILLATION, "kind": "hard"}],
    "feature": [{**DISTILLATION, "kind": "feature", "layers": LAYERS}],
    "adversarial, outputs": [{**DISTILLATION, "kind": "adversarial"}],
    "adversarial, features": [{**DISTILLATION, "kind": "adversarial", "on": "features", "layers": LAYERS}],
}
GRID: dict[str, list[dict[str, Any]]] = {  # what stands behind soft is tried beside the options chosen for soft
    "labels alone": [{}],
    "soft": [{"alpha": alpha, "temperature": t} for alpha, t in itertools.product((0.3, 0.5, 0.7, 0.9), (2.0, 4.0))],
    "hard": [{"alpha": alpha} for alpha in (0.3, 0.7)],
    "feature": [{"strength": strength} for strength in (0.1, 1.0)],
    "adversarial, outputs": [{"strength": strength} for strength in (0.01, 0.1)],
}
LIKE_SOFT = ("feature", "adversarial, outputs")
CHOSEN_WITH = {"adversarial, features": "adversarial, outputs"}  # no grid of its own


class Bench:
    """One seed: its params, task and reference, trained once and kept."""

    def __init__(self, folder: Path, seed: int) -> None:
        params = read_params(ROOT)
        self.params: Params = params.model_copy(update={"train": params.train.model_copy(update={"seed": seed})})
        self.folder, self.seed = folder / f"seed{seed}", seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.task: Task = open_task(self.params, self.folder)
        self.reference = self.trained()

    def trained(self) -> nn.Module:
        """Train the reference, or load it."""
        if not (self.folder / STATE_FILE).exists():
            model = normalized(self.task.build_model(), self.task, self.params)
            fit(model, self.task, Fitting(options=self.params.train, label=f"reference, seed {self.seed}"))
            save_reference(model, self.folder)
        return load_reference(self.task, self.folder, normalize=self.params.train.normalize)

    def applied(self, steps: Iterable[dict[str, Any]]) -> tuple[nn.Module, Context]:
        """Apply steps in order; the context is the last step's."""
        model, context = self.reference, self.context()
        for step in steps:
            context = self.context()
            model = method_of(Step.model_validate(step)).apply(model, context).eval()
        return model, context

    def context(self) -> Context:
        """What a step works with."""
        return Context(task=self.task, reference=self.reference, train=self.params.train)

    def exported_accuracy(self, model: nn.Module) -> float:
        """Share of the test split that the exported, reloaded file answers right."""
        path = self.folder / "model.onnx"
        OnnxRuntime().export(model, self.task.example_inputs(2), path, {})
        answers = predict(OnnxRuntime().load(path, 1), self.task, "test", "test")
        return float((answers.outputs.argmax(1) == answers.targets).mean())

    @torch.no_grad()
    def validation_accuracy(self, model: nn.Module) -> float:
        """Share of the validation split answered right."""
        batches = self.task.batches("validation", 500)
        right = sum(int((call(model, batch.inputs).argmax(1) == batch.targets).sum()) for batch in batches)
        return right / len(self.task.split("validation"))


def ensembles(chosen: dict[str, Any], seed: int, seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Ensembles of three members, pruned by different scores and taught softly; the same budget for one alone; and
    the references of all seeds as teachers. Those of other seeds were trained on other cuts of the train split, so
    that this row's validation figure means nothing; test examples are in none of them.
    """
    soft = {**DISTILLATION, **chosen}
    members = [[{**PRUNING, "importance": importance}, soft] for importance in ("l2", "l1", "taylor")]
    ensemble = {"method": "ensemble", "members": members}
    options = {name: value for name, value in soft.items() if name != "method"}
    others = [{"weights": f"../seed{other}/{STATE_FILE}"} for other in range(seeds) if other != seed]
    return {
        "soft, all references teach": [PRUNING, {**soft, "teacher": ["reference", *others]}],
        "soft, four epochs": [PRUNING, {**soft, "epochs": 4}],
        "ensemble of three, fused": [ensemble],
        "ensemble of three, distilled": [{**ensemble, "mode": "distilled", "distillation": options}],
    }


def row_of(bench: Bench, way: str, steps: list[dict[str, Any]], *, test: bool) -> dict[str, Any]:
    """Apply, measure, and write down."""
    start = time.monotonic()
    model, context = bench.applied(steps)
    seconds = time.monotonic() - start
    cost = costs_of(model, bench.task.example_inputs(1))
    row: dict[str, Any] = {
        "way": way,
        "seed": bench.seed,
        "steps": steps,
        "validation_accuracy": bench.validation_accuracy(model),
        "parameters": cost.parameters,
        "macs": cost.macs,
        "seconds": round(seconds, 1),
        "curves": {name: [vars(epoch) for epoch in curve] for name, curve in context.notes.curves.items()},
        "remarks": context.notes.remarks,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": machine_fingerprint(),
    }
    if test:
        row["test_accuracy"] = bench.exported_accuracy(model)
        row["n"] = len(bench.task.split("test"))
    return row


def choose(folder: Path, results: dict[str, Any]) -> None:
    """Try the grid on seed 0 and the validation split; the best of each way is what the final rows take."""
    bench = Bench(folder, 0)
    for way, options in GRID.items():
        for own in options:
            changes = {**chosen(results, "soft"), **own} if way in LIKE_SOFT else own
            if any((row["way"], row["changes"]) == (way, changes) for row in results["grid"]):
                continue
            steps = [PRUNING, *({**step, **changes} for step in WAYS[way])]
            results["grid"].append({"changes": changes, **row_of(bench, way, steps, test=False)})
            write(results)
            print(way, changes, results["grid"][-1]["validation_accuracy"], flush=True)


def chosen(results: dict[str, Any], way: str) -> dict[str, Any]:
    """Return the options with the highest validation accuracy; the first of equals."""
    rows = [row for row in results["grid"] if row["way"] == CHOSEN_WITH.get(way, way)]
    return max(rows, key=lambda row: row["validation_accuracy"])["changes"] if rows else {}


def measure(folder: Path, results: dict[str, Any], seeds: int, *, with_ensembles: bool) -> None:
    """Measure every row that the results lack."""
    benches = [Bench(folder, seed) for seed in range(seeds)]
    for seed, bench in enumerate(benches):
        recipes: dict[str, list[dict[str, Any]]] = {"reference": []}
        for way, steps in WAYS.items():
            recipes[way] = [PRUNING, *({**step, **chosen(results, way)} for step in steps)]
        if with_ensembles:
            recipes |= ensembles(chosen(results, "soft"), seed, seeds)
        for way, steps in recipes.items():
            if any((row["way"], row["seed"], row["steps"]) == (way, seed, steps) for row in results["rows"]):
                continue
            results["rows"].append(row_of(bench, way, steps, test=True))
            write(results)
            print(way, seed, results["rows"][-1]["test_accuracy"], flush=True)


def write(results: dict[str, Any]) -> None:
    """Write the results; NaN, which JSON has not, as null."""
    plain = json.loads(json.dumps(results).replace("NaN", "null"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(plain, indent=1) + "\n")


def markdown(results: dict[str, Any]) -> str:
    """Return the table of the documents: mean and standard deviation over seeds, drops paired with the reference."""
    references = {row["seed"]: row["test_accuracy"] for row in results["rows"] if row["way"] == "reference"}
    lines = [
        "| way | options chosen | parameters | test accuracy, % | lost, points | seeds |",
        "|---|---|---|---|---|---|",
    ]
    order = ["reference", *WAYS, *dict.fromkeys(row["way"] for row in results["rows"])]
    for way in (way for way in dict.fromkeys(order) if any(row["way"] == way for row in results["rows"])):
        rows = [row for row in results["rows"] if row["way"] == way]
        found = [100 * row["test_accuracy"] for row in rows]
        lost = [100 * (references[row["seed"]] - row["test_accuracy"]) for row in rows]
        options = ", ".join(f"`{name}: {value}`" for name, value in chosen(results, way).items())
        lines.append(
            f"| {way} | {options} | {rows[0]['parameters']:,} | {spread(found)} | {spread(lost)} | {len(rows)} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def main() -> None:
    """Choose, measure or print, by the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".compression_gate" / "distillation_table")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--ensembles", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault(ENVIRONMENT_VARIABLE, str(locate()))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"grid": [], "rows": []}
    if options.markdown:
        print(markdown(results))
    elif options.choose:
        choose(options.folder, results)
    else:
        measure(options.folder, results, options.seeds, with_ensembles=options.ensembles)


if __name__ == "__main__":
    main()
