"""What `run` leaves for the stages, the lock, and what a failure leaves."""

import json
import os
import subprocess
import sys

import pytest

from compression_gate.errors import ParamsError
from compression_gate.pipeline.state import (
    Failure,
    failure_path,
    prepare_state,
    remove_outputs,
    source_digests,
    state_kept,
    suite_lock,
    write_json,
)
from compression_gate.records.params import read_params
from compression_gate.records.state_files import HISTORY, MACHINE, PACKAGE, PARAMS, REFERENCES, SOURCES, WAIVERS

NO_TEXT = b"\xff\xfe{}"


def test_every_file_that_stages_depend_on_is_written(suite):
    prepare_state(suite.path, read_params(suite.path))
    for name in (PARAMS, PACKAGE, MACHINE, SOURCES, WAIVERS):
        assert (suite.path / name).is_file(), name


def test_second_time_touches_nothing(suite):
    params = read_params(suite.path)
    prepare_state(suite.path, params)
    files = [path for path in (suite.path / ".compression_gate").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    prepare_state(suite.path, params)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_waivers_are_seen_by_their_digest(suite):
    params = read_params(suite.path)
    prepare_state(suite.path, params)
    assert json.loads((suite.path / WAIVERS).read_text()) == {"sha256": None}
    (suite.path / "waivers.yaml").write_text("[]")
    prepare_state(suite.path, params)
    digest = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert json.loads((suite.path / WAIVERS).read_text()) == {"sha256": digest}


def test_state_that_was_changed_is_put_back(suite):
    params = read_params(suite.path)
    prepare_state(suite.path, params)
    folder = suite.path / REFERENCES / "baseline"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text("old")
    files = [path for path in (suite.path / ".compression_gate").rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    with state_kept(suite.path):
        (folder / "model.onnx").unlink()
        (folder / "absent").write_text("gone")
        (suite.path / PACKAGE).unlink()
        (suite.path / HISTORY).write_text("{}")
    files = [path for path in (suite.path / ".compression_gate").rglob("*") if path.is_file()]
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert after.keys() == before.keys()
    assert after[folder / "model.onnx"] == before[folder / "model.onnx"]


@pytest.mark.parametrize("name", [PARAMS, PACKAGE, MACHINE, SOURCES, WAIVERS])
def test_state_that_is_no_text_is_written_anew_and_put_back_as_it_was(suite, name):
    params = read_params(suite.path)
    (suite.path / name).parent.mkdir()
    (suite.path / name).write_bytes(NO_TEXT)
    with state_kept(suite.path):
        prepare_state(suite.path, params)
        assert (suite.path / name).read_text(encoding="utf-8")
    assert (suite.path / name).read_bytes() == NO_TEXT


def test_sources_change_with_one_byte_and_only_then(suite):
    params = read_params(suite.path)
    before = source_digests(suite.path, params)
    assert list(before) == [suite.source.name]
    assert source_digests(suite.path, params) == before
    suite.append("# a remark\n")
    assert source_digests(suite.path, params) != before


def test_folder_among_the_files_is_hashed_file_by_file(suite):
    (suite.path / "assets" / "deep").mkdir(parents=True)
    (suite.path / "assets" / "deep" / "a.txt").write_text("a")
    suite.edit("task.files", ["assets"])
    assert "assets/deep/a.txt" in source_digests(suite.path, read_params(suite.path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_file_whose_name_is_no_text_is_refused(suite):
    """DVC could hash no folder with it."""
    (suite.path / "assets").mkdir()
    (suite.path / "assets" / os.fsdecode(b"caf\xe9.txt")).write_text("")
    suite.edit("task.files", ["assets"])
    with pytest.raises(ParamsError, match=r"assets/caf\\xe9\.txt': expected a name in UTF-8"):
        source_digests(suite.path, read_params(suite.path))


def test_files_that_are_not_there_are_told_together(suite):
    suite.edit("task.files", ["none.txt"])
    suite.edit("task.weights", "none.pt")
    with pytest.raises(ParamsError) as caught:
        source_digests(suite.path, read_params(suite.path))
    assert [problem.split(": ")[2:4] for problem in caught.value.problems] == [
        ["none.pt", "no such file"],
        ["none.txt", "no such file"],
    ]


def test_second_process_is_told_who_holds_the_suite(suite):
    script = (
        "import sys; from pathlib import Path; from compression_gate.pipeline.state import suite_lock\n"
        "with suite_lock(Path(sys.argv[1])): print('held')"
    )
    command = [sys.executable, "-c", script, str(suite.path)]
    with suite_lock(suite.path):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    assert "ParamsError: suite: another run holds this suite since" in answer.stderr
    assert f"process {os.getpid()} on " in answer.stderr
    assert "wait for it, or stop it" in answer.stderr
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stdout == "held\n", answer.stderr


def test_lock_is_released_by_an_error_and_by_a_process_that_dies(suite):
    with pytest.raises(KeyboardInterrupt), suite_lock(suite.path):
        raise KeyboardInterrupt
    script = (
        "import os, sys; from pathlib import Path; from compression_gate.pipeline.state import suite_lock\n"
        "with suite_lock(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(suite.path)], check=False)
    with suite_lock(suite.path):
        pass


def test_two_suites_have_two_locks(suite_factory):
    one, two = suite_factory("one").path, suite_factory("two").path
    with suite_lock(one), suite_lock(two):
        assert (one / ".compression_gate/lock").exists()
        assert (two / ".compression_gate/lock").exists()


def test_failure_is_written_and_read(suite):
    failure = Failure(stage="train", exit_code=4, message="NaN")
    failure.write(failure_path(suite.path))
    assert Failure.read(failure_path(suite.path)) == failure


def test_outputs_of_one_stage_are_removed_and_no_others(suite):
    for name in (
        "models/reference/model.onnx",
        "models/candidate/model.onnx",
        "reports/training.csv",
        "reports/data.json",
    ):
        (suite.path / name).parent.mkdir(parents=True, exist_ok=True)
        (suite.path / name).write_text("x")
    remove_outputs(suite.path, "train")
    left = sorted(path.relative_to(suite.path).as_posix() for path in suite.path.rglob("*.*") if path.is_file())
    assert left == ["dvc.yaml", suite.source.name, "models/candidate/model.onnx", "params.yaml", "reports/data.json"]
    remove_outputs(suite.path, "train")


def test_json_is_written_only_where_it_differs(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": 2})
    first = path.stat()
    write_json(path, {"a": 2, "b": 1})
    assert path.stat().st_ino == first.st_ino
    assert json.loads(path.read_text()) == {"a": 2, "b": 1}
