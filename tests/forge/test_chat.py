"""The chat: told where somebody asked, in plain text, and never the reason of a failure."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from compression_gate.forge import chat
from compression_gate.forge.message import Message, Origin

SECRET = "/services/T000/B000/s3cr3t"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """A webhook; the list holds what it was sent, and before that the status it answers with."""
    told: list = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(told[0])
            self.send_header("Content-Length", "0")
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv(chat.ADDRESS, f"http://127.0.0.1:{server.server_port}{SECRET}")
    yield told
    server.shutdown()
    server.server_close()


def message(**given: object) -> Message:
    """A failing suite."""
    plain = {
        "suite": "shapes",
        "status": "fail",
        "exit_code": 1,
        "headline": "Fail. size",
        "counts": "1 failed",
        "body": "",
    }
    return Message(**{**plain, "origin": Origin(run_url="https://forge.example/o/r/actions/runs/1"), **given})


def test_the_chat_is_told_the_verdict_and_where_to_look(hook) -> None:
    assert chat.post(message(), dry=False) is None
    (_, sent) = hook
    assert sent["text"] == "❌ shapes: Fail. size"
    assert [block["type"] for block in sent["blocks"]] == ["section", "section", "context"]


def test_nothing_is_told_unless_asked(hook, posting, job, fake) -> None:
    job()
    posting()
    assert len(hook) == 1
    posting(chat=True)
    assert len(hook) == 2


@pytest.mark.parametrize(
    "text", ["<!channel>", "<https://evil.example|click>", "<@U1>", "@here", "*b* _i_ `c`", "a\nb"]
)
def test_what_a_contributor_named_is_plain_text(text: str) -> None:
    sent = chat.payload(message(suite=text, headline=text, counts=text))
    assert not {"<", ">"} & set(sent["text"])
    assert all(block["text"]["type"] == "plain_text" for block in sent["blocks"][:2])
    assert not any("\n" in block["text"]["text"] or "@h" in block["text"]["text"] for block in sent["blocks"][:2])


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_a_refusal_is_told_without_the_address(hook, status) -> None:
    hook[0] = status
    warning = chat.post(message(), dry=False)
    assert str(status) in warning
    assert "s3cr3t" not in warning


def test_a_chat_that_is_not_there_is_told_without_the_address(monkeypatch) -> None:
    monkeypatch.setenv(chat.ADDRESS, f"http://127.0.0.1:9{SECRET}")
    assert "s3cr3t" not in chat.post(message(), dry=False)


@pytest.mark.parametrize("address", ["", f"http://chat.example{SECRET}", f"ftp://chat.example{SECRET}", "nonsense"])
def test_an_address_that_is_none_is_refused_unseen(monkeypatch, address) -> None:
    monkeypatch.setenv(chat.ADDRESS, address)
    warning = chat.post(message(), dry=False)
    assert chat.ADDRESS in warning
    assert "s3cr3t" not in warning


def test_a_dry_run_tells_nobody(hook) -> None:
    assert chat.post(message(), dry=True) is None
    assert len(hook) == 1
