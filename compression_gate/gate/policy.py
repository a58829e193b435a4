"""Which facts block: the one place that turns checks into a status and an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compression_gate.errors import ParamsError
from compression_gate.records.params import policy_problems
from compression_gate.records.verdict import Check, Status
from compression_gate.registry import nearest

Code = Literal[0, 1, 2, 3, 4]
EXIT_CODES: dict[str, Code] = {"pass": 0, "fail": 1, "undecided": 3, "error": 4}
ORDER: tuple[Status, ...] = ("error", "fail", "undecided", "pass")
# For each policy, at which levels a check of that status blocks.
POLICIES: dict[str, dict[str, tuple[str, ...]]] = {
    "pull_request": {"fail": ("block",), "undecided": (), "error": ("block", "warn"), "waived": ()},
    "release": {"fail": ("block",), "undecided": ("block",), "error": ("block", "warn"), "waived": ("block",)},
}
DEFAULT_POLICY = "pull_request"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a policy makes of checks.

    Args:
        status: the worst of error > fail > undecided > pass over the blocking checks.
        blocking: the checks that stop it; warnings: those that do not pass and do not stop it.
    """

    policy: str
    status: Status
    exit_code: Code
    blocking: tuple[Check, ...]
    warnings: tuple[Check, ...]


def decide(checks: Iterable[Check], policy: str, overrides: Mapping[str, Any] | None = None) -> Decision:
    """Apply a policy.

    Raises:
        ParamsError: no such policy, or an override that is none.
    """
    table = table_of(policy, overrides or {})
    noticed = [check for check in checks if check.status != "pass"]
    blocking = tuple(check for check in noticed if check.level in table[check.status])
    found = {"fail" if check.status == "waived" else check.status for check in blocking}
    status = next(status for status in ORDER if status in found or status == "pass")
    return Decision(
        policy=policy,
        status=status,
        exit_code=EXIT_CODES[status],
        blocking=blocking,
        warnings=tuple(check for check in noticed if check not in blocking),
    )


def told(checks: Iterable[Check]) -> list[str]:
    """What does not block and should be known, one line a check."""
    return [
        f"{check.rule}{f' ({check.slice})' if check.slice else ''}: {check.status}"
        f"{f', {check.reason}' if check.reason else ''}{f': {check.message}' if check.message else ''}"
        for check in checks
    ]


def table_of(policy: str, overrides: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """A policy's table with the user's changes: ``{pull_request: {undecided: block}}``. Errors always block."""
    if policy not in POLICIES:
        raise ParamsError(f"--policy: expected one of {', '.join(POLICIES)}, got {policy!r}{nearest(policy, POLICIES)}")
    if problems := policy_problems(overrides):
        raise ParamsError(f"params.yaml: {'.'.join(('gate', 'policies', *path))}: {text}" for path, text in problems)
    changed = overrides.get(policy, {})
    return {
        status: levels if status not in changed else ("block",) if changed[status] == "block" else ()
        for status, levels in POLICIES[policy].items()
    }
