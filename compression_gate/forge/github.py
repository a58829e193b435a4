"""GitHub: one comment a suite, edited in place; one check run a suite and commit; what another job uploaded.

The API may refuse, fail or be slow. Then this says so, tries again a few times where that may help, and gives up:
whether a model may ship was decided before, and nobody waits for a comment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import requests
from github import Auth, Github
from github.Artifact import Artifact
from github.CheckRun import CheckRun
from github.GithubException import GithubException, RateLimitExceededException
from github.IssueComment import IssueComment
from github.PaginatedList import PaginatedList
from github.PullRequest import PullRequest

from compression_gate.forge.disarming import line
from compression_gate.forge.jobs import Job
from compression_gate.forge.message import Annotation, Message, identity

T = TypeVar("T")
PER_REQUEST = 50  # annotations that one request may bring
MOST_ANNOTATIONS = 200  # sent at all; the rest is counted
MOST_ARTIFACTS = 20
PREFIX = "compression-gate-"  # of the artifacts that hold an upload, before the suite's name
UNPROCESSABLE = 422  # something in a request is not as the API wants it
WRITERS = {"OWNER", "MEMBER", "COLLABORATOR"}
NAME = "compression-gate / {suite}"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the API is waited for.

    Args:
        waits_s: before the second, third … try of one thing. longest_s: that a rate limit is waited for.
        timeout_s: of one request.
    """

    waits_s: tuple[float, ...] = (1.0, 4.0)
    longest_s: float = 30.0
    timeout_s: int = 15


@dataclass
class Forge:
    """A repository's API with a token; ``warnings`` holds what did not work, in the order in which it did not.

    ``silent`` is set once the API cannot be reached at all: the rest is not tried. ``refused`` is the status of the
    last answer that was no success.
    """

    job: Job
    patience: Patience = Patience()
    warnings: list[str] = field(default_factory=list)
    silent: bool = False
    refused: int | None = None

    def __post_init__(self) -> None:
        assert self.job.token
        # PyGithub waits a second between writes and tries ten times by itself: here both are bounded.
        api = Github(
            auth=Auth.Token(self.job.token),
            base_url=self.job.api_url,
            timeout=self.patience.timeout_s,
            retry=None,
            per_page=100,
            lazy=True,
            seconds_between_requests=0,
            seconds_between_writes=0,
        )
        self.repository = api.get_repo(self.job.repository)

    def attempt(self, what: str, call: Callable[[], T]) -> T | None:
        """Call; None, and a warning, where it cannot be done.

        A call looks first and writes then, so that one whose answer was lost can be repeated.
        """
        for wait in (*self.patience.waits_s, None):
            if self.silent:
                return None
            try:
                return call()
            except GithubException as error:
                self.refused = error.status
                pause = self.pause_after(error, wait)
                reason = f"{error.status} {said(error)}".strip()
            except requests.RequestException as error:
                pause, reason = wait, f"no answer ({type(error).__name__})"
                self.silent = wait is None
            except Exception as error:  # noqa: BLE001  # an answer that makes no sense is the API's fault, whatever it breaks
                pause, reason = None, f"an answer that cannot be read ({type(error).__name__}: {line(str(error), 100)})"
            if pause is None:
                break
            time.sleep(pause)
        mending = advice(reason, follows=self.job.run is not None)
        self.warnings.append(f"{what}: {reason}: the report is in the job's summary; {mending}")
        return None

    def pause_after(self, error: GithubException, wait: float | None) -> float | None:
        """How long to wait before trying again; None where that would not help or take too long."""
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        spent = error.status == 403 and headers.get("x-ratelimit-remaining") == "0"
        limited = isinstance(error, RateLimitExceededException) or error.status == 429 or "retry-after" in headers
        if limited or spent:
            asked = number(headers.get("retry-after"))
            if asked is None and headers.get("x-ratelimit-remaining") == "0":
                asked = max(0.0, (number(headers.get("x-ratelimit-reset")) or 0.0) - time.time())
            needed = max(wait or 0.0, asked or 0.0)
            return needed if wait is not None and needed <= self.patience.longest_s else None
        # 404 and 422 may be a commit or a comment that the API does not know of yet; 401 and 403 stay what they are.
        return wait if error.status in (404, 409, 422) or error.status >= 500 else None

    def pulls(self) -> list[int] | None:
        """Numbers of the open pull requests whose head is this job's commit; None where the API did not say."""
        job = self.job
        if job.pull is not None:
            return [job.pull]

        def find() -> list[int]:
            known = {"head": f"{job.head.owner}:{job.head.branch}"} if job.head and job.head.owner else {}
            found: Iterator[PullRequest] = iter(self.repository.get_pulls(state="open", **known))
            return [one.number for one in found if self.is_ours(one)]

        return self.attempt("the pull request of this commit could not be looked for", find)

    def is_ours(self, pull: PullRequest) -> bool:
        """Whether a pull request is of this job's commit, branch and repository."""
        head = self.job.head
        if pull.head.sha != self.job.sha:
            return False
        source = pull.head.repo  # None where the fork is gone
        return head is None or (pull.head.ref == head.branch and bool(source) and source.full_name == head.repository)

    def comment(self, pull: int, message: Message, *, fresh: bool = True) -> str:
        """Write or edit the suite's comment; returns what became of it.

        Args:
            fresh: write one where there is none yet.
        """

        def write() -> str:
            text = message.comment
            issue = self.repository.get_issue(pull)
            found = next((one for one in issue.get_comments() if is_own(one, message.marker)), None)
            if found is None:
                if not fresh:
                    return "left out"
                issue.create_comment(text)
                return "created"
            if (found.body or "").replace("\r\n", "\n").rstrip() == text.rstrip():
                return "unchanged"
            found.edit(text)
            return "edited"

        return self.attempt("the comment could not be written", write) or "failed"

    def open_check(self, suite: str) -> str:
        """Say on the commit that the suite is being judged."""
        name, key = NAME.format(suite=suite), identity(suite)

        def write() -> str:
            last = self.last_check(name, key)
            if last is not None and last.status != "completed":
                return "unchanged"
            output: dict[str, Any] = {
                "title": "Running",
                "summary": "The suite is being compressed, measured and judged.",
            }
            self.repository.create_check_run(name, self.sha, status="in_progress", external_id=key, output=output)
            return "opened"

        return self.attempt("the check run could not be opened", write) or "failed"

    def complete_check(self, message: Message) -> str:
        """Complete the suite's check run, or create it complete; returns what became of it."""
        what = "the check run could not be written"
        notes = [annotation(one) for one in message.annotations[:MOST_ANNOTATIONS]]
        output: dict[str, Any] = {**message.output}
        if notes:
            output["annotations"] = notes[:PER_REQUEST]
        done = self.attempt(what, lambda: self.completed(message, output))
        if done is None and self.refused == UNPROCESSABLE:
            # A check run that stays open would be waited for; with less in it there is less that may be refused.
            done = self.attempt(what, lambda: self.completed(message, {**message.output, "text": ""}))
            notes = []
        if done is None:
            return "failed"
        run, word = done
        for sent in range(PER_REQUEST, len(notes), PER_REQUEST):
            more = partial(self.added, run, message, notes, sent)
            if not self.attempt("some annotations could not be written", more):
                break
        return word

    def completed(self, message: Message, output: dict[str, Any]) -> tuple[CheckRun, str]:
        """Look for the suite's check run on this commit and complete it; a new one where it is complete but another."""
        name, key = NAME.format(suite=message.suite), identity(message.suite)
        last = self.last_check(name, key)
        if last is not None and last.status != "completed":
            last.edit(status="completed", conclusion=message.conclusion, output=output)
            return last, "completed"
        if last is not None and same(last, message):
            return last, "unchanged"
        run = self.repository.create_check_run(
            name, self.sha, status="completed", conclusion=message.conclusion, external_id=key, output=output
        )
        return run, "created"

    def added(self, run: CheckRun, message: Message, notes: Sequence[dict[str, Any]], sent: int) -> bool:
        """Add the next annotations to a check run: those behind what was sent, or behind what it has already."""
        last = self.last_check(run.name, run.external_id)
        there = max(sent, last.output.annotations_count if last else 0)
        if more := notes[there : there + PER_REQUEST]:
            run.edit(output={**message.output, "annotations": more})
        return True

    def last_check(self, name: str, key: str) -> CheckRun | None:
        """The suite's newest check run on this commit."""
        found = islice(self.repository.get_commit(self.sha).get_check_runs(check_name=name), 100)
        return max((one for one in found if one.external_id == key), key=lambda one: one.id, default=None)

    @property
    def sha(self) -> str:
        """The commit."""
        assert self.job.sha
        return self.job.sha

    def archives(self, largest_bytes: int) -> list[bytes] | None:
        """Every archive that the run before this one uploaded for us; None where the API did not give them."""
        artifacts = self.attempt("the uploads of the run could not be listed", self.artifacts)
        if artifacts is None:
            return None
        archives = []
        for one in artifacts:
            what = f"{line(one.name, 80)}: could not be downloaded"
            content = self.attempt(what, partial(self.download, one, largest_bytes))
            if content is None:
                return None
            archives.append(content)
        return archives

    def artifacts(self) -> list[Artifact]:
        """The newest artifact of each name that is ours, of the run's last attempt."""
        url = f"{self.repository.url}/actions/runs/{self.job.run}/artifacts"
        listed: PaginatedList[Artifact] = PaginatedList(
            Artifact, self.repository.requester, url, None, list_item="artifacts"
        )
        ours = [one for one in islice(listed, 1000) if one.name.startswith(PREFIX) and not one.expired]
        newest = {one.name: one for one in sorted(ours, key=lambda one: one.id) if self.is_of_last_attempt(one)}
        return [newest[name] for name in sorted(newest)][:MOST_ARTIFACTS]

    def is_of_last_attempt(self, artifact: Artifact) -> bool:
        """Whether no earlier attempt uploaded it: all share the run's number. Without a date nobody can tell."""
        started, made = self.job.started, artifact.created_at
        return not started or not made or made >= started

    def download(self, artifact: Artifact, largest_bytes: int) -> bytes:
        """An artifact's archive; one byte too many of one that is too large, for the reader to refuse.

        The API answers with an address elsewhere, to which the token is not shown.
        """
        url = f"{self.repository.requester.base_url}{self.repository.url}/actions/artifacts/{artifact.id}/zip"
        headers = {"Authorization": f"Bearer {self.job.token}", "Accept": "application/vnd.github+json"}
        timeout = self.patience.timeout_s
        with requests.get(url, headers=headers, allow_redirects=False, timeout=timeout) as answer:
            if answer.status_code != 302:
                raise GithubException(answer.status_code, None, dict(answer.headers), answer.reason)
            place = answer.headers["Location"]
        with requests.get(place, stream=True, timeout=timeout) as answer:
            if answer.status_code != 200:
                raise GithubException(answer.status_code, None, dict(answer.headers), answer.reason)
            content = b""
            for block in answer.iter_content(65_536):
                content += block
                if len(content) > largest_bytes:
                    break
            return content


def is_own(comment: IssueComment, marker: str) -> bool:
    """Whether we wrote a comment: the marker alone proves nothing, since anybody may begin a comment with it."""
    body = comment.body or ""
    if body.split("\n", 1)[0].rstrip("\r") != marker:
        return False
    if comment.user is not None and comment.user.type == "Bot":
        return True
    return comment.raw_data.get("author_association") in WRITERS


def same(run: CheckRun, message: Message) -> bool:
    """Whether a completed check run says the same as a message."""
    output = message.output
    said = (run.conclusion, run.output.title, run.output.summary, run.output.text)
    return said == (message.conclusion, output["title"], output["summary"], output["text"])


def annotation(note: Annotation) -> dict[str, Any]:
    """A note as the API takes it."""
    return {
        "path": note.path,
        "start_line": note.line,
        "end_line": note.line,
        "annotation_level": note.level,
        "title": note.title,
        "message": note.message,
    }


def planned(message: Message, pulls: Sequence[int]) -> dict[str, Any]:
    """What would be sent, without looking at what is there."""
    notes = [annotation(one) for one in message.annotations[:MOST_ANNOTATIONS]]
    return {
        "comments": [{"pull_request": number, "body": message.comment} for number in pulls],
        "check_run": {
            "name": NAME.format(suite=message.suite),
            "conclusion": message.conclusion,
            "external_id": identity(message.suite),
            "output": {**message.output, "annotations": notes},
        },
    }


def said(error: GithubException) -> str:
    """What the API said of an error, in a line."""
    data = error.data if isinstance(error.data, dict) else {}
    return line(str(data.get("message") or error.message or ""), 200)


def advice(reason: str, *, follows: bool) -> str:
    """What to do about a refusal; ``follows``: in a job that posts what another one uploaded."""
    status = reason.partition(" ")[0]
    if status == "401":
        return "the token is not valid: hand the job's own to the step (GITHUB_TOKEN: ${{ github.token }})"
    if status == "403" and "rate limit" not in reason.lower():
        if follows:
            return "the job needs `permissions: {actions: read, checks: write, pull-requests: write}`"
        return (
            "the token may not write: the job needs `permissions: {checks: write, pull-requests: write}`; a pull "
            "request from a fork never has them, and is reported by the workflow_run job (docs/github.md)"
        )
    return "the verdict does not depend on it; run the job again to post it"


def number(text: object) -> float | None:
    """A number of a header, if it is one."""
    try:
        return float(str(text))
    except ValueError:
        return None
