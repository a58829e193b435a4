"""The sequential test of times: its evidence against the integral it is, its errors by simulation, its memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special

from compression_gate.gate.timing_test import (
    ALPHA,
    LOOKS,
    blocks_needed,
    control_alarms,
    decide,
    log_evidence,
    share_of,
    sign_interval,
)
from compression_gate.gate.timing_zone import zone_of


def turns_at(
    ratio: float, random: np.random.Generator, *, scatter: float = 0.03, offset: float = 0.003
) -> list[np.ndarray]:
    """Eight processes of 40 blocks, each with a place in memory of its own."""
    return [random.normal(math.log(ratio) + random.normal(0, offset), scatter, 40) for _ in range(8)]


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 3), (1, 4), (30, 40), (10, 40), (400, 500)])
def test_the_evidence_is_the_integral_of_the_likelihood(k: int, n: int) -> None:
    found, _ = integrate.quad(lambda p: 2 * 2.0**n * p**k * (1 - p) ** (n - k), 0.5, 1)
    assert math.exp(float(log_evidence(np.array(k), np.array(n)))) == pytest.approx(found, rel=1e-6)


def test_a_fair_coin_looked_at_after_every_throw_is_called_biased_as_rarely_as_promised() -> None:
    """2,000 coins, 1,000 looks each, at 5 %: 99.9 % of binomials stay under 130 where the promise holds."""
    throws = np.random.default_rng(0).random((2000, 1000)) < 0.5
    evidence = log_evidence(np.cumsum(throws, axis=1), np.arange(1, 1001)[None, :])
    assert np.sum(evidence.max(axis=1) >= math.log(20)) < 130


@pytest.mark.parametrize(
    ("limit", "low"), [(1.05, 1.02), (1.5, 1.02), (1.02, 1.008), (1.0, 0.985), (0.5, 0.5 * 1.02 / 1.05)]
)
def test_silence_ends_below_the_limit(limit: float, low: float) -> None:
    zone = zone_of(limit)
    assert zone.low == pytest.approx(low)
    assert zone.low < zone.high


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_that_no_time_has_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="expected a ratio of times over zero"):
        zone_of(limit)


@pytest.mark.parametrize(("ratio", "wrong"), [(1.0, "fail"), (1.02, "fail"), (1.05, "pass"), (1.2, "pass")])
def test_errors_at_and_beyond_the_lines_are_rare(ratio: float, wrong: str) -> None:
    """Of 300 decisions at most 6 are wrong: a rate of 0.5 % would exceed that in one of 2,000 series."""
    random = np.random.default_rng(1)
    statuses = [decide(turns_at(ratio, random), zone_of(1.05)).status for _ in range(300)]
    assert statuses.count(wrong) <= 6
    assert statuses.count("undecided") <= 15


def test_what_was_decided_stays_decided() -> None:
    random = np.random.default_rng(2)
    slow, fast = turns_at(1.1, random), turns_at(0.9, random)
    assert decide(slow, zone_of(1.05)).status == "fail"
    assert decide([*slow, *fast, *fast], zone_of(1.05)).status == "fail"
    assert decide([*fast, *slow, *slow], zone_of(1.05)).status == "pass"


def test_two_processes_decide_nothing() -> None:
    found = decide([np.full(500, 0.5)] * 2, zone_of(1.05))
    assert (found.status, found.reason) == ("undecided", "4 processes are needed, 2 were timed")
    assert decide([], zone_of(1.05)).status == "undecided"


def test_places_in_memory_that_differ_by_more_than_silence_decide_nothing() -> None:
    random = np.random.default_rng(3)
    apart = [random.normal(place, 0.001, 200) for place in (-0.06, 0.0, 0.06, 0.0)]
    found = decide(apart, zone_of(1.05))
    assert found.status == "undecided"
    assert "places in memory" in found.reason


def test_many_blocks_in_few_places_in_memory_do_not_pass_a_model_at_its_limit() -> None:
    """Offsets of 1.5 % between processes, which the blocks of one process cannot know of: 0.5 % may pass."""
    random = np.random.default_rng(6)
    passed = 0
    for _ in range(500):
        turns = [random.normal(math.log(1.05) + random.normal(0, 0.015), 0.03, 40) for _ in range(36)]
        passed += decide(turns, zone_of(1.05)).status == "pass"
    assert passed <= 8


@given(st.lists(st.floats(-0.2, 0.2), min_size=30, max_size=120))
def test_an_answer_is_never_both_and_its_interval_agrees(values: list[float]) -> None:
    turns = np.array_split(np.array(values), 4)
    zone = zone_of(1.05)
    found = decide(turns, zone)
    if found.status == "pass":
        assert found.interval[1] <= zone.high * (1 + 1e-12)
        assert found.p_value == 1
    if found.status == "fail":
        assert found.interval[0] >= zone.low * (1 - 1e-12)
        assert found.p_value <= ALPHA * (1 + 1e-9)


def test_the_interval_of_few_blocks_has_no_ends() -> None:
    assert sign_interval(np.zeros(5), ALPHA) == (-math.inf, math.inf)
    low, high = sign_interval(np.arange(100.0), ALPHA)
    assert 20 < low < 50 < high < 80


def test_the_control_alarms_on_a_difference_and_not_on_noise() -> None:
    random = np.random.default_rng(4)
    same, pair = ([random.normal(0, 0.03, 60) for _ in range(count)] for count in (1, 4))
    for shift, alarms in ((0.0, False), (0.08, True), (-0.08, True)):
        assert control_alarms([turn + shift for turn in same], pair, math.log(1.02)) is alarms
    assert not control_alarms([], pair, 0.02)


def test_the_control_does_not_alarm_where_processes_differ_that_much_anyway() -> None:
    random = np.random.default_rng(5)
    control = [random.normal(0.05, 0.005, 60)]
    quiet, apart = (
        [random.normal(place, 0.005, 60) for place in places] for places in ((0, 0, 0, 0), (-0.04, 0, 0.03, 0.01))
    )
    room = math.log(1.02)
    assert control_alarms(control, quiet, room)
    assert not control_alarms(control, apart, room)


def test_more_scatter_and_narrower_zones_need_more_blocks() -> None:
    assert blocks_needed(0.03, zone_of(1.05)) < blocks_needed(0.1, zone_of(1.05)) < blocks_needed(0.1, zone_of(1.02))


def test_the_looks_at_the_processes_share_the_error_that_asking_after_each_would_multiply() -> None:
    """40,000 series of 36 turns at the line itself: 0.42 % are wrong at some look, 3.6 % were all asked alike."""
    turns = np.random.default_rng(7).normal(size=(40_000, 36))
    counts = np.arange(1, 37)
    means = turns.cumsum(axis=1) / counts
    deviations = np.sqrt(np.maximum((turns**2).cumsum(axis=1) - counts * means**2, 0) / np.maximum(counts - 1, 1))
    p_values = special.stdtr(np.maximum(counts - 1, 1), -means / np.maximum(deviations / np.sqrt(counts), 1e-12))
    ours = [p_values[:, count - 1] <= ALPHA * share_of(look) for look, count in enumerate(LOOKS) if count <= 36]
    assert np.any(ours, axis=0).mean() <= ALPHA
    assert (p_values[:, 2:] <= ALPHA).any(axis=1).mean() > 6 * ALPHA
