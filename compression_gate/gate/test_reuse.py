"""Test sets wear out: how often one was asked, and the level at which it may be asked so often.

Every answer of a gate tells a little of the test set to whoever writes the next commit. A limit that is wrongly passed
once in twenty questions is passed sooner or later by asking on; so a set that is asked ``uses`` times is asked each
time at a level that leaves 1 − confidence for all of them together.

Source: Renggli et al. 2019, Continuous Integration of Machine Learning Models with ease.ml/ci, MLSys, §3: the union
    over uses where what is asked does not depend on the answers, over sequences of answers where it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from compression_gate.records.history import History
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.params import GateParams
from compression_gate.records.policies import REUSE
from compression_gate.records.rules import quality_levels
from compression_gate.records.verdict import Check, CheckStatus, Level, TestReuse

ANSWERS = 4  # pass, fail, undecided, underpowered: what one use of an adaptive test set tells of the rules of a level
PREMISES = {
    None: "each answer stands alone; after many commits on one test set some will be wrong",
    "non_adaptive": "holds while nobody chooses what to try next by the answers",
    "adaptive": "holds whatever is tried next, while the figures of the test set stay hidden",
}


def reuse_of(
    gate: GateParams, digest: str | None, history: History, own: Sequence[str], candidate: str | None
) -> TestReuse:
    """Count the candidates that were judged on the test data, this one included.

    Args:
        digest: of the test split. own: digests of candidates judged on it in this checkout. candidate: this one's.

    The same candidate judged again tells nothing new and is counted once.
    """
    if digest is None:
        return TestReuse()
    seen = {*history.judged.get(digest, ()), *own, *([candidate] if candidate else [])}
    mode = wanted_of(gate).get("mode")
    return TestReuse(digest=digest, judged=len(seen), uses=uses_of(gate), mode=mode, premise=PREMISES[mode])


def wanted_of(gate: GateParams) -> Mapping[str, Any]:
    """`gate.policies.test_reuse`; empty where uses are only counted."""
    return gate.policies.get(REUSE) or {}


def uses_of(gate: GateParams) -> int | None:
    """How often a set of rules allows test data to be asked; None where uses are only counted."""
    return wanted_of(gate).get("uses")


def level(gate: GateParams) -> float:
    """How often each bound of a quality may be wrong, so that all uses together are as sure as `gate.confidence`."""
    wanted = wanted_of(gate)
    if wanted.get("mode") == "non_adaptive":
        return gate.alpha / int(wanted["uses"])
    if wanted.get("mode") == "adaptive":
        # Whoever adapts may have asked something else after each sequence of answers: all of them must be right, and
        # within a use all its rules, since one answer speaks for those of a level together.
        asked = sum(kind_of(rule.metric) in QUALITY for rule in gate.rules.values())
        answers = int(wanted["uses"]) * max(len(quality_levels(gate.rules)), 1)
        return max(gate.alpha / max(asked, 1) * (1 / ANSWERS) ** answers, 1e-300)
    return gate.alpha


def spent(reuse: TestReuse) -> list[Check]:
    """A check that says so where a test set was asked more often than its level allows; it blocks a release."""
    if reuse.uses is None or reuse.judged <= reuse.uses:
        return []
    return [
        Check(
            rule=REUSE,
            metric="judgements",
            status="undecided",
            observed=reuse.judged,
            limit=f"max {reuse.uses}",
            allowed=reuse.uses,
            headroom=reuse.uses - reuse.judged,
            message=f"{reuse.judged} candidates were judged on this test set, which was to be used {reuse.uses} times",
            mending="take new test data, or raise gate.policies.test_reuse.uses and prove less with each use",
        )
    ]


def withheld(checks: Sequence[Check]) -> list[Check]:
    """One answer for each level in place of its quality checks, without a figure: all that may be told of the test set.

    An answer with figures would tell far more than the level is made for.
    """
    hidden = [check for check in checks if kind_of(check.metric) in QUALITY and is_answer(check)]
    by_level = {level: [check for check in hidden if check.level == level] for level in get_args(Level)}
    answers = [answer_of(level, found) for level, found in by_level.items() if found]
    return [*answers, *(check for check in checks if check not in hidden)]


def answer_name(level: Level) -> str:
    """The rule of the one check that speaks for all of quality at a level."""
    return "quality" if level == "block" else f"quality {level}"


def answer_of(level: Level, checks: Sequence[Check]) -> Check:
    """The worst of the checks of a level, in a word."""
    statuses = {check.status for check in checks}
    status: CheckStatus = next((word for word in ("error", "fail", "undecided") if word in statuses), "pass")
    proven = all(check.proven for check in checks)
    doubt = "" if proven else "; not proven: accept_underpowered lets observed values decide, which no level pays for"
    return Check(
        rule=answer_name(level),
        metric="quality",
        level=level,
        status=status,
        reason="underpowered" if status == "error" else None,
        mending="take more examples, wider limits or fewer uses: `compression-gate power`" if status == "error" else "",
        limit=f"{len(checks)} rules",
        n=min((check.n for check in checks if check.n), default=None),
        message=f"{len(checks)} checks answered as one, figures withheld: test_reuse is adaptive{doubt}",
        proven=proven,
    )


def unjudged(gate: GateParams, checks: Iterable[Check]) -> list[str]:
    """Rules that have no check, though none answers for them."""
    judged = {check.rule for check in checks}
    adaptive = wanted_of(gate).get("mode") == "adaptive"
    return [
        name
        for name, rule in gate.rules.items()
        if name not in judged
        and not (adaptive and kind_of(rule.metric) in QUALITY and answer_name(rule.level) in judged)
    ]


def is_answer(check: Check) -> bool:
    """Whether a check tells something of the test data; what could not be measured tells nothing and stays named."""
    return check.status in ("pass", "fail", "undecided", "waived") or check.reason == "underpowered"
