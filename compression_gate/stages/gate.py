"""`gate`: read every record, judge, write the verdict. What is missing or broken becomes an error in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from compression_gate import __version__
from compression_gate.errors import CompressionGateError
from compression_gate.gate.binding import bindings_of, holds_model, sources_digest, sources_of
from compression_gate.gate.evidence import MENDING
from compression_gate.gate.facts import PREDICTIONS, Facts, Outcomes
from compression_gate.gate.judge import judge
from compression_gate.gate.policy import DEFAULT_POLICY, decide, told
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, digest_of_file, write_text
from compression_gate.records.metrics import Benchmark, CompressionRecord, DataRecord, Evaluation
from compression_gate.records.params import Params, read_params
from compression_gate.records.verdict import PIPELINE, Check, Subject, Verdict
from compression_gate.tasks.sources import head_commit

VERDICT, METRICS = Path("reports/verdict.json"), Path("reports/metrics.json")
REFERENCES = Path(".compression_gate/references")
MACHINE = Path(".compression_gate/machine.json")


def run(suite: Path, policy: str = DEFAULT_POLICY) -> Verdict:
    """Judge the suite's records and write `reports/verdict.json`.

    Raises:
        ParamsError: `params.yaml` is wrong. Nothing else raises: what cannot be read is an error check.
    """
    params = read_params(suite)
    facts = read_facts(suite, params)
    checks = judge(facts)
    try:
        bindings = bindings_of(suite)
    except CompressionGateError:
        bindings = {}  # already an error check: the artifact's own record said so
    verdict = verdict_of(checks, facts, suite, bindings, policy)
    write_text(suite / METRICS, json.dumps(metrics_of(facts), indent=2) + "\n")
    verdict.write(suite / VERDICT)
    return verdict


def metrics_of(facts: Facts) -> dict[str, dict[str, float | None]]:
    """Each model's figures and nothing else: what `dvc metrics show` and `diff` read."""
    figures: dict[str, dict[str, float | None]] = {}
    for role in facts.artifacts:
        quality = facts.evaluation.models.get(role) if facts.evaluation else None
        cost = facts.benchmark.models.get(role) if facts.benchmark else None
        figures[role] = {
            **{name: value.value for name, value in (quality.metrics if quality else {}).items()},
            **{name: value.value for name, value in (cost.figures if cost else {}).items()},
        }
    return figures


def verdict_of(checks: list[Check], facts: Facts, suite: Path, bindings: dict[str, str], policy: str) -> Verdict:
    """Put checks and identities together under a policy; `check` may apply another."""
    decision = decide(checks, policy, facts.params.gate.policies)
    sources = {} if "sources" in facts.missing else sources_of(suite)
    return Verdict(
        status=decision.status,
        exit_code=decision.exit_code,
        policy=decision.policy,
        checks=tuple(checks),
        warnings=(*told(decision.warnings), *(facts.compression.warnings if facts.compression else ())),
        **{
            role: subject_of(role, facts, head_commit(suite))
            for role in ("candidate", "reference", "baseline", "release")
        },
        params_digest=facts.params.digest,
        sources_digest=sources_digest(sources),
        package_version=__version__,
        bindings=bindings,
        sources=sources,
        environment=facts.benchmark.environment if facts.benchmark else {},
    )


def subject_of(role: str, facts: Facts, head: str | None) -> Subject:
    """A model's identity, or why there is none. This run's own models are of the commit checked out."""
    if role in facts.artifacts:
        own = head if role in ("reference", "candidate") else None
        return Subject(digest=facts.artifacts[role].digest, commit=facts.artifacts[role].commit or own)
    return Subject(absent=facts.absent.get(role) or facts.missing.get(role, "missing"))


def read_facts(suite: Path, params: Params) -> Facts:
    """Read what the stages wrote; what cannot be read is told in ``missing``."""
    missing: dict[str, str] = {}

    def read(name: str, kind: Callable[[Path], Any], path: Path) -> Any:
        try:
            return kind(path)
        except CompressionGateError as error:
            missing[name] = str(error)
            return None

    reports = suite / "reports"
    artifacts = {role: read(role, Artifact.open, suite / "models" / role) for role in ("reference", "candidate")}
    for role in ("baseline", "release"):
        folder = suite / REFERENCES / role
        if holds_model(folder):
            artifacts[role] = read(role, Artifact.open, folder)
    read("sources", sources_of, suite)
    if not (reports / "timings.npz").is_file():
        missing["timings"] = f"{reports / 'timings.npz'}: missing: run benchmark again"
    evaluation = read("evaluation", Evaluation.read, reports / "evaluation.json")
    facts: Mapping[str, Any] = {
        "data": read("data", DataRecord.read, reports / "data.json"),
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
        missing["predictions"] = (
            f"{PREDICTIONS}: expected the files that evaluation.json speaks of, got others: run again"
        )
    return Facts(
        params=params,
        machine_digest=machine_of(suite),
        artifacts={role: one for role, one in artifacts.items() if one},
        missing=missing,
        **facts,
    )


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
    check = Check(
        rule=f"stage {failure['stage']}",
        metric=PIPELINE,
        status="error",
        reason="crashed",
        message=str(failure["message"]),
        mending=MENDING["crashed"],
    )
    try:
        sources = sources_of(suite)
    except CompressionGateError:
        sources = {}
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
