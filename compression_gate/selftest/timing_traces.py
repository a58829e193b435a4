"""Recorded decisions on models of known speed, judged anew: what a changed rule would have said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from compression_gate.errors import MetricsError
from compression_gate.gate.proportions import clopper_pearson
from compression_gate.gate.timing_test import control_alarms, decide
from compression_gate.gate.timing_zone import zone_of
from compression_gate.records.base import replacing
from compression_gate.records.timing_selftest import TimingCase, TimingDecision, TimingRate

TRACES = Path(__file__).parent / "timing_traces.npz"
WRONG_AT_MOST, BOUND_ALPHA = 0.01, 0.01
MISSED_AT_MOST = 0.1  # for want of an answer too, which a machine may be too busy for; it passes nothing
END = -1  # behind the lengths of a decision's turns
STEP = 1e-5  # of what is stored, as whole numbers [log]

Turns = Sequence[Sequence[float]]


def status_of(blocks: Turns, control: Turns, limit: float) -> str:
    """What the gate makes of one timing at a limit on its increase."""
    zone = zone_of(1 + limit)
    turns, own = ([np.array(turn) for turn in part] for part in (blocks, control))
    return "untrusted" if control_alarms(own, turns, zone.room) else decide(turns, zone).status


def rate_of(case: TimingCase, decisions: Sequence[TimingDecision]) -> TimingRate:
    """How often a kind of decision was wrong, or missing where it should have been a refusal, with exact bounds."""
    wrong_status = "pass" if case.slowed else "fail"
    wrong = sum(one.status == wrong_status for one in decisions)
    missed = sum(one.status != "fail" for one in decisions) if case.slowed else None
    low, high = bounds(wrong, len(decisions))
    missed_low, missed_high = bounds(missed or 0, len(decisions))
    seconds, whole = ([getattr(one, name) for one in decisions] for name in ("seconds", "whole_s"))
    ratios = [one.ratio for one in decisions if one.ratio is not None]
    loads = [one.load_average for one in decisions if one.load_average is not None]
    return TimingRate(
        case=case,
        n=len(decisions),
        wrong=wrong,
        undecided=sum(one.status == "undecided" for one in decisions),
        untrusted=sum(one.status == "untrusted" for one in decisions),
        low=low,
        high=high,
        claim=WRONG_AT_MOST,
        missed=missed,
        missed_low=missed_low,
        missed_high=missed_high,
        missed_claim=MISSED_AT_MOST,
        median_ratio=float(np.median(ratios)) if ratios else None,
        mean_s=float(np.mean(seconds)) if seconds else None,
        p95_s=float(np.quantile(seconds, 0.95)) if seconds else None,
        whole_s=float(np.mean(whole)) if whole else None,
        load_average=float(np.median(loads)) if loads else None,
        reasons=tuple(dict.fromkeys(one.reason for one in decisions if one.reason)),
    )


def bounds(events: int, n: int) -> tuple[float, float]:
    """Exact one-sided 99 % bounds of a rate."""
    return clopper_pearson(events, n, BOUND_ALPHA) if n else (0.0, 1.0)


def recorded(path: Path = TRACES) -> tuple[TimingRate, ...]:
    """The rates of all recorded decisions, judged by the rule as it is now."""
    decisions = [
        one.model_copy(update={"status": status_of(one.blocks, one.control_blocks, one.case.limit)})
        for one in read_traces(path)
    ]
    cases = dict.fromkeys(one.case for one in decisions)
    return tuple(rate_of(case, [one for one in decisions if one.case == case]) for case in cases)


def read_traces(path: Path = TRACES) -> list[TimingDecision]:
    """Recorded decisions, with every block.

    Raises:
        MetricsError: there are other numbers of decisions and of their turns: the file is damaged.
    """
    with np.load(path) as file:
        plain = [str(text) for text in file["decisions"]]
        parts = {name: (file[name], file[f"{name}_lengths"]) for name in ("blocks", "control_blocks")}
    turns = {name: turns_of(values, lengths) for name, (values, lengths) in parts.items()}
    for name, found in turns.items():
        if len(found) != len(plain):
            raise MetricsError(
                f"{path}: {name}: expected turns of {len(plain)} decisions, got {len(found)}: the file is damaged"
            )
    decisions = [TimingDecision.model_validate_json(text) for text in plain]
    return [
        one.model_copy(update={name: turns[name][number] for name in turns}) for number, one in enumerate(decisions)
    ]


def turns_of(values: np.ndarray, lengths: np.ndarray) -> list[tuple[tuple[float, ...], ...]]:
    """The turns of each decision out of one row of all blocks; ``lengths`` ends each decision's with END."""
    decisions: list[tuple[tuple[float, ...], ...]] = []
    turns: list[tuple[float, ...]] = []
    start = 0
    for length in lengths.tolist():
        if length == END:
            decisions.append(tuple(turns))
            turns = []
            continue
        turns.append(tuple((values[start : start + length] * STEP).tolist()))
        start += length
    return decisions


def write_traces(decisions: Iterable[TimingDecision], path: Path = TRACES) -> None:
    """Store decisions so that they can be judged anew."""
    kept = [one for one in decisions if one.status != "untrusted" or one.blocks]
    bare = [one.model_copy(update={"blocks": (), "control_blocks": ()}).model_dump_json() for one in kept]
    arrays = {"decisions": np.array(bare)}
    for name in ("blocks", "control_blocks"):
        all_turns = [getattr(one, name) for one in kept]
        flat = [value for turns in all_turns for turn in turns for value in turn]
        arrays[name] = np.round(np.array(flat) / STEP).astype(np.int32)
        arrays[f"{name}_lengths"] = np.array([n for turns in all_turns for n in (*map(len, turns), END)], np.int32)
    with replacing(path) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
