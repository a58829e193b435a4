"""What a job is told of itself: believed as far as the forge wrote it, and never more than it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from forge_events import BASE, PULL, SHA, pull_request, workflow_run

from compression_gate.errors import UploadError
from compression_gate.forge import jobs


def test_a_pull_request_s_job_speaks_of_its_head_and_not_of_the_merge(job) -> None:
    job()
    found = jobs.github_job()
    assert (found.sha, found.pull, found.foreign) == (SHA, PULL, False)


def test_a_fork_s_job_is_foreign_also_where_the_fork_is_gone(job) -> None:
    for repository in ("stranger/repo", None):
        event = pull_request()
        event["pull_request"]["head"]["repo"] = {"full_name": repository} if repository else None
        job(payload=event)
        assert jobs.github_job().foreign


def test_a_job_behind_another_speaks_of_that_one_s_commit(job) -> None:
    job("workflow_run", workflow_run())
    found = jobs.github_job()
    assert (found.sha, found.run, found.pull) == (SHA, 99, None)
    assert found.head == jobs.Head(owner="stranger", branch="feature", repository="stranger/repo")
    assert found.run_url == "https://forge.example/owner/repo/actions/runs/99"


def test_a_push_speaks_of_its_own_commit(job) -> None:
    job("push", {})
    found = jobs.github_job()
    assert (found.sha, found.pull, found.run) == (BASE, None, None)
    assert found.run_url == "https://forge.example/owner/repo/actions/runs/55"


ODD = [
    ({"pull_request": {"number": "7", "head": {"sha": "main", "repo": 3}}}, (None, None)),
    ({"pull_request": {"number": 7, "head": []}}, (None, 7)),
    ({"workflow_run": {"head_sha": "a" * 39, "id": "x", "head_branch": None, "head_repository": None}}, (None, None)),
    ([], (BASE, None)),
]


@pytest.mark.parametrize(("event", "expected"), ODD)
def test_an_event_of_another_form_names_nothing(job, event, expected) -> None:
    job(payload=event)
    found = jobs.github_job()
    assert (found.sha, found.pull) == expected


@pytest.mark.parametrize("url", ["https://evil.example/x", 'https://forge.example/"><b>', "javascript:alert(1)", None])
def test_an_address_that_is_not_the_forge_s_is_left_out(job, url) -> None:
    job("workflow_run", workflow_run(html_url=url))
    assert jobs.github_job().run_url is None


@pytest.mark.parametrize("text", [None, "", "{", "\x00"])
def test_an_event_that_cannot_be_read_is_told(job, text) -> None:
    folder = job()
    (folder / "event.json").unlink()
    if text is not None:
        (folder / "event.json").write_text(text)
    with pytest.raises(UploadError, match="GITHUB_EVENT_PATH"):
        jobs.github_job()


def test_a_summary_takes_what_there_is_room_for(job) -> None:
    path = job() / "summary.md"
    for _ in range(3):
        jobs.add_summary("🙂" * 200_000)
    assert path.stat().st_size <= jobs.LARGEST_SUMMARY_BYTES
    path.read_text(encoding="utf-8")


def test_without_a_runner_s_files_nothing_is_printed(tmp_path: Path, monkeypatch, capsys) -> None:
    """actions-toolkit prints an old command where the file is not named, which every log would show."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "missing"))
    jobs.add_summary("text")
    jobs.set_outputs({"status": "pass"})
    assert capsys.readouterr().out == ""


def test_a_warning_is_a_line_outside_of_a_runner(capsys) -> None:
    jobs.warn("no answer")
    assert capsys.readouterr() == ("", "compression-gate post: warning: no answer\n")
