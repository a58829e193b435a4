"""Posting to GitHub: what is written once, edited or left alone, and what happens where the API refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from big_verdict import write_big_verdict
from fake_github import FakeGitHub
from forge_events import BASE, PULL, SHA, pull_request

from compression_gate.forge import github
from compression_gate.forge.jobs import Job
from compression_gate.forge.message import Annotation, Message, shortened, units
from compression_gate.stages import gate


def message(**given: Any) -> Message:
    """A message that fails, unless told otherwise."""
    plain = {"suite": "suite", "status": "fail", "exit_code": 1, "headline": "Fail.", "counts": "1 failed", "body": "b"}
    return Message(**{**plain, **given})


def forge_of(fake: FakeGitHub, **given: Any) -> github.Forge:
    """A forge's client for the pull request."""
    plain = {"api_url": fake.url, "repository": fake.repository, "token": "t", "sha": SHA, "pull": PULL}
    return github.Forge(job=Job(**{**plain, **given}))


def notes(count: int) -> tuple[Annotation, ...]:
    """So many annotations."""
    return tuple(
        Annotation(path="params.yaml", line=n + 1, level="failure", title=f"t{n}", message="m") for n in range(count)
    )


def test_the_first_run_writes_a_comment_and_a_check_run(posting, job, fake) -> None:
    folder = job()
    (done,) = posting().posted
    (comment,) = fake.comments[PULL]
    (run,) = fake.check_runs
    assert comment["body"].startswith("<!-- compression-gate suite ")
    assert "Pass." in comment["body"]
    assert (run["name"], run["head_sha"], run["conclusion"]) == ("compression-gate / suite", SHA, "success")
    assert (done.comment, done.check_run, done.warnings) == ("created", "created", ())
    assert "Pass." in (folder / "summary.md").read_text()
    assert "exit-code" in (folder / "output").read_text()


def test_the_second_run_edits_its_comment(posting, job, fake, judged) -> None:
    job()
    posting()
    fail(judged)
    (done,) = posting().posted
    (comment,) = fake.comments[PULL]
    assert done.comment == "edited"
    assert "Fail." in comment["body"]


def test_nothing_is_sent_where_nothing_changed(posting, job, fake) -> None:
    job()
    posting()
    before = len(fake.writes())
    (done,) = posting().posted
    assert (done.comment, done.check_run) == ("unchanged", "unchanged")
    assert len(fake.writes()) == before


def test_two_suites_have_a_comment_and_a_check_run_each(posting, job, fake, judged) -> None:
    job()
    other = judged.parent / "other"
    judged.rename(other)
    posting(suite=other)
    other.rename(judged)
    posting()
    assert len(fake.comments[PULL]) == len(fake.check_runs) == 2
    assert {run["name"] for run in fake.check_runs} == {"compression-gate / suite", "compression-gate / other"}


def test_a_check_run_that_was_opened_is_completed(posting, job, fake) -> None:
    job()
    posting(opening=True)
    assert [run["status"] for run in fake.check_runs] == ["in_progress"]
    posting()
    assert [(run["status"], run["conclusion"]) for run in fake.check_runs] == [("completed", "success")]


def test_a_suite_with_an_odd_name_completes_what_it_opened(posting, job, fake, judged) -> None:
    job()
    odd = judged.rename(judged.parent / "a @1 #2  b")
    posting(suite=odd, opening=True)
    posting(suite=odd)
    assert [run["status"] for run in fake.check_runs] == ["completed"]


CONCLUSIONS = [(0, "success"), (1, "failure"), (2, "failure"), (3, "failure"), (4, "failure")]


@pytest.mark.parametrize(("code", "conclusion"), CONCLUSIONS)
def test_what_could_not_be_judged_is_a_failure_and_never_neutral(code, conclusion) -> None:
    assert message(exit_code=code).conclusion == conclusion


def test_an_opened_check_run_is_completed_where_there_is_no_verdict(posting, job, fake, judged) -> None:
    job()
    posting(opening=True)
    (judged / "reports/verdict.json").write_text("{")
    outcome = posting()
    assert outcome.exit_code == 4
    assert [(run["status"], run["conclusion"]) for run in fake.check_runs] == [("completed", "failure")]
    assert "verdict.json" in fake.comments[PULL][0]["body"]


def test_a_verdict_of_other_files_is_not_told_as_a_pass(posting, job, fake, judged) -> None:
    job()
    (judged / "reports/benchmark.json").write_text((judged / "reports/benchmark.json").read_text() + " ")
    (done,) = posting().posted
    assert (done.status, done.exit_code) == ("error", 4)
    assert fake.check_runs[0]["conclusion"] == "failure"
    assert "may not be believed" in fake.comments[PULL][0]["body"]


def fail(suite: Path) -> None:
    """Let a limit of the suite be broken."""
    text = (suite / "params.yaml").read_text()
    (suite / "params.yaml").write_text(
        text.replace("{metric: compression_ratio, min: 4}", "{metric: compression_ratio, min: 40}")
    )
    gate.run(suite)


def test_a_broken_limit_is_noted_at_its_line(posting, job, fake, judged) -> None:
    job()
    fail(judged)
    posting()
    (run,) = fake.check_runs
    lines = (judged / "params.yaml").read_text().splitlines()
    noted = fake.annotations[run["id"]]
    assert [lines[note["start_line"] - 1].strip().split(":")[0] for note in noted] == ["rate"]
    assert noted[0]["path"] == "params.yaml"
    assert noted[0]["annotation_level"] == "failure"


@pytest.mark.parametrize(("count", "requests"), [(50, 1), (51, 2), (120, 3), (1000, 4)])
def test_annotations_are_sent_by_fifty_and_not_without_end(fake, count, requests) -> None:
    forge = forge_of(fake)
    assert forge.complete_check(message(annotations=notes(count))) == "created"
    (run,) = fake.check_runs
    assert len(fake.writes()) == requests
    assert len(fake.annotations[run["id"]]) == min(count, github.MOST_ANNOTATIONS)
    assert not forge.warnings


def test_a_comment_behind_many_others_is_found(fake) -> None:
    for number in range(130):
        fake.add_comment(PULL, f"remark {number}")
    forge = forge_of(fake)
    assert forge.comment(PULL, message()) == "created"
    for number in range(40):
        fake.add_comment(PULL, f"later {number}")
    assert forge.comment(PULL, message(body="other")) == "edited"
    assert len(fake.comments[PULL]) == 171


def test_a_marker_in_somebody_else_s_comment_is_not_ours(fake) -> None:
    ours = message()
    forged = fake.add_comment(PULL, ours.comment, "stranger")
    quoted = fake.add_comment(PULL, "> " + ours.comment, "github-actions[bot]", "Bot")
    assert forge_of(fake).comment(PULL, ours) == "created"
    assert (forged["body"], quoted["body"]) == (ours.comment, "> " + ours.comment)


def test_a_report_that_is_too_long_is_cut_between_its_parts(fake) -> None:
    folded = "<details><summary>s</summary>\n\n" + "🙂 words\n" * 4000 + "\n\n</details>"
    long = message(body="# first\n\n" + "\n\n".join([folded] * 4))
    forge = forge_of(fake)
    assert (forge.comment(PULL, long), forge.complete_check(long)) == ("created", "created")
    body = fake.comments[PULL][0]["body"]
    assert "The rest is left out" in body
    assert body.count("<details>") == body.count("</details>") == 1
    assert units(body) <= 65_536


def test_a_part_longer_than_a_comment_is_left_out_whole() -> None:
    assert shortened("# head\n\n" + "x" * 70_000, 65_536).startswith("# head\n\n*The rest is left out")


def test_a_person_s_token_finds_its_own_comment_again(fake) -> None:
    fake.user = ("maintainer", "User")
    forge = forge_of(fake)
    assert [forge.comment(PULL, message(body=text)) for text in ("one", "two")] == ["created", "edited"]


REFUSALS = [
    (401, "Bad credentials", 1),
    (403, "Resource not accessible by integration", 1),
    (404, "Not Found", 3),
    (422, "Validation Failed", 3),
    (500, "Server Error", 3),
    (502, "Bad Gateway", 3),
    (503, "Service Unavailable", 3),
]


@pytest.mark.parametrize(("status", "text", "tries"), REFUSALS)
def test_a_refusal_is_told_and_changes_no_exit_code(posting, job, fake, status, text, tries, capsys) -> None:
    folder = job()
    fake.fail("POST", "/comments", status, message=text)
    outcome = posting()
    (done,) = outcome.posted
    assert outcome.exit_code == 0
    assert (done.comment, done.check_run) == ("failed", "created")
    assert len([one for one in fake.calls if one.verb == "POST" and "comments" in one.path]) == tries
    assert str(status) in done.warnings[0]
    assert f"::warning::the comment could not be written: {status}" in capsys.readouterr().out
    assert "Pass." in (folder / "summary.md").read_text()


def test_a_token_that_only_reads_leaves_summary_and_log(posting, job, fake, judged, capsys) -> None:
    folder = job(payload=pull_request("stranger/repo"))
    fake.writable = False
    fail(judged)
    outcome = posting()
    (done,) = outcome.posted
    assert (outcome.exit_code, done.comment, done.check_run) == (0, "failed", "failed")
    assert not fake.comments
    assert not fake.check_runs
    assert len(fake.writes()) == 2
    out = capsys.readouterr().out
    assert "permissions: {checks: write, pull-requests: write}" in out
    assert "::error file=params.yaml,line=7," in out
    assert "Fail." in (folder / "summary.md").read_text()


def test_without_a_token_nothing_is_asked(posting, job, fake, capsys) -> None:
    folder = job(token=None)
    (done,) = posting().posted
    assert done.comment == done.check_run == "left out: no token"
    assert not fake.calls
    assert "Pass." in (folder / "summary.md").read_text()


def test_an_answer_that_was_lost_does_not_make_a_second_comment(posting, job, fake) -> None:
    job()
    fake.fail("POST", "/comments", 502, times=1, after=True)
    fake.fail("POST", "/check-runs", 502, times=1, after=True)
    (done,) = posting().posted
    assert (done.comment, done.check_run, done.warnings) == ("unchanged", "unchanged", ())
    assert len(fake.comments[PULL]) == len(fake.check_runs) == 1


LOST = [  # which write's answer is lost, and in how many requests 120 annotations are sent
    ("POST", 3),
    ("PATCH", 3),
]


@pytest.mark.parametrize(("verb", "requests"), LOST)
def test_an_answer_that_was_lost_leaves_every_annotation_once(fake, verb, requests) -> None:
    fake.fail(verb, "/check-runs", 502, times=1, after=True)
    forge = forge_of(fake)
    forge.complete_check(message(annotations=notes(120)))
    (run,) = fake.check_runs
    assert [note["start_line"] for note in fake.annotations[run["id"]]] == list(range(1, 121))
    assert (len(fake.writes()), forge.warnings) == (requests, [])


def test_annotations_that_are_refused_are_told_once_and_sent_by_a_later_run(fake) -> None:
    fake.fail("PATCH", "/check-runs", 403, times=1)
    forge = forge_of(fake)
    assert forge.complete_check(message(annotations=notes(200))) == "created"
    assert len(forge.warnings) == 1
    assert "some annotations could not be written: 403" in forge.warnings[0]
    assert forge_of(fake).complete_check(message(annotations=notes(200))) == "unchanged"
    assert len(fake.annotations[fake.check_runs[0]["id"]]) == 200


def test_a_failure_that_passes_is_not_told(posting, job, fake) -> None:
    job()
    fake.fail("GET", "/comments", 500, times=2)
    (done,) = posting().posted
    assert (done.comment, done.warnings) == ("created", ())


LIMITS = [
    (403, {"Retry-After": "0"}, "You have exceeded a secondary rate limit", True),
    (429, {"Retry-After": "0"}, "Too many requests", True),
    (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, "API rate limit exceeded", True),
    (403, {"Retry-After": "3600"}, "You have exceeded a secondary rate limit", False),
    (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999"}, "API rate limit exceeded", False),
]


@pytest.mark.parametrize(("status", "headers", "text", "waited"), LIMITS)
def test_a_rate_limit_is_waited_for_only_if_it_is_short(fake, status, headers, text, waited) -> None:
    fake.fail("POST", "/comments", status, times=1, headers=headers, message=text)
    forge = forge_of(fake)
    assert forge.comment(PULL, message()) == ("created" if waited else "failed")
    assert bool(forge.warnings) is not waited
    assert not any("permissions" in one for one in forge.warnings)


def test_an_api_that_is_not_there_is_told_once_and_not_asked_again(posting, job, monkeypatch) -> None:
    job()
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    outcome = posting()
    (done,) = outcome.posted
    assert (outcome.exit_code, done.comment, done.check_run) == (0, "failed", "failed")
    assert len(done.warnings) == 1
    assert "no answer" in done.warnings[0]


def test_a_check_run_whose_notes_are_refused_is_completed_without(fake) -> None:
    forge = forge_of(fake)
    forge.open_check("suite")
    fake.fail("PATCH", "/check-runs/", 422, times=3)
    assert forge.complete_check(message(annotations=notes(3))) == "completed"
    assert fake.check_runs[0]["conclusion"] == "failure"


def test_a_push_writes_a_check_run_and_no_comment(posting, job, fake) -> None:
    job("push", {"ref": "refs/heads/main"})
    (done,) = posting().posted
    assert done.comment == "left out: no open pull request"
    assert [run["head_sha"] for run in fake.check_runs] == [BASE]


def test_a_dry_run_shows_what_would_be_sent_and_asks_nobody(posting, job, fake, judged) -> None:
    job()
    fail(judged)
    (done,) = posting(dry=True).posted
    assert not fake.calls
    assert done.sent["comments"][0]["pull_request"] == PULL
    assert done.sent["check_run"]["conclusion"] == "failure"
    assert [note["path"] for note in done.sent["check_run"]["output"]["annotations"]] == ["params.yaml"]
    json.dumps(done.sent)


WHEN = [("always", False, 1), ("problems", False, 0), ("problems", True, 1), ("never", True, 0)]


@pytest.mark.parametrize(("when", "broken", "comments"), WHEN)
def test_a_first_comment_is_written_when_it_is_wanted(posting, job, fake, judged, when, broken, comments) -> None:
    job()
    if broken:
        fail(judged)
    posting(comment=when)
    assert len(fake.comments.get(PULL, ())) == comments


@pytest.mark.parametrize("when", ["problems", "never"])
def test_a_comment_that_is_there_is_kept_up_to_date_where_a_first_one_is_not_wanted(
    posting, job, fake, judged, when
) -> None:
    job()
    text = (judged / "params.yaml").read_text()
    fail(judged)
    posting()
    (judged / "params.yaml").write_text(text)
    gate.run(judged)
    assert posting(comment=when).posted[0].comment == "edited"
    assert "Pass." in fake.comments[PULL][0]["body"]


@pytest.mark.parametrize(("when", "comments"), [("always", 1), ("problems", 0), ("never", 0)])
def test_a_dry_run_shows_a_first_comment_only_where_one_is_wanted(posting, job, when, comments) -> None:
    job()
    assert len(posting(dry=True, comment=when).posted[0].sent["comments"]) == comments


def test_twenty_rules_over_fifty_slices_take_one_call_each(posting, job, fake, judged) -> None:
    job()
    write_big_verdict(judged)
    (done,) = posting().posted
    writes = sorted(f"{one.verb} {one.path.rpartition('/')[2]}" for one in fake.writes())
    assert writes == ["POST check-runs", "POST comments"]
    assert len(fake.calls) == 4
    assert done.annotations == 20
