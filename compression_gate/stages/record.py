"""`record`: keep what this run was judged to be in the history, for later commits to be held against."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
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
from compression_gate.records.verdict import Check
from compression_gate.records.waivers import FILE_NAME as WAIVERS_FILE
from compression_gate.stages.check import Outcome, check

log = logging.getLogger("compression_gate")
LOCK, METRICS, DATA = Path("dvc.lock"), Path("reports/metrics.json"), Path("reports/data.json")
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
            not be.
        StaleError: the verdict does not speak of the files on disk.
        MetricsError: there is no verdict, or a record beside it is missing or damaged.
        HistoryError: the record cannot be written, the artifact or the record cannot be pushed.
    """
    root = git_root(suite)
    if root is None:
        raise ParamsError(f"{suite}: expected a git checkout, whose commit a run is recorded under, got none: git init")
    outcome = check(suite, "release" if release else DEFAULT_POLICY)
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
        store.push(target, root)
    return record


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
    paths = {suite.resolve(), *((suite / name).resolve() for name in sources)}
    inside = sorted(path.relative_to(top).as_posix() for path in paths if path.is_relative_to(top))
    answer = git.output(["status", "--porcelain", "--untracked-files=no", "--no-renames", "-z", "--", *inside], root)
    changed = [line[3:] for line in answer.split("\0") if line]
    own = {(folder / name).as_posix() for folder in suites_of(suite, changed, top) for name in WRITTEN}
    own |= {(folder / name).as_posix() for folder in homes(suite, top) for name in DVC_FILES}
    if dirty := [path for path in changed if not any(path == name or path.startswith(f"{name}/") for name in own)]:
        raise ParamsError(
            f"{root}: expected the files of commit {commit[:12]}, got changes in {', '.join(dirty)}: commit them, run "
            "again, then record"
        )
    if absent := untracked([*EDITED, *sources], suite, top):
        raise ParamsError(
            f"{root}: expected the commit {commit[:12]} to hold what the run was made of, got none of "
            f"{', '.join(absent)}: git add and commit them (what is large: dvc add), then record"
        )
    return commit


def untracked(names: Iterable[str], suite: Path, top: Path) -> list[str]:
    """Those of a suite's files that neither git holds nor DVC, as seen from the repository's root."""
    tracked = {top / name for name in git.output(["ls-files", "-z"], top).split("\0") if name}
    # Not resolved: DVC may have put a link into its cache there.
    paths = [Path(os.path.normpath(suite.resolve() / name)) for name in names if (suite / name).exists()]
    kept = {keeper for path in paths for keeper in keepers(path, top)}
    # A folder is tracked where it is a submodule.
    return sorted(path.relative_to(top).as_posix() for path in kept if tracked.isdisjoint((path, *path.parents)))


def keepers(path: Path, top: Path) -> list[Path]:
    """What git has to hold for a file: it, or the `.dvc` file by which DVC does; nothing for what a pipeline makes."""
    if not path.is_relative_to(top):
        return []
    folders = [folder for folder in path.parents if folder.is_relative_to(top)]
    places = [path, *folders[:-1]]
    if files := [pointer for place in places if (pointer := place.with_name(f"{place.name}.dvc")).is_file()]:
        return files[:1]
    locks = [(folder, read_values(folder / LOCK)) for folder in folders if (folder / LOCK).is_file()]
    made = {folder / name for folder, lock in locks for name in outs_of(lock)}
    return [] if made.intersection(places) else [path]


def outs_of(lock: dict[str, Any]) -> dict[str, str | None]:
    """Path and md5 of everything that the stages of a `dvc.lock` make."""
    outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])]
    return {out.get("path"): out.get("md5") for out in outs}


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
    lock = read_values(suite / LOCK)
    locked = outs_of(lock)
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
        "lock": lock,
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
    if not isinstance(plain, dict):
        raise MetricsError(f"{path}: expected a mapping, got {type(plain).__name__}: compression-gate run writes it")
    return plain


def agreed(record: RunRecord, runs: store.Runs) -> RunRecord:
    """The record as it may stand beside those that are there: a release stays one, and one name means one commit.

    Raises:
        ParamsError: the release's name is that of another commit.
        StaleError: this commit was released with another candidate.
    """
    for other in runs.records:
        if record.release and other.release == record.release and other.commit != record.commit:
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
    return record if record.release else record.model_copy(update={"release": before.release})


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
        words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
        raise HistoryError(f"dvc push {CANDIDATE}: ended with code {done.returncode}: {words[0]}: not recorded")
