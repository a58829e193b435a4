"""Models that fail while they are timed: each is named, none passes, and no process is left behind."""

from __future__ import annotations

import re
import sys

import numpy as np
import psutil
import pytest

from compression_gate.measurers import latency
from compression_gate.measurers.latency import PROCEDURE, PROCESSES, Setting, measure_pair

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are of POSIX")

# A runtime of somebody else's, found by its entry point. Its files say what goes wrong, and from which call on.
RUNTIME = """
import os, resource, threading, time
import numpy as np

class Faulty:
    file_name = "model.txt"

    def load(self, path, threads):
        return Session(*path.read_text().split())

class Session:
    def __init__(self, fault, begins):
        self.fault, self.left, self.rows = fault, int(begins), 1

    def __call__(self, inputs):
        if self.fault == "pool":
            worker = threading.Thread(target=spin, args=(2e-3,))
            worker.start()
            worker.join()
        else:
            spin(2e-4)
        self.left -= 1
        if self.left < 0:
            getattr(self, self.fault, int)()
        return np.zeros((self.rows, 2), np.float32)

    def raises(self): raise ValueError("no such operator")
    def crashes(self): os.kill(os.getpid(), 11)
    def exits(self): os._exit(7)
    def hangs(self): time.sleep(600)
    def reshapes(self): self.rows = 3
    def swells(self):
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        self.held = np.ones(2**31)
    def steps(self):
        real, self.steps = time.perf_counter, int
        time.perf_counter = lambda: real() - 1

clock = time.thread_time

def spin(seconds):
    end = clock() + seconds
    while clock() < end: pass
"""
SETTING = Setting(runtime="faulty", threads=1, inputs={"input": np.zeros((1, 2), np.float32)})


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """Return a function that times a faulty model against a good one."""
    (tmp_path / "faulty_runtime.py").write_text(RUNTIME)
    own = tmp_path / "faulty-1.0.dist-info"
    own.mkdir()
    (own / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (own / "entry_points.txt").write_text("[compression_gate.runtimes]\nfaulty = faulty_runtime:Faulty\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(latency, "SILENT_S", 2.0)

    def run(fault, begins=108, budget_s=5.0):  # behind the warm-up, within the pairs
        files = {}
        for name, text in (("good", "none 0"), ("faulty", f"{fault} {begins}")):
            files[name] = tmp_path / f"{name}.txt"
            files[name].write_text(text)
        return measure_pair(files["good"], files["faulty"], SETTING, budget_s)

    return run


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "ValueError: no such operator"),
        ("crashes", "killed by signal 11"),
        ("exits", "exit 7"),
        ("hangs", "the model hangs"),
        ("reshapes", r"expected outputs \(1, 2\) as at first, got \(3, 2\)"),
        ("swells", "MemoryError"),
        ("steps", "expected positive times, got -"),
    ],
)
def test_a_model_that_fails_mid_run_is_named_and_has_no_ratio(timed, fault, said):
    timing = timed(fault).timing
    assert timing.ratio is None
    assert timing.reason is not None
    assert re.search(said, timing.reason), timing.reason
    assert not [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]


def test_a_model_that_works_in_other_threads_is_timed_in_processes_by_the_wall(timed):
    timing = timed("pool", budget_s=12.0).timing
    assert (timing.procedure, timing.clock) == (PROCESSES, "wall time")
    assert timing.ratio is not None
    assert timing.ratio > 2


def test_a_good_model_against_a_good_one_is_timed_by_the_thread(timed):
    timing = timed("none").timing
    assert (timing.procedure, timing.clock, timing.reason) == (PROCEDURE, "thread CPU time", None)
    assert timing.ratio == pytest.approx(1, abs=0.05)
