"""Paired timing: the interval is honest on made-up samples, real files are timed, bad workers leave nothing behind."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from compression_gate.errors import MeasurementError
from compression_gate.measurers import latency, workers
from compression_gate.measurers.latency import Setting, Turn, estimate, measure_pair, sign_interval
from compression_gate.runtimes.onnx_runtime import OnnxRuntime


def turn(ratio, random, offset=0.0, pairs=400):
    first = 1e-3 * np.exp(random.normal(0, 0.05, pairs))
    second = first * ratio * np.exp(offset + random.normal(0, 0.05, pairs))
    return Turn(cpu=np.array([first, second]), wall=np.array([first, second]))


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.05])
def test_the_interval_holds_the_true_ratio(ratio):
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(40):
        found = estimate([turn(ratio, random, offset=random.normal(0, 0.005)) for _ in range(5)])
        inside += found.low <= ratio <= found.high
    assert inside >= 38


def test_the_spread_between_turns_widens_the_interval():
    random = np.random.default_rng(0)
    calm = estimate([turn(1.0, random) for _ in range(5)])
    moody = estimate([turn(1.0, random, offset=step) for step in (-0.05, -0.02, 0.0, 0.02, 0.05)])
    assert moody.high - moody.low > 2 * (calm.high - calm.low)


@pytest.mark.parametrize("count", [1, 5, 6, 25, 300])
def test_the_sign_interval_covers_as_promised(count):
    from scipy import stats

    values = np.arange(count, dtype=float)
    low, high = sign_interval(values, 0.95)
    if count < 6:
        assert (low, high) == (-np.inf, np.inf)
        return
    assert stats.binom.cdf(low, count, 0.5) <= 0.025
    assert stats.binom.cdf(low + 1, count, 0.5) > 0.025
    assert low + high == count - 1


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    paths = {}
    for name, width in (("narrow", 8), ("wide", 512)):
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 2)).eval()
        paths[name] = tmp_path / f"{name}.onnx"
        OnnxRuntime().export(model, torch.randn(2, 64), paths[name], {})
    return paths


SETTING = Setting(runtime="onnxruntime", threads=1, inputs={"input": np.zeros((1, 64), np.float32)})


def test_a_far_smaller_model_is_found_faster(files):
    samples = measure_pair(files["wide"], files["narrow"], SETTING, 2)
    timing = samples.timing
    assert timing.reason is None
    assert timing.ratio < 1
    assert timing.interval[1] < 1
    assert timing.turns >= 3
    assert timing.control_ratio is not None
    assert len(samples.arrays("reference")) == 2 * (timing.turns + len(samples.control))


@pytest.mark.parametrize(("threads", "clock", "expected"), [(1, "thread CPU time", 2.0), (2, "wall time", 0.5)])
def test_the_ratio_is_by_the_clock_that_the_record_names(monkeypatch, tmp_path, threads, clock, expected):
    """With a pool of threads the calling thread's clock sees only a part of the work."""
    one = np.full(50, 1e-3)
    made = Turn(cpu=np.array([one, 2 * one]), wall=np.array([one, one / 2]))
    monkeypatch.setattr(latency, "take_turns", lambda *_: [made] * 3)
    setting = Setting(runtime="onnxruntime", threads=threads, inputs={})
    timing = measure_pair(tmp_path / "other", tmp_path / "candidate", setting, 1).timing
    assert timing.clock == clock
    assert timing.ratio == pytest.approx(expected)
    assert timing.control_ratio == pytest.approx(expected)
    assert timing.wall_ratio == pytest.approx(0.5)


def test_a_file_that_cannot_be_loaded_leaves_a_reason_and_no_ratio(files, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    timing = measure_pair(files["narrow"], broken, SETTING, 1).timing
    assert timing.ratio is None
    assert timing.interval == (None, None)
    assert "broken.onnx" in timing.reason


def test_a_killed_worker_is_named(tmp_path, monkeypatch):
    (tmp_path / "killed_worker.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasurementError, match="killed by signal 9"):
        workers.run_worker("killed_worker", {}, threads=1, timeout_s=30, what="timing")


def test_a_worker_that_fails_says_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "failing_worker.py").write_text("raise SystemExit('out of memory')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasurementError, match=r"exit 1.*out of memory"):
        workers.run_worker("failing_worker", {}, threads=1, timeout_s=30, what="timing")


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are of POSIX")
def test_a_hung_worker_is_ended_with_its_children(tmp_path, monkeypatch):
    (tmp_path / "hung_worker.py").write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasurementError, match="expected an answer within 2 s"):
        workers.run_worker("hung_worker", {}, threads=1, timeout_s=2, what="timing")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    time.sleep(0.2)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_threads_are_pinned_in_workers():
    assert workers.environment(3)["OMP_NUM_THREADS"] == "3"
    assert latency.LEAST_TURNS >= 3
