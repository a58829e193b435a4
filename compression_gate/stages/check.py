"""`check`: does the verdict speak of the files on disk, and what does the policy make of it? No torch, no DVC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compression_gate.errors import MetricsError
from compression_gate.gate.binding import stale_reasons
from compression_gate.gate.policy import Code, Decision, decide
from compression_gate.records.params import Params, read_params
from compression_gate.records.verdict import Status, Verdict

VERDICT = Path("reports/verdict.json")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `check` found: the verdict if one can be read, and why it may not be believed."""

    suite: Path
    params: Params
    policy: str
    status: Status
    exit_code: Code
    verdict: Verdict | None = None
    decision: Decision | None = None
    problems: tuple[str, ...] = ()


def check(suite: Path, policy: str) -> Outcome:
    """Read the verdict, hold it against the disk, apply the policy.

    Raises:
        ParamsError: `params.yaml` or the policy is wrong.
    """
    params = read_params(suite)
    decide((), policy, params.gate.policies)
    try:
        verdict = Verdict.read(suite / VERDICT)
    except MetricsError as error:
        return Outcome(suite=suite, params=params, policy=policy, status="error", exit_code=4, problems=(str(error),))
    decision = decide(verdict.checks, policy, params.gate.policies)
    crashed = any(one.reason == "crashed" for one in verdict.checks)
    problems = () if crashed else tuple(stale_reasons(verdict, suite))
    return Outcome(
        suite=suite,
        params=params,
        policy=policy,
        status="error" if problems else decision.status,
        exit_code=4 if problems else decision.exit_code,
        verdict=verdict,
        decision=decision,
        problems=problems,
    )
