"""The git ref that holds one record for every recorded run: read, appended to, exchanged with a remote."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from compression_gate.errors import HistoryError
from compression_gate.history import git
from compression_gate.records.history import RunRecord

REF = "refs/compression-gate/runs"
ROOT = "_root"  # the folder of a suite that is the repository's root
TRIES, PAUSE_S = 8, 0.1  # after eight lost races in a row something else is wrong; pauses double from the first on
RECORD_NAME = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\.json")
# How git words that somebody else was faster: seen here, or by the remote.
LOST_RACE = ("[rejected]", "but expected", "reference already exists", "incorrect old value")
LOCK_LEFT = "File exists"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The records of one suite.

    Args:
        records: those that could be read, oldest first.
        damaged: commit, or file name -> why its record could not be read.
        notices: what a reader should know of those that could.
    """

    records: tuple[RunRecord, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def by_commit(self) -> dict[str, RunRecord]:
        """Records by the commit they are of."""
        return {record.commit: record for record in self.records}


def folder_of(suite: str) -> str:
    """The folder of a suite's records inside the ref's tree."""
    return ROOT if suite == "." else suite


def read(suite: str, repository: Path) -> Runs:
    """Read every record of a suite and validate it; what cannot be read is told in ``damaged``.

    Raises:
        HistoryError: the ref itself cannot be read.
    """
    tip = git.resolved(REF, repository)
    if tip is None:
        return Runs()
    files = files_of(tip, repository, folder_of(suite))
    contents = git.blobs(list(files.values()), repository)
    records, damaged, notices = [], {}, []
    for name, blob in files.items():
        commit = name.removesuffix(".json")
        try:
            record, notice = parsed(contents.get(blob), suite, name)
        except HistoryError as error:
            damaged[commit] = str(error)
            continue
        records.append(record)
        notices += [notice] if notice else []
    ordered = sorted(records, key=lambda record: (record.recorded_at, record.commit))
    return Runs(records=tuple(ordered), damaged=damaged, notices=tuple(notices))


def files_of(tip: str, repository: Path, folder: str) -> dict[str, str]:
    """File name -> blob of one folder of the ref's tree, deeper folders (other suites') left out."""
    listing = git.output(["ls-tree", "-z", "--full-tree", tip, "--", f"{folder}/"], repository)
    files = {}
    for line in filter(None, listing.split("\0")):
        head, _, path = line.partition("\t")
        _, kind, blob = head.split()
        if kind == "blob":
            files[path.rpartition("/")[2]] = blob
    return files


def parsed(content: bytes | None, suite: str, name: str) -> tuple[RunRecord, str | None]:
    """One record, and a notice where its verdict is of another version and had to be left out.

    Raises:
        HistoryError: it is cut short, of another version, or does not speak of the suite and commit it lies under.
    """
    where = f"{REF}:{folder_of(suite)}/{name}"
    if not RECORD_NAME.fullmatch(name) or content is None:
        raise HistoryError(f"{where}: expected the record of a commit, got {'nothing' if content is None else 'else'}")
    try:
        record, notice = validated(content, where)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise HistoryError(f"{where}: {at}: {first['msg']}: damaged, or of another version") from error
    if (record.suite, f"{record.commit}.json") != (suite, name):
        raise HistoryError(f"{where}: expected a run of {suite} there, got one of {record.suite} at {record.commit}")
    if record.verdict is not None and (record.verdict.status, record.verdict.exit_code) != (
        record.status,
        record.exit_code,
    ):
        raise HistoryError(f"{where}: status: expected its verdict's, {record.verdict.status}, got {record.status}")
    return record, notice


def validated(content: bytes, where: str) -> tuple[RunRecord, str | None]:
    """A record by its schema. The verdict inside has a schema of its own, and no comparison needs it.

    Raises:
        ValidationError: it is not one.
    """
    try:
        return RunRecord.model_validate_json(content), None
    except ValidationError as error:
        if not all(item["loc"][:1] == ("verdict",) for item in error.errors()):
            raise
    plain = json.loads(content) | {"verdict": None}
    return RunRecord.model_validate(plain), f"{where}: its verdict is of another version and was left out"


def append(record: RunRecord, repository: Path) -> None:
    """Put a record on top of the ref; one of the same suite and commit is replaced, and stays in the ref's history.

    Raises:
        HistoryError: git cannot write here.
    """
    path = f"{folder_of(record.suite)}/{record.commit}.json"
    blob = written(record.as_text().encode(), repository)
    message = f"{record.suite}: {record.status} at {record.commit}" + (f" ({record.release})" if record.release else "")
    for attempt in range(TRIES):
        tip = git.resolved(REF, repository)
        before = entries(tip, repository) if tip else {}
        if before.get(path) == blob:
            return
        made = committed(before | {path: blob}, [tip] if tip else [], message, repository)
        if moved(made, tip, repository):
            return
        pause(attempt)
    raise HistoryError(f"{REF}: other processes moved it {TRIES} times meanwhile: try again")


def fetch(remote: str, repository: Path) -> None:
    """Bring the remote's records here. Records that are not pushed yet are kept, on top of the remote's.

    Raises:
        HistoryError: the remote cannot be reached, or does not give its history.
    """
    there = remote_tip(remote, repository)
    if there is None or there == git.resolved(REF, repository):
        return
    # A partial clone would leave the records there, to be asked for one at a time.
    flags = ["--quiet", "--no-filter", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap="]
    git.output(["fetch", *flags, remote, REF], repository, patience_s=git.PATIENCE_S)
    join(there, repository)


def remote_tip(remote: str, repository: Path) -> str | None:
    """What the ref is on the remote, None where it has none.

    Raises:
        HistoryError: the remote cannot be reached.
    """
    answer = git.output(["ls-remote", "--quiet", remote, REF], repository, patience_s=git.PATIENCE_S)
    return next((line.split()[0] for line in answer.splitlines() if line.endswith(f"\t{REF}")), None)


def push(remote: str, repository: Path, agree: Callable[[], object] = bool) -> None:
    """Give the records here to the remote, never by force: whoever loses a race goes on top of the winner.

    Args:
        remote: its name.
        repository: whose records.
        agree: called after a lost race; raises where the winner's records leave no place for those here.

    Raises:
        HistoryError: the remote cannot be reached, refuses, or is always faster.
    """
    flags = ["--porcelain", "--no-verify", "--no-signed", "--no-follow-tags", "--recurse-submodules=no"]
    for attempt in range(TRIES):
        done = git.call(["push", *flags, remote, f"{REF}:{REF}"], repository, patience_s=3 * git.PATIENCE_S)
        if done.returncode == 0:
            return
        said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        if not any(words in said for words in (*LOST_RACE, LOCK_LEFT)):  # a busy remote does not wait for its lock
            raise HistoryError(
                f"{remote}: {REF} was not accepted: {git.complaint(done)}: give this job the right to push it"
            )
        pause(attempt)
        fetch(remote, repository)
        agree()
    if LOCK_LEFT in said:
        raise HistoryError(f"{remote}: {REF} was not accepted: {git.complaint(done)}: remove that .lock there")
    raise HistoryError(f"{remote}: {REF}: others pushed {TRIES} times meanwhile: try again")


def join(there: str, repository: Path) -> None:
    """Move the ref to what holds both its own records and those of the commit ``there``.

    Raises:
        HistoryError: other processes always move it first.
    """
    for attempt in range(TRIES):
        here = git.resolved(REF, repository)
        if here is None or git.is_ancestor(here, there, repository):
            joined = there
        elif git.is_ancestor(there, here, repository):
            return
        else:
            message = "Records of this clone on top of the remote's"
            joined = committed(united(here, there, repository), [there, here], message, repository)
        if moved(joined, here, repository):
            return
        pause(attempt)
    raise HistoryError(f"{REF}: other processes moved it {TRIES} times meanwhile: try again")


def united(here: str, there: str, repository: Path) -> dict[str, str]:
    """Path -> blob of both commits; of two records of one run the one that succeeds the other."""
    own, foreign = entries(here, repository), entries(there, repository)
    differing = [path for path in own.keys() & foreign.keys() if own[path] != foreign[path]]
    contents = git.blobs([side[path] for path in differing for side in (own, foreign)], repository)
    one = {path: successor(contents[own[path]], contents[foreign[path]]) for path in differing}
    return foreign | own | {path: written(content, repository) for path, content in one.items()}


def written(content: bytes, repository: Path) -> str:
    """Keep a record's text among git's objects, and return its name."""
    return git.output(["hash-object", "-w", "--stdin"], repository, text=content.decode(errors="replace")).strip()


def successor(own: bytes, foreign: bytes) -> bytes:
    """Of two records of one commit the one recorded later, with what the earlier one says for good."""
    before, later = sorted((own, foreign), key=recorded_at)
    try:
        kept = succeeding(RunRecord.model_validate_json(before), RunRecord.model_validate_json(later))
    except ValidationError:  # damaged, or of another version
        return later
    return kept.as_text().encode()


def succeeding(before: RunRecord, record: RunRecord) -> RunRecord:
    """The record of a commit that was recorded before: what was released or accepted stays so.

    It is the record before where that one was, and the new one has other bytes or can be no baseline.
    """
    same = before.candidate_digest == record.candidate_digest
    if not same:
        return before if before.release else record
    if (before.release or before.accepted) and not record.is_baseline:
        return before
    marks = {"release": record.release or before.release, "accepted": record.accepted or before.accepted}
    return record.model_copy(update=marks)


def recorded_at(content: bytes) -> str:
    """When a record was written; the beginning of time where it does not say so."""
    try:
        return str(json.loads(content)["recorded_at"])
    except (ValueError, KeyError, TypeError):
        return ""


def entries(commit: str, repository: Path) -> dict[str, str]:
    """Path -> blob of everything in a commit."""
    listing = git.output(["ls-tree", "-r", "-z", "--full-tree", commit], repository)
    lines = (line.partition("\t") for line in listing.split("\0") if line)
    return {path: head.split()[2] for head, _, path in lines}


def committed(files: Mapping[str, str], parents: list[str], message: str, repository: Path) -> str:
    """Write a commit of exactly these files, through an index of its own, and return its name."""
    lines = "".join(f"100644 {blob}\t{path}\0" for path, blob in files.items())
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        extra = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git.output(["update-index", "-z", "--index-info"], repository, text=lines, extra=extra)
        tree = git.output(["write-tree"], repository, extra=extra).strip()
    before = [word for parent in parents for word in ("-p", parent)]
    return git.output(["commit-tree", tree, *before, "-m", message], repository).strip()


def moved(new: str, old: str | None, repository: Path) -> bool:
    """Move the ref from ``old`` (None: from nothing) to ``new``; False where it is elsewhere by now.

    Raises:
        HistoryError: git cannot move it.
    """
    done = git.call(["update-ref", "-m", "compression-gate", REF, new, old or ""], repository)
    said = git.complaint(done)
    if done.returncode != 0 and not any(words in said for words in LOST_RACE):
        do = ": remove that .lock, unless a git is at work here" if LOCK_LEFT in said else ""
        raise HistoryError(f"git update-ref {REF}: {said}{do}")
    return done.returncode == 0


def pause(attempt: int) -> None:
    """Wait a moment of random length, so that two who lost a race do not meet again."""
    time.sleep(secrets.SystemRandom().uniform(0, min(PAUSE_S * 2**attempt, 3.0)))
