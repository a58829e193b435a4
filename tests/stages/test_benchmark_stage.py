"""`benchmark` on a tiny suite: every figure of the contract, with its unit, and pytest-benchmark's own file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.records.metric_table import METRICS
from compression_gate.records.metrics import Benchmark
from compression_gate.records.params import read_params
from compression_gate.stages import benchmark
from compression_gate.stages.artifacts import exported_artifact
from compression_gate.tasks.task import open_task


@pytest.fixture
def measured(suite):
    suite.edit("benchmark.batch_sizes", [1, 4])
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    for role in ("reference", "candidate"):
        folder = suite.path / "models" / role
        folder.mkdir(parents=True)
        model = task.build_model()
        save_file(model.state_dict(), folder / "model.safetensors")
        exported_artifact(model, task, params, folder, role=role)
    return suite, benchmark.run(suite.path)


def test_every_cost_of_the_contract_is_there(measured):
    suite, record = measured
    assert record == Benchmark.read(suite.path / "reports/benchmark.json")
    figures = record.models["candidate"].figures
    costs = {name for name, metric in METRICS.items() if not metric.kind.startswith("paired")}
    assert costs - figures.keys() <= {"speedup"}
    assert all(figure.value is not None and figure.value >= 0 for figure in figures.values())
    assert figures["size_bytes"].value == (suite.path / "models/candidate/model.onnx").stat().st_size
    assert figures["latency_p95_ms"].value <= figures["latency_p99_ms"].value
    assert figures["latency_batch_4_ms"].unit == "ms"

    pair = record.pairs["reference"]
    assert pair.reason is None
    assert pair.interval[0] <= pair.ratio <= pair.interval[1]
    assert pair.control_interval[0] <= pair.control_interval[1]
    assert record.absent["baseline"] == "no reference folder"
    assert len(record.machine_digest) == 64

    with np.load(suite.path / "reports/timings.npz") as file:
        assert sum(file[name].shape[1] for name in file.files if "pairs" in name and "cpu" in name) == pair.pairs

    found = json.loads((suite.path / "reports/pytest_benchmark.json").read_text())
    assert len(found["benchmarks"]) == 6
    assert "node" not in found["machine_info"]
