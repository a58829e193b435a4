"""Recorded timing decisions: stored and read alike, judged by the rule as it is, and of the claim that is made."""

from __future__ import annotations

import numpy as np
import pytest

from compression_gate.errors import MetricsError
from compression_gate.records.timing_selftest import TimingCase, TimingDecision
from compression_gate.selftest.timing_traces import TRACES, read_traces, recorded, status_of, write_traces

SAME = TimingCase(runtime="onnxruntime", size="small", slowed=0.0, limit=0.05, load=2)


def decision(ratio: float, seed: int, **changes: object) -> TimingDecision:
    random = np.random.default_rng(seed)
    blocks = tuple(tuple(random.normal(np.log(ratio), 0.01, 40).tolist()) for _ in range(6))
    control = tuple(tuple(random.normal(0, 0.01, 20).tolist()) for _ in range(2))
    made = TimingDecision(
        case=SAME,
        status="pass",
        ratio=ratio,
        seconds=1.0,
        whole_s=2.0,
        pairs=240,
        turns=6,
        blocks=blocks,
        control_blocks=control,
    )
    return made.model_copy(update=changes)


def test_what_was_stored_is_read_again(tmp_path):
    made = [decision(1.0, 0), decision(1.1, 1), decision(1.0, 2, control_blocks=())]
    write_traces(made, tmp_path / "traces.npz")
    found = read_traces(tmp_path / "traces.npz")
    assert [one.case for one in found] == [SAME] * 3
    for one, other in zip(made, found, strict=True):
        assert [len(turn) for turn in one.blocks] == [len(turn) for turn in other.blocks]
        assert np.concatenate(one.blocks) == pytest.approx(np.concatenate(other.blocks), abs=1e-5)
        assert len(one.control_blocks) == len(other.control_blocks)


def test_a_turn_without_blocks_shifts_no_later_decision(tmp_path):
    made = [decision(1.0, 0, blocks=((), (0.01,))), decision(1.1, 1, control_blocks=((0.02,), ())), decision(1.2, 2)]
    write_traces(made, tmp_path / "traces.npz")
    found = read_traces(tmp_path / "traces.npz")
    for name in ("blocks", "control_blocks"):
        lengths = [[[len(turn) for turn in getattr(one, name)] for one in part] for part in (made, found)]
        assert lengths[0] == lengths[1]


@pytest.mark.parametrize("cut", [slice(1, None), slice(-1)])
def test_traces_of_another_number_of_decisions_are_refused(tmp_path, cut):
    write_traces([decision(1.0, 0), decision(1.2, 1)], tmp_path / "traces.npz")
    with np.load(tmp_path / "traces.npz") as file:
        arrays = dict(file)
    arrays["decisions"] = arrays["decisions"][cut]
    np.savez(tmp_path / "traces.npz", **arrays)
    with pytest.raises(MetricsError, match=r"traces\.npz: blocks: expected turns of 1 decisions, got 2"):
        read_traces(tmp_path / "traces.npz")


def test_recorded_decisions_are_judged_by_the_rule_as_it_is_now(tmp_path):
    """The status that was stored does not count: an alarm at the same model is wrong whatever was said then."""
    write_traces([decision(1.0, 0), decision(1.2, 1)], tmp_path / "traces.npz")
    (rate,) = recorded(tmp_path / "traces.npz")
    assert (rate.n, rate.wrong) == (2, 1)


def test_a_shifted_control_takes_the_trust():
    one = decision(1.0, 0)
    shifted = tuple(tuple(value + 0.2 for value in turn) for turn in one.control_blocks)
    assert status_of(one.blocks, one.control_blocks, 0.05) == "pass"
    assert status_of(one.blocks, shifted, 0.05) == "untrusted"


def test_the_decisions_that_come_with_the_package_hold_their_claim():
    rates = recorded(TRACES)
    assert {rate.case.slowed for rate in rates} >= {0.0, 0.05}
    assert all(rate.held for rate in rates)
    assert all(rate.n >= 10 for rate in rates)
