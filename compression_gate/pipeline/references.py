"""Which earlier candidates a run is held against: found in the history, fetched, and laid where the stages look."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compression_gate.errors import CompressionGateError, HistoryError, MetricsError
from compression_gate.history import git, lineage, store
from compression_gate.history.store import REF, Runs
from compression_gate.pipeline.dvc import git_root
from compression_gate.pipeline.retrieval import LostArtifactError, rebuild, retrieve
from compression_gate.pipeline.state import DVC_IGNORE, SEEN
from compression_gate.records.artifact import FILE_NAME, RUN_FILE_NAME, Artifact
from compression_gate.records.base import Record, digest_of_file, replacing_folder, write_if_changed
from compression_gate.records.history import NO_RECORD, NO_RELEASE, NOTHING_ACCEPTED, History, RunRecord
from compression_gate.records.params import Params
from compression_gate.records.state_files import HISTORY, REFERENCES

log = logging.getLogger("compression_gate")
ROLES = ("baseline", "release")
ABSENT = "absent"
FRESH_S = 300.0  # for so long the remote is not asked again about one commit
# DVC hashes a folder whole. A new record of an old artifact must not make evaluate and benchmark measure again;
# the gate sees it by `run_digests` of history.json.
DVC_IGNORED = f"# Kept out of what the stages depend on; history.json has its digest.\nreferences/*/{RUN_FILE_NAME}\n"


class Seen(Record):
    """`.compression_gate/seen.json`: what earlier runs here found, so that a loss is told from a first run.

    Args:
        head, remote: for which commit the remote was last asked; asked_at: when, seconds since 1970.
        tip: the history's commit then; notice: why it may be old.
        commits: baseline, release -> commit that was found as such.
        rebuilt: digest of a candidate -> digest of what building it again gave.
    """

    head: str | None = None
    remote: str | None = None
    asked_at: float = 0.0
    tip: str | None = None
    notice: str | None = None
    commits: dict[str, str] = {}
    rebuilt: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the history says of both roles: the record that holds, or the reason why there is none."""

    runs: Runs = field(default_factory=Runs)
    records: Mapping[str, RunRecord] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Search:
    """One search for references: where, for what, and what was learned on the way."""

    suite: Path
    params: Params
    seen: Seen
    target: str | None = None
    rebuild: bool = False
    notices: list[str] = field(default_factory=list)

    def learn(self, **facts: object) -> None:
        """Remember for the next run."""
        self.seen = self.seen.model_copy(update=facts)


def resolve(suite: Path, params: Params, *, target: str | None = None, rebuild: bool = False) -> None:
    """Lay the baseline and the release, or the reason why there is none, where the stages look for them.

    Args:
        suite: its folder.
        params: what it asks for.
        target: the branch that this commit is for; None: as the job's environment or the remote says.
        rebuild: train and compress again what is gone from DVC's cache and remote.
    """
    search = Search(suite=suite, params=params, target=target, rebuild=rebuild, seen=read_seen(suite))
    try:
        findings = look(search)
    except HistoryError as error:
        findings = Findings(absent=dict.fromkeys(ROLES, f"no_baseline: {in_a_line(error)}"))
    write_if_changed(suite / DVC_IGNORE, DVC_IGNORED.encode())
    for left in (suite / REFERENCES).glob(".*.*"):  # temporary folders of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    for role in ROLES:
        reason = findings.absent.get(role) or lay(role, findings.records[role], search)
        if reason:
            write_absent(suite / REFERENCES / role, reason)
    search.learn(commits=search.seen.commits | {role: one.commit for role, one in findings.records.items()})
    write_if_changed(suite / HISTORY, history_of(findings, search).as_text().encode())
    write_if_changed(suite / SEEN, search.seen.as_text().encode())


def read_seen(suite: Path) -> Seen:
    """What earlier runs found; the record of a baseline that lies here counts, should that memory be gone."""
    try:
        seen = Seen.read(suite / SEEN)
    except MetricsError:
        seen = Seen()
    commits = dict(seen.commits)
    for role in ROLES:
        try:
            commits.setdefault(role, RunRecord.read(suite / REFERENCES / role / RUN_FILE_NAME).commit)
        except MetricsError:
            continue
    return seen.model_copy(update={"commits": commits})


def look(search: Search) -> Findings:
    """Find both records in the history.

    Raises:
        HistoryError: git cannot read this repository.
    """
    root = git_root(search.suite)
    if root is None:
        return Findings(absent=dict.fromkeys(ROLES, never_recorded("baseline", None, search)))
    remote, head = git.default_remote(root), git.commit_of("HEAD", root)
    if unreachable := refresh(remote, head, root, search):
        return Findings(absent=dict.fromkeys(ROLES, unreachable))
    runs = store.read(search.suite.resolve().relative_to(root.resolve()).as_posix(), root)
    if not runs.records and not runs.damaged:
        return Findings(absent={role: never_recorded(role, remote, search) for role in ROLES})
    return found(runs, remote, head, root, search)


def refresh(remote: str | None, head: str | None, root: Path, search: Search) -> str | None:
    """Fetch the history, unless it was a moment ago; returns why nothing can be known, None where it can."""
    if remote is None:
        return None
    seen, here = search.seen, git.resolved(REF, root)
    fresh = seen.head == head and seen.remote == remote and 0 <= time.time() - seen.asked_at < FRESH_S
    if fresh and not (here is None and seen.tip is not None):
        return None
    notice = None
    try:
        store.fetch(remote, root)
    except HistoryError as error:
        if here is None:
            return f"data_unreachable: the history at {remote} cannot be read: {in_a_line(error)}"
        notice = f"the history may be old: {remote} could not be asked: {in_a_line(error)}"
    tip = git.resolved(REF, root)
    search.learn(head=head, remote=remote, asked_at=time.time(), tip=tip, notice=notice)
    return None


def never_recorded(role: str, remote: str | None, search: Search) -> str:
    """The reason where the history holds no run of this suite: a first run, or a history that was lost."""
    if commit := search.seen.commits.get(role):
        source = remote or "<a remote or clone that has it>"
        return (
            f"no_baseline: a {role} of {commit} was recorded here before, and the history is gone: "
            f"git fetch {source} {REF}:{REF}"
        )
    return first_run(NO_RECORD, search)


def first_run(reason: str, search: Search) -> str:
    """A reason that blocks nothing, unless the suite says that a history must be there."""
    if search.params.gate.policies.get("history") == "required":
        return f"no_baseline: {reason}, and gate.policies.history is required: record a run of the target branch"
    return reason


def found(runs: Runs, remote: str | None, head: str | None, root: Path, search: Search) -> Findings:
    """Search the history back from where this commit left the target branch.

    Raises:
        HistoryError: git cannot read this repository.
    """
    # A commit that was recorded itself, and runs again, is no earlier one.
    earlier = [record for record in runs.records if record.commit != head]
    passed = {record.commit for record in earlier if record.is_baseline}
    released = {record.commit for record in earlier if record.release}
    absent: dict[str, str] = {}
    records: dict[str, RunRecord] = {}
    if not runs.damaged:  # what cannot be read may have passed, or been a release
        absent |= {} if passed else {"baseline": first_run(NOTHING_ACCEPTED, search)}
        absent |= {} if released else {"release": NO_RELEASE}
    road = road_back(remote, head, root, search)
    for role, wanted in (("baseline", passed), ("release", released)):
        if role in absent:
            continue
        commit = None if road.start is None else lineage.nearest(wanted, road.every, road.main, root)
        if commit:
            records[role] = runs.by_commit[commit]
        else:
            absent[role] = not_on_the_road(role, wanted, road, runs)
    return Findings(runs=runs, records=records, absent=absent)


@dataclass(frozen=True, kw_only=True)
class Road:
    """The way back from where a commit left the target branch.

    Args:
        every, main: commits from the start back: all, and those along first parents.
        shallow: whether it ends where this clone does, and not where the history does.
        obstacle: why there is no start.
        mend: the command that makes a shallow clone whole.
    """

    start: str | None = None
    every: list[str] = field(default_factory=list)
    main: list[str] = field(default_factory=list)
    shallow: bool = False
    obstacle: str = ""
    mend: str = "git fetch --unshallow"


def road_back(remote: str | None, head: str | None, root: Path, search: Search) -> Road:
    """Where the search for references begins, and the commits from there back.

    Raises:
        HistoryError: git cannot read this repository.
    """
    if head is None:
        return Road(obstacle="no commit is checked out here: commit first")
    edge = lineage.shallow_commits(root)
    target = lineage.target_of(search.target, remote, root)
    if target is None or target.commit is None:
        mend = f"git fetch --unshallow {remote or '<remote>'} +refs/heads/*:refs/remotes/{remote or '<remote>'}/*"
        return Road(shallow=bool(edge), obstacle=unknown_target(target, remote), mend=mend)
    start = lineage.start_of(head, target.commit, root)
    if start is None:
        return Road(shallow=bool(edge), obstacle=f"{head[:12]} and {target.name} have no earlier commit in common")
    every, main = lineage.ways_back(start, root)
    return Road(start=start, every=every, main=main, shallow=not edge.isdisjoint(every))


def unknown_target(target: lineage.Target | None, remote: str | None) -> str:
    """What to say where the target branch cannot be found."""
    if target is None:
        return "expected a target branch main or master, got none: name it: compression-gate run --target BRANCH"
    name, source = target.name, remote or "<remote>"
    return (
        f"the target branch {name!r} ({target.named_by}) is not known in this clone: "
        f"git fetch {source} +refs/heads/{name}:refs/remotes/{source}/{name}"
    )


def not_on_the_road(role: str, wanted: set[str], road: Road, runs: Runs) -> str:
    """Why no record of a role was found although there are records."""
    if broken := [commit for commit in road.every if commit in runs.damaged]:
        return f"no_baseline: {runs.damaged[broken[0]]}: record that commit again"
    if road.shallow:
        return (
            f"no_baseline: this clone is shallow and ends before a recorded {role} ({len(wanted)} recorded): "
            f"{road.mend}"
        )
    if road.obstacle:
        return f"no_baseline: {road.obstacle}"
    if not wanted:
        return f"no_baseline: {next(iter(runs.damaged.values()))}: record that commit again"
    what = "runs that passed are" if role == "baseline" else "releases are"
    return (
        f"no_baseline: {len(wanted)} {what} recorded, and none is of a commit at or before {(road.start or '')[:12]}: "
        "rebase on the target branch, or, where that was rewritten, begin anew there: "
        "`compression-gate record --accept REASON`"
    )


def lay(role: str, record: RunRecord, search: Search) -> str | None:
    """Lay an artifact and its record into the folder of a role; returns the reason where it is not to be had."""
    folder = search.suite / REFERENCES / role
    if record.candidate_digest is None or record.candidate_md5 is None:
        return f"not_comparable: the record of {record.commit} names no artifact: record that commit again"
    good = {record.candidate_digest, search.seen.rebuilt.get(record.candidate_digest, record.candidate_digest)}
    if digest_in(folder) not in good:
        try:
            with replacing_folder(folder) as fresh:
                obtain(record, fresh, search)
        except CompressionGateError as error:
            return f"not_comparable: the {role}, of {record.commit}, is gone: {in_a_line(error)}"
    if digest_in(folder) != record.candidate_digest:
        search.notices.append(
            f"the {role}, of {record.commit}, was built again and has other bytes than those recorded"
        )
    write_if_changed(folder / RUN_FILE_NAME, record.as_text().encode())
    return None


def obtain(record: RunRecord, into: Path, search: Search) -> None:
    """Put a record's artifact into an empty folder: from the other role's, from DVC, or built again.

    Raises:
        LostArtifactError: it is not to be had.
        CompressionGateError: what was had is no artifact.
    """
    assert record.candidate_digest is not None  # lay() saw both
    assert record.candidate_md5 is not None
    for role in ROLES:
        if digest_in(other := search.suite / REFERENCES / role) == record.candidate_digest:
            shutil.copytree(other, into, dirs_exist_ok=True)
            return
    try:
        retrieve(search.suite, record.candidate_md5, into)
    except LostArtifactError as error:
        if not search.rebuild:
            raise LostArtifactError(f"{error}: compression-gate run --rebuild-baseline") from error
        rebuild(search.suite, record.commit, into)
        found = Artifact.open(into).digest
        search.learn(rebuilt=search.seen.rebuilt | {record.candidate_digest: found})
        return
    if (found := Artifact.open(into).digest) != record.candidate_digest:
        raise LostArtifactError(
            f"expected the artifact {record.candidate_digest[:12]}, got {found[:12]}: record that commit again"
        )


def digest_in(folder: Path) -> str | None:
    """The digest of the artifact in a folder, None where there is none that can be believed."""
    if not (folder / FILE_NAME).exists():
        return None
    try:
        return Artifact.open(folder).digest
    except CompressionGateError:
        return None


def write_absent(folder: Path, reason: str) -> None:
    """Make a role's folder hold the reason and nothing else."""
    if folder.is_dir() and any(path.name != ABSENT for path in folder.iterdir()):
        shutil.rmtree(folder)
    write_if_changed(folder / ABSENT, f"{reason}\n".encode())


def history_of(findings: Findings, search: Search) -> History:
    """What the gate may ask of the history."""
    runs, found = findings.runs, findings.records
    baseline, release = found.get("baseline"), found.get("release")
    judged: dict[str, dict[str, None]] = {}
    for record in runs.records:
        if record.test_digest and record.candidate_digest:
            judged.setdefault(record.test_digest, {})[record.candidate_digest] = None
    paths = {role: search.suite / REFERENCES / role / RUN_FILE_NAME for role in ROLES}
    broken = [f"passed over: {problem}" for problem in runs.damaged.values()]
    notice = [search.seen.notice] if search.seen.notice else []
    return History(
        baseline_commit=baseline.commit if baseline else None,
        baseline_gate=baseline.gate if baseline else None,
        release_commit=release.commit if release else None,
        release_name=release.release if release else None,
        run_digests={role: digest_of_file(path) for role, path in paths.items() if path.is_file()},
        judged={data: tuple(candidates) for data, candidates in judged.items()},
        releases=tuple(record.release for record in runs.records if record.release),
        notices=(*notice, *broken, *runs.notices, *search.notices),
    )


def in_a_line(error: Exception) -> str:
    """An error's text without line breaks: a reason of absence is one line."""
    return " ".join(str(error).split())
