"""The job that may write, behind one that may not: it believes the forge, and what holds together; nothing else."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_github import FakeGitHub
from forge_events import PULL, SHA, workflow_run
from typer.testing import CliRunner

from compression_gate.cli import app
from compression_gate.errors import ParamsError
from compression_gate.forge import uploads
from compression_gate.stages import gate, post

STRANGER = "stranger/repo"


@pytest.fixture
def packed(judged: Path, tmp_path: Path) -> Callable[..., bytes]:
    """Return a callable(**changes) that gives the archive a fork's job would upload, with values changed."""

    def pack(name: str = "suite", **changes: object) -> bytes:
        post.run(post.Request(suite=judged, to=tmp_path / "upload"))
        plain = json.loads((tmp_path / "upload/suite.json").read_text()) | changes
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr(f"{name}.json", json.dumps(plain))
        return buffer.getvalue()

    return pack


@pytest.fixture
def follow(job, fake: FakeGitHub) -> Callable[..., post.Outcome]:
    """Return a callable(event, options) that posts what run 99 uploaded."""

    def call(event: dict | None = None, **options: object) -> post.Outcome:
        job("workflow_run", event or workflow_run(STRANGER))
        return post.run(post.Request(**{"suite": Path(), "follow": True, "suites": ("suite",), **options}))

    return call


def test_a_fork_s_report_is_posted_to_its_pull_request(follow, packed, fake) -> None:
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    fake.add_artifact(99, "compression-gate-suite", packed())
    outcome = follow()
    (done,) = outcome.posted
    assert (outcome.exit_code, done.comment, done.check_run) == (0, "created", "created")
    assert "the pull request's own code" in fake.comments[PULL][0]["body"]
    assert [(run["head_sha"], run["conclusion"]) for run in fake.check_runs] == [(SHA, "success")]


OTHERS = [
    (12, SHA, "feature", "another/repo"),  # the same commit in another fork
    (13, SHA, "other", STRANGER),
    (14, "c" * 40, "feature", STRANGER),  # pushed again since
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_pull_request_of_another_head_gets_no_comment(follow, packed, fake, other) -> None:
    fake.add_pull(*other)
    fake.add_artifact(99, "compression-gate-suite", packed())
    (done,) = follow().posted
    assert done.comment == "left out: no open pull request"
    assert not fake.comments


def test_a_pull_request_whose_fork_is_gone_gets_no_comment(follow, packed, fake) -> None:
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    fake.pulls[0]["head"]["repo"] = None
    fake.add_artifact(99, "compression-gate-suite", packed())
    (done,) = follow().posted
    assert (done.comment, done.warnings) == ("left out: no open pull request", ())
    fake.violations.clear()  # GitHub sends null here, and its text does not know it


def test_a_number_inside_of_the_upload_is_no_part_of_it(follow, packed, fake) -> None:
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    fake.add_artifact(99, "compression-gate-suite", packed(pull_request=1))
    outcome = follow()
    assert outcome.exit_code == 4
    assert list(fake.comments) == [PULL]
    assert fake.check_runs[0]["conclusion"] == "failure"


def test_the_check_run_that_was_opened_is_completed_by_the_job_behind(follow, packed, fake) -> None:
    follow(workflow_run(STRANGER, status="requested") | {"action": "requested"}, follow=False, opening=True)
    assert [run["status"] for run in fake.check_runs] == ["in_progress"]
    fake.add_artifact(99, "compression-gate-suite", packed())
    follow()
    assert [run["status"] for run in fake.check_runs] == ["completed"]


def test_a_run_that_uploaded_nothing_fails_its_check_run(follow, fake) -> None:
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    outcome = follow()
    assert outcome.exit_code == 4
    assert fake.check_runs[0]["conclusion"] == "failure"
    assert "ended before it wrote a report" in fake.comments[PULL][0]["body"]


BAD = [
    lambda pack: pack(suite="other"),
    lambda pack: pack(suite="<!-- -->"),
    lambda pack: pack(verdict=None),
    lambda pack: pack(name="../suite"),
    lambda pack: b"no archive",
    lambda pack: pack() + b"\x00" * uploads.LARGEST_ARCHIVE_BYTES,
]


@pytest.mark.parametrize("make", BAD, ids=range(len(BAD)))
def test_a_hostile_upload_fails_the_check_run_of_the_suite_that_was_expected(follow, packed, fake, make) -> None:
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    fake.add_artifact(99, "compression-gate-suite", make(packed))
    outcome = follow()
    assert outcome.exit_code == 4
    assert [(run["name"], run["conclusion"]) for run in fake.check_runs] == [("compression-gate / suite", "failure")]
    assert "Error. There is no verdict to show." in fake.comments[PULL][0]["body"]


def test_only_the_newest_artifact_of_our_name_is_read(follow, packed, fake) -> None:
    fake.add_artifact(99, "compression-gate-suite", b"of an earlier attempt")
    fake.add_artifact(99, "reports", b"of somebody else")
    fake.add_artifact(99, "compression-gate-suite", packed())
    fake.add_artifact(99, "compression-gate-old", b"", expired=True)
    fake.add_artifact(98, "compression-gate-suite", b"of another run")
    assert follow().exit_code == 0


STARTED = [  # when the run's last attempt started, when the artifact was made, whether it is that attempt's
    ("2026-11-22T11:00:00Z", "2026-11-22T10:59:59Z", False),
    ("2026-11-22T11:00:00Z", "2026-11-22T11:00:00Z", True),
    ("2026-11-22T11:00:00+01:00", "2026-11-22T10:30:00Z", True),
    ("2026-11-22T11:00:00Z", None, True),
    (None, "2026-11-22T10:59:59Z", True),
    ("yesterday", "2026-11-22T10:59:59Z", True),
    (5, "2026-11-22T10:59:59Z", True),
    ("2026-11-22T11:00:00", "2026-11-22T10:59:59Z", True),  # of no time zone: not known
]


@pytest.mark.parametrize(("started", "made", "taken"), STARTED)
def test_what_an_earlier_attempt_uploaded_is_not_this_one_s(follow, packed, fake, started, made, taken) -> None:
    """All attempts of a run share its number; of one that died before it uploaded there is nothing to tell."""
    fake.add_artifact(99, "compression-gate-suite", packed(), created_at=made)
    outcome = follow(workflow_run(STRANGER, run_started_at=started))
    assert (outcome.exit_code == 0) is taken
    assert [run["conclusion"] for run in fake.check_runs] == ["success" if taken else "failure"]


def test_two_suites_are_posted_apart(follow, packed, fake, judged) -> None:
    fake.add_artifact(99, "compression-gate-suite", packed())
    fake.add_artifact(99, "compression-gate-other", packed(suite="other"))
    follow(suites=("suite", "other"))
    assert {run["name"] for run in fake.check_runs} == {"compression-gate / suite", "compression-gate / other"}


UNREAD = [("/artifacts", 503, "the uploads of the run could not be listed: 503"), ("/zip", 403, "actions: read")]


@pytest.mark.parametrize(("path", "status", "told"), UNREAD)
def test_an_upload_that_the_api_does_not_hand_over_fails_the_check_run(
    follow, packed, fake, capsys, path, status, told
) -> None:
    """It was opened when the run began: left as it is, everybody would wait for it."""
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    fake.add_artifact(99, "compression-gate-suite", packed())
    follow(workflow_run(STRANGER, status="requested") | {"action": "requested"}, follow=False, opening=True)
    fake.fail("GET", path, status)
    outcome = follow()
    (done,) = outcome.posted
    assert (outcome.exit_code, done.comment, done.check_run) == (0, "created", "completed")
    assert [run["conclusion"] for run in fake.check_runs] == ["failure"]
    assert "did not hand over" in fake.comments[PULL][0]["body"]
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::warning")]
    assert len(warnings) == 1
    assert told in warnings[0]


def test_pull_requests_that_the_api_does_not_list_are_a_warning_and_not_taken_for_none(follow, packed, fake) -> None:
    fake.add_artifact(99, "compression-gate-suite", packed())
    fake.fail("GET", "/pulls", 500)
    outcome = follow()
    (done,) = outcome.posted
    assert (outcome.exit_code, done.comment, done.check_run) == (0, "failed", "created")
    assert len(done.warnings) == 1
    assert "the pull request of this commit could not be looked for: 500" in done.warnings[0]


def test_what_a_job_behind_another_prints_is_no_command(job, packed, fake, judged) -> None:
    """Every line that holds a name somebody chose stands between stop-commands and its token."""
    job("workflow_run", workflow_run(STRANGER))
    fake.add_artifact(99, "compression-gate-suite", packed())
    done = CliRunner().invoke(app, ["post", "--follow", "--suite", "suite"])
    assert done.exit_code == 0
    begin, said, end = done.stdout.splitlines()[-3:]
    token = begin.removeprefix("::stop-commands::")
    assert len(token) == 32
    assert end == f"::{token}::"
    assert said == "suite: pass: comment left out: no open pull request, check run created"


WRONG = [
    ({"follow": True, "source": Path("x")}, "both"),
    ({"to": Path("x"), "follow": True}, "--to"),
    ({"sha": "HEAD"}, "--head-sha"),
    ({"suites": ("a -->",)}, "--suite"),
]


@pytest.mark.parametrize(("options", "reason"), WRONG)
def test_options_that_contradict_each_other_are_refused(options, reason) -> None:
    with pytest.raises(ParamsError, match=reason):
        post.run(post.Request(suite=Path(), **options))


def test_follow_without_such_an_event_says_what_is_missing(job) -> None:
    job()
    with pytest.raises(ParamsError, match="workflow_run"):
        post.run(post.Request(suite=Path(), follow=True))


def test_a_named_commit_is_told_what_the_same_run_uploaded(job, packed, fake) -> None:
    """A maintainer's run of a commit that was reviewed: the event names main, the person names the commit."""
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    fake.add_artifact(55, "compression-gate-suite", packed())
    job("workflow_dispatch", {"inputs": {"sha": SHA}})
    (done,) = post.run(post.Request(suite=Path(), follow=True, suites=("suite",), sha=SHA)).posted
    assert (done.comment, done.check_run) == ("created", "created")
    assert [run["head_sha"] for run in fake.check_runs] == [SHA]
    assert "need have reviewed" not in fake.comments[PULL][0]["body"], "somebody has: that is what this job is for"


def test_a_folder_is_posted_by_hand_for_a_commit(job, judged, fake, tmp_path) -> None:
    fake.add_pull(PULL, SHA, "feature", STRANGER)
    post.run(post.Request(suite=judged, to=tmp_path / "upload"))
    job("workflow_dispatch", {})
    (done,) = post.run(post.Request(suite=Path(), source=tmp_path / "upload", sha=SHA)).posted
    assert (done.comment, done.check_run) == ("created", "created")


ALONE = """
import sys
allowed = set(sys.argv[1].split(","))
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ImportError(f"{name} is made unimportable here")
sys.meta_path.insert(0, Nothing())
from compression_gate.cli import main
sys.argv = ["compression-gate", "post", *sys.argv[2:]]
main()
"""


def importable() -> set[str]:
    """What may be imported where `post/requirements.txt` alone is installed: the packages in it by their modules."""
    from importlib.metadata import packages_distributions

    lines = (Path(__file__).parents[2] / "post/requirements.txt").read_text().splitlines()
    names = {line.split("==")[0].strip().lower().replace("_", "-") for line in lines if "==" in line}
    found = packages_distributions()
    return {module for module, owners in found.items() if {one.lower().replace("_", "-") for one in owners} & names}


def test_posting_takes_its_short_list_of_packages_and_nothing_else(job, judged, fake, tmp_path) -> None:
    """No torch, no DVC, no numpy: a job that only posts installs in seconds."""
    post.run(post.Request(suite=judged, to=tmp_path / "upload"))
    job("workflow_run", workflow_run(STRANGER))
    allowed = importable() | {"compression_gate", "_distutils_hack"}
    assert not allowed & {"torch", "dvc", "numpy", "scipy", "onnx"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, ",".join(allowed), "--from", str(tmp_path / "upload"), "--suite", "suite"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run["conclusion"] for run in fake.check_runs] == ["success"]


def test_the_suite_s_own_job_needs_no_more_than_check_does(job, judged, fake) -> None:
    gate.run(judged)
    job()
    (done,) = post.run(post.Request(suite=judged)).posted
    assert done.check_run == "created"
