"""The error of all looks together stays under what was allowed for one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from compression_gate.gate import intervals
from compression_gate.gate.looks import ERROR, confidence_of, error_of, strictness_of
from compression_gate.records.metrics import PairedTiming
from compression_gate.stages import gate


def test_the_errors_of_all_looks_add_up_to_no_more_than_is_allowed() -> None:
    total = sum(error_of(look) for look in range(1, 10_001))
    assert 0.999 * ERROR < total <= ERROR


def test_an_ordinary_run_is_judged_at_95_percent() -> None:
    assert confidence_of(1) == 0.95
    assert strictness_of(1) == 1


def test_confidence_rises_with_every_look() -> None:
    found = [confidence_of(look) for look in range(1, 20)]
    assert found == sorted(set(found))
    assert found[-1] < 1


def test_whoever_looks_until_it_passes_is_wrong_as_rarely_as_promised() -> None:
    """Ten looks at growing evidence of a ratio at its limit: at 95 % each, a tenth would find one that passes."""
    random = np.random.default_rng(0)
    means = random.normal(size=(20_000, 10)).cumsum(axis=1) / np.sqrt(np.arange(1, 11))
    ends = np.array([stats.norm.isf(error_of(look)) for look in range(1, 11)])
    assert np.mean((means < -ends).any(axis=1)) <= ERROR
    assert np.mean((means < -stats.norm.isf(error_of(1))).any(axis=1)) == pytest.approx(0.097, abs=0.005)


def pair(attempts: int) -> PairedTiming:
    return PairedTiming(
        procedure="p",
        clock="c",
        ratio=1.0,
        interval=(0.9, 1 / 0.9),
        confidence=confidence_of(attempts),
        pairs=100,
        turns=5,
        control_ratio=1.0,
        control_interval=(1.0, 1.0),
        wall_ratio=1.0,
        attempts=attempts,
    )


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_p_value_of_the_intervals_own_end_is_the_first_looks_error(attempts: int) -> None:
    """So that a limit under the lower end is proven broken at every look alike, and corrected in a family as one."""
    found = intervals.of_pairs("latency_ms", pair(attempts), 1.0)
    assert found.tail is not None
    assert found.tail(found.interval[0], 1) * found.strictness == pytest.approx(error_of(1))
    assert found.alpha * found.strictness == pytest.approx(error_of(1))
    assert ("attempts" in found.note) == (attempts > 1)


def test_a_time_timed_again_needs_a_smaller_p_value_to_be_an_alarm(finished: Path) -> None:
    """p = 0.008 is an alarm at a first look, where 1 % may be false; a third look at the same is none."""
    params = yaml.safe_load((finished / "params.yaml").read_text())
    params["gate"]["rules"] = {"speed": {"metric": "speedup", "min": 2.1}}
    (finished / "params.yaml").write_text(yaml.safe_dump(params))
    path = finished / "reports/benchmark.json"
    record = json.loads(path.read_text())
    found = []
    for attempts in (1, 3):
        record["pairs"]["reference"] |= {"attempts": attempts, "interval": [0.4805, 0.5205]}
        path.write_text(json.dumps(record))
        found.append(next(check for check in gate.run(finished).checks if check.rule == "speed"))
    assert found[0].p_value == pytest.approx(found[1].p_value / strictness_of(3))
    assert [check.status for check in found] == ["fail", "undecided"]
