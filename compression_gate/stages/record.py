"""`record`: keep what this run was judged to be in the history, for later commits to be held against."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import yaml
from pydantic import ValidationError

from compression_gate import __version__
from compression_gate.errors import HistoryError, MetricsError, ParamsError, StaleError
from compression_gate.gate.policy import DEFAULT_POLICY
from compression_gate.history import git, store
from compression_gate.pipeline.definition import DEFINITION, FILE_NAME, outputs_of
from compression_gate.pipeline.dvc import dvc, git_root, has_remote
from compression_gate.pipeline.retrieval import CANDIDATE, md5_of_file, md5_of_folder
from compression_gate.records.history import RunRecord
from compression_gate.records.metrics import DataRecord
from compression_gate.records.params import FILE_NAME as PARAMS_FILE
from compression_gate.records.release_name import EXPECTED, NAME, bare
from compression_gate.records.verdict import Check
from compression_gate.records.waivers import FILE_NAME as WAIVERS_FILE
from compression_gate.stages.check import Outcome, check

log = logging.getLogger("compression_gate")
LOCK, METRICS, DATA = Path("dvc.lock"), Path("reports/metrics.json"), Path("reports/data.json")
POINTER = ".dvc"
LOST = ("no_baseline", "not_comparable", "data_unreachable")
EDITED = (PARAMS_FILE, FILE_NAME, WAIVERS_FILE)
# What a run writes itself. A repository that tracks some of it is not dirty for that.
DVC_FILES = (".dvc", ".dvcignore")  # which `run` sets up, and stages, where a repository has none
WRITTEN = (LOCK.as_posix(), *(path for stage in DEFINITION.values() for path in outputs_of(stage)))


def run(suite: Path, *, push: bool, remote: str | None, release: str | None, accepted: str | None = None) -> RunRecord:
    """Record the run that `reports/verdict.json` speaks of under the commit checked out; failures are recorded too.

    Args:
        suite: its folder.
        push: also give the record, and the artifact where DVC has a remote, to the others.
        remote: git's name of where to push to; None: `origin`, or the only one.
        release: the name under which this run is released.
        accepted: why later commits shall be held against it although nothing was there to hold it against.

    Raises:
        ParamsError: no git, files or changes that are not committed, no remote to push to, or a release that may
            not be, now or as soon as others have pushed theirs.
        StaleError: the verdict does not speak of the files on disk.
        MetricsError: there is no verdict, or a record beside it is missing or damaged.
        HistoryError: the record cannot be written, the artifact or the record cannot be pushed.
    """
    if release is not None and not NAME.fullmatch(release):
        raise ParamsError(f"--release: expected {EXPECTED}, got {release!r}")
    root = git_root(suite)
    if root is None:
        raise ParamsError(f"{suite}: expected a git checkout, whose commit a run is recorded under, got none: git init")
    outcome = check(suite, "release" if release is not None else DEFAULT_POLICY)
    if outcome.verdict is None:
        raise MetricsError("\n".join(outcome.problems))
    if outcome.problems:
        raise StaleError("not recorded: the verdict does not speak of these files:\n" + "\n".join(outcome.problems))
    commit = clean_commit(suite, root, outcome)
    target = destination(remote, root) if push else None
    record = record_of(suite, root, commit, outcome, release)
    if accepted is not None:
        record = record.model_copy(update={"accepted": acceptable(accepted, outcome)})
    if target is not None:
        store.fetch(target, root)
    record = agreed(record, store.read(record.suite, root))
    if target is not None and record.is_baseline:
        push_artifact(suite)
    store.append(record, root)
    if target is not None:
        published(record, target, root)
    return record


def published(record: RunRecord, remote: str, root: Path) -> None:
    """Push the record; one whose release another clone has given to another commit meanwhile is kept without it.

    Raises:
        ParamsError: the release's name is that of another commit by now.
        StaleError: this commit was released with another candidate by now.
        HistoryError: the remote cannot be reached, refuses, or is always faster.
    """
    try:
        store.push(remote, root, lambda: agreed(record, store.read(record.suite, root)))
    except ParamsError:
        store.append(record.model_copy(update={"release": None}), root)
        raise


def clean_commit(suite: Path, root: Path, outcome: Outcome) -> str:
    """The commit checked out, if it holds the suite and its sources, as they are here.

    Raises:
        ParamsError: it does not, or there is no commit.
    """
    commit = git.commit_of("HEAD", root)
    if commit is None:
        raise ParamsError(f"{root}: expected a commit to record the run under, got none: git commit")
    sources = outcome.verdict.sources if outcome.verdict else {}
    top = root.resolve()
    # Not resolved: DVC may have put a link into its cache there.
    files = {Path(os.path.normpath(suite.resolve() / name)) for name in (*EDITED, *sources) if (suite / name).exists()}
    outs = dvc_outs({folder for file in files for folder in file.parents if folder.is_relative_to(top)})
    keepers = {keeper_of(file, outs) for file in files}
    kept = {path for path in keepers if path.is_relative_to(top) and path.name != LOCK.name}
    if dirty := changes(suite, {*files, *kept}, top):
        raise ParamsError(
            f"{root}: expected the files of commit {commit[:12]}, got changes in {', '.join(dirty)}: commit them, run "
            "again, then record"
        )
    if absent := untracked(kept, top):
        raise ParamsError(
            f"{root}: expected the commit {commit[:12]} to hold what the run was made of, got none of "
            f"{', '.join(absent)}: git add and commit them (what is large: dvc add), then record"
        )
    if other := modified([path for path in kept if path.suffix == POINTER], suite):
        raise ParamsError(
            f"{root}: expected the data that commit {commit[:12]} names, got others in {', '.join(other)}: dvc add "
            "them, commit, run again, then record"
        )
    return commit


def changes(suite: Path, files: Collection[Path], top: Path) -> list[str]:
    """What differs from the commit in a suite and in files outside it, and was not written by a run itself."""
    answer = git.output(["status", "--porcelain", "--untracked-files=no", "--no-renames", "-z"], top)
    changed = [line[3:] for line in answer.split("\0") if line]
    home = suite.resolve()
    # A folder is told where it is a submodule.
    concerned = {path for file in files for path in (file, file.resolve(), *file.parents)}
    ours = [name for name in changed if (top / name).is_relative_to(home) or top / name in concerned]
    own = {(folder / name).as_posix() for folder in suites_of(suite, ours, top) for name in WRITTEN}
    own |= {(folder / name).as_posix() for folder in homes(suite, top) for name in DVC_FILES}
    return [path for path in ours if not any(path == name or path.startswith(f"{name}/") for name in own)]


def untracked(paths: Iterable[Path], top: Path) -> list[str]:
    """Those paths that git does not hold, as seen from the repository's root."""
    tracked = {top / name for name in git.output(["ls-files", "-z"], top).split("\0") if name}
    absent = [path for path in paths if tracked.isdisjoint((path, *path.parents))]  # a submodule is told as a folder
    return sorted(path.relative_to(top).as_posix() for path in absent)


def dvc_outs(folders: Iterable[Path]) -> dict[Path, Path]:
    """What DVC holds of these folders -> the `.dvc` file, or else the `dvc.lock`, that says so.

    Raises:
        MetricsError: such a file is damaged.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        pointers = [path for path in folder.glob(f"*{POINTER}") if path.is_file()]
        for path in (folder / LOCK, *pointers):
            if path.is_file():
                outs = outs_of(path) if path.suffix != POINTER else outs_in(read_values(path), path)
                found |= {Path(os.path.normpath(folder / name)): path for name in outs}
    return found


def keeper_of(file: Path, outs: Mapping[Path, Path]) -> Path:
    """The file that tells of a source: itself, or the one by which DVC holds it or a folder it is in."""
    return next((outs[place] for place in (file, *file.parents) if place in outs), file)


def modified(pointers: Sequence[Path], suite: Path) -> list[str]:
    """What is not as its `.dvc` file has it. DVC is asked, since it knows what it leaves out of a folder.

    Raises:
        HistoryError: DVC cannot say.
    """
    if not pointers:
        return []
    done = dvc(["status", "--json", *(os.path.relpath(path, suite) for path in sorted(pointers))], suite)
    if done.returncode != 0:
        raise HistoryError(f"dvc status: {words_of(done)}: not recorded")
    found = [change for about in json.loads(done.stdout).values() for change in about if isinstance(change, dict)]
    outs = {name: state for change in found for name, state in change.get("changed outs", {}).items()}
    named = {
        Path(os.path.normpath(pointer.parent / name)): md5
        for pointer in pointers
        for name, md5 in outs_in(read_values(pointer), pointer).items()
    }
    places = {name: Path(os.path.normpath(suite.resolve() / name)) for name in outs}
    # DVC compares nothing that its cache lacks.
    kept = {
        name
        for name, state in outs.items()
        if state == "not in cache" and named.get(places[name]) == md5_of(places[name])
    }
    return sorted(outs.keys() - kept)


def md5_of(path: Path) -> str:
    """The hash by which DVC knows a file or folder."""
    return md5_of_folder(path) if path.is_dir() else md5_of_file(path)


def outs_of(path: Path) -> dict[str, str | None]:
    """Path and md5 of everything that the stages of a `dvc.lock` make.

    Raises:
        MetricsError: it is missing or damaged.
    """
    stages = mapping(read_values(path).get("stages", {}), f"{path}: stages")
    found: dict[str, str | None] = {}
    for name, stage in stages.items():
        found |= outs_in(mapping(stage, f"{path}: stages.{name}"), path)
    return found


def outs_in(values: Mapping[str, Any], path: Path) -> dict[str, str | None]:
    """Path and md5 of what a stage of a `dvc.lock`, or a `.dvc` file, lists.

    Raises:
        MetricsError: it is no list of them.
    """
    outs = values.get("outs", [])
    try:
        return {str(out["path"]): out.get("md5") for out in outs}
    except (TypeError, KeyError, AttributeError) as error:
        raise MetricsError(f"{path}: outs: expected a list of mappings with a path, got {outs!r}: damaged") from error


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is a mapping.

    Raises:
        MetricsError: it is none.
    """
    if not isinstance(value, dict):
        raise MetricsError(f"{where}: expected a mapping, got {value!r}: compression-gate run writes it")
    return value


def suites_of(suite: Path, changed: Sequence[str], top: Path) -> set[Path]:
    """The suite, and those in folders of it that something changed in, as seen from the repository's root."""
    folders = {folder for path in changed for folder in Path(path).parents}
    return {suite.resolve().relative_to(top), *(folder for folder in folders if (top / folder / FILE_NAME).is_file())}


def acceptable(reason: str, outcome: Outcome) -> str:
    """The reason, if nothing stops the run but that what it is to be held against is lost.

    Raises:
        ParamsError: no reason, nothing to accept, or a check that fails by itself.
    """
    assert outcome.decision is not None  # a verdict was read
    stopping = outcome.decision.blocking
    other = [check.rule for check in stopping if not is_lost(check)]
    if not reason.strip() or not stopping or other:
        got = f"{', '.join(other)} too" if other else "no such check" if reason.strip() else "no reason"
        raise ParamsError(
            f"--accept: expected a reason, and a run that only a lost baseline or release stops, got {got}: it cannot "
            "accept anything else"
        )
    return reason.strip()


def is_lost(check: Check) -> bool:
    """Whether a check says that a recorded reference is lost, and nothing of this run's own."""
    return check.status == "error" and check.against in ("baseline", "release") and check.reason in LOST


def homes(suite: Path, top: Path) -> list[Path]:
    """The folders from the suite up to the repository's root, as seen from there: DVC may be set up in any."""
    inside = suite.resolve().relative_to(top)
    return [inside, *inside.parents]


def destination(remote: str | None, root: Path) -> str:
    """The git remote that the record goes to.

    Raises:
        ParamsError: there is none, or none of that name.
    """
    names = git.output(["remote"], root).split()
    chosen = remote or git.default_remote(root)
    if chosen is None or (remote is not None and remote not in names):
        raise ParamsError(
            f"--push: expected a git remote{f' {remote!r}' if remote else ''}, got {', '.join(names) or 'none'}: "
            "name one with --remote, or git remote add origin URL"
        )
    return chosen


def record_of(suite: Path, root: Path, commit: str, outcome: Outcome, release: str | None) -> RunRecord:
    """Put together what the run left behind. A run that crashed left a verdict and nothing that it speaks of.

    Raises:
        ParamsError: a release of a run that does not pass.
        MetricsError: a file is missing or damaged.
        StaleError: `dvc.lock` is of another candidate.
    """
    assert outcome.verdict is not None  # run() saw to that
    if release is not None and outcome.status != "pass":
        raise ParamsError(
            f"--release {release}: expected a run that passes under the policy release, got {outcome.status} "
            f"(exit code {outcome.exit_code}): compression-gate check --policy release"
        )
    facts = what_was_judged(suite, outcome.verdict.candidate.digest) if outcome.verdict.bindings else {}
    try:
        return RunRecord(
            suite=suite.resolve().relative_to(root.resolve()).as_posix(),
            commit=commit,
            recorded_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            status=outcome.status,
            exit_code=outcome.exit_code,
            policy=outcome.policy,
            package_version=__version__,
            gate=outcome.params.as_dict()["gate"],
            verdict=outcome.verdict,
            release=release,
            **facts,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MetricsError(f"{suite}: {where}: {first['msg']}: damaged: compression-gate run writes it") from error


def what_was_judged(suite: Path, digest: str | None) -> dict[str, Any]:
    """The fields of a record that come from the files that a verdict speaks of.

    Raises:
        MetricsError: a file is missing or damaged.
        StaleError: `dvc.lock` is of other files.
    """
    locked = outs_of(suite / LOCK)
    candidate = (suite / CANDIDATE).is_dir()
    found = {METRICS: md5_of_file(suite / METRICS)} if (suite / METRICS).is_file() else {}
    found |= {CANDIDATE: md5_of_folder(suite / CANDIDATE)} if candidate else {}
    for path, md5 in found.items():
        if locked.get(path.as_posix()) != md5:
            raise StaleError(
                f"{suite / LOCK}: {path}: expected md5 {md5}, got {locked.get(path.as_posix())}: compression-gate run"
            )
    data = DataRecord.read(suite / DATA)
    return {
        "candidate_digest": digest,
        "candidate_md5": found.get(CANDIDATE),
        "test_digest": data.splits["test"].digest if "test" in data.splits else None,
        "metrics": read_values(suite / METRICS),
        "lock": read_values(suite / LOCK),
    }


def read_values(path: Path) -> dict[str, Any]:
    """A file of JSON or YAML as plain values.

    Raises:
        MetricsError: it is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        plain = json.loads(json.dumps(values, allow_nan=False))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise MetricsError(f"{path}: cannot be read: {error}: compression-gate run writes it") from error
    return mapping(plain, str(path))


def agreed(record: RunRecord, runs: store.Runs) -> RunRecord:
    """The record as it may stand beside those that are there: a release stays one, and one name means one commit.

    Raises:
        ParamsError: the release's name is that of another commit.
        StaleError: this commit was released with another candidate.
    """
    for other in runs.records:
        if other.commit != record.commit and record.release and bare(record.release) == bare(other.release or ""):
            raise ParamsError(
                f"--release {record.release}: expected a new name, got that of {other.commit}: choose another"
            )
    before = runs.by_commit.get(record.commit)
    if before is None:
        return record
    same = before.candidate_digest == record.candidate_digest
    if before.release and not same:
        raise StaleError(
            f"{record.commit} was released as {before.release} with the candidate {before.candidate_digest}, this run "
            f"made {record.candidate_digest}: not recorded: find out why the same commit gives other bytes"
        )
    if not same:
        log.warning(
            "%s was recorded before as %s with another candidate (%s); that record stays in the history of %s",
            record.commit[:12],
            before.status,
            (before.candidate_digest or "none")[:12],
            store.REF,
        )
    kept = store.succeeding(before, record)
    if kept is before:
        what = f"released as {before.release}" if before.release else "accepted"
        log.warning("%s stays %s: this run, which is %s, is not recorded", record.commit[:12], what, record.status)
    return kept


def push_artifact(suite: Path) -> None:
    """Give the candidate to DVC's remote, where there is one.

    Raises:
        HistoryError: DVC could not.
    """
    if not has_remote(suite):
        log.info("DVC has no remote here: the baseline's artifact stays in this machine's cache")
        return
    done = dvc(["push", "--quiet", CANDIDATE.as_posix()], suite)
    if done.returncode != 0:
        raise HistoryError(f"dvc push {CANDIDATE}: {words_of(done)}: not recorded")


def words_of(done: CompletedProcess[str]) -> str:
    """How DVC ended, and the first line of what it said."""
    words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
    return f"ended with code {done.returncode}: {words[0]}"
