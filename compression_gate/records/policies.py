"""`gate.policies`: what blocks where, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compression_gate.registry import nearest, unknown

POLICY_NAMES = ("pull_request", "release")
MOVABLE, ACTIONS = ("undecided", "waived", "fail"), ("block", "warn")
# What stands beside the two policies in `gate.policies`, and the words each takes.
SWITCHES = {"self_loosening": ACTIONS, "history": ("optional", "required")}
REUSE = "test_reuse"
REUSE_MODES = ("non_adaptive", "adaptive")
MOST_USES = 500  # the level of as many adaptive answers is about the smallest number that a computer holds


def policy_problems(overrides: Any, answers: int = 1) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with `gate.policies`: (key below it, what).

    Args:
        answers: how many an adaptive use of the test set gives: one for each level of rules.
    """
    if not isinstance(overrides, Mapping):
        return []  # pydantic says so
    problems: list[tuple[tuple[str, ...], str]] = []
    for name, changes in overrides.items():
        if name in SWITCHES:
            if changes not in SWITCHES[name]:
                problems.append(((name,), f"expected {' or '.join(SWITCHES[name])}, got {changes!r}"))
        elif name == REUSE:
            problems += [((name, *key), text) for key, text in reuse_problems(changes, answers)]
        elif name not in POLICY_NAMES:
            problems.append(((name,), unknown(name, [*POLICY_NAMES, *SWITCHES, REUSE])))
        elif not isinstance(changes, Mapping):
            problems.append(((name,), f"expected a mapping of status to block or warn, got {changes!r}"))
        else:
            problems += [((name, *key), text) for key, text in override_problems(changes)]
    return problems


def reuse_problems(value: Any, answers: int) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with `gate.policies.test_reuse`: null, or how many uses in which mode."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [((), f"expected null or {{uses: 50, mode: non_adaptive}}, got {value!r}")]
    problems: list[tuple[tuple[str, ...], str]] = []
    problems += [((key,), unknown(str(key), ["uses", "mode"])) for key in value if key not in ("uses", "mode")]
    uses, mode = value.get("uses"), value.get("mode")
    most = MOST_USES // max(answers, 1) if mode == "adaptive" else MOST_USES
    if not isinstance(uses, int) or isinstance(uses, bool) or not 1 <= uses <= most:
        problems.append((("uses",), f"expected a whole number of 1 to {most}, got {uses!r}"))
    if mode not in REUSE_MODES:
        problems.append((("mode",), f"expected {' or '.join(REUSE_MODES)}, got {mode!r}{nearest(mode, REUSE_MODES)}"))
    return problems


def override_problems(changes: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with one policy's changes."""
    problems: list[tuple[tuple[str, ...], str]] = []
    for status, action in changes.items():
        if status not in MOVABLE:
            problems.append(((status,), f"expected {', '.join(MOVABLE)} (an error always blocks), got {status!r}"))
        elif action not in ACTIONS:
            problems.append(((status,), f"expected block or warn, got {action!r}"))
    return problems
