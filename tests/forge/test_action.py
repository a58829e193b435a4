"""The scripts of the actions, run by bash with a stand-in for the command: what they hand on and end with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
if not (ROOT / "action.yml").is_file() or shutil.which("bash") is None:
    pytest.skip("needs the repository's actions, and bash", allow_module_level=True)
STAND_IN = """\
#!/bin/sh
echo "$@" >> "$CALLS"
case "$1" in
  run) exit "$RUN_CODE" ;;
  record) exit "$RECORD_CODE" ;;
  check) printf '%s' "$CHECKED"; exit "$RUN_CODE" ;;
  search) printf '%s' "$FOUND"; exit "$SEARCH_CODE" ;;
esac
"""


def step_of(path: str, **given: Any) -> dict[str, Any]:
    """The one step of an action that has these values."""
    steps = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["runs"]["steps"]
    (found,) = [step for step in steps if all(step.get(key) == value for key, value in given.items())]
    return found


@pytest.fixture
def bash(tmp_path: Path) -> Callable[..., tuple[int, dict[str, str], list[str]]]:
    """Return a callable(script, variables): its exit code, the outputs it sets, and the commands it calls."""
    programs = tmp_path / "compression-gate-post/bin"
    programs.mkdir(parents=True)
    (programs / "compression-gate").write_text(STAND_IN)
    (programs / "compression-gate").chmod(0o755)

    def call(script: str, **variables: str) -> tuple[int, dict[str, str], list[str]]:
        output, calls = tmp_path / "output", tmp_path / "calls"
        output.write_text("")
        calls.write_text("")
        paths = {"GITHUB_OUTPUT": str(output), "CALLS": str(calls), "RUNNER_TEMP": str(tmp_path), "RUN_CODE": "0"}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        # As a runner calls it.
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(words, env={"PATH": path, **paths, **variables}, cwd=tmp_path, check=False)
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        return done.returncode, outputs, calls.read_text().splitlines()

    return call


VERDICTS = [  # the exit code of run, what check prints, the status that is handed on
    ("0", json.dumps({"status": "pass"}), "pass"),
    ("1", json.dumps({"status": "fail"}), "fail"),
    ("3", json.dumps({"status": "undecided"}), "undecided"),
    ("4", json.dumps({"status": "error"}), "error"),
    ("4", json.dumps({"status": "pass"}), "error"),  # a crash, and the verdict of before
    ("2", "", "error"),
    ("137", "", "error"),
    ("0", "no JSON", "error"),
    ("0", json.dumps({"status": "x\nreport=elsewhere"}), "error"),
]


@pytest.mark.parametrize(("code", "checked", "status"), VERDICTS)
def test_the_action_hands_on_the_code_and_never_a_pass_that_is_none(bash, code, checked, status) -> None:
    script = step_of("action.yml", id="run")["run"]
    ended, outputs, calls = bash(script, SUITE="a b", POLICY="release", TARGET="", RUN_CODE=code, CHECKED=checked)
    assert ended == 0, "what the verdict is must not stop the steps that tell it"
    assert outputs == {"exit-code": code, "status": status, "report": "a b/reports/report.md"}
    assert calls == ["run -C a b --policy release", "check -C a b --policy release --json"]


def test_the_target_is_named_where_it_is_given(bash) -> None:
    _, _, calls = bash(step_of("action.yml", id="run")["run"], SUITE=".", POLICY="p", TARGET="main; rm -rf x")
    assert calls[0] == "run -C . --policy p --target main; rm -rf x"


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4"])
def test_the_action_ends_with_the_code(bash, code) -> None:
    *_, last = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
    assert bash(last["run"], CODE=code)[0] == int(code)


POSTS = [  # the event's action, the commit that was named, what is called
    ("requested", "", ["post --suite a --suite b c --open"]),
    ("completed", "", ["post --suite a --suite b c --follow --comment problems --chat"]),
    ("", "f" * 40, [f"post --suite a --suite b c --head-sha {'f' * 40} --follow --comment problems --chat"]),
]


@pytest.mark.parametrize(("action", "sha", "expected"), POSTS)
def test_the_poster_opens_when_a_run_begins_and_follows_when_it_ended(bash, action, sha, expected) -> None:
    *_, last = yaml.safe_load((ROOT / "post/action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
    chat = "false" if action == "requested" else "true"
    code, _, calls = bash(last["run"], SUITES="a\nb c\n\n", COMMENT="problems", CHAT=chat, SHA=sha, ACTION=action)
    assert (code, calls) == (0, expected)


NAMES = [("suite", "suite"), ("a b", "a_b"), ("ünï", "_n_"), ("x\ny", "x_y")]


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_an_artifact_s_name_holds_only_what_one_may_hold(bash, tmp_path, folder, name) -> None:
    (tmp_path / folder).mkdir()
    script = step_of("action.yml", id="place")["run"]
    code, outputs, _ = bash(script, ACTION=str(ROOT), SUITE=folder, VERSION="", REQUIREMENTS="")
    assert code == 0
    assert outputs["name"].replace("__", "_") == name
    assert len(outputs["key"]) == 40


def copied(folder: Path) -> Path:
    """What of the action its cache's key is made of."""
    for name in ("pyproject.toml", "constraints.txt", "compression_gate/gate/judge.py", "compression_gate/cli.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def edited(path: Path) -> None:
    """Let a file hold more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + "\n# more\n", encoding="utf-8")


KEYS = [  # the file that changes, the variables, and whether the environment is another one
    ("compression_gate/gate/judge.py", {}, True),
    ("compression_gate/gate/new.py", {}, True),
    ("constraints.txt", {}, True),
    ("compression_gate/gate/__pycache__/judge.cpython-313.pyc", {}, False),
    ("docs/gate.md", {}, False),
    ("", {"UV_TORCH_BACKEND": "cu128"}, True),
    ("", {"UV_TORCH_BACKEND": "cpu"}, False),  # what is installed where nothing is said
    ("", {"VERSION": "1.2.3"}, True),
]


@pytest.mark.parametrize(("file", "variables", "another"), KEYS)
def test_an_environment_of_other_code_or_another_torch_is_another_one(bash, tmp_path, file, variables, another) -> None:
    """On a hit nothing is installed: a key that stays would judge with the older code."""
    action = copied(tmp_path / "action")
    given = {"ACTION": str(action), "SUITE": ".", "VERSION": "", "REQUIREMENTS": ""}
    script = step_of("action.yml", id="place")["run"]
    _, before, _ = bash(script, **given)
    if file:
        edited(action / file)
    _, after, _ = bash(script, **given | variables)
    assert (before["key"] != after["key"]) is another


def test_requirements_that_are_not_there_end_the_step(bash, tmp_path) -> None:
    script = step_of("action.yml", id="place")["run"]
    given = {"ACTION": str(copied(tmp_path / "action")), "SUITE": ".", "VERSION": "", "REQUIREMENTS": "missing.txt"}
    assert bash(script, **given)[0] != 0


SEARCHES = [  # what a search ends with and tells, what the step ends with, and whether a pull request follows
    ("0", json.dumps({"adopted": True}), 0, True),
    ("0", json.dumps({"adopted": False}), 0, False),  # the steps are those that were there
    ("1", json.dumps({"adopted": False}), 0, False),
    ("0", "", 0, False),
    ("2", "", 2, False),
    ("4", json.dumps({"adopted": True}), 4, False),
]


@pytest.mark.parametrize(("ended", "told", "code", "found"), SEARCHES)
def test_a_search_ends_well_where_nothing_is_found_and_goes_on_where_other_steps_were_adopted(
    bash, ended, told, code, found
) -> None:
    job = yaml.safe_load((ROOT / "templates/github/compression-gate-search.yml").read_text(encoding="utf-8"))["jobs"]
    (script,) = (step["run"] for step in job["search"]["steps"] if step.get("id") == "search")
    ended_with, outputs, calls = bash(script, SUITE=".", MINUTES="1", SEARCH_CODE=ended, FOUND=told)
    assert (ended_with, outputs.get("found") == "true") == (code, found)
    assert calls == ["search -C . --minutes 1 --adopt --json"]


RECORDS = [("0", "0", 0), ("1", "0", 1), ("0", "4", 4), ("1", "4", 1), ("3", "2", 3)]  # of run, of record, of the job


@pytest.mark.parametrize(("judged", "recorded", "code"), RECORDS)
def test_gitlab_s_recording_job_ends_with_the_verdict_s_code_first(bash, tmp_path, judged, recorded, code) -> None:
    (tmp_path / "compression-gate-post/bin/git").symlink_to(shutil.which("true"))
    jobs = yaml.safe_load((ROOT / "templates/gitlab/compression-gate.yml").read_text(encoding="utf-8"))
    script = "\n".join(jobs["compression-gate-record"]["script"])
    given = {"SUITE": ".", "POLICY": "p", "COMPRESSION_GATE_GITLAB_TOKEN": "t"}
    given |= {"CI_SERVER_HOST": "forge.example", "CI_PROJECT_PATH": "o/r"}
    ended, _, calls = bash(script, RUN_CODE=judged, RECORD_CODE=recorded, **given)
    assert (ended, calls[-1]) == (code, "record --push -C .")
