"""GitLab's notes. The fake's replies are written by hand after GitLab's prose: it publishes no text to hold them to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from compression_gate.errors import ParamsError
from compression_gate.forge import gitlab
from compression_gate.stages import post

NOTES = "/api/v4/projects/5/merge_requests/3/notes"


class FakeGitLab:
    """The notes of one merge request, and whose token it is."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self.faults: list[tuple[str, int, dict[str, str]]] = []
        self.calls: list[tuple[str, str, str | None]] = []
        self.odd: dict[str, Any] = {}  # how a path ends -> what is answered in place of the right thing

    def answer(self, verb: str, raw: str, token: str | None, body: Any) -> tuple[int, Any, dict[str, str]]:
        """Answer one request."""
        path, query = urlsplit(raw).path, parse_qs(urlsplit(raw).query)
        self.calls.append((verb, path, token))
        if self.faults and self.faults[0][0] == verb:
            _, status, headers = self.faults.pop(0)
            return status, {"message": "no"}, headers
        if odd := next((end for end in self.odd if path.endswith(end)), None):
            return 200, self.odd[odd], {}
        if path == "/api/v4/user":
            return 200, {"id": 11}, {}
        if verb == "GET":
            page = int(query["page"][0])
            start, more = (page - 1) * 100, page * 100 < len(self.notes)
            return 200, self.notes[start : start + 100], {"X-Next-Page": str(page + 1) if more else ""}
        if verb == "POST":
            self.notes.append({"id": len(self.notes) + 1, "body": body["body"], "author": {"id": 11}})
            return 201, self.notes[-1], {}
        note = next(one for one in self.notes if one["id"] == int(path.rpartition("/")[2]))
        note["body"] = body["body"]
        return 200, note, {}


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitLab]:
    """A job of a merge request on a GitLab."""
    fake = FakeGitLab()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if content else None
            status, reply, headers = fake.answer(self.command, self.path, self.headers.get("PRIVATE-TOKEN"), body)
            text = json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = handle_one  # noqa: N815  # names that http.server looks for

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    surroundings = {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": f"http://127.0.0.1:{server.server_port}/api/v4",
        "CI_PROJECT_ID": "5",
        "CI_MERGE_REQUEST_IID": "3",
        "CI_COMMIT_SHA": "a" * 40,
        "CI_JOB_URL": "https://gitlab.example/o/r/-/jobs/1",
        "GITLAB_TOKEN": "glpat",
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    yield fake
    server.shutdown()
    server.server_close()


def test_a_note_is_written_once_then_edited_then_left(posting: Callable, forge: FakeGitLab) -> None:
    words = [posting().posted[0].comment]
    words.append(posting().posted[0].comment)
    forge.notes[0]["body"] = forge.notes[0]["body"].replace("Pass.", "Past.")
    words.append(posting().posted[0].comment)
    assert words == ["created", "unchanged", "edited"]
    assert len(forge.notes) == 1
    assert "Pass." in forge.notes[0]["body"]
    assert {token for _, _, token in forge.calls} == {"glpat"}


def test_somebody_else_s_note_with_our_marker_is_left_alone(posting: Callable, forge: FakeGitLab) -> None:
    posting()
    forge.notes[0]["author"]["id"] = 12
    before = forge.notes[0]["body"] = forge.notes[0]["body"] + "forged"
    assert posting().posted[0].comment == "created"
    assert forge.notes[0]["body"] == before


def test_a_note_behind_many_others_is_found(posting: Callable, forge: FakeGitLab) -> None:
    forge.notes += [{"id": n, "body": "x", "author": {"id": 11}} for n in range(1000, 1250)]
    posting()
    assert posting().posted[0].comment == "unchanged"


FAULTS = [
    (401, 1, True),
    (403, 1, True),
    (404, 3, True),
    (422, 3, True),
    (500, 3, True),
    (503, 1, False),
    (429, 1, False),
]


@pytest.mark.parametrize(("status", "times", "told"), FAULTS)
def test_a_refusal_is_told_and_changes_no_exit_code(posting, forge, capsys, status, times, told) -> None:
    forge.faults = [("POST", status, {})] * times
    outcome = posting()
    assert outcome.exit_code == 0
    assert outcome.posted[0].comment == ("failed" if told else "created")
    assert (str(status) in capsys.readouterr().err) is told


ODD = [("/user", []), ("/user", {}), ("/user", None), ("/notes", {"x": 1}), ("/notes", [1])]


@pytest.mark.parametrize(("path", "reply"), ODD)
def test_an_answer_of_another_form_is_told_and_changes_no_exit_code(posting, forge, capsys, path, reply) -> None:
    forge.odd = {path: reply}
    outcome = posting()
    assert (outcome.exit_code, outcome.posted[0].comment) == (0, "failed")
    assert "an answer that cannot be read" in capsys.readouterr().err
    assert not forge.notes


GITHUB_S = [{"opening": True}, {"follow": True}, {"sha": "a" * 40}]


@pytest.mark.parametrize("options", GITHUB_S, ids=str)
def test_what_gitlab_has_not_is_refused_and_nothing_is_written(posting, forge, options) -> None:
    with pytest.raises(ParamsError, match="GitHub") as caught:
        posting(**options)
    assert caught.value.exit_code == 2
    assert not forge.calls


def test_a_long_wait_is_not_waited_for(posting, forge) -> None:
    forge.faults = [("POST", 429, {"Retry-After": "3600"})]
    assert posting().posted[0].comment == "failed"


def test_without_a_token_or_a_merge_request_it_says_what_is_missing(posting, forge, monkeypatch) -> None:
    monkeypatch.delenv("GITLAB_TOKEN")
    assert "COMPRESSION_GATE_GITLAB_TOKEN" in posting().posted[0].comment
    monkeypatch.delenv("CI_MERGE_REQUEST_IID")
    assert "merge_request_event" in posting().posted[0].comment
    assert not forge.calls


def test_an_api_that_is_not_there_changes_no_exit_code(posting, forge, monkeypatch) -> None:
    monkeypatch.setenv("CI_API_V4_URL", "http://127.0.0.1:9/api/v4")
    outcome = posting()
    assert (outcome.exit_code, outcome.posted[0].comment) == (0, "failed")


@pytest.mark.parametrize("text", ["/merge", "a\n/approve\n  /label ~x", "\n/close"])
def test_no_line_is_a_quick_action(text: str) -> None:
    assert not any(line.strip().startswith("/") for line in gitlab.unquick(text).splitlines())


def test_a_dry_run_asks_nobody(posting, forge) -> None:
    (done,) = posting(dry=True).posted
    assert "Pass." in done.sent["note"]
    assert not forge.calls


def test_what_a_suite_without_a_verdict_says_is_a_note_too(posting, forge, judged: Path) -> None:
    (judged / "reports/verdict.json").unlink()
    assert posting().exit_code == post.MetricsError.exit_code
    assert "There is no verdict to show" in forge.notes[0]["body"]
