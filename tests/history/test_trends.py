"""What a metric did over the runs: which way is worse."""

from __future__ import annotations

import pytest

from compression_gate.history.trends import reviewed, trends_of
from compression_gate.records.history import RunRecord
from compression_gate.records.verdict import Check, Verdict

LIMITS = [  # limits of the runs, oldest first; which way is better, the worst step
    (["max_increase 0.1", "max_increase 0.1"], "lower", 0.3),
    (["max 0.9", "max 0.9"], "lower", 0.3),
    (["max_drop 0.1", "max_drop 0.1"], "higher", -0.2),
    (["max_drop 0.1", "max 0.9"], "lower", 0.3),
    (["min 0.1", None], "higher", -0.2),
    ([None, None], None, None),
]


def record(number: int, wer: float, limit: str | None) -> RunRecord:
    checks = (Check(rule="one", metric="wer", status="pass", limit=limit),) if limit else ()
    verdict = Verdict(
        status="pass",
        exit_code=0,
        policy="pull_request",
        checks=checks,
        params_digest="p",
        sources_digest="s",
        package_version="0",
    )
    return RunRecord(
        suite=".",
        commit=f"{number}" * 40,
        recorded_at="2026-11-22",
        status="pass",
        exit_code=0,
        policy="pull_request",
        package_version="0",
        metrics={"candidate": {"wer": wer}},
        verdict=verdict,
    )


@pytest.mark.parametrize(("limits", "better", "step"), LIMITS)
def test_which_way_a_score_of_the_user_is_worse_follows_from_its_newest_limit(limits, better, step) -> None:
    runs = zip((0.5, 0.3, 0.6), [limits[0], *limits], strict=True)
    records = [record(number, wer, limit) for number, (wer, limit) in enumerate(runs)]
    (trend,) = trends_of(reviewed(records, {}), records)
    assert trend.better == better
    assert trend.worst_step == (pytest.approx(step) if step else None)
