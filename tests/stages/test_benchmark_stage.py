"""`benchmark` on a tiny suite: every figure of the contract, with its unit, and pytest-benchmark's own file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.artifacts.compared import REFERENCES, open_models
from compression_gate.artifacts.exporting import CODED, CODED_FILE, exported_artifact
from compression_gate.errors import MeasurementError, ParamsError
from compression_gate.measurers.fresh import Fresh
from compression_gate.pipeline import evidence
from compression_gate.records.metric_table import METRICS
from compression_gate.records.metrics import Benchmark, Measurement
from compression_gate.records.params import read_params
from compression_gate.stages import benchmark
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


def test_pairs_have_what_is_left_of_the_budget_and_what_one_leaves_goes_to_the_next(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: clock[0])
    given = {}
    for role, share_s in benchmark.shared(["reference", "baseline", "release"], 130.0):
        given[role] = share_s
        clock[0] += {"reference": 4.0, "baseline": 50.0}.get(role, 0.0)
    assert given == {"reference": 10.0, "baseline": 13.0, "release": 0.0}


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


@pytest.mark.parametrize(
    ("metric", "least"),
    [("load_time_ms", 6), ("decode_time_ms", 6), ("first_call_ms", 6), ("latency_ms", 3), ("load_time_cold_ms", 3)],
)
def test_a_rule_on_loading_has_as_many_processes_as_its_interval_needs(suite, metric, least):
    suite.edit("gate", {"rules": {"one": {"metric": metric, "max": 5}}})
    assert benchmark.least_processes(read_params(suite.path).gate) == least


@pytest.fixture
def all_coded(suite):
    """A suite whose candidate, baseline and release ship as coded files (that none can decode), and not its reference.

    Loading took each model 10 ms, 9 to 12.
    """
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    roles = {"reference": "models", "candidate": "models", "baseline": REFERENCES, "release": REFERENCES}
    for role, place in roles.items():
        folder = suite.path / place / role
        folder.mkdir(parents=True)
        model = task.build_model()
        save_file(model.state_dict(), folder / "model.safetensors")
        if role != "reference":
            (folder / CODED_FILE).write_bytes(role.encode())
        exported_artifact(model, task, params, folder, role=role)
    load = Measurement(value=10.0, unit="ms", samples=6, low=9.0, high=12.0)
    return suite, {role: Fresh(figures={"load_time_ms": load}, energy=None) for role in roles}


@pytest.fixture
def decoded_in(monkeypatch):
    """Note which file each process was to decode, and say that it took one second more each time; a release fails."""
    asked = []

    def decode(suite, file, normalize, steps, params, exported):
        assert exported is None
        if file.read_bytes() == b"release":
            raise MeasurementError("got a file of another model")
        asked.append(file.read_bytes().decode())
        return float(len(asked))

    monkeypatch.setattr(benchmark, "decode_afresh", decode)
    monkeypatch.setattr("compression_gate.artifacts.compared.decoded", lambda suite, artifact, folder, params: folder)
    return asked


def test_every_model_that_ships_as_a_coded_file_is_decoded_in_turn(all_coded, decoded_in):
    suite, loaded = all_coded
    params = read_params(suite.path)
    models = open_models(suite.path, params)
    assert {role: artifact.format == CODED for role, artifact in models.artifacts.items()} == {
        "reference": False, "candidate": True, "baseline": True, "release": True,
    }  # fmt: skip
    found = benchmark.with_decoding(loaded, suite.path, models, params, 6)
    assert decoded_in == ["candidate", "baseline"] * 6
    assert found["reference"] == loaded["reference"]
    seconds = {"candidate": np.arange(1, 13, 2), "baseline": np.arange(2, 14, 2)}
    for role, taken in seconds.items():
        figures = found[role].figures
        decoding, load = figures["decode_time_ms"], figures["load_time_ms"]
        assert (decoding.value, decoding.low, decoding.high) == (
            np.median(taken) * 1e3, taken[0] * 1e3, taken[-1] * 1e3,
        )  # fmt: skip
        assert (load.value, load.low, load.high) == (decoding.value + 10, decoding.low + 9, decoding.high + 12)
        assert "coded file" in figures["load_time_cold_ms"].reason


def test_a_coded_file_that_this_commit_cannot_decode_has_no_load_time_and_says_why(all_coded, decoded_in):
    suite, loaded = all_coded
    params = read_params(suite.path)
    figures = benchmark.with_decoding(loaded, suite.path, open_models(suite.path, params), params, 3)["release"].figures
    for name in ("decode_time_ms", "load_time_ms"):
        assert (figures[name].value, figures[name].samples) == (None, 0)
        assert "got a file of another model" in figures[name].reason
        assert "record --accept" in figures[name].reason
