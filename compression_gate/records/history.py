"""What is known of earlier runs: one record a run in the history, and what of it a gate may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compression_gate.records.base import Record
from compression_gate.records.state_files import HISTORY
from compression_gate.records.verdict import Status, Verdict

# Why a reference is not there where nothing was lost: rules against it are told and do not block.
NO_RECORD = "no run of the target branch has been recorded yet"
NOTHING_ACCEPTED = "no recorded run of another commit has passed yet"
NO_RELEASE = "no release of another commit has been recorded yet"


class RunRecord(Record):
    """One recorded run of a suite: what was accepted, from which commit, and where its bytes lie.

    Args:
        suite: the suite's folder as seen from the repository's root, ``.`` for the root itself.
        recorded_at: UTC, ISO 8601.
        candidate_md5: DVC's hash of ``models/candidate``, by which its cache and remotes hold the artifact.
        test_digest: of the test split's data; gate: the gate section that judged, defaults filled in.
        metrics: each model's figures, as `reports/metrics.json` has them; lock: the content of `dvc.lock`.
        release: the name under which this run was released.
        accepted: why this run is a baseline although it could not be held against one: a person's word, where the
            history was rewritten or an artifact is gone for good.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    suite: str
    commit: str
    recorded_at: str
    status: Status
    exit_code: int
    policy: str
    package_version: str
    candidate_digest: str | None = None
    candidate_md5: str | None = None
    test_digest: str | None = None
    gate: dict[str, Any] = {}
    metrics: dict[str, dict[str, float | None]] = {}
    lock: dict[str, Any] = {}
    verdict: Verdict | None = None
    release: str | None = None
    accepted: str | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether later commits may be held against it."""
        return self.status == "pass" or self.accepted is not None


class History(Record):
    """`.compression_gate/history.json`: what `run` found in the history, for the gate to read.

    Args:
        baseline_commit: the commit of the baseline; baseline_gate: its gate section, None where there is no baseline.
        release_commit, release_name: those of the last release.
        run_digests: baseline, release -> SHA-256 of its ``run.json``; DVC does not look at those files themselves.
        judged: test digest -> digests of the candidates that were judged on it, oldest first.
        releases: names of the releases recorded.
        notices: what a reader should know of how the references were found.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    baseline_commit: str | None = None
    baseline_gate: dict[str, Any] | None = None
    release_commit: str | None = None
    release_name: str | None = None
    run_digests: dict[str, str] = {}
    judged: dict[str, tuple[str, ...]] = {}
    releases: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def releases_of(suite: Path) -> tuple[str, ...]:
    """Names of the releases on record, with which waivers may end; none where `run` was never called.

    Raises:
        MetricsError: the history is damaged.
    """
    return History.read(suite / HISTORY).releases if (suite / HISTORY).exists() else ()
