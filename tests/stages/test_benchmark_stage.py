"""`benchmark` on a tiny suite: every figure of the contract, with its unit, and pytest-benchmark's own file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.errors import ParamsError
from compression_gate.pipeline import evidence
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
    assert costs - figures.keys() <= {"speedup", "decode_time_ms"}  # against another model; of a coded file
    assert all(figure.value is not None and figure.value >= 0 for figure in figures.values() if not figure.reason)
    assert {name for name, figure in figures.items() if figure.reason} <= {"load_time_cold_ms", "model_memory_bytes"}
    assert figures["size_bytes"].value == (suite.path / "models/candidate/model.onnx").stat().st_size
    assert figures["latency_p95_ms"].value <= figures["latency_p99_ms"].value
    batches = record.models["candidate"].batches
    assert list(batches) == [1, 4]
    assert batches[1]["latency_ms"] == figures["latency_ms"]
    assert batches[4]["throughput_per_s"] == figures["throughput_per_s"]
    assert record.models["reference"].figures["eager_latency_ms"].value > 0
    assert "eager_latency_ms" not in figures
    assert record.pinning["OMP_NUM_THREADS"] == "1"
    assert record.models["candidate"].energy.calls > 0

    pair = record.pairs["reference"]
    assert pair.reason is None
    assert all(end is None or end > 0 for end in pair.interval)
    assert 0.5 < pair.ratio < 2
    assert 0.5 < pair.control_ratio < 2
    assert record.absent["baseline"] == "no reference folder"
    assert len(record.machine_digest) == 64

    with np.load(suite.path / "reports/timings.npz") as file:
        assert sum(file[name].shape[1] for name in file.files if "pairs" in name and "cpu" in name) == pair.pairs

    found = json.loads((suite.path / "reports/pytest_benchmark.json").read_text())
    assert len(found["benchmarks"]) == 4
    assert "node" not in found["machine_info"]


def test_a_second_benchmark_adds_an_attempt_to_the_first(measured):
    suite, first = measured
    second = benchmark.run(suite.path)
    before, after = first.pairs["reference"], second.pairs["reference"]
    assert (before.attempts, after.attempts) == (1, 2)
    assert after.attempt_ratios[0] == before.ratio
    assert after.pairs > before.pairs
    assert after.turns >= before.turns + 3
    with np.load(suite.path / "reports/timings.npz") as file:
        assert sum(file[name].shape[1] for name in file.files if "pairs" in name and "cpu" in name) == after.pairs

    found = evidence.attempts(suite.path)
    assert list(found) == ["reference"]
    assert [attempt.ratio for attempt in found["reference"]] == list(after.attempt_ratios)
    evidence.require_earlier(suite.path)
    lines = evidence.attempts_lines(suite.path)
    assert [line.partition(" (")[0] for line in lines[:2]] == [
        "against the reference, attempt 1",
        "against the reference, attempt 2",
    ]
    assert lines[2].startswith(f"against the reference, judged: attempt 1: {before.ratio:.3f}, attempt 2: ")
    assert f"all together {after.ratio:.3f} of its time" in lines[2]
    assert "at 99%" in lines[2]

    suite.edit("benchmark.threads", 2)
    assert evidence.attempts(suite.path) == {}
    with pytest.raises(ParamsError, match="--again: nothing to add to"):
        evidence.require_earlier(suite.path)
