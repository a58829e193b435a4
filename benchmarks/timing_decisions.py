"""What `selftest --timing --full` has decided so far: the rates of docs/timing.md, and the traces that come along.

    compression-gate selftest --timing --full --load 2 --runtime onnxruntime,torch --size small,large --minutes 180
    python benchmarks/timing_decisions.py .compression_gate/selftest_timing.jsonl [--write]

New decisions count together with those in `benchmarks/results/timing_decisions.npz`, which keeps every one with its
blocks; the first ones of each kind ship with the package, so that `selftest --timing` can judge them anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compression_gate.measurers.machine import timing_environment
from compression_gate.records.timing_selftest import TimingDecision
from compression_gate.selftest.timing_traces import TRACES, rate_of, read_traces, write_traces

RESULTS = Path(__file__).parent / "results" / "timing_decisions.json"
ALL = RESULTS.with_suffix(".npz")
TRACES_A_CASE = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("new", type=Path, nargs="*")
    parser.add_argument("--write", action="store_true", help=f"store {ALL.name}, {RESULTS.name} and {TRACES.name}")
    given = parser.parse_args()
    decisions = read_traces(ALL) + [
        TimingDecision.model_validate_json(line.partition(" ")[2])
        for path in given.new
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]
    cases = list(dict.fromkeys(one.case for one in decisions))
    by_case = {case: [one for one in decisions if one.case == case] for case in cases}
    rates = [rate_of(case, by_case[case]) for case in cases]
    for rate in rates:
        case = rate.case
        candidate = f"+{100 * case.slowed:g}%" if case.slowed else "same model"
        missed = ("", "") if rate.missed is None else (f"{rate.missed} of {rate.n}", f"{rate.missed_high:.1%}")
        print(
            f"| {case.runtime} {case.size} | {case.load} | {candidate} | {case.limit:.0%} "
            f"| {rate.median_ratio:.3f} | {rate.wrong} of {rate.n} | {rate.high:.1%} | {' | '.join(missed)} "
            f"| {rate.undecided + rate.untrusted} | {rate.mean_s:.1f} | {rate.p95_s:.1f} | {rate.load_average:.0f} |"
        )
    if given.write:
        write_traces([one for case in cases for one in by_case[case][:TRACES_A_CASE]], TRACES)
        write_traces([one for case in cases for one in by_case[case]], ALL)
        before = json.loads(RESULTS.read_text(encoding="utf-8"))["environments"]
        here = timing_environment(1)
        record = {
            "environments": before if here in before or not given.new else [*before, here],
            "rates": [rate.model_dump(mode="json") for rate in rates],
        }
        RESULTS.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
