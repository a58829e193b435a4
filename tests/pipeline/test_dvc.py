"""Calls to DVC: set-up where there is none, and what counts as a remote and as missing."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.pipeline import dvc
from compression_gate.pipeline.definition import DEFINITION, outputs_of

CONFIGS = [
    ("", False),
    ("[core]\n    analytics = false\n", False),
    ("[core]\n    remote = store\n['remote \"store\"']\n    url = /srv/store\n", True),
    ("[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = s3://a/b%20c\n", True),
]


@pytest.mark.parametrize(("text", "expected"), CONFIGS)
def test_remote_is_known_from_the_configuration(tmp_path, text, expected):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(text)
    assert dvc.has_remote(tmp_path) is expected


def test_local_configuration_counts(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("")
    (tmp_path / ".dvc" / "config.local").write_text("[core]\nremote = mine\n")
    assert dvc.has_remote(tmp_path)


def test_locks_that_only_the_dead_hold_are_dropped(tmp_path):
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has seen it out
    for alive, read in ((False, []), (True, []), (True, [os.getpid()])):
        write = {"model": {"pid": dead.pid, "cmd": "dvc"}}
        held = {"data": [{"pid": pid, "cmd": "dvc"} for pid in (*read, dead.pid)]}
        path.write_text(json.dumps({"read": held, "write": write | ({"log": {"pid": os.getpid()}} if alive else {})}))
        dvc.drop_dead_locks(tmp_path)
        assert path.exists() is alive
    dead.wait()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"read": {}}', '{"read": 1, "write": 2}', '{"read": {}, "write": {}}']
)
def test_locks_of_another_form_are_left_to_dvc(tmp_path, text):
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    dvc.drop_dead_locks(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("damage", [Path.mkdir, lambda path: path.write_text("remote = store\n")])
def test_configuration_that_cannot_be_read_is_named(tmp_path, damage):
    """Without it there would seem to be no remote."""
    (tmp_path / ".dvc").mkdir()
    damage(tmp_path / ".dvc" / "config")
    with pytest.raises(ParamsError, match=r"\.dvc/config: cannot be read"):
        dvc.has_remote(tmp_path)


def test_folder_without_git_or_dvc_is_set_up_once(suite):
    assert dvc.set_up(suite.path) == f"set DVC up in {suite.path} (without git)"
    assert dvc.dvc_root(suite.path) == suite.path.resolve()
    assert dvc.set_up(suite.path) is None


def test_checkout_is_set_up_at_its_root(suite):
    root = suite.path.parent
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    assert dvc.set_up(suite.path) == f"set DVC up in {root}"
    assert (dvc.git_root(suite.path), dvc.dvc_root(suite.path)) == (root.resolve(), root.resolve())


def test_definition_is_one_that_dvc_reads(suite):
    """DVC itself resolves the stages: their deps, outs, params and plots are of its schema."""
    dvc.set_up(suite.path)
    answer = dvc.dvc(["stage", "list", "--name-only"], suite.path)
    assert answer.stdout.split() == list(DEFINITION), answer.stderr
    graph = dvc.dvc(["dag", "--md"], suite.path)
    assert graph.returncode == 0, graph.stderr


def test_what_a_stage_prints_may_be_of_another_encoding(tmp_path, capsys):
    dvc.dvc(["init", "--no-scm", "--quiet"], tmp_path)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  shout:\n    cmd: printf 'caf\\351\\n' && touch done\n    outs: [done]\n"
    )
    assert dvc.repro(["shout"], tmp_path) == 0
    assert "caf\N{REPLACEMENT CHARACTER}\n" in capsys.readouterr().err


def test_missing_outputs_are_named_whatever_form_they_have(suite):
    every = [path for stage in DEFINITION.values() for path in outputs_of(stage)]
    assert sorted(dvc.missing_outputs(suite.path)) == sorted(every)
    values = yaml.safe_load((suite.path / "dvc.yaml").read_text())
    values["stages"]["download"] = {"cmd": "curl", "outs": ["elsewhere"]}
    values["stages"]["prepare"]["outs"] = [{"reports/data.json": {"cache": False}}]
    (suite.path / "dvc.yaml").write_text(yaml.safe_dump(values))
    assert sorted(dvc.missing_outputs(suite.path)) == sorted(every)
    (suite.path / "reports").mkdir()
    (suite.path / "reports" / "data.json").write_text("{}")
    assert "reports/data.json" not in dvc.missing_outputs(suite.path)
