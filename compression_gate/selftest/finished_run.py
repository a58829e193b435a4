"""A finished run's records, written by hand: what the judge reads needs no torch and no training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from compression_gate.gate import timing_test
from compression_gate.records.artifact import FILE_NAME, Artifact, FileEntry, Role, entries
from compression_gate.records.base import digest_of, digest_of_file, write_text
from compression_gate.records.history import History
from compression_gate.records.metrics import (
    Benchmark,
    CompressionRecord,
    DataRecord,
    DataSplit,
    Evaluation,
    Measurement,
    ModelCost,
    ModelQuality,
    PairedTiming,
    StepRecord,
    Value,
)
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests

N = 4000
PARAMS = """\
task: {model: "shop:Net", data: "shop:load"}
gate:
  rules:
    accuracy: {metric: accuracy, max_drop: 0.01}
    floor: {metric: accuracy, min: 0.8}
    size: {metric: size_bytes, max: 2000}
    rate: {metric: compression_ratio, min: 4}
    speed: {metric: speedup, min: 1.5}
    f1: {metric: f1, max_drop: 0.02}
    classes: {metric: recall, slice: class, max_drop: 0.05, level: warn}
"""
DRIFT = """\
    drift: {metric: accuracy, max_drop: 0.01, against: baseline}
    latency: {metric: latency_ms, max: 5}
"""
SIZES: dict[Role, int] = {"reference": 10_000, "candidate": 1000, "baseline": 1100}
WRONG = {"reference": 100, "candidate": 105, "baseline": 103}
FIRST_RUN = "no run of the target branch has been recorded yet"
ENVIRONMENT = {"processor": "a processor"}
BASELINE_COMMIT = "b" * 40
TURNS, BLOCKS, BLOCK_SCATTER = 5, 60, 0.03
GOLDEN = 0.6180339887498949  # steps of it spread evenly, in no order that a test could take for a drift


def write(suite: Path) -> Path:
    """Write a suite whose first run ended well: 5 of 1,000 lost, a tenth of the bytes, twice as fast."""
    suite.mkdir(parents=True)
    write_text(suite / "params.yaml", PARAMS)
    write_text(suite / ".compression_gate/sources.json", "{}")
    write_run(suite, models_of(suite, ("reference", "candidate")), machine_digest="m")
    return suite


def write_recorded(suite: Path) -> Path:
    """Write a suite with a history, whose second run ended well: a baseline too, and all that `run` itself writes."""
    suite.mkdir(parents=True)
    write_text(suite / "params.yaml", PARAMS + DRIFT)
    state = suite / ".compression_gate"
    write_text(suite / "shop.py", '"""A user\'s model and data."""\n')
    write_text(state / "sources.json", json.dumps({"shop.py": digest_of_file(suite / "shop.py")}))
    write_text(state / "machine.json", json.dumps(ENVIRONMENT))
    models = models_of(suite, ("reference", "candidate", "baseline"))
    test = "d"
    gate = read_params(suite).as_dict()["gate"]
    History(
        baseline_commit=BASELINE_COMMIT,
        baseline_gate=gate,
        judged={test: (models["baseline"].digest,)},
    ).write(state / "history.json")
    write_run(suite, models, machine_digest=digest_of(ENVIRONMENT))
    return suite


def models_of(suite: Path, roles: tuple[Role, ...]) -> dict[Role, Artifact]:
    """Write the models of a suite where the stages put them."""
    folders = {role: suite / "models" / role for role in roles} | {
        "baseline": suite / ".compression_gate/references/baseline"
    }
    models = {role: write_artifact(folders[role], role, SIZES[role]) for role in roles}
    params, reference = read_params(suite), models["reference"]
    made: dict[Role, dict[str, Any]] = {
        "reference": {"params_digests": params_digests("train", params)},
        "candidate": {
            "parent_digest": reference.digest,
            "recipe_digest": "r",
            "params_digests": params_digests("compress", params),
        },
    }
    for role, fields in made.items():
        models[role] = models[role].model_copy(update=fields)
        models[role].write(folders[role] / FILE_NAME)
    return models


def write_artifact(folder: Path, role: Role, size: int) -> Artifact:
    """Write a model's files and its record."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * size)
    (folder / "model.onnx").write_bytes(b"o" * size)
    made = artifact_of(role, size, entries(folder))
    made.write(folder / FILE_NAME)
    return made


def artifact_of(role: Role, size: int, files: dict[str, FileEntry]) -> Artifact:
    """The record of a model of ``size`` bytes, plain and as shipped."""
    return Artifact(
        role=role,
        format="onnx",
        runtime="onnxruntime",
        files=files,
        shipped=("model.onnx",),
        digest="",
        parameters=size // 4,
        nonzeros=size // 4,
        macs=size,
    ).sealed()


def labels(wrong: int) -> np.ndarray:
    """Predictions that are right but for the last ``wrong`` of each thousand, (N,)."""
    target = np.arange(N) % 4
    off = np.arange(N) % 1000 >= 1000 - wrong
    return np.where(off, (target + 1) % 4, target)


def write_run(suite: Path, models: Mapping[Role, Artifact], machine_digest: str) -> None:
    """Write every record of the stages beside the models."""
    reports, params = suite / "reports", read_params(suite)
    reports.mkdir()
    split = DataSplit(n=N, digest="d", input_shapes={"input": (4,)}, value_range=(0, 1))
    seen = params_digests("prepare", params)
    DataRecord(digest="d", splits={"test": split}, leaks={}, params_digests=seen).write(reports / "data.json")
    compression_of(models).write(reports / "compression.json")
    target, predicted = np.arange(N) % 4, {role: labels(WRONG[role]) for role in models}
    outcomes: dict[str, Any] = {f"{role}_predicted": values for role, values in predicted.items()}
    ids = np.array([f"test:{index}" for index in range(N)])
    np.savez(reports / "predictions.npz", ids=ids, target=target, **outcomes)
    np.savez(reports / "timings.npz", pairs=np.ones(3))
    absent = {} if "baseline" in models else {"baseline": FIRST_RUN}
    evaluation = evaluation_of(target, predicted, models, absent, digest_of_file(reports / "predictions.npz"))
    asked = {"params_digests": params_digests("evaluate", params)}
    evaluation.model_copy(update=asked).write(reports / "evaluation.json")
    ratios = {"reference": 0.5, "baseline": 0.95}
    pairs = {role: pair_of(ratio) for role, ratio in ratios.items() if role in models}
    benchmark_of(models, pairs, machine_digest).write(reports / "benchmark.json")


def compression_of(models: Mapping[Role, Artifact]) -> CompressionRecord:
    """What one step did."""
    reference, candidate = models["reference"], models["candidate"]
    first = StepRecord(
        method="reference",
        options={},
        seconds=1,
        state_bytes=reference.state_bytes,
        parameters=reference.parameters,
        nonzeros=reference.nonzeros,
        macs=reference.macs,
        distinct_values=9,
        quality={"accuracy": 0.9},
        covered=(),
        uncovered={},
        effect="",
        effective=True,
    )
    changed = {
        "method": "structured_pruning",
        "parameters": candidate.parameters,
        "effect": "fewer_parameters",
    }
    return CompressionRecord(
        recipe_digest="r",
        reference=first,
        steps=(first.model_copy(update=changed),),
        size_bytes=candidate.size_bytes,
        params_digests=candidate.params_digests,
    )


def evaluation_of(
    target: np.ndarray,
    predicted: Mapping[Role, np.ndarray],
    models: Mapping[Role, Artifact],
    absent: dict[str, str],
    predictions_digest: str,
) -> Evaluation:
    """What `evaluate` finds of labels (N,) by role: accuracy, macro F1, recall of each class, agreement and flips."""
    return Evaluation(
        kind="classification",
        n=len(target),
        data_digest="d",
        predictions_digest=predictions_digest,
        runtime="onnxruntime",
        models={role: quality_of(target, values, models[role].digest) for role, values in predicted.items()},
        absent=absent,
        pairs={
            role: between(target, predicted["candidate"], values)
            for role, values in predicted.items()
            if role != "candidate"
        },
    )


def quality_of(target: np.ndarray, predicted: np.ndarray, digest: str) -> ModelQuality:
    """One model's figures from its labels, by a confusion matrix and not as the gate reckons them again."""
    classes = int(target.max()) + 1
    confusion = np.bincount(target * classes + predicted, minlength=classes**2).reshape(classes, classes)
    right, held, guessed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return ModelQuality(
        digest=digest,
        metrics={
            "accuracy": Value(value=float(right.sum() / len(target)), n=len(target)),
            "f1": Value(value=float(np.mean(2 * right / (held + guessed))), n=len(target)),
        },
        slices={
            "recall": {
                f"class={label}": Value(value=float(right[label] / held[label]), n=int(held[label]))
                for label in range(classes)
            }
        },
    )


def between(target: np.ndarray, candidate: np.ndarray, other: np.ndarray) -> dict[str, Value]:
    """Agreement and flips of two models."""
    shares = {"agreement": candidate == other, "flips": (candidate == target) != (other == target)}
    return {name: Value(value=float(share.mean()), n=len(target)) for name, share in shares.items()}


def pair_of(ratio: float, *, scatter: float = BLOCK_SCATTER, random: np.random.Generator | None = None) -> PairedTiming:
    """A paired timing: candidate over the other, its blocks scattered by ``scatter`` [log], evenly without dice."""
    evenly = special.ndtri((np.arange(BLOCKS) * GOLDEN + 0.5 / BLOCKS) % 1)
    turns = [random.normal(size=BLOCKS) if random else evenly for _ in range(2 * TURNS)]
    pairs, control = (
        tuple(tuple(round(float(value), 6) for value in centre + scatter * turn) for turn in part)
        for centre, part in ((math.log(ratio), turns[:TURNS]), (0.0, turns[TURNS:]))
    )
    (ratio_found, interval), (control_ratio, control_interval) = (
        timing_test.summary([np.array(turn) for turn in part]) for part in (pairs, control)
    )
    return PairedTiming(
        procedure="interleaved pairs",
        clock="thread CPU time",
        ratio=ratio_found,
        interval=interval,
        confidence=1 - 2 * timing_test.ALPHA,
        pairs=3000,
        turns=TURNS,
        control_ratio=control_ratio,
        control_interval=control_interval,
        wall_ratio=ratio_found,
        blocks=pairs,
        control_blocks=control,
    )


def benchmark_of(models: Mapping[Role, Artifact], pairs: Mapping[str, PairedTiming], machine_digest: str) -> Benchmark:
    """What `benchmark` finds of models: their counts, and times that follow from their work."""
    reference = models["reference"]
    return Benchmark(
        runtime="onnxruntime",
        threads=1,
        batch_sizes=(1,),
        models={role: cost_of(model, reference) for role, model in models.items()},
        pairs=dict(pairs),
        environment=ENVIRONMENT,
        machine_digest=machine_digest,
        load_average=0.5,
    )


def cost_of(model: Artifact, reference: Artifact) -> ModelCost:
    """One model's costs; energy as a machine without counters tells it, and eager torch beside the reference."""
    joules = model.macs * 1e-8
    energy = Measurement(
        value=joules, unit="J", samples=7, low=joules * 0.9, high=joules * 1.1, spread="range", estimated=True
    )
    eager = Measurement(value=1.5, unit="ms", samples=500, low=1.4, high=1.6)
    return ModelCost(
        digest=model.digest,
        figures={
            "size_bytes": Measurement(value=model.size_bytes, unit="bytes"),
            "compression_ratio": Measurement(value=reference.state_bytes / model.size_bytes, unit="×"),
            "parameters": Measurement(value=model.parameters, unit="weights"),
            "macs": Measurement(value=model.macs, unit="macs"),
            "latency_ms": Measurement(
                value=model.macs / 10_000, unit="ms", samples=500, low=model.macs / 11_000, high=model.macs / 9_000
            ),
            "speedup": Measurement(value=2.0, unit="×"),
            "energy_j": energy,
            **({"eager_latency_ms": eager} if model.role == "reference" else {}),
        },
    )
