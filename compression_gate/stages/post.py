"""`post`: tell a verdict where people review. Decides nothing: its exit code is 0 unless there is nothing to tell.

In the job that measured, it reads the suite's folder and holds the verdict against the files, as `check` does. In a job
that may write, behind one that may not, it reads what that one wrote with ``--to``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compression_gate.errors import CompressionGateError, MetricsError, ParamsError, UploadError
from compression_gate.forge import chat, gitlab, jobs, uploads
from compression_gate.forge.disarming import line
from compression_gate.forge.message import Message, Origin, message_of, refusal
from compression_gate.records.base import write_text
from compression_gate.records.upload import SUITE_NAME, Posted
from compression_gate.reporters.base import Findings

if TYPE_CHECKING:
    from compression_gate.forge.github import Forge

log = logging.getLogger("compression_gate")
When = Literal["always", "problems", "never"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for.

    Args:
        source: a folder or archive that ``--to`` wrote, in place of the suite's folder. follow: fetch it from the run
            that this job follows.
        suites: the names that may be in it, and must.
        to: write what another job needs to post, and post nothing.
        opening: only say that the suite is being judged.
        comment: ``problems``: a first comment only where something is to be done. sha: the commit, if not the job's.
    """

    suite: Path
    policy: str = "pull_request"
    source: Path | None = None
    follow: bool = False
    suites: tuple[str, ...] = ()
    to: Path | None = None
    opening: bool = False
    comment: When = "always"
    chat: bool = False
    sha: str | None = None
    dry: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of each suite, and the exit code: 0, or that of an input that could not be used."""

    posted: tuple[Posted, ...]
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What there is to tell, and the code of what could not be used."""

    messages: tuple[Message, ...] = ()
    exit_code: int = 0


def run(request: Request) -> Outcome:
    """Post, or say what would be posted.

    Raises:
        ParamsError: the options contradict each other.
        UploadError: the job's own event cannot be read.
    """
    refuse(request)
    if request.to is not None:
        return written(request, request.to)
    if jobs.on_gitlab():
        gathered = gather(request, Origin(sha=gitlab.commit(), run_url=gitlab.job_url()))
        posted = [gitlab.post(one, dry=request.dry, fresh=is_wanted(one, request.comment)) for one in gathered.messages]
        return told(request, gathered, posted)
    return on_github(request)


def refuse(request: Request) -> None:
    """Refuse options that contradict each other."""
    problems = []
    if request.source is not None and request.follow:
        problems.append("post: expected --from or --follow, got both: keep one of them")
    if request.to is not None and (request.source is not None or request.follow or request.opening):
        problems.append(
            "post: --to writes what the suite's folder holds: expected no other source, got one: leave it out"
        )
    if request.sha is not None and not jobs.commit(request.sha):
        problems.append(
            f"post: --head-sha: expected a commit's name in full, got {request.sha!r}: `git rev-parse HEAD`"
        )
    asked = {"--open": request.opening, "--follow": request.follow, "--head-sha": request.sha is not None}
    problems += [
        f"post: {option}: expected a job on GitHub, which alone has what it is about, got one on GitLab: leave it out"
        for option, is_asked in asked.items()
        if is_asked and jobs.on_gitlab()
    ]
    problems += [
        f"post: --suite: expected a suite's name, got {name!r}: its folder's name"
        for name in request.suites
        if not SUITE_NAME.fullmatch(name)
    ]
    if problems:
        raise ParamsError(problems)


def written(request: Request, folder: Path) -> Outcome:
    """Write what another job needs to post: one file for the suite."""
    findings, problems = read_suite(request)
    upload = uploads.upload_of(findings, problems)
    path = folder / f"{upload.suite}.json"
    write_text(path, upload.as_text())
    verdict = findings.verdict
    done = Posted(
        suite=upload.suite,
        status=verdict.status,
        exit_code=verdict.exit_code,
        comment="left to another job",
        check_run="left to another job",
        sent={"file": str(path)},
    )
    return Outcome(posted=(done,))


def on_github(request: Request) -> Outcome:
    """Post to GitHub, or on a laptop show what would be."""
    from compression_gate.forge import github

    job = jobs.github_job(request.sha)
    forge = github.Forge(job=job) if job.token and job.repository and job.sha and not request.dry else None
    if request.opening:
        names = [line(name, 100) for name in request.suites or (request.suite.resolve().name,)]
        words = {name: forge.open_check(name) if forge else why_silent(job, dry=request.dry) for name in names}
        posted = [opened(name, word, forge.warnings if forge else []) for name, word in words.items()]
        return told(request, Gathered(), posted)
    origin = Origin(sha=job.sha, run_url=job.run_url, foreign=job.foreign and job.run is not None)
    gathered = gather_from_run(request, origin, forge) if request.follow else gather(request, origin)
    posted = tell_all(gathered.messages, forge, job, request)
    for message, done in zip(gathered.messages, posted, strict=True):
        # A check run shows the notes by itself; where there is none, the job's own log does.
        unshown = done.check_run.startswith(("failed", "left out")) and not (request.follow or request.dry)
        if unshown and jobs.on_github():
            jobs.annotate(message.annotations)
    return told(request, gathered, posted)


def tell_all(messages: Sequence[Message], forge: Forge | None, job: jobs.Job, request: Request) -> list[Posted]:
    """Send every suite's message; the job's summary has it too."""
    from compression_gate.forge import github

    before = len(forge.warnings) if forge else 0
    pulls: Sequence[int] | None = [job.pull] if job.pull else []
    if forge is not None and messages and (request.follow or request.source is not None):
        pulls = forge.pulls()  # a job that speaks for another one finds the pull request by the commit
    posted = []
    for message in messages:
        jobs.add_summary(message.body)
        if forge is None:
            commented = (pulls or []) if is_wanted(message, request.comment) else []
            sent = github.planned(message, commented) if request.dry else {}
            posted.append(silent(message, why_silent(job, dry=request.dry), sent))
        else:
            posted.append(delivered(message, forge, pulls, request))
    if forge is not None and pulls is None and posted:
        posted[0] = with_warnings(posted[0], forge.warnings[before : before + 1])
    return posted


def delivered(message: Message, forge: Forge, pulls: Sequence[int] | None, request: Request) -> Posted:
    """Send one suite's comment and check run. ``pulls`` is None where the API did not say which there are."""
    from compression_gate.forge.github import MOST_ANNOTATIONS

    before = len(forge.warnings)
    check = forge.complete_check(message)
    words = [forge.comment(number, message, fresh=is_wanted(message, request.comment)) for number in pulls or ()]
    why = "failed" if pulls is None else "left out: no open pull request"
    return Posted(
        suite=message.suite,
        status=message.status,
        exit_code=message.exit_code,
        comment=", ".join(words) or why,
        check_run=check,
        annotations=min(len(message.annotations), MOST_ANNOTATIONS) if check in ("created", "completed") else 0,
        warnings=tuple(forge.warnings[before:]),
    )


def why_silent(job: jobs.Job, *, dry: bool) -> str:
    """Why nobody is asked."""
    return f"left out: {'dry run' if dry else 'no repository or commit is known' if job.token else 'no token'}"


def silent(message: Message, why: str, sent: dict[str, object]) -> Posted:
    """A suite of which nothing was sent."""
    return Posted(
        suite=message.suite, status=message.status, exit_code=message.exit_code, comment=why, check_run=why, sent=sent
    )


def opened(suite: str, word: str, warnings: Sequence[str]) -> Posted:
    """A suite whose check run was opened."""
    return Posted(
        suite=suite, status="running", exit_code=0, comment="left out", check_run=word, warnings=tuple(warnings)
    )


def is_wanted(message: Message, when: When) -> bool:
    """Whether a first comment is wanted; one that is there is always kept up to date."""
    return when == "always" or (when == "problems" and (message.exit_code != 0 or bool(message.annotations)))


def told(request: Request, gathered: Gathered, posted: Sequence[Posted]) -> Outcome:
    """Set the step's outputs, tell warnings, and the chat where it is asked for."""
    if request.chat and not request.opening:
        warnings = [warning for one in gathered.messages if (warning := chat.post(one, dry=request.dry))]
        posted = [*posted[:-1], with_warnings(posted[-1], warnings)] if posted and warnings else posted
    for warning in dict.fromkeys(warning for one in posted for warning in one.warnings):
        jobs.warn(warning)
    if len(posted) == 1 and not request.opening:
        one = posted[0]
        jobs.set_outputs({"status": one.status, "exit-code": str(one.exit_code)})
    return Outcome(posted=tuple(posted), exit_code=gathered.exit_code)


def with_warnings(posted: Posted, warnings: Sequence[str]) -> Posted:
    """The same with more warnings."""
    return posted.model_copy(update={"warnings": (*posted.warnings, *warnings)})


def gather(request: Request, origin: Origin) -> Gathered:
    """What the suite's folder, or what another job wrote, gives to tell."""
    if request.source is not None:
        return from_uploads(request, [request.source], origin)
    try:
        findings, problems = read_suite(request)
        return Gathered(messages=(message_of(findings, problems, origin),))
    except CompressionGateError as error:
        log.error("compression-gate post: %s", line(str(error), 2000))
        message = refusal(request.suite.resolve().name, str(error), error.exit_code, origin)
        return Gathered(messages=(message,), exit_code=error.exit_code)


def gather_from_run(request: Request, origin: Origin, forge: Forge | None) -> Gathered:
    """What the run before this one uploaded gives to tell; refusals where the API does not hand it over."""
    if forge is None:
        raise ParamsError(
            "post: --follow: expected GITHUB_TOKEN and a workflow_run event, got neither: see docs/github.md"
        )
    if forge.job.run is None:
        raise ParamsError("post: --follow: expected the event workflow_run, or --head-sha, got neither")
    archives = forge.archives(uploads.LARGEST_ARCHIVE_BYTES)
    if archives is None:
        for warning in forge.warnings:
            jobs.warn(warning)
        # A check run that was opened is waited for until somebody completes it.
        reason = "GitHub did not hand over what its job uploaded: see that job's summary, or run this job again"
        return Gathered(messages=tuple(refusal(name, reason, UploadError.exit_code, origin) for name in request.suites))
    return from_uploads(request, archives, origin)


def from_uploads(request: Request, sources: Sequence[Path | bytes], origin: Origin) -> Gathered:
    """Read uploads; one that may not be believed becomes a refusal, under each name that was expected and not found."""
    messages: dict[str, Message] = {}
    reason = "its job ended before it wrote a report"
    code = 0
    for source in sources:
        try:
            for upload in uploads.read_uploads(source, request.suites):
                if upload.suite in messages:
                    raise UploadError(f"expected each suite once, got {upload.suite!r} again")
                messages[upload.suite] = message_of(uploads.findings_of(upload), upload.problems, origin)
        except CompressionGateError as error:
            reason, code = str(error), error.exit_code
            log.error("compression-gate post: %s", line(str(error), 2000))
    missing = [name for name in request.suites if name not in messages]
    if missing:
        code = code or UploadError.exit_code
    refused = [refusal(name, reason, UploadError.exit_code, origin) for name in missing]
    return Gathered(messages=(*messages.values(), *refused), exit_code=code)


def read_suite(request: Request) -> tuple[Findings, tuple[str, ...]]:
    """The suite's findings under the policy, and why its verdict may not be believed.

    Raises:
        ParamsError: `params.yaml` is wrong.
        MetricsError: there is no verdict.
    """
    from compression_gate.stages.check import check
    from compression_gate.stages.report import read_findings

    outcome = check(request.suite, request.policy)
    if outcome.verdict is None:
        raise MetricsError("\n".join(outcome.problems))
    return replace(read_findings(request.suite), verdict=outcome.verdict), outcome.problems
