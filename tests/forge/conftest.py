"""A forge that answers, a job that runs on it, and a suite with a verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_github import FakeGitHub, serving
from finished_run import finished
from forge_events import BASE, pull_request

from compression_gate.forge import github, gitlab
from compression_gate.stages import gate, post

__all__ = ["finished"]


@pytest.fixture
def fake() -> Iterator[FakeGitHub]:
    """A forge; a request or reply that GitHub's text does not know fails the test."""
    with serving(FakeGitHub()) as found:
        yield found
    assert not found.violations
    assert not found.leaked, "the token was shown to another host"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No surroundings of whoever runs the tests, and no waiting between tries."""
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_TOKEN", "GH_TOKEN", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GITHUB_EVENT_PATH", "GITHUB_REPOSITORY", "GITHUB_SHA", "GITHUB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    clock = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    monkeypatch.setattr(github, "time", clock)
    monkeypatch.setattr(gitlab, "time", clock)


@pytest.fixture
def job(fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a callable(event name, payload) that makes this process a job on the forge; returns the job's folder."""
    folder = tmp_path / "runner"
    folder.mkdir()

    def start(event: str = "pull_request", payload: dict[str, Any] | None = None, token: str | None = "t0k3n") -> Path:
        payload = payload if payload is not None else pull_request()
        (folder / "event.json").write_text(json.dumps(payload))
        for name in ("summary.md", "output"):
            (folder / name).write_text("")
        surroundings = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": fake.url,
            "GITHUB_SERVER_URL": "https://forge.example",
            "GITHUB_REPOSITORY": fake.repository,
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(folder / "event.json"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_SHA": BASE,
            "GITHUB_RUN_ID": "55",
        }
        for name, value in surroundings.items():
            monkeypatch.setenv(name, value)
        if token:
            monkeypatch.setenv("GITHUB_TOKEN", token)
        return folder

    return start


@pytest.fixture
def judged(finished: Path) -> Path:
    """A suite with a passing verdict."""
    gate.run(finished)
    return finished


@pytest.fixture
def posting(judged: Path) -> Callable[..., post.Outcome]:
    """Return a callable(options) that posts the suite."""

    def call(**options: Any) -> post.Outcome:
        return post.run(post.Request(**{"suite": judged, **options}))

    return call
