"""Which job this is: the forge, the commit, the pull request; and the files that a runner reads.

actions-toolkit is imported inside functions: only a job on GitHub needs it.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from compression_gate.errors import UploadError
from compression_gate.forge.message import Annotation

LARGEST_SUMMARY_BYTES = 1024 * 1024
MOST_PER_KIND = 10  # annotations that the runner takes of one kind and step
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
COMMANDS = {"failure": "error", "warning": "warning", "notice": "notice"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """The branch that a run was started for, as the forge says; a contributor chose its name."""

    owner: str
    branch: str
    repository: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the forge says of this job. Nothing in it comes from a file that a pull request may have written.

    Args:
        pull: number of the pull request whose own job this is; None elsewhere.
        head: of the run that this job follows (`workflow_run`), by which its pull request is found.
        run: the number of the run whose uploads this job reads: the one it follows, or for a named commit its own.
        started: when the last attempt of the run that it follows began; None where the forge does not say.
        foreign: the forge says that the commit comes from another repository.
    """

    api_url: str
    repository: str
    token: str | None
    sha: str | None
    run_url: str | None = None
    pull: int | None = None
    head: Head | None = None
    run: int | None = None
    started: datetime | None = None
    foreign: bool = False


def on_github() -> bool:
    """Whether a runner of GitHub's kind started this process."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def on_gitlab() -> bool:
    """Whether a runner of GitLab's kind started this process."""
    return os.environ.get("GITLAB_CI") == "true"


def github_job(sha: str | None = None) -> Job:
    """Read the job's surroundings; ``sha`` overrides the commit.

    Raises:
        UploadError: the event's file is no event.
    """
    from actions_toolkit.github import Context

    try:
        context = Context()
    except (OSError, ValueError) as error:
        raise UploadError(
            f"GITHUB_EVENT_PATH: expected the file of an event, got none that can be read: {error}"
        ) from error
    event = context.payload if isinstance(context.payload, dict) else {}
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or None
    shared = {"api_url": context.api_url, "repository": repository, "token": token}
    own_url = f"{context.server_url}/{repository}/actions/runs/{context.run_id}" if context.run_id else None
    if pull := mapping(event.get("pull_request")):
        source = mapping(mapping(pull.get("head")).get("repo")).get("full_name")
        found = commit(mapping(pull.get("head")).get("sha"))
        number = pull.get("number")
        return Job(
            **shared,
            sha=sha or found,
            run_url=own_url,
            pull=number if isinstance(number, int) else None,
            foreign=source != repository,
        )
    if run := mapping(event.get("workflow_run")):
        source = mapping(run.get("head_repository"))
        name, branch = str(source.get("full_name") or ""), str(run.get("head_branch") or "")
        return Job(
            **shared,
            sha=sha or commit(run.get("head_sha")),
            run_url=own_url_of(run, context.server_url),
            head=Head(owner=str(mapping(source.get("owner")).get("login") or ""), branch=branch, repository=name),
            run=run["id"] if isinstance(run.get("id"), int) else None,
            started=moment(run.get("run_started_at")),
            foreign=name != repository,
        )
    if sha:
        # A commit that somebody named, having read it: what this very run uploaded is about it.
        return Job(**shared, sha=sha, run_url=own_url, run=context.run_id or None)
    return Job(**shared, sha=commit(context.sha), run_url=own_url)


def own_url_of(run: Mapping[str, Any], server: str) -> str | None:
    """The address of a run, if it is one on this forge."""
    url = str(run.get("html_url") or "")
    return url if url.startswith(f"{server}/") and not re.search(r"[\s\"'<>]", url) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A part of an event, or an empty one."""
    return value if isinstance(value, dict) else {}


def commit(value: Any) -> str | None:
    """A commit's name in full, or None for anything else."""
    return value if isinstance(value, str) and COMMIT.fullmatch(value) else None


def moment(value: Any) -> datetime | None:
    """A point in time, or None for anything else, and for a time of an unknown zone."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else None


def add_summary(text: str) -> None:
    """Add to the job's summary, as much as it takes; nothing where there is no such file."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path or not Path(path).exists():
        return
    from actions_toolkit.file_command import issue_file_command

    room = LARGEST_SUMMARY_BYTES - Path(path).stat().st_size - 1000
    if room > 0:
        issue_file_command("STEP_SUMMARY", text.encode()[:room].decode(errors="ignore"))


def set_outputs(values: Mapping[str, str]) -> None:
    """Set the step's outputs; nothing where there is no such file (the runner's old command prints them)."""
    if os.environ.get("GITHUB_OUTPUT"):
        from actions_toolkit.core import set_output

        for name, value in values.items():
            set_output(name, value)


def annotate(notes: Sequence[Annotation]) -> int:
    """Print notes as workflow commands, the first of each kind; returns how many."""
    from actions_toolkit.command import issue_command

    printed: dict[str, int] = {}
    for note in notes:
        kind = COMMANDS[note.level]
        if printed.get(kind, 0) < MOST_PER_KIND:
            printed[kind] = printed.get(kind, 0) + 1
            issue_command(kind, {"file": note.path, "line": note.line, "title": note.title}, note.message)
    return sum(printed.values())


def warn(text: str) -> None:
    """Tell a warning: as a workflow command on GitHub, else as a line on stderr."""
    if on_github():
        from actions_toolkit.core import warning

        warning(text)
    else:
        sys.stderr.write(f"compression-gate post: warning: {text}\n")


@contextmanager
def unheeded() -> Iterator[None]:
    """While this lasts, no line printed is a command to GitHub's runner, whoever chose its words."""
    if not on_github():
        yield
        return
    from actions_toolkit.command import issue

    token = uuid.uuid4().hex
    issue("stop-commands", token)
    try:
        yield
    finally:
        issue(token)
