"""The commands: help for every word, exit codes, and what a failing stage leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import typer
from typer.testing import CliRunner

from compression_gate import __version__
from compression_gate.cli import app
from compression_gate.errors import ParamsError
from compression_gate.pipeline.definition import STAGES
from compression_gate.pipeline.state import Failure, failure_path
from compression_gate.records.selftest import SelfTest
from compression_gate.records.timing_selftest import TimingSelfTest
from compression_gate.stages import selftest, selftest_timing

COMMANDS = typer.main.get_command(app).commands


def called(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def run(*words):
    """Call the command as a shell would; returns the finished process."""
    command = [sys.executable, "-m", "compression_gate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = COMMANDS[name]
    assert command.help
    assert len(command.help.splitlines()[0]) > 20
    assert [part.name for part in command.params if part.name != "help" and not getattr(part, "help", None)] == []
    assert called(name, "--help").exit_code == 0


def test_every_stage_is_a_command():
    assert set(STAGES) <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"list"}))
def test_every_command_takes_the_suites_folder(name):
    assert any("-C" in part.opts for part in COMMANDS[name].params)


def test_version_is_printed():
    assert called("--version").output.strip() == __version__


@pytest.mark.parametrize("words", [["no_such_word"], ["check", "--polcy", "x"], ["check", "--policy", "weekly"]])
def test_wrong_usage_ends_with_2(words):
    assert called(*words).exit_code == 2


def test_failing_stage_ends_with_its_code_leaves_word_and_none_of_its_outputs(suite):
    assert called("prepare", "-C", suite.path).exit_code == 0
    assert (suite.path / "reports" / "data.json").exists()
    suite.append("\n\nGratings.__getitem__ = lambda self, index: self.images[index]\n")
    answer = called("prepare", "-C", suite.path)
    assert answer.exit_code == 4
    assert "compression-gate prepare: task.data: split 'train'" in answer.stderr
    failure = Failure.read(failure_path(suite.path))
    assert (failure.stage, failure.exit_code) == ("prepare", 4)
    assert "expected a pair" in failure.message
    assert not (suite.path / "reports" / "data.json").exists()


def test_fault_of_the_users_code_ends_with_4_and_a_traceback(suite):
    suite.append("\n\nGratings.classes = property(lambda self: 1 / 0)\n")
    answer = called("prepare", "-C", suite.path)
    assert answer.exit_code == 4
    assert "ZeroDivisionError" in Failure.read(failure_path(suite.path)).message


def test_data_that_cannot_be_had_are_the_reason_that_is_left(suite):
    suite.append("\n\ndef load(split):\n    raise PermissionError('no credentials')\n")
    assert called("prepare", "-C", suite.path).exit_code == 4
    assert Failure.read(failure_path(suite.path)).reason == "data_unreachable"


@pytest.mark.parametrize("word", ["prepare", "train", "compress", "evaluate", "benchmark"])
def test_wrong_params_end_with_2_and_leave_every_output_as_it_was(suite, word):
    (suite.path / "reports").mkdir()
    (suite.path / "reports" / "data.json").write_text("old")
    suite.edit("train.epochs", "many")
    answer = called(word, "-C", suite.path)
    assert answer.exit_code == 2
    assert "params.yaml:" in answer.stderr
    assert (suite.path / "reports" / "data.json").read_text() == "old"


def test_run_with_wrong_params_leaves_everything_as_it_was(suite):
    (suite.path / "reports").mkdir()
    (suite.path / "reports" / "verdict.json").write_text("old")
    for key, value in (("task.files", ["none.txt"]), ("train.epochs", "many")):
        suite.edit(key, value)
        before = {path: path.read_bytes() for path in suite.path.rglob("*") if path.is_file()}
        answer = run("run", "-C", suite.path)
        assert answer.returncode == 2, answer.stderr
        assert "params.yaml" in answer.stderr
        assert {path: path.read_bytes() for path in suite.path.rglob("*") if path.is_file()} == before


def test_run_from_an_unknown_stage_ends_with_2(suite):
    answer = run("run", "-C", suite.path, "--from", "trian")
    assert answer.returncode == 2
    assert "--from: expected one of prepare, train" in answer.stderr


def test_list_and_doctor_print_json(suite):
    rows = json.loads(called("list", "metrics", "--json").stdout)
    assert "accuracy" in {row["name"] for row in rows["metrics"]}
    answer = called("doctor", "-C", suite.path, "--json")
    assert answer.exit_code == 0
    assert {finding["name"] for finding in json.loads(answer.stdout)} >= {"python", "torch", "params.yaml"}


def test_both_halves_of_selftest_are_one_json_document_and_its_code_the_worse_one(monkeypatch):
    seen = {"environment": {}, "live": (), "seconds": 1.0}
    monkeypatch.setattr(selftest, "run", lambda **_: SelfTest(full=False, claims=(), mutations=(), seconds=1))
    monkeypatch.setattr(selftest_timing, "run", lambda _: TimingSelfTest(**seen))
    monkeypatch.setattr(TimingSelfTest, "exit_code", 4)
    for words in (["--gate"], ["--timing"], ["--gate", "--timing"]):
        answer = called("selftest", "--json", *words)
        assert json.loads(answer.stdout).keys() == {word.strip("-") for word in words}
    assert (answer.exit_code, json.loads(answer.stdout)["timing"]["exit_code"]) == (4, 4)


IGNORED = [
    (["selftest", "--gate", "--slowed", "2", "--size", "large"], "--size, --slowed: expected --timing"),
    (["init", "--refresh", "--model", "shop:Net"], "--model: expected none beside --refresh"),
]


@pytest.mark.parametrize(("words", "told"), IGNORED)
def test_option_that_would_be_ignored_is_refused(words, told):
    with pytest.raises(ParamsError, match=told):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_doctor_ends_with_4_where_something_needed_is_missing(suite):
    suite.write("task: [\n")
    answer = called("doctor", "-C", suite.path)
    assert answer.exit_code == 4
    assert "MISS params.yaml" in answer.stdout


def test_interrupted_command_does_not_end_with_the_code_of_a_broken_limit(suite):
    """1 says that a limit is proven broken; Ctrl-C says nothing of the kind."""
    suite.append(f"\n\nopen({str(suite.path / 'started')!r}, 'w').close()\nimport time\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "compression_gate", "prepare", "-C", str(suite.path)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what starts the tests may ignore it, as nohup does
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=heard) as process:
        while not (suite.path / "started").exists() and process.poll() is None:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        process.communicate()
    assert process.returncode not in (0, 1, 2, 3)
    assert not (suite.path / "reports").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX")
def test_a_command_that_is_asked_to_end_leaves_no_worker_behind(tmp_path, monkeypatch):
    """As a forge does to a job that was cancelled: workers run in sessions of their own, which no signal reaches."""
    told = tmp_path / "pid"
    (tmp_path / "hanging_worker.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(told)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    (tmp_path / "command.py").write_text(
        "from compression_gate import cli\n"
        "from compression_gate.measurers.workers import run_module\n"
        "cli.checked = lambda *_, **__: run_module('hanging_worker', [], threads=1, timeout_s=600, what='timing')\n"
        "cli.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = subprocess.Popen([sys.executable, tmp_path / "command.py", "check"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    worker = psutil.Process(int(told.read_text()))
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 130
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
