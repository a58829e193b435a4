"""`selftest --timing`: rates and their bounds, what is kept and resumed, and a live decision of each kind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from compression_gate.errors import MeasurementError, ParamsError
from compression_gate.measurers import known_speed
from compression_gate.measurers.known_speed import Shape
from compression_gate.records.timing_selftest import TimingCase, TimingDecision, TimingRate, TimingSelfTest
from compression_gate.reporters.selftest import timing_report
from compression_gate.selftest.timing_traces import rate_of
from compression_gate.stages import selftest_timing
from compression_gate.stages.selftest_timing import Plan, keep, open_cases, plan_of, read, shares_of

SAME = TimingCase(runtime="onnxruntime", size="small", slowed=0.0, limit=0.05, load=0)
SLOWED = SAME.model_copy(update={"slowed": 0.05})


def decision(case: TimingCase, status: str) -> TimingDecision:
    return TimingDecision(case=case, status=status, ratio=1.0, seconds=2.0, whole_s=4.0, pairs=10, turns=4)


@pytest.mark.parametrize(("case", "wrong"), [(SAME, "fail"), (SLOWED, "pass")])
def test_what_is_wrong_depends_on_the_truth(case: TimingCase, wrong: str) -> None:
    found = rate_of(case, [decision(case, status) for status in ("pass", "fail", "undecided", "untrusted")])
    assert (found.n, found.wrong, found.undecided, found.untrusted) == (4, 1, 1, 1)
    assert rate_of(case, [decision(case, wrong)] * 40).held is False
    assert rate_of(case, []).held


def self_test(*live: TimingRate) -> TimingSelfTest:
    return TimingSelfTest(environment={}, live=live, seconds=1.0)


MISSED = [  # statuses of a slowed candidate's decisions, how many were missed, whether that may be
    (["undecided"] * 300, 300, False),
    (["undecided"] * 250 + ["untrusted"] * 50, 300, False),
    (["undecided"] * 2 + ["fail"] * 8, 2, True),  # ten of them on a busy machine refute little
    (["undecided"] * 5 + ["fail"] * 5, 5, False),
    (["pass"] + ["fail"] * 9, 1, True),
]


@pytest.mark.parametrize(("statuses", "missed", "held"), MISSED)
def test_a_slowed_candidate_is_missed_unless_it_is_refused(statuses: list, missed: int, held: bool) -> None:
    found = rate_of(SLOWED, [decision(SLOWED, status) for status in statuses])
    assert (found.missed, found.held) == (missed, held)
    assert self_test(found).exit_code == (0 if held else 1)


def test_at_the_same_model_there_is_nothing_to_miss() -> None:
    found = rate_of(SAME, [decision(SAME, "undecided")] * 300)
    assert (found.missed, found.held) == (None, True)


def test_what_was_never_decided_could_not_be_measured() -> None:
    decided = rate_of(SAME, [decision(SAME, "pass")])
    assert self_test(decided, rate_of(SLOWED, [])).exit_code == 4
    assert self_test(rate_of(SAME, [decision(SAME, "fail")] * 40), rate_of(SLOWED, [])).exit_code == 4


def test_one_wrong_decision_of_few_refutes_nothing() -> None:
    """Its exact 99 % lower bound is under the claim of 1 %."""
    found = rate_of(SAME, [decision(SAME, "pass")] * 19 + [decision(SAME, "fail")])
    assert found.low < 0.01 < found.high
    assert found.held


WRONG = [  # sizes, slowed, what is told
    (["foo"], [0.05], "--size: expected small or large, got 'foo'"),
    (["small"], [float("nan")], "--slowed: expected percentages of 2 or more, got nan"),
    (["small"], [0.01], "--slowed: expected percentages of 2 or more, got 1: .* passes rightly"),
    (["small"], [-0.05], "--slowed: expected percentages of 2 or more, got -5"),
]


@pytest.mark.parametrize(("sizes", "slowed", "message"), WRONG)
def test_what_cannot_be_timed_is_told_before_anything_is(sizes: list, slowed: list, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        plan_of(full=False, runtimes=["onnxruntime"], sizes=sizes, slowed=slowed, load=0, minutes=1, kept=None)


def test_a_share_that_is_no_number_is_told() -> None:
    with pytest.raises(ParamsError, match="--slowed: expected percentages by commas, got 'abc'"):
        shares_of("abc")


def test_decisions_are_kept_one_by_one_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "state/decisions.jsonl"
    keep(decision(SAME, "pass"), path)
    keep(decision(SLOWED, "fail"), path)
    whole = path.read_text()
    path.write_text(whole.rstrip()[:-20])
    assert [one.status for one in read(path)] == ["pass"]
    keep(decision(SLOWED, "undecided"), path)
    assert [one.status for one in read(path)] == ["pass", "undecided"]
    path.write_text(whole.replace(whole.split()[0], "another-machine"))
    assert read(path) == []


def test_a_resumed_run_takes_only_what_is_missing() -> None:
    plan = Plan(cases=(SAME, SLOWED), count=2, minutes=1)
    done = [decision(SAME, "pass"), decision(SAME, "pass")]
    assert list(open_cases(plan, done)) == [(0, SLOWED), (1, SLOWED)]
    assert list(open_cases(plan, [])) == [(0, SAME), (0, SLOWED), (1, SAME), (1, SLOWED)]


def test_a_candidate_slowed_by_little_is_judged_by_a_narrow_limit() -> None:
    plan = plan_of(
        full=True, runtimes=["torch"], sizes=["small"], slowed=[0.02, 0.05, 0.1], load=2, minutes=1, kept=None
    )
    assert [(case.slowed, case.limit) for case in plan.cases] == [
        (0.0, 0.02),
        (0.0, 0.05),
        (0.02, 0.02),
        (0.05, 0.05),
        (0.1, 0.05),
    ]
    assert plan.count == 300


def test_a_load_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    """Also where that is killed and can end nothing itself."""
    told = tmp_path / "pids"
    script = (
        "import os, pathlib, psutil\n"
        "from compression_gate.stages.selftest_timing import busy\n"
        "with busy(2):\n"
        f"    pathlib.Path({str(told)!r}).write_text(' '.join(str(one.pid) for one in psutil.Process().children()))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    pids = [int(pid) for pid in told.read_text().split()]
    assert len(pids) == 2
    end = time.monotonic() + 60
    while any(runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(runs(pid) for pid in pids)


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended; one whose new parent has not asked for it yet has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_why_nothing_was_measured_is_told_beside_the_rate() -> None:
    broken = decision(SLOWED, "untrusted").model_copy(update={"ratio": None, "reason": "the model cannot be loaded"})
    rate = rate_of(SLOWED, [broken, broken, decision(SLOWED, "fail")])
    out = io.StringIO()
    Console(file=out, width=200).print(timing_report(self_test(rate)))
    assert out.getvalue().count("onnxruntime small: +5%: the model cannot be loaded") == 1


def test_a_candidate_that_cannot_be_timed_is_not_taken_for_a_slow_one(tmp_path: Path) -> None:
    """Its ratio would be what the candidate is made by, and the self-test would go on with decisions of nothing."""
    other = known_speed.model_file("onnxruntime", Shape(rows=1, width=8, layers=1), 0, tmp_path)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(MeasurementError, match=r"expected pairs, got none: .*broken\.onnx"):
        selftest_timing.ratio_of(SLOWED, other, broken)


@pytest.mark.slow
def test_the_same_model_and_a_slowed_one_are_told_apart_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each: a wrong answer has a chance of half a percent, and no second look is taken."""
    monkeypatch.setitem(selftest_timing.SHAPES, "small", Shape(rows=1, width=128, layers=12))
    plan = plan_of(
        full=False,
        runtimes=["onnxruntime"],
        sizes=["small"],
        slowed=[0.3],
        load=0,
        minutes=5,
        kept=tmp_path / "kept.jsonl",
    )
    found = selftest_timing.run(replace(plan, count=1))
    assert [rate.wrong for rate in found.live] == [0, 0]
    assert found.live[1].median_ratio > 1.1
    assert len(read(tmp_path / "kept.jsonl")) == 2
    assert json.loads(found.model_dump_json())["environment"]
