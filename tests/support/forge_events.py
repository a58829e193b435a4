"""Events of jobs on GitHub, as a runner hands them over."""

from __future__ import annotations

from typing import Any

SHA, BASE = "a" * 40, "b" * 40
PULL = 7


def pull_request(repository: str = "owner/repo") -> dict[str, Any]:
    """The event of a pull request's own job."""
    return {"pull_request": {"number": PULL, "head": {"sha": SHA, "repo": {"full_name": repository}}}}


def workflow_run(repository: str = "stranger/repo", **more: Any) -> dict[str, Any]:
    """The event of a job that follows another."""
    owner = {"login": repository.split("/")[0]}
    run = {
        "id": 99,
        "head_sha": SHA,
        "head_branch": "feature",
        "status": "completed",
        "run_started_at": "2026-11-22T11:00:00Z",
        "html_url": "https://forge.example/owner/repo/actions/runs/99",
        "head_repository": {"full_name": repository, "owner": owner},
    }
    return {"action": "completed", "workflow_run": run | more}
