"""Absolute figures by pytest-benchmark: at every batch size, and in a file that its own command compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from compression_gate.errors import MeasurementError
from compression_gate.measurers import absolute
from compression_gate.measurers.absolute import figures_of, measure_absolute

pytestmark = pytest.mark.usefixtures("nothing_left")
INPUTS = {size: {"input": np.zeros((size, 64), np.float32)} for size in (4, 1, 16)}


def test_every_batch_size_has_its_figures_and_rules_speak_of_first_and_largest(files, tmp_path):
    found = measure_absolute(files, "onnxruntime", 1, INPUTS, 0.3, tmp_path / "report.json")
    assert found.keys() == files.keys()
    for batches in found.values():
        assert list(batches) == [4, 1, 16]
        for figures in batches.values():
            assert figures.keys() == {"latency_ms", "latency_p95_ms", "latency_p99_ms", "throughput_per_s"}
            assert figures["latency_ms"].value <= figures["latency_p95_ms"].value <= figures["latency_p99_ms"].value
            assert figures["latency_ms"].confidence >= 0.95
        chosen = figures_of(batches)
        assert chosen["latency_p99_ms"] == batches[4]["latency_p99_ms"]
        assert chosen["throughput_per_s"] == batches[16]["throughput_per_s"]
        rate, calls = batches[16]["throughput_per_s"], batches[16]["latency_ms"]
        assert rate.value == pytest.approx(16_000 / calls.value, rel=1e-2)


def test_another_pytest_around_it_has_no_part_in_it(files, tmp_path, monkeypatch):
    """A worker of pytest-xdist says so in its environment, and pytest-benchmark then measures nothing."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--benchmark-disable")
    found = measure_absolute({"candidate": files["narrow"]}, "onnxruntime", 1, INPUTS, 0.1, tmp_path / "report.json")
    assert found["candidate"].keys() == INPUTS.keys()


def test_two_reports_are_compared_by_pytest_benchmark(files, tmp_path):
    for name in ("before.json", "after.json"):
        measure_absolute({"candidate": files["narrow"]}, "onnxruntime", 1, INPUTS, 0.1, tmp_path / name)
        report = json.loads((tmp_path / name).read_text())
        assert "node" not in report["machine_info"]
        assert "commit_info" not in report  # of the folder it happened to run in
    code = "from pytest_benchmark.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", "before.json", "after.json", "--columns=median", "--sort=fullname"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "PY_COLORS": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for size in INPUTS:
        assert done.stdout.count(f"[candidate-{size}]") == 2, done.stdout


WRONG = [
    ("raising", "the model's own words"),
    ("crashing", "killed by signal 11"),
    ("flat", r"narrow\.onnx: expected one shape of 4 rows, got \(8,\)"),
    ("shifting", r"narrow\.onnx: expected one shape of 4 rows, got \(4, 1\), \(4, 2\)"),
]


@pytest.mark.usefixtures("strange")
@pytest.mark.parametrize(("runtime", "words"), WRONG)
def test_a_model_that_goes_wrong_is_told_and_leaves_no_report(files, tmp_path, runtime, words):
    first = {4: INPUTS[4]}
    with pytest.raises(MeasurementError, match=f"(?s)pytest-benchmark: .*{words}"):
        measure_absolute({"candidate": files["narrow"]}, runtime, 1, first, 0.1, tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.usefixtures("strange")
def test_a_model_that_hangs_is_ended_with_what_it_started(files, tmp_path, monkeypatch):
    monkeypatch.setattr(absolute, "START_S", 5.0)
    with pytest.raises(MeasurementError, match="expected an end within 5 s"):
        measure_absolute({"candidate": files["narrow"]}, "hanging", 1, {4: INPUTS[4]}, 0.1, tmp_path / "report.json")
