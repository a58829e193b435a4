"""Processes that measure: held to their threads, and plain about how they ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from compression_gate.errors import MeasurementError
from compression_gate.measurers import workers


def test_what_is_recorded_as_pinned_is_what_a_worker_sees(tmp_path, monkeypatch):
    (tmp_path / "telling_worker.py").write_text(
        "import json, os\n"
        "cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()\n"
        "print(json.dumps({'usable_cores': str(cores)} | dict(os.environ)))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen = json.loads(workers.run_worker("telling_worker", {}, threads=2, timeout_s=60, what="telling"))
    assert workers.pinning(2).items() <= seen.items()
    assert seen["OMP_NUM_THREADS"] == "2"


WORKERS = [
    ("raise MemoryError", r"exit 1\): MemoryError: expected memory enough"),
    ("open('/no/such/file')", r"exit 1\): FileNotFoundError: .*/no/such/file"),
    ("import os; os.abort()", r"killed by signal 6\)"),
    ("import os; os.kill(os.getpid(), 9)", r"killed by signal 9, as a system does that runs out of memory"),
    (r"import os; os.write(2, b'L\xf6we in \xff'); os._exit(3)", r"exit 3\): L.we in ."),
]


@pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX")
@pytest.mark.parametrize(("line", "words"), WORKERS)
def test_a_worker_s_end_is_told_in_words(tmp_path, monkeypatch, line, words):
    (tmp_path / "ending_worker.py").write_text(
        "from compression_gate.measurers.workers import answer_or_say_why\n"
        f"def main(path):\n    {line}\n"
        "answer_or_say_why(main)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasurementError, match=f"ending: expected a measurement, got a process that ended .*{words}"):
        workers.run_worker("ending_worker", {}, threads=1, timeout_s=60, what="ending")


def test_what_a_worker_says_of_its_timing_is_told_while_it_runs(tmp_path, monkeypatch, caplog):
    """And nothing else that libraries write beside it."""
    (tmp_path / "talking_worker.py").write_text(
        "import sys, time\n"
        "print('timing: about 9 s more', 'a warning of a library', sep='\\n', file=sys.stderr, flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with caplog.at_level(logging.INFO, "compression_gate"), pytest.raises(MeasurementError, match="within 3 s"):
        workers.run_worker("talking_worker", {}, threads=1, timeout_s=3, what="talking")
    assert caplog.messages == ["timing: about 9 s more"]


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="alarms are of POSIX")
def test_a_worker_that_hangs_ends_though_whoever_started_it_was_killed(tmp_path, monkeypatch):
    told = tmp_path / "pid"
    (tmp_path / "hanging_worker.py").write_text(
        "import os, time\n"
        "from compression_gate.measurers.workers import answer_or_say_why\n"
        "def main(path):\n"
        f"    open({str(told)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "answer_or_say_why(main)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = "from compression_gate.measurers import workers\nworkers.run_worker('hanging_worker', {}, threads=1, "
    starter = subprocess.Popen([sys.executable, "-c", f"{line}timeout_s=9, what='hanging')"])
    end = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    worker = psutil.Process(int(told.read_text()))
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.1)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("answer", ["", "\n", "the user's own words", "7", "null", '{"decode_s": 1'])
def test_an_answer_that_is_no_object_is_shown(answer):
    with pytest.raises(MeasurementError, match=r"decode x: expected a line of JSON, got"):
        workers.answer_of(answer, "decode x")


def test_the_last_line_is_the_answer():
    assert workers.answer_of('{"a": 1}\nwhat the model prints\n{"a": 2}\n', "decode x") == {"a": 2}
