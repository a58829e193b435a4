"""Which facts block: the one place that turns checks into a status and an exit code.

Three things depend on the policy and on the day, and are applied here and nowhere else: the correction for the number
of checks, the waivers, and the table of what blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compression_gate.errors import ParamsError
from compression_gate.gate.limits import LEAST_POWER
from compression_gate.gate.multiplicity import benjamini_hochberg, holm
from compression_gate.gate.waivers import covering
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.policies import policy_problems
from compression_gate.records.rules import Rule
from compression_gate.records.verdict import Check, CheckStatus, FormerRules, Level, Status, Verdict
from compression_gate.records.waivers import Waiver
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
FALSE_DISCOVERIES = 0.1
FALSE_ALARM_OF_TIMES = 0.01
UNDERPOWERED = "see the three ways out in the message"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a policy makes of checks.

    Args:
        status: the worst of error > fail > undecided > pass over the blocking checks.
        checks: as the policy settles them. blocking: those that stop it; warnings: those that neither pass nor stop it.
        applied: the policy in words, line by line.
    """

    policy: str
    status: Status
    exit_code: Code
    checks: tuple[Check, ...]
    blocking: tuple[Check, ...]
    warnings: tuple[Check, ...]
    applied: tuple[str, ...] = ()


def decide(
    checks: Iterable[Check],
    policy: str,
    overrides: Mapping[str, Any] | None = None,
    waivers: Sequence[Waiver] = (),
    former: FormerRules | None = None,
) -> Decision:
    """Apply a policy to the facts.

    Args:
        checks: as judged, each at its own level. policy: ``pull_request`` or ``release``.
        overrides: `gate.policies` of the params. waivers: those that live today.
        former: the same run judged by the baseline's rules.

    Raises:
        ParamsError: no such policy, or an override that is none.
    """
    table = table_of(policy, overrides or {})
    checks = tuple(waived(check, waivers) for check in settled(checks, policy))
    if former is not None:
        checks = (*checks, *self_loosened(checks, policy, overrides or {}, former, waivers))
    stops = [blocks(check, table) for check in checks]
    blocking = tuple(check for check, stop in zip(checks, stops, strict=True) if stop)
    found = {"fail" if check.status == "waived" else check.status for check in blocking}
    status = next(status for status in ORDER if status in found or status == "pass")
    return Decision(
        policy=policy,
        status=status,
        exit_code=EXIT_CODES[status],
        checks=checks,
        blocking=blocking,
        warnings=tuple(check for check, stop in zip(checks, stops, strict=True) if check.status != "pass" and not stop),
        applied=(*described(policy, table, overrides or {}), *families(checks, policy)),
    )


def decide_again(
    verdict: Verdict, policy: str, overrides: Mapping[str, Any] | None, waivers: Sequence[Waiver]
) -> Decision:
    """Apply a policy to a verdict's facts, whatever policy it was written under."""
    facts = [as_judged(check) for check in verdict.checks if check.metric != LOOSENING]
    return decide(facts, policy, overrides, waivers, verdict.former)


def as_judged(check: Check) -> Check:
    """A check as it was before a waiver covered it."""
    return check.model_copy(update={"status": "fail", "waiver": None}) if check.status == "waived" else check


def blocks(check: Check, table: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a check stops it; a waiver that was given for a release does not."""
    if check.metric == LOOSENING:
        return check.level == "block"  # whatever this change makes of the table: it is what the check speaks of
    if check.status == "pass" or (check.status == "waived" and check.waiver and check.waiver.release):
        return False
    return check.level in table[check.status]


def settled(checks: Iterable[Check], policy: str) -> tuple[Check, ...]:
    """Every check with the status it has under a policy, corrected for how many questions were asked at once."""
    checks = tuple(checks)
    broken = proven_broken(checks, policy)
    return tuple(settled_check(check, broken=number in broken) for number, check in enumerate(checks))


def proven_broken(checks: Sequence[Check], policy: str) -> set[int]:
    """Which checks prove that their limit is broken.

    In a pull request any alarm blocks, so that the chance of any false one is held: all blocking qualities are one
    family (Holm), each blocking time in pairs has its share of 1 %, and slices that only warn may be wrong in 10 %
    (Benjamini and Hochberg). A release needs every limit proven, which many checks make harder and not easier: each
    stands alone. What has no p-value stays as it was judged.
    """
    asked = [number for number, check in enumerate(checks) if is_open(check)]
    if policy != "pull_request":
        return {number for number in asked if proven_at(checks[number], checks[number].alpha or 0.0)}
    blocking = [number for number in asked if family_of(checks[number]) == "holm"]
    slices = [number for number in asked if family_of(checks[number]) == "slices"]
    times = [number for number in asked if family_of(checks[number]) == "times"]
    rest = [number for number in asked if family_of(checks[number]) is None]
    alpha = min((checks[number].alpha or 0.0 for number in blocking), default=0.0)
    return {
        *picked(blocking, holm([checks[number].p_value or 0.0 for number in blocking], alpha)),
        *picked(slices, benjamini_hochberg([checks[number].p_value or 0.0 for number in slices], FALSE_DISCOVERIES)),
        *(number for number in times if proven_at(checks[number], FALSE_ALARM_OF_TIMES / len(times))),
        *(number for number in rest if proven_at(checks[number], checks[number].alpha or 0.0)),
    }


def is_open(check: Check) -> bool:
    """Whether a check has a p-value that may prove its limit broken; one judged on its observed value has no say."""
    return check.p_value is not None and check.proven and (check.status != "error" or check.reason == "underpowered")


def proven_at(check: Check, alpha: float) -> bool:
    """Whether a check's p-value is small enough."""
    return check.p_value is not None and check.p_value <= alpha


def alpha_of_times(rules: Iterable[Rule]) -> float:
    """How often one decision on times may be a false alarm, so that all that block hold their share together."""
    blocking = sum(rule.level == "block" and kind_of(rule.metric) == "timed" for rule in rules)
    return FALSE_ALARM_OF_TIMES / max(blocking, 1)


def picked(numbers: Sequence[int], chosen: Sequence[bool]) -> list[int]:
    """Those that were chosen."""
    return [number for number, yes in zip(numbers, chosen, strict=True) if yes]


def family_of(check: Check) -> str | None:
    """The family a check is corrected with in a pull request; None where it stands alone."""
    kind = kind_of(check.metric)
    if kind in QUALITY and check.level == "block":
        return "holm"
    if kind in QUALITY and check.level == "warn" and check.slice is not None:
        return "slices"
    return "times" if kind == "timed" and check.level == "block" else None


def settled_check(check: Check, *, broken: bool) -> Check:
    """One check's status from its facts: inside by its own bound, or proven broken, or neither."""
    if not is_open(check) or check.status == "pass":
        return check
    status: CheckStatus = "fail" if broken else "undecided"
    weak = check.power is not None and check.power < LEAST_POWER and check.level == "block"
    if status == "undecided" and weak:
        return check.model_copy(update={"status": "error", "reason": "underpowered", "mending": UNDERPOWERED})
    return check.model_copy(update={"status": status, "reason": None, "mending": ""})


def waived(check: Check, waivers: Sequence[Waiver]) -> Check:
    """A failing check that a waiver covers; anything else as it is."""
    waiver = covering(check, waivers)
    return check.model_copy(update={"status": "waived", "waiver": waiver}) if waiver else check


LOOSENED = "limits"


def self_loosened(
    checks: Sequence[Check],
    policy: str,
    overrides: Mapping[str, Any],
    former: FormerRules,
    waivers: Sequence[Waiver],
) -> tuple[Check, ...]:
    """One check that fails if this change passes only because it loosened its own limits.

    It blocks where the baseline's revision or this one says so: a change cannot vote itself out of it.
    """
    old_overrides = former.gate.get("policies") or {}
    old_table = table_of(policy, {} if policy_problems(old_overrides) else old_overrides)
    old = [waived(check, waivers) for check in settled(former.checks, policy)]
    stopped = [check for check in old if blocks(check, old_table)]
    table = table_of(policy, overrides)
    still = {(check.metric, check.slice, check.against) for check in checks if blocks(check, table)}
    let_through = [check for check in stopped if (check.metric, check.slice, check.against) not in still]
    if not let_through:
        return ()
    names = sorted({f"{check.rule} ({check.limit})" for check in let_through})
    level: Level = "block" if "block" in (overrides.get(LOOSENING), old_overrides.get(LOOSENING)) else "warn"
    return (
        Check(
            rule=LOOSENED,
            metric=LOOSENING,
            against="baseline",
            level=level,
            status="fail",
            message=f"passes only because this change loosened {', '.join(names)}, as the baseline "
            f"{former.commit[:10]} has it",
            mending="put the limits back, or let somebody else agree to them",
        ),
    )


LOOSENING = "self_loosening"


def told(checks: Iterable[Check]) -> list[str]:
    """What does not block and should be known, one line a check."""
    return [
        f"{check.rule}{f' ({check.slice})' if check.slice else ''}: {check.status}"
        f"{f', {check.reason}' if check.reason else ''}{f': {check.message}' if check.message else ''}"
        for check in checks
    ]


def described(policy: str, table: Mapping[str, tuple[str, ...]], overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """A policy in words, with what the user changed."""
    blocking = [status for status, levels in table.items() if "block" in levels]
    quiet = [status for status in table if status not in blocking]
    changed = ", ".join(f"{status}: {action}" for status, action in (overrides.get(policy) or {}).items())
    parts = [f"blocks on {', '.join(blocking)}"]
    parts += [f"warns of {', '.join(quiet)}"] if quiet else []
    parts += [f"changed in params.yaml: {changed}"] if changed else []
    return (f"policy {policy}: {'; '.join(parts)}",)


def families(checks: Sequence[Check], policy: str) -> tuple[str, ...]:
    """How the number of checks was corrected for, in words."""
    asked = [check for check in checks if is_open(check)]
    alone = sum(is_unpaired_time(check) for check in checks)
    own = (f"blocking times without pairs: {alone}; each by its own intervals of 95 %, uncorrected",) if alone else ()
    if policy != "pull_request":
        return (*((f"{len(asked)} statistical checks, each at its full level",) if asked else ()), *own)
    counts = {name: sum(family_of(check) == name for check in asked) for name in ("holm", "times", "slices")}
    words = {
        "holm": "blocking quality checks: {}; any false alarm at most {} in all (Holm)",
        "times": "blocking times: {}; each at 1 % over their number",
        "slices": "slices that warn: {}; at most 10 % of the alarms false (Benjamini–Hochberg)",
    }
    alpha = min((check.alpha or 0.0 for check in asked if family_of(check) == "holm"), default=0.0)
    return (*(words[name].format(count, f"{alpha:.3g}") for name, count in counts.items() if count), *own)


def is_unpaired_time(check: Check) -> bool:
    """Whether a blocking time was judged by its own interval, which leaves no p-value to correct."""
    return family_of(check) == "times" and check.p_value is None and check.alpha is not None


def table_of(policy: str, overrides: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """A policy's table with the user's changes: ``{pull_request: {undecided: block}}``. Errors always block."""
    if policy not in POLICIES:
        raise ParamsError(f"--policy: expected one of {', '.join(POLICIES)}, got {policy!r}{nearest(policy, POLICIES)}")
    if problems := policy_problems(overrides):
        raise ParamsError(f"params.yaml: {'.'.join(('gate', 'policies', *path))}: {text}" for path, text in problems)
    changed = overrides.get(policy) or {}
    return {
        status: levels if status not in changed else ("block",) if changed[status] == "block" else ()
        for status, levels in POLICIES[policy].items()
    }
