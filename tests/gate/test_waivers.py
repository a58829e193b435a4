"""Which failed checks a waiver covers, and what is told of it."""

import math
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.gate.waivers import age_days, covering, told
from compression_gate.records.verdict import Check
from compression_gate.records.waivers import Waiver

TODAY = date(2026, 6, 1)
FIGURES = [  # the limit, observed, compared to, the ceiling, covered?
    ("max_drop 0.01", 0.885, 0.9, 0.02, True),
    ("max_drop 0.01", 0.88, 0.9, 0.02, True),  # 0.88 - 0.9 is a rounding over 0.02
    ("max_drop 0.01", 0.879, 0.9, 0.02, False),
    ("max_increase 0.5", 2.7, 2.0, 0.8, True),
    ("max_increase 0.5", 2.9, 2.0, 0.8, False),
    ("max_increase 5%", 2.14, 2.0, "8%", True),
    ("max_increase 5%", 2.17, 2.0, "8%", False),
    ("max_drop 5%", 0.83, 0.9, "8%", True),
    ("max_drop 5%", 0.82, 0.9, "8%", False),
    ("max_increase 5%", 2.0, 0.0, "8%", False),  # a share of nothing
    ("max 2000", 2500.0, None, 2500, True),
    ("max 2000", 2501.0, None, 2500, False),
    ("min 0.8", 0.76, None, 0.75, True),
    ("min 0.8", 0.74, None, 0.75, False),
]
SLICES = [  # the waiver's, the check's, covered?
    (None, None, True),
    (None, "class=3", True),
    ("class", "class=3", True),
    ("class=3", "class=3", True),
    ("class=3", "class=30", False),
    ("class", "classroom=3", False),
    ("class=3", None, False),
]
finite = st.floats(-1e6, 1e6)


def ceiling_of(value, relative):
    return {"value": value, "relative": relative}


def waiver(**changes):
    values = {"rule": "one", "ceiling": 0.02, "reason": "labels", "owner": "Ana", "expires": "2026-12-31"}
    return Waiver(**{**values, **changes})


def check(limit="max_drop 0.01", observed=0.885, compared_to=0.9, **changes):
    change = None if observed is None or compared_to is None else observed - compared_to
    figures = {"observed": observed, "compared_to": compared_to, "change": change, "limit": limit}
    return Check.model_construct(
        **{"rule": "one", "metric": "m", "slice": None, "status": "fail", **figures, **changes}
    )


@pytest.mark.parametrize(("limit", "observed", "compared_to", "ceiling", "covered"), FIGURES)
def test_what_was_observed_must_be_inside_the_ceiling(limit, observed, compared_to, ceiling, covered):
    found = covering(check(limit, observed, compared_to), [waiver(ceiling=ceiling)])
    assert (found is not None) is covered


@pytest.mark.parametrize(("own", "part", "covered"), SLICES)
def test_slice_must_be_the_checks_or_all(own, part, covered):
    assert (covering(check(slice=part), [waiver(slice=own)]) is not None) is covered


@pytest.mark.parametrize("status", ["pass", "undecided", "error", "waived"])
def test_only_a_failure_is_covered(status):
    assert covering(check(status=status), [waiver()]) is None


def test_waiver_of_another_rule_covers_nothing():
    assert covering(check(rule="other"), [waiver()]) is None


def test_limit_that_cannot_be_read_is_not_covered():
    assert covering(check(limit=""), [waiver()]) is None


def test_waiver_of_the_very_slice_is_named_before_one_of_all():
    both = [waiver(ceiling=0.5), waiver(slice="class=3", ceiling=0.03)]
    assert covering(check(slice="class=3"), both) == both[1]
    assert covering(check(slice="class=3", change=-0.4), both) == both[0]


@given(
    form=st.sampled_from(["max", "max_drop", "max_increase", "min"]),
    observed=finite,
    compared_to=finite,
    ceiling=finite,
    more=st.floats(0, 1e6),
    relative=st.booleans(),
)
def test_raising_the_ceiling_never_uncovers(form, observed, compared_to, ceiling, more, relative):
    relative = relative and form in ("max_drop", "max_increase")
    looser = ceiling - more if form == "min" else ceiling + more
    judged = check(f"{form} 1", observed, compared_to)
    if covering(judged, [waiver(ceiling=ceiling_of(ceiling, relative))]):
        assert covering(judged, [waiver(ceiling=ceiling_of(looser, relative))])


@given(
    form=st.sampled_from(["max", "max_drop", "max_increase", "min"]),
    figures=st.lists(st.sampled_from([None, math.nan, math.inf, -math.inf, 0.5]), min_size=3, max_size=3),
    ceiling=finite,
    relative=st.booleans(),
)
def test_what_is_not_a_figure_is_never_covered(form, figures, ceiling, relative):
    observed, compared_to, change = figures
    value = change if form in ("max_drop", "max_increase") else observed
    if value == 0.5:
        return
    judged = check(f"{form} 1", observed, compared_to, change=change)
    assert covering(judged, [waiver(ceiling=ceiling_of(ceiling, relative))]) is None


def test_age_is_counted_from_the_day_it_was_written():
    assert age_days(waiver(since="2026-05-20"), TODAY) == 12
    assert age_days(waiver(since="2026-06-02"), TODAY) == 0
    assert age_days(waiver(), TODAY) is None


def test_live_waivers_are_told_with_their_number_first():
    lines = told(
        [
            waiver(rule="accuracy", since="2026-05-20", reason="the new labels\ncome in autumn"),
            waiver(rule="classes", slice="class=3", ceiling="8%", expires="v2.0", release=True),
        ],
        TODAY,
    )
    assert lines == [
        "2 live waivers",
        "rule accuracy up to 0.02 until 2026-12-31 (Ana, 12 days old): the new labels come in autumn",
        "rule classes, slice class=3 up to 8% until release v2.0 (Ana, of unknown age, also in a release): labels",
    ]


def test_nothing_is_told_where_there_is_no_waiver():
    assert told([], TODAY) == []
