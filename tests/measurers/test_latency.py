"""Paired timing: the interval is honest on made-up samples, real files are timed, bad workers leave nothing behind."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from compression_gate.errors import MeasurementError
from compression_gate.gate.timing_zone import zone_of
from compression_gate.measurers import latency, workers
from compression_gate.measurers.latency import Setting, Turn, measure_pair
from compression_gate.measurers.latency_worker import Parent
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.runtimes.torch_eager import TorchEager


def turn(ratio, random, pairs=400, call_s=1e-3):
    first = call_s * np.exp(random.normal(0, 0.05, pairs))
    second = first * ratio * np.exp(random.normal(0, 0.05, pairs))
    return Turn(cpu=np.array([first, second]), wall=np.array([first, second]))


@pytest.mark.parametrize(("call_s", "size"), [(1e-3, 5), (3e-4, 17), (4e-3, 1), (2e-2, 1)])
def test_a_block_is_an_odd_number_of_pairs_of_about_ten_milliseconds(call_s, size):
    """An even number has no middle; no pair is dropped, and each counts once."""
    made = turn(1.0, np.random.default_rng(0), call_s=call_s)
    assert len(made.blocks) == 400 // size
    assert made.blocks[0] == np.median(made.logs[:size])
    assert made.blocks[-1] == np.median(made.logs[(len(made.blocks) - 1) * size :])


def test_of_a_block_the_pairs_count_during_which_nothing_else_ran():
    """The second of three calls waited for the core: what it took says little; where all waited, all count."""
    cpu = np.array([[1e-3] * 12, [1.1e-3, 4e-3, 1.1e-3] * 4])
    waiting = np.array([[0.0] * 12, [0.0, 8e-3, 0.0] * 3 + [8e-3] * 3])
    made = Turn(cpu=cpu, wall=cpu + waiting)
    assert made.interrupted.tolist() == [False, True, False] * 3 + [True] * 3
    assert np.exp(made.blocks) == pytest.approx(1.1)


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


def test_where_there_is_no_safe_fork_every_turn_is_a_fresh_process_and_the_record_says_so(files, monkeypatch):
    """As on macOS and Windows."""
    monkeypatch.setattr(latency, "PROCEDURE", latency.FRESH)
    timing = measure_pair(files["wide"], files["narrow"], SETTING, 3).timing
    assert (timing.procedure, timing.clock, timing.reason) == (latency.FRESH, "thread CPU time", None)
    assert timing.turns >= 4
    assert timing.interval[1] < 1


def test_several_threads_are_timed_in_processes_by_the_wall(files):
    """One observation a process, in turn: a pool's work is not on the clock of the thread that asks."""
    timing = measure_pair(files["wide"], files["narrow"], replace(SETTING, threads=2), 4).timing
    assert timing.reason is None
    assert (timing.clock, timing.procedure) == ("wall time", latency.PROCESSES)
    assert all(len(blocks) == 1 for blocks in timing.blocks)
    assert timing.ratio < 1


def test_a_budget_that_will_hardly_do_is_told_while_it_is_spent(files, caplog):
    """On this side of the process that measures, and with how much longer it would take."""
    with caplog.at_level(logging.INFO, "compression_gate"):
        timing = measure_pair(files["narrow"], files["narrow"], replace(SETTING, limits=(1 + 1e-4,)), 0.1).timing
    (told,) = [record.message for record in caplog.records if record.message.startswith("timing: ")]
    assert re.search(r"about [1-9]\d* s more are needed to decide, 0 s are left$", told)
    assert timing.needed_s > 1


@pytest.fixture
def parent_after(tmp_path):
    """Return a callable(turns, seconds) -> the parent of turns that took so long; its limit is 5 %."""

    def make(turns, seconds):
        request = {"folder": str(tmp_path), "zones": [asdict(zone_of(1.05))], "seed": 0, "budget_s": seconds}
        more = {"runtime": "onnxruntime", "threads": 2, "procedure": latency.PROCESSES, "alpha": 0.005}
        made = Parent(request | more)
        made.turns, made.started = turns, time.monotonic() - seconds
        return made

    return make


def test_what_a_turn_takes_is_counted_whole(parent_after):
    """One pair of calls of 1 ms stands for two processes that were started, and seconds of calls."""
    random = np.random.default_rng(0)
    parent = parent_after([turn(1.0, random, pairs=1) for _ in range(8)], 24.0)
    assert parent.needed_s() >= 33  # eleven turns, of three seconds each


def test_where_the_turns_differ_more_of_them_are_needed_however_many_blocks_there_are(parent_after):
    """Places in memory that differ by 4 % leave the mean of eight turns in doubt: more of their blocks help nothing."""
    random = np.random.default_rng(0)
    turns = [turn(ratio, random) for ratio in (0.96, 1.04) * 4]
    assert parent_after(turns, 8.0).needed_s() > 10
    assert parent_after([turn(1.0, random) for _ in range(8)], 8.0).needed_s() == pytest.approx(11, abs=0.1)


class Orders(Parent):
    """Notes the order of every observation of the process procedure, and takes none."""

    def turn_of_processes(self, files, order, *, control):
        self.number += 1
        self.noted.setdefault(control, []).append(order)

    def decided(self):
        return len(self.noted[False]) == 12


@pytest.mark.parametrize("seed", range(5))
def test_processes_are_taken_in_the_order_a_b_b_a_and_those_of_the_control_too(tmp_path, seed):
    """Of every two observations that follow each other one begins with each side, so that drift cancels."""
    request = {"folder": str(tmp_path), "zones": [], "seed": seed, "budget_s": 60, "files": ["a", "b"]}
    parent = Orders({**request, "runtime": "onnxruntime", "threads": 2, "procedure": latency.PROCESSES})
    parent.noted = {}
    assert parent.take_processes()
    for orders in parent.noted.values():
        assert all(set(two) == {(0, 1), (1, 0)} for two in zip(orders[::2], orders[1::2], strict=False)), orders


def test_several_threads_of_torch_survive_the_fork(tmp_path):
    """What reads a file may start threads, which no fork survives: with several, every process reads for itself."""
    paths = [tmp_path / f"{width}.pt2" for width in (16, 4096)]
    for path in paths:
        width = int(path.stem)
        TorchEager().export(nn.Sequential(nn.Linear(64, width), nn.Linear(width, 2)), torch.randn(2, 64), path, {})
    setting = replace(SETTING, runtime="torch", threads=2, inputs={"input": np.zeros((512, 64), np.float32)})
    timing = measure_pair(paths[1], paths[0], setting, 2).timing
    assert (timing.procedure, timing.reason) == (latency.PROCESSES, None)
    assert timing.ratio < 1


def test_no_child_is_left_behind_and_what_was_taken_before_a_crash_is_kept(files, monkeypatch):
    """The model's file vanishes while turns are taken."""
    moved = files["narrow"].with_name("gone.onnx")
    timer = threading.Timer(2.5, lambda: files["narrow"].rename(moved))
    timer.start()
    samples = measure_pair(files["wide"], files["narrow"], replace(SETTING, limits=(1e-3,)), 20)
    timer.join()
    assert samples.timing.ratio is None
    assert "narrow.onnx" in samples.timing.reason
    assert not [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]


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
