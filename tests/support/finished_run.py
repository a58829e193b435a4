"""A finished run's records, written by hand: what the judge reads needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compression_gate.records.artifact import Artifact, digest_of_files, entries
from compression_gate.records.base import digest_of_file
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


def artifact(folder: Path, role: str, size: int) -> Artifact:
    """Write a model's files and its record."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * size)
    (folder / "model.onnx").write_bytes(b"o" * size)
    files = entries(folder)
    made = Artifact(
        role=role,
        format="onnx",
        runtime="onnxruntime",
        files=files,
        shipped=("model.onnx",),
        digest=digest_of_files(files),
        parameters=size // 4,
        nonzeros=size // 4,
        macs=size,
    )
    made.write(folder / "artifact.json")
    return made


def labels(wrong: int) -> np.ndarray:
    """Predictions that are right but for the last ``wrong`` of each thousand."""
    target = np.arange(N) % 4
    off = np.arange(N) % 1000 >= 1000 - wrong
    return np.where(off, (target + 1) % 4, target)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A suite whose run ended well: 5 of 1,000 lost, a tenth of the bytes, twice as fast."""
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "params.yaml").write_text(PARAMS)
    models = {
        role: artifact(suite / "models" / role, role, size)
        for role, size in (("reference", 10_000), ("candidate", 1000))
    }
    made = {"parent_digest": models["reference"].digest, "recipe_digest": "r"}
    models["candidate"] = models["candidate"].model_copy(update=made)
    models["candidate"].write(suite / "models/candidate/artifact.json")
    reports = suite / "reports"
    reports.mkdir()
    write_records(reports, models)
    return suite


def write_records(reports: Path, models: dict[str, Artifact]) -> None:
    """Write every record beside the models."""
    split = DataSplit(n=N, digest="d", input_shapes={"input": (4,)}, value_range=(0, 1))
    DataRecord(digest="d", splits={"test": split}, leaks={}).write(reports / "data.json")
    step = StepRecord(
        method="reference",
        options={},
        seconds=1,
        state_bytes=10_000,
        parameters=2500,
        nonzeros=2500,
        macs=10_000,
        distinct_values=9,
        quality={"accuracy": 0.9},
        covered=(),
        uncovered={},
        effect="",
        effective=True,
    )
    pruned = step.model_copy(update={"method": "structured_pruning", "parameters": 250, "effect": "fewer_parameters"})
    CompressionRecord(recipe_digest="r", reference=step, steps=(pruned,), size_bytes=1000).write(
        reports / "compression.json"
    )
    target, predicted = np.arange(N) % 4, {"reference": labels(100), "candidate": labels(105)}
    np.savez(
        reports / "predictions.npz",
        ids=np.array([f"test:{index}" for index in range(N)]),
        target=target,
        **{f"{role}_predicted": values for role, values in predicted.items()},
    )
    np.savez(reports / "timings.npz", pairs=np.ones(3))
    quality = {
        role: ModelQuality(
            digest=models[role].digest,
            metrics={
                "accuracy": Value(value=float((values == target).mean()), n=N),
                "f1": Value(value=float((values == target).mean()), n=N),
            },
            slices={
                "recall": {
                    f"class={label}": Value(value=float((values == target)[target == label].mean()), n=N // 4)
                    for label in range(4)
                }
            },
        )
        for role, values in predicted.items()
    }
    Evaluation(
        kind="classification",
        n=N,
        data_digest="d",
        predictions_digest=digest_of_file(reports / "predictions.npz"),
        runtime="onnxruntime",
        models=quality,
        absent={"baseline": "no run of the target branch has been recorded yet"},
    ).write(reports / "evaluation.json")
    reference = models["reference"]
    costs = {
        role: ModelCost(
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
            },
        )
        for role, model in models.items()
    }
    pair = PairedTiming(
        procedure="interleaved pairs",
        clock="thread CPU time",
        ratio=0.5,
        interval=(0.48, 0.52),
        confidence=0.95,
        pairs=3000,
        turns=5,
        control_ratio=1.001,
        control_interval=(0.995, 1.006),
        wall_ratio=0.5,
    )
    Benchmark(
        runtime="onnxruntime",
        threads=1,
        batch_sizes=(1,),
        models=costs,
        pairs={"reference": pair},
        environment={"processor": "a processor"},
        machine_digest="m",
        load_average=0.5,
    ).write(reports / "benchmark.json")
