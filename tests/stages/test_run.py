"""`run` when something goes wrong on the way: a verdict says so, nothing older is left, a dry run changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from compression_gate.errors import CompressionGateError, MissingDependencyError, ParamsError
from compression_gate.stages import run

OLD = '{"status": "pass"}'
REPORTS = ("reports/report.md", "reports/report.html", "reports/junit.xml", "reports/plots/steps.csv")


@pytest.fixture
def ready(suite, monkeypatch):
    """A suite with an older verdict, whose DVC is set up and whose recipe is good."""
    monkeypatch.setattr(run, "check_recipe", lambda *_: None)
    monkeypatch.setattr(run, "set_up", lambda *_: None)
    (suite.path / "reports").mkdir()
    (suite.path / "reports/verdict.json").write_text(OLD)
    for name in REPORTS:
        (suite.path / name).parent.mkdir(exist_ok=True)
        (suite.path / name).write_text("an older report")
    return suite


def raising(error):
    """A callable that raises."""

    def call(*_, **__):
        raise error

    return call


FAULTS = [  # what fails, how, the exit code
    ("set_up", CompressionGateError("`dvc init` failed"), 4),
    ("prepare_state", OSError(28, "No space left on device"), 4),
    ("resolve", OSError(28, "No space left on device"), 4),
    ("reproduce", CompressionGateError("compression-gate: expected the command"), 4),
    ("reproduce", ParamsError(".dvc/config: cannot be read"), 2),
    ("reproduce", OSError(12, "Cannot allocate memory"), 4),
    ("check_recipe", MissingDependencyError("openvino is not installed"), 4),
]


@pytest.mark.parametrize(("name", "error", "code"), FAULTS)
def test_whatever_fails_on_the_way_is_in_the_verdict_and_the_report(ready, monkeypatch, name, error, code):
    monkeypatch.setattr(run, name, raising(error))
    failure = run.run(ready.path, run.Request())
    assert failure.exit_code == code
    verdict = json.loads((ready.path / "reports/verdict.json").read_text())
    assert (verdict["status"], verdict["exit_code"]) == ("error", code)
    assert verdict["checks"][0]["reason"] == "crashed"
    assert str(error) in verdict["checks"][0]["message"]
    assert str(error)[:10] in (ready.path / "reports/report.md").read_text().replace("\\", "")


def test_a_wrong_recipe_leaves_the_older_verdict(ready, monkeypatch):
    monkeypatch.setattr(run, "check_recipe", raising(ParamsError("compress.steps.0: unknown")))
    with pytest.raises(ParamsError):
        run.run(ready.path, run.Request())
    assert (ready.path / "reports/verdict.json").read_text() == OLD


def test_on_a_full_disk_no_older_verdict_or_report_is_left(ready, monkeypatch):
    from compression_gate.stages import gate

    monkeypatch.setattr(run, "reproduce", lambda *_, **__: 255)
    monkeypatch.setattr(gate, "crashed_verdict", raising(OSError(28, "No space left on device")))
    assert run.run(ready.path, run.Request()).exit_code == 4
    assert not (ready.path / "reports/verdict.json").exists()
    assert [name for name in REPORTS if (ready.path / name).exists()] == []


def test_params_that_change_while_it_runs_do_not_hide_the_failure(ready, monkeypatch):
    def broken(*_, **__):
        ready.write("task: [")
        return 255

    monkeypatch.setattr(run, "reproduce", broken)
    assert run.run(ready.path, run.Request()).exit_code == 4
    assert json.loads((ready.path / "reports/verdict.json").read_text())["status"] == "error"


def test_an_interrupt_leaves_no_verdict_and_frees_the_suite(ready, monkeypatch):
    monkeypatch.setattr(run, "reproduce", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run.run(ready.path, run.Request())
    assert not (ready.path / "reports/verdict.json").exists()
    monkeypatch.setattr(run, "reproduce", lambda *_, **__: 255)
    assert run.run(ready.path, run.Request()).exit_code == 4


def contents(folder):
    """Every file of a suite but the lock, with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_dry_run_changes_no_file(ready, monkeypatch):
    monkeypatch.setattr(run, "dvc_root", lambda suite: suite)
    monkeypatch.setattr(run, "reproduce", lambda *_, **__: 0)
    before = contents(ready.path)
    assert run.run(ready.path, run.Request(dry=True)) is None
    assert contents(ready.path) == before


def test_references_are_searched_as_the_request_says(ready, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "resolve", lambda *_, **options: asked.append(options))
    monkeypatch.setattr(run, "reproduce", lambda *_, **__: 255)
    run.run(ready.path, run.Request(target="next", rebuild=True))
    assert asked == [{"target": "next", "rebuild": True}]


def test_a_dry_run_sets_nothing_up(suite, monkeypatch):
    monkeypatch.setattr(run, "check_recipe", lambda *_: None)
    run.run(suite.path, run.Request(dry=True))
    assert not (suite.path / ".dvc").exists()


def test_a_dry_run_that_dvc_cannot_answer_is_an_error(ready, monkeypatch):
    monkeypatch.setattr(run, "dvc_root", lambda suite: suite)
    monkeypatch.setattr(run, "reproduce", lambda *_, **__: 255)
    with pytest.raises(CompressionGateError, match="255"):
        run.run(ready.path, run.Request(dry=True))
    assert (ready.path / "reports/verdict.json").read_text() == OLD


def command(*words):
    """The command as a shell would call it."""
    return [sys.executable, "-m", "compression_gate", *map(str, words)]


@pytest.mark.parametrize("word", ["prepare", "gate", "check", "run"])
def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path, word):
    folder = tmp_path / "nowhere"
    done = subprocess.run(command(word, "-C", folder), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere: expected the folder of a suite" in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")
def test_ctrl_c_ends_every_process_with_130_and_no_traceback_of_ours(suite):
    """The signal reaches `run` alone here, as from a supervisor; what it started must not go on writing."""
    started = suite.path / "started"
    suite.append(f"\n\nimport os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(120)\n")
    (suite.path / "reports").mkdir()
    (suite.path / "reports/verdict.json").write_text(OLD)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what starts the tests may ignore it, as nohup does
    with subprocess.Popen(
        command("run", "-C", suite.path),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heard,
    ) as process:
        deadline = time.monotonic() + 90
        while not (started.exists() and started.read_text()) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "compression_gate/stages/run.py" not in errors
    assert not psutil.pid_exists(int(started.read_text()))
    assert not (suite.path / "reports/verdict.json").exists()


def test_a_users_exit_is_a_failure_of_the_stage(suite):
    suite.append("\n\nimport sys\nsys.exit(0)\n")
    done = subprocess.run(command("prepare", "-C", suite.path), capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert (suite.path / ".compression_gate/failure.json").exists()


def test_a_damaged_history_is_told_and_written_anew(ready, monkeypatch, caplog):
    monkeypatch.setattr(run, "reproduce", lambda *_, **__: 0)
    monkeypatch.setattr(run, "missing_outputs", lambda *_: [])
    path = ready.path / ".compression_gate/history.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{")
    assert run.run(ready.path, run.Request()) is None
    assert "history.json" in caplog.text
    assert json.loads(path.read_text())["releases"] == []
