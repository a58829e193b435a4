"""Drawings: where values lie, which round numbers stand beside them, and that nothing in them is markup."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compression_gate.records.metrics import CurvePoint
from compression_gate.records.verdict import Check, Point, TradeOff, Verdict
from compression_gate.reporters import plots_checks, plots_models, plots_timing, wording
from compression_gate.reporters.svg import Scale, element, marked, plot, shown, spread, text
from compression_gate.selftest.finished_run import pair_of

TICKS = [  # low, high, logarithmic, how many at most, what stands there
    (0.0, 10.0, False, 6, [0, 2, 4, 6, 8, 10]),
    (0.905, 0.918, False, 7, [0.906, 0.908, 0.91, 0.912, 0.914, 0.916, 0.918]),
    (0.0, 1e-13, False, 6, [0, 2e-14, 4e-14, 6e-14, 8e-14, 1e-13]),
    (40_000, 1_500_000, True, 6, [50_000, 100_000, 200_000, 300_000, 500_000, 1_000_000]),
    (0.03, 0.2, True, 6, [0.03, 0.05, 0.1, 0.2]),
]


@pytest.mark.parametrize(("low", "high", "logarithmic", "most", "expected"), TICKS)
def test_ticks_are_round_numbers_between_the_ends(low, high, logarithmic, most, expected) -> None:
    scale = Scale(low=low, high=high, begin=0, end=100, logarithmic=logarithmic)
    assert scale.ticks(most) == pytest.approx(expected, abs=0)


ENDS = st.floats(1e-6, 1e9)


@given(one=ENDS, other=ENDS, logarithmic=st.booleans(), most=st.integers(2, 9))
@example(one=271739131.0, other=271739131.0, logarithmic=False, most=2)  # no round number lies between the ends
def test_ticks_lie_inside_and_are_not_too_many(one, other, logarithmic, most) -> None:
    low, high = spread([one, other], logarithmic=logarithmic)
    ticks = Scale(low=low, high=high, begin=0, end=100, logarithmic=logarithmic).ticks(most)
    assert 1 <= len(ticks) <= 2 * most
    room = 1e-6 * max(abs(low), abs(high))
    assert all(low - room <= tick <= high + room for tick in ticks)


@given(values=st.lists(ENDS, min_size=1), logarithmic=st.booleans())
def test_axis_holds_every_value_between_its_ends(values, logarithmic) -> None:
    low, high = spread(values, logarithmic=logarithmic)
    scale = Scale(low=low, high=high, begin=0, end=100, logarithmic=logarithmic)
    places = [scale.at(value) for value in values]
    assert all(0 <= place <= 100 for place in places)
    assert sorted(places) == [scale.at(value) for value in sorted(values)]


def test_what_is_beyond_the_ends_lies_at_the_nearer_one() -> None:
    scale = Scale(low=0, high=1, begin=10, end=90)
    assert (scale.at(-5), scale.at(0.5), scale.at(5)) == (10, 50, 90)


HOSTILE = "\"><script>'&"


def test_whatever_an_element_is_given_stays_text() -> None:
    for made in (element("text", HOSTILE, title=HOSTILE), text(0, 0, HOSTILE), plot(10, HOSTILE), marked(HOSTILE)):
        assert "<script>" not in made
        assert made.count("<") == made.count(">")
        assert "'" not in made


def test_numbers_of_attributes_are_short() -> None:
    assert [shown(value) for value in (1 / 3, 2.0, 10, "x")] == ["0.33", "2", "10", "x"]


SHARES = [  # form, held against, observed, change, interval, allowed, (point, low, high)
    ("max_drop 0.01", 0.92, 0.915, -0.005, (-0.008, -0.002), -0.01, (0.5, 0.2, 0.8)),
    ("max_drop 0.01", 0.92, 0.93, 0.01, (0.005, 0.015), -0.01, (-1.0, -1.5, -0.5)),
    ("max_increase 5%", 2.0, 2.2, 0.2, (0.1, 0.3), 0.1, (2.0, 1.0, 3.0)),
    ("max 1000", None, 500, None, None, 1000, (0.5, 0.5, 0.5)),
    ("min 10", None, 20, None, (10, 40), 10, (0.5, 0.25, 1.0)),
    ("max_increase 5%", 2.0, 2.0, 0.0, (-2.0, None), 0.1, (0.0, -20.0, math.inf)),
    ("min 2", None, 4.0, None, (0.0, None), 2.0, (0.5, 0.0, math.inf)),
    ("min 0.5", None, -0.2, None, (-0.4, 0.1), 0.5, (math.inf, 5.0, math.inf)),
]


@pytest.mark.parametrize(("limit", "against", "observed", "change", "interval", "allowed", "expected"), SHARES)
def test_shares_of_the_limit_grow_towards_it_whatever_the_metric(
    limit, against, observed, change, interval, allowed, expected
) -> None:
    check = Check(
        rule="r",
        metric="m",
        status="pass",
        observed=observed,
        compared_to=against,
        change=change,
        interval=interval,
        limit=limit,
        allowed=allowed,
    )
    found = plots_checks.shares_of(check)
    assert (found.point, found.low, found.high) == pytest.approx(expected)


def test_interval_that_nothing_bounds_goes_on_beyond_the_drawing() -> None:
    check = Check(rule="r", metric="speedup", status="undecided", observed=4.0, interval=(0.0, None), limit="min 2")
    drawn = plots_checks.share_bar(check.model_copy(update={"allowed": 2.0}))
    assert '<line x1="18.75%" y1="12" x2="100%" y2="12" class="interval"/>' in drawn
    assert drawn.count('class="end"') == 1
    assert "interval at least 0.00" in drawn


NO_SHARES = [  # limit, observed, allowed
    ("max 1", None, 1.0),
    ("max 0", 1.0, 0.0),
    ("max 1", 1.0, None),
    ("min -5", -3.0, -5.0),  # a custom score that passes is no share of what is needed
    ("min -5", 2.0, -5.0),
    ("max -1", -3.0, -1.0),
]


@pytest.mark.parametrize(("limit", "observed", "allowed"), NO_SHARES)
def test_check_without_a_figure_or_with_a_limit_that_is_no_amount_has_no_bar(limit, observed, allowed) -> None:
    check = Check(rule="r", metric="m", status="error", limit=limit, observed=observed, allowed=allowed)
    assert plots_checks.share_bar(check) == "–"


CEILINGS = [  # limit, held against, observed, change, allowed, ceiling, in shares of the limit
    ("min 0.9", None, 0.85, None, 0.9, 0.8, 1.125),
    ("max 1000", None, 1100, None, 1000, 1200, 1.2),
    ("max_drop 0.01", 0.92, 0.905, -0.015, -0.01, 0.02, 2.0),
    ("max_increase 5%", 2.0, 2.14, 0.14, 0.1, "8%", 1.6),
]


@pytest.mark.parametrize(("limit", "against", "observed", "change", "allowed", "ceiling", "expected"), CEILINGS)
def test_ceiling_of_a_waiver_lies_beyond_the_limit_and_beyond_what_it_covers(
    limit, against, observed, change, allowed, ceiling, expected
) -> None:
    waiver = {"rule": "r", "ceiling": ceiling, "reason": "soon", "owner": "me", "expires": "2999-01-01"}
    found = {"observed": observed, "compared_to": against, "change": change, "limit": limit, "allowed": allowed}
    check = Check.model_validate({"rule": "r", "metric": "m", "status": "waived", "waiver": waiver, **found})
    shares = plots_checks.shares_of(check)
    assert shares.ceiling == pytest.approx(expected)
    assert 1 < shares.point < shares.ceiling
    assert f'x1="{plots_checks.SHARES.at(expected):.2f}'.rstrip("0").rstrip(".") in plots_checks.share_bar(check)


def sliced(limit: str, allowed: float, change: float) -> Check:
    return Check(
        rule="r", metric="recall", slice="s", status="pass", observed=0.9, change=change, limit=limit, allowed=allowed
    )


DIRECTIONS = [  # limit, allowed, a better change, a worse one
    ("max_drop 0.05", -0.05, -0.01, -0.06),
    ("max_increase 0.05", 0.05, 0.01, 0.06),
    ("max_drop 0", -0.0, 0.01, -0.01),
    ("max_increase 0", 0.0, -0.01, 0.01),
]


@pytest.mark.parametrize(("limit", "allowed", "better", "worse"), DIRECTIONS)
def test_degradation_of_slices_is_drawn_to_the_right(limit: str, allowed: float, better: float, worse: float) -> None:
    checks = [sliced(limit, allowed, change) for change in (better, worse)]
    scale = plots_checks.slice_scale(checks)
    assert scale.at(better) < scale.at(allowed) < scale.at(worse)
    shaded = re.search(r'<rect x="([\d.]+)%" y="-4" width="([\d.]+)%"', plots_checks.slice_dot(checks[0], scale))
    assert [float(place) for place in shaded.groups()] == pytest.approx([0.0, scale.at(allowed)], abs=0.01)


def test_axis_of_slices_names_a_limit_that_is_of_all_of_them() -> None:
    """A relative limit allows each slice another change."""
    same, other = sliced("max_drop 0.05", -0.05, -0.01), sliced("max_drop 5%", -0.04, -0.01)
    scale = plots_checks.slice_scale([same, other])
    assert "limit −5" in plots_checks.slice_axis(scale, [same, same])
    assert "limit" not in plots_checks.slice_axis(scale, [same, other])


BRIEF = [("1.50", "1.5"), ("2.00", "2"), ("100", "100"), ("−0.30", "−0.3"), ("1.20e-10", "1.20e-10")]


@pytest.mark.parametrize(("words", "shown"), BRIEF)
def test_figures_on_an_axis_lose_zeros_behind_the_point_only(words: str, shown: str) -> None:
    assert plots_checks.brief(words) == shown


def verdict_of(points: list[Point], *checks: Check, metric: str = "accuracy") -> Verdict:
    axes = [
        {"metric": name, "observed": 1.0, "compared_to": 1.0, "outcome": "same"}
        for name in (metric, "size_bytes", "latency_ms")
    ]
    found = TradeOff.model_validate({"against": "baseline", "outcome": "same", "axes": axes, "points": points})
    return Verdict(
        status="pass",
        exit_code=0,
        policy="pull_request",
        checks=checks,
        params_digest="p",
        sources_digest="s",
        package_version="0",
        trade_off=found,
    )


def model(role: str, quality: float, size: float, *, metric: str = "accuracy") -> Point:
    return Point(role=role, figures={metric: quality, "size_bytes": size, "latency_ms": 1.0}, on_front=True)


def places(picture: str) -> dict[str, tuple[float, float]]:
    """Where the dots of a panel lie: percents across, pixels down."""
    found = re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)" [^>]*class="model [^"]*r-(\w+)"', picture)
    return {role: (float(x), float(y)) for x, y, role in found}


def test_better_models_lie_higher_and_further_left() -> None:
    points = [model("baseline", 0.91, 120_000), model("candidate", 0.92, 60_000)]
    (_, by_size), _ = plots_models.trade_off_panels(verdict_of(points))
    found = places(by_size)
    assert found["candidate"][0] < found["baseline"][0]
    assert found["candidate"][1] < found["baseline"][1]


def test_an_error_as_quality_is_drawn_with_the_smaller_one_on_top() -> None:
    points = [model("baseline", 3.0, 10, metric="rmse"), model("candidate", 2.0, 10, metric="rmse")]
    (_, by_size), _ = plots_models.trade_off_panels(verdict_of(points, metric="rmse"))
    found = places(by_size)
    assert found["candidate"][1] < found["baseline"][1]


def test_no_model_with_all_figures_leaves_nothing_to_draw() -> None:
    assert plots_models.trade_off_panels(verdict_of([])) == []


def test_layer_that_grew_most_fills_its_bar() -> None:
    layers = [("conv", 400, 100), ("head", 200, 800)]
    largest = plots_models.largest_layer(layers)
    widths = [re.findall(r'width="([\d.]+)%"', plots_models.layer_bar(*bytes_, largest)) for _, *bytes_ in layers]
    assert widths == [["50", "12.5"], ["25", "100"]]


def test_names_of_models_that_lie_together_are_moved_apart() -> None:
    roles = ("reference", "release", "baseline", "candidate")
    (_, by_size), _ = plots_models.trade_off_panels(verdict_of([model(role, 0.9, 10) for role in roles]))
    heights = [
        float(y)
        for y in re.findall(r'<text x="[\d.]+%" y="([\d.]+)" class="(?:this|key)" text-anchor="\w+" dx', by_size)
    ]
    assert len(heights) == 4
    assert min(b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)) >= 12


def test_limit_is_the_tightest_of_the_blocking_rules() -> None:
    checks = [
        Check(rule="a", metric="accuracy", status="pass", limit="min 0.9", allowed=0.9, observed=0.95),
        Check(
            rule="b", metric="accuracy", status="pass", limit="max_drop", allowed=-0.01, compared_to=0.93, change=0.0
        ),
        Check(rule="c", metric="accuracy", status="pass", limit="min 0.99", allowed=0.99, level="warn", observed=0.95),
    ]
    assert plots_models.limit_of("accuracy", checks) == pytest.approx(0.92)


def test_a_custom_score_is_drawn_as_its_limits_say() -> None:
    rises = Check(rule="w", metric="wer", status="pass", limit="max_increase 0.01", allowed=0.01, observed=0.2)
    assert wording.direction_in([rises], "wer") == -1
    assert wording.direction_in([], "wer") == 1
    points = [model("reference", 0.1, 100, metric="wer"), model("candidate", 0.2, 10, metric="wer")]
    limits = {"wer": None, "size_bytes": None}
    down, up = (plots_models.panel_of("wer", "size_bytes", points, limits, sign) for sign in (-1, 1))
    assert down.y.at(0.1) < down.y.at(0.2)
    assert up.y.at(0.1) > up.y.at(0.2)


LATENCY = {"metric": "latency_ms", "compared_to": 2.0, "change": -0.5}
RATE = {"metric": "throughput_per_s", "compared_to": 100.0, "change": 5.0}
RATIOS = [  # a check, the model it is drawn beside, the ratio of times that it allows
    ({**LATENCY, "limit": "max_increase 5%", "allowed": 0.1}, "baseline", [1.05]),
    ({**LATENCY, "limit": "max_increase 0%", "allowed": 0.0}, "baseline", [1.0]),
    ({**LATENCY, "limit": "max_increase 5%", "allowed": 0.1}, "reference", []),
    ({"metric": "latency_ms", "limit": "max 5", "allowed": 5.0}, "baseline", []),
    ({**RATE, "limit": "max_drop 20%", "allowed": -20.0, "p_value": 0.9}, "baseline", [1.25]),
    ({**RATE, "limit": "max_drop 20%", "allowed": -20.0}, "baseline", []),  # of other batches than the pairs
    ({**RATE, "limit": "max_drop 100%", "allowed": -100.0, "p_value": 0.9}, "baseline", []),
    ({"metric": "speedup", "limit": "min 2", "allowed": 2.0}, "reference", [0.5]),
    ({"metric": "speedup", "limit": "min 0", "allowed": 0.0}, "reference", []),
    ({"metric": "speedup", "limit": "min 2", "allowed": 2.0}, "baseline", []),
]


@pytest.mark.parametrize(("values", "role", "expected"), RATIOS)
def test_limits_on_times_are_ratios(values: dict, role: str, expected: list[float]) -> None:
    against = "baseline" if "change" in values else None
    check = Check(rule="a", status="pass", observed=1.0, against=against, **values)
    assert plots_timing.limits_on(role, [check]) == pytest.approx(expected)


def test_axis_of_ratios_holds_a_limit_that_is_far_from_all_blocks() -> None:
    picture = plots_timing.ratio_plot("baseline", pair_of(1.0, scatter=0.01), [2.0])
    (limit,) = re.findall(r'<line x1="([\d.]+)%" [^>]*class="limit"', picture)
    ticks = {float(name): float(x) for x, name in re.findall(r'<text x="([\d.]+)%"[^>]*>([\d.]+) ×', picture)}
    assert ticks[1.0] < ticks[1.5] < float(limit) == ticks[2.0] < 97


def test_bins_hold_every_block() -> None:
    x = Scale(low=-1, high=1, begin=0, end=100)
    values = [-7.0, -0.99, 0.0, 0.001, 0.99, 7.0]  # those beyond the ends are in the outermost bins
    bars = plots_timing.histogram(x, values, floor=100, height=80, kind="this")
    heights = [float(re.search(r'height="([\d.]+)"', bar)[1]) for bar in bars if "<rect" in bar]
    assert heights == [80, 80, 80]


def test_a_curve_that_is_nowhere_finite_says_so() -> None:
    curve = [CurvePoint(epoch=1, loss=None, validation_loss=None, validation_quality=None, seconds=1)]
    assert "no loss is finite" in plots_models.curve_plot("training", curve)
