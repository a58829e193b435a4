"""`check`: does the verdict speak of the files on disk, and what does the policy make of it? No torch, no DVC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compression_gate import __version__
from compression_gate.errors import MetricsError
from compression_gate.gate.binding import LAID, stale_reasons
from compression_gate.gate.policy import Code, Decision, decide, decide_again, told
from compression_gate.gate.test_reuse import unjudged
from compression_gate.records.artifact import MODELS
from compression_gate.records.history import releases_of
from compression_gate.records.holdout import SUFFIX, Holdout
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.params import Params, read_params
from compression_gate.records.verdict import Check, Status, Verdict
from compression_gate.records.waivers import read_waivers, today_utc

VERDICT = Path("reports/verdict.json")
HOLDOUT = Path(".compression_gate/holdout/verdict.json")


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
        verdict, releases = Verdict.read(suite / VERDICT), releases_of(suite)
    except MetricsError as error:
        return Outcome(suite=suite, params=params, policy=policy, status="error", exit_code=4, problems=(str(error),))
    waivers = read_waivers(suite, params, today=today_utc(), releases=releases)
    withheld, notes = holdout_of(suite, verdict, params) if policy == "release" else ((), ())
    whole = verdict.model_copy(update={"checks": (*verdict.checks, *withheld), "warnings": (*verdict.warnings, *notes)})
    decision = decide_again(whole, policy, params.gate.policies, waivers)
    # An error that was reached without files to bind it to ends as it did; nothing on disk could make it a pass.
    unbound = decision.status == "error" and not verdict.bindings
    problems = () if unbound else (*edits_of(verdict, params), *stale_reasons(verdict, suite))
    status: Status = "error" if problems else decision.status
    code: Code = 4 if problems else decision.exit_code
    if unbound and verdict.exit_code in (2, 3):
        code = verdict.exit_code
    return Outcome(
        suite=suite,
        params=params,
        policy=policy,
        status=status,
        exit_code=code,
        verdict=seen(whole, decision, params).model_copy(update={"status": status, "exit_code": code}),
        decision=decision,
        problems=problems,
    )


def seen(verdict: Verdict, decision: Decision, params: Params) -> Verdict:
    """The verdict under the policy of this call: its warnings are what does not block here."""
    old = set(told(decide_again(verdict, verdict.policy, params.gate.policies, verdict.waivers).warnings))
    rest = [text for text in verdict.warnings if text not in old]
    return verdict.model_copy(
        update={
            "policy": decision.policy,
            "checks": decision.checks,
            "applied": decision.applied,
            "warnings": (*told(decision.warnings), *rest),
        }
    )


def holdout_of(suite: Path, verdict: Verdict, params: Params) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """The checks on the holdout that are of what this verdict is of, and what a release should know of the others.

    Only `run --policy release` asks the holdout, so that it may be missing; it may not be of something else.
    """
    path = suite / HOLDOUT
    if not path.parent.exists():
        return (), ("no holdout was judged: `compression-gate run --policy release` does so where the data have one",)
    if not path.exists():
        return (unheld("the holdout was begun and not finished"),), ()
    try:
        found = Holdout.read(path)
    except MetricsError as error:
        return (unheld(str(error)),), ()
    same = {
        "models": found.models == {name: verdict.bindings.get(name) for name in (*MODELS, *LAID)},
        "params": found.params_digest == verdict.params_digest,
        "sources": found.sources_digest == verdict.sources_digest,
        "version of this package": found.package_version == __version__,
    }
    if other := [name for name, is_same in same.items() if not is_same]:
        return (unheld(f"the holdout was judged with other {', '.join(other)}"),), ()
    asked = {name + SUFFIX for name, rule in params.gate.rules.items() if kind_of(rule.metric) in QUALITY}
    if unasked := asked - {one.rule for one in found.checks}:
        return (unheld(f"the holdout was not asked of {', '.join(sorted(unasked))}"),), ()
    return found.checks, ()


def unheld(message: str) -> Check:
    """The check of a holdout that cannot be believed."""
    mending = "judge it anew: `compression-gate run --policy release`"
    return Check(rule="holdout", metric="holdout", status="error", reason="stale", message=message, mending=mending)


def edits_of(verdict: Verdict, params: Params) -> list[str]:
    """What in a verdict contradicts itself or the rules, as `gate` never writes it."""
    if params.digest != verdict.params_digest:
        return []  # other rules: stale, and told as that
    problems = []
    decision = decide_again(verdict, verdict.policy, params.gate.policies, verdict.waivers)
    written, follows = (verdict.status, verdict.exit_code), (decision.status, decision.exit_code)
    if written != follows:
        problems.append(f"{VERDICT}: its checks make {follows}, it says {written}: it was edited")
    problems += [
        f"{VERDICT}: expected a check of gate.rules.{name}, got none: it was edited"
        for name in unjudged(params.gate, verdict.checks)
    ]
    return problems
