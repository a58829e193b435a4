"""`gate`: read every record, judge, write the verdict. What is missing or broken becomes an error in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from compression_gate import __version__
from compression_gate.errors import CompressionGateError, MetricsError, StaleError
from compression_gate.gate.binding import (
    NO_SOURCES,
    Held,
    held,
    holds_model,
    known_sources,
    sources_digest,
    sources_of,
)
from compression_gate.gate.evidence import MENDING, UnjudgeableError, recorded_commit
from compression_gate.gate.facts import PREDICTIONS, Facts, Outcomes
from compression_gate.gate.judge import judge, unseen_limits
from compression_gate.gate.policy import DEFAULT_POLICY, decide, settled, told
from compression_gate.gate.provenance import other_params
from compression_gate.gate.resampling import SEED
from compression_gate.gate.test_reuse import level, reuse_of, spent, uses_of, withheld
from compression_gate.gate.trade_off import trade_off
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, digest_of_file, write_text
from compression_gate.records.history import History
from compression_gate.records.metrics import Benchmark, CompressionRecord, DataRecord, Evaluation
from compression_gate.records.params import GateParams, Params, read_params
from compression_gate.records.state_files import HISTORY, MACHINE, REFERENCES, SOURCES
from compression_gate.records.verdict import PIPELINE, Check, FormerRules, Subject, TestReuse, Verdict
from compression_gate.records.waivers import Waiver, read_waivers, today_utc
from compression_gate.tasks.sources import head_commit

log = logging.getLogger("compression_gate")
VERDICT, METRICS = Path("reports/verdict.json"), Path("reports/metrics.json")
JUDGED = Path(".compression_gate/judged.json")


def run(suite: Path, policy: str = DEFAULT_POLICY) -> Verdict:
    """Judge the suite's records and write `reports/verdict.json`.

    Raises:
        ParamsError: `params.yaml` or `waivers.yaml` is wrong.

    Nothing else raises: what cannot be read is an error check.
    """
    params = read_params(suite)
    before = held(suite)
    facts = read_facts(suite, params)
    waivers = read_waivers(suite, params, today=today_utc(), releases=facts.history.releases)
    if changed := held(suite).changed_since(before):
        text = f"{', '.join(changed)}: expected the files that the judging began with, got others: run again"
        facts = replace(facts, missing={**facts.missing, "files": StaleError(text)})
    reuse = reuse_of(
        params.gate, test_digest_of(facts), facts.history, judged_here(suite, facts), digest_of_role(facts)
    )
    verdict = verdict_of(facts, suite, before, policy, waivers, reuse)
    remember(suite, facts)
    write_text(suite / METRICS, json.dumps(metrics_of(facts, hidden=reuse.mode == "adaptive"), indent=2) + "\n")
    verdict.write(suite / VERDICT)
    return verdict


def test_digest_of(facts: Facts) -> str | None:
    """The digest of the test split, where data.json has one."""
    return facts.data.splits["test"].digest if facts.data and "test" in facts.data.splits else None


def digest_of_role(facts: Facts, role: str = "candidate") -> str | None:
    """The digest of a model, where there is one."""
    return facts.artifacts[role].digest if role in facts.artifacts else None


def judged_here(suite: Path, facts: Facts) -> tuple[str, ...]:
    """Candidates that this checkout has judged on the test data before; none where nobody wrote that down."""
    return read_judged(suite).get(test_digest_of(facts) or "", ())


def read_judged(suite: Path) -> dict[str, tuple[str, ...]]:
    """`.compression_gate/judged.json`: test digest -> digests of candidates; a damaged file counts for nothing."""
    try:
        found = json.loads((suite / JUDGED).read_text(encoding="utf-8"))
        return {str(digest): tuple(map(str, names)) for digest, names in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("%s: damaged (%s): uses of the test data are counted from here anew", JUDGED, error)
        return {}


def remember(suite: Path, facts: Facts) -> None:
    """Add this candidate to those that the test data were asked about."""
    test, candidate = test_digest_of(facts), digest_of_role(facts)
    known = read_judged(suite)
    if test is None or candidate is None or candidate in known.get(test, ()):
        return
    write_text(suite / JUDGED, json.dumps({**known, test: [*known.get(test, ()), candidate]}, indent=2) + "\n")


def metrics_of(facts: Facts, *, hidden: bool = False) -> dict[str, dict[str, float | None]]:
    """Each model's figures and nothing else: what `dvc metrics show` and `diff` read; costs alone where hidden."""
    figures: dict[str, dict[str, float | None]] = {}
    for role in facts.artifacts:
        quality = facts.evaluation.models.get(role) if facts.evaluation and not hidden else None
        cost = facts.benchmark.models.get(role) if facts.benchmark else None
        figures[role] = {
            **{name: value.value for name, value in (quality.metrics if quality else {}).items()},
            **{name: value.value for name, value in (cost.figures if cost else {}).items()},
        }
    return figures


def judged_by(facts: Facts, policy: str, reuse: TestReuse) -> list[Check]:
    """The checks of a set of rules, their figures withheld where the test data may tell no more than an answer."""
    checks = [*judge(facts), *other_params(facts)]
    if reuse.mode == "adaptive":
        checks = withheld(settled(checks, policy))
    return [*checks, *spent(reuse)]


def former_of(facts: Facts, policy: str, reuse: TestReuse) -> FormerRules | None:
    """The same facts judged by the baseline's rules; None where those are this commit's, or there is no baseline.

    Raises:
        UnjudgeableError: the rules on record are none that this version reads.
    """
    history = facts.history
    if history.baseline_gate is None or history.baseline_commit is None:
        return None
    try:
        gate = GateParams.model_validate_json(json.dumps(history.baseline_gate))
    except ValidationError as error:
        raise unreadable(history.baseline_commit, error.errors()[0]["msg"]) from error
    if odd := [name for name, rule in gate.rules.items() if len(rule.limits) != 1]:
        raise unreadable(history.baseline_commit, f"{odd[0]} has not one limit")
    if gate == facts.params.gate:
        return None
    old = replace(facts, params=facts.params.model_copy(update={"gate": gate}), alpha=level(gate))
    # What they allow of uses is theirs too; what has to stay hidden is this commit's affair.
    checks = judged_by(old, policy, reuse.model_copy(update={"uses": uses_of(gate)}))
    return FormerRules(commit=history.baseline_commit, gate=history.baseline_gate, checks=tuple(checks))


def unreadable(commit: str, why: str) -> UnjudgeableError:
    """Rules on record that cannot be judged by."""
    return UnjudgeableError(
        "not_comparable",
        f"the rules of {commit[:10]} cannot be read: {why}",
        mending="record a run of the target branch with this version",
    )


def verdict_of(
    facts: Facts,
    suite: Path,
    bound: Held,
    policy: str,
    waivers: tuple[Waiver, ...],
    reuse: TestReuse,
) -> Verdict:
    """Put checks and identities together under a policy; `check` may apply another."""
    former, checks = None, judged_by(facts, policy, reuse)
    try:
        former = former_of(facts, policy, reuse)
    except UnjudgeableError as error:
        checks.append(unseen_limits(error, facts.params.gate))
    decision = decide(checks, policy, facts.params.gate.policies, waivers, former)
    return Verdict(
        status=decision.status,
        exit_code=decision.exit_code,
        policy=decision.policy,
        checks=decision.checks,
        warnings=(
            *told(decision.warnings),
            *facts.history.notices,
            *(() if (suite / SOURCES).exists() else (NO_SOURCES,)),
            *(facts.compression.warnings if facts.compression else ()),
        ),
        **{
            role: subject_of(role, facts, head_commit(suite))
            for role in ("candidate", "reference", "baseline", "release")
        },
        params_digest=facts.params.digest,
        sources_digest=sources_digest(bound.sources),
        package_version=__version__,
        bindings=bound.bindings,
        sources=bound.sources,
        environment=facts.benchmark.environment if facts.benchmark else {},
        waivers=waivers,
        former=former,
        test_reuse=reuse,
        trade_off=None if reuse.mode == "adaptive" else trade_off(facts),
        applied=decision.applied,
        seed=SEED,
    )


def subject_of(role: str, facts: Facts, head: str | None) -> Subject:
    """A model's identity, or why there is none. This run's own models are of the commit checked out."""
    if role in facts.artifacts:
        known = {
            "reference": head,
            "candidate": head,
            "baseline": facts.history.baseline_commit,
            "release": facts.history.release_commit,
        }
        return Subject(digest=facts.artifacts[role].digest, commit=facts.artifacts[role].commit or known[role])
    return Subject(absent=facts.absent.get(role) or str(facts.missing.get(role, "missing")))


def read_facts(suite: Path, params: Params) -> Facts:
    """Read what the stages wrote; what cannot be read is told in ``missing``."""
    missing: dict[str, CompressionGateError] = {}

    def read(name: str, kind: Callable[[Path], Any], path: Path) -> Any:
        try:
            return kind(path)
        except CompressionGateError as error:
            missing[name] = error
            return None

    reports = suite / "reports"
    artifacts = {role: read(role, Artifact.open, suite / "models" / role) for role in ("reference", "candidate")}
    laid_absent: dict[str, str] = {}
    for role in ("baseline", "release"):
        folder = suite / REFERENCES / role
        if holds_model(folder):
            artifacts[role] = read(role, Artifact.open, folder)
        elif (folder / "absent").is_file():
            laid_absent[role] = (folder / "absent").read_text(encoding="utf-8", errors="replace").strip()
    read("sources", sources_of, suite)
    read("timings", readable_samples, reports / "timings.npz")
    evaluation = read("evaluation", Evaluation.read, reports / "evaluation.json")
    facts: Mapping[str, Any] = {
        "data": read("data", data_of, reports / "data.json"),
        "compression": read("compression", CompressionRecord.read, reports / "compression.json"),
        "evaluation": evaluation,
        "outcomes": read("predictions", Outcomes.read, suite / PREDICTIONS),
        "benchmark": read("benchmark", Benchmark.read, reports / "benchmark.json"),
    }
    if (
        evaluation
        and "predictions" not in missing
        and digest_of_file(suite / PREDICTIONS) != evaluation.predictions_digest
    ):
        missing["predictions"] = StaleError(
            f"{PREDICTIONS}: expected the files that evaluation.json speaks of, got others: run again"
        )
    laid = [role for role in ("baseline", "release") if role in artifacts]
    required = params.gate.policies.get("history") == "required"
    history = read("history", lambda path: history_of(path, laid, required=required), suite / HISTORY)
    return Facts(
        params=params,
        laid_absent=laid_absent,
        alpha=level(params.gate),
        history=history or History(),
        machine_digest=machine_of(suite),
        artifacts={role: one for role, one in artifacts.items() if one},
        missing=missing,
        **facts,
    )


def data_of(path: Path) -> DataRecord:
    """The data as they were read, the test split among them.

    Raises:
        MetricsError: no record, a damaged one, or one that says nothing of the test split.
    """
    record = DataRecord.read(path)
    if "test" not in record.splits:
        raise MetricsError(f"{path}: splits: expected test, got {', '.join(record.splits) or 'none'}: run again")
    return record


def history_of(path: Path, laid: Sequence[str], *, required: bool) -> History:
    """What `run` found in the history; empty where a stage is called by hand and nothing needs it.

    Args:
        path: of its file. laid: those of baseline and release that lie here. required: whether the params ask for it.

    Raises:
        MetricsError: it is missing from beside a baseline, damaged, or says nothing of one that lies here.
    """
    if not (laid or required or path.exists()):
        return History()
    history = History.read(path)
    if unknown := [role for role in laid if recorded_commit(role, history) is None]:
        raise MetricsError(f"{path}: expected the commit of the {unknown[0]} that lies beside it, got none: run again")
    return history


def readable_samples(path: Path) -> list[str]:
    """The names of the samples behind the benchmark's figures.

    Raises:
        MetricsError: the file is missing or cut short.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return list(file.files)
    except FileNotFoundError as error:
        raise MetricsError(f"{path}: missing: run benchmark again") from error
    except Exception as error:  # a cut zip fails with errors of several libraries
        raise MetricsError(f"{path}: damaged ({type(error).__name__}: {error}): run benchmark again") from error


def machine_of(suite: Path) -> str | None:
    """The digest of this machine as `run` wrote it down; None where a stage is called by hand."""
    try:
        return digest_of(json.loads((suite / MACHINE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "damaged"


def crashed_verdict(suite: Path, params: Params, failure: Mapping[str, Any]) -> Verdict:
    """Write the verdict of a run that did not get this far: an error that names the stage and what it said."""
    code: Literal[2, 3, 4] = failure["exit_code"] if failure["exit_code"] in (2, 3) else 4
    reason = failure.get("reason", "crashed")
    check = Check(
        rule=f"stage {failure['stage']}",
        metric=PIPELINE,
        status="error",
        reason=reason,
        message=str(failure["message"]),
        mending=MENDING[reason],
    )
    sources = known_sources(suite)
    verdict = Verdict(
        status="error",
        exit_code=code,
        policy=DEFAULT_POLICY,
        checks=(check,),
        params_digest=params.digest,
        sources_digest=sources_digest(sources),
        package_version=__version__,
        sources=sources,
    )
    verdict.write(suite / VERDICT)
    return verdict
