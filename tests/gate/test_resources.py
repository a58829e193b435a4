"""Memory, energy, load times and percentiles as the judge sees them: by their own spread, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from compression_gate.errors import ParamsError
from compression_gate.gate.intervals import OWN_END
from compression_gate.measurers.order_statistics import CONFIDENCE
from compression_gate.records.history import History
from compression_gate.records.verdict import Check
from compression_gate.stages import gate

BOTH = {"samples": 7, "low": 9.0, "high": 11.0, "value": 10.0}


def judged(suite: Path, rule: dict, figure: dict, **others: dict) -> Check:
    """The one check of a suite whose models all have ``figure``, but those that have another by their role."""
    params = suite / "params.yaml"
    values = yaml.safe_load(params.read_text())
    values["gate"]["rules"] = {"one": rule}
    params.write_text(yaml.safe_dump(values))
    path = suite / "reports/benchmark.json"
    found = json.loads(path.read_text())
    for role, model in found["models"].items():
        model["figures"][rule["metric"]] = {"unit": "unit", **others.get(role, figure)}
    path.write_text(json.dumps(found))
    (check,) = gate.run(suite).checks
    return check


RANGES = ["peak_memory_bytes", "model_memory_bytes", "energy_j"]


@pytest.mark.parametrize("metric", RANGES)
@pytest.mark.parametrize(("limit", "status"), [(12, "pass"), (10.5, "undecided"), (8, "fail")])
def test_a_resource_is_judged_by_its_range_and_warns(finished: Path, metric: str, limit: float, status: str) -> None:
    check = judged(finished, {"metric": metric, "max": limit}, BOTH | {"spread": "range"})
    assert (check.status, check.level) == (status, "warn"), check


@pytest.mark.parametrize("metric", ["load_time_ms", "load_time_cold_ms", "first_call_ms"])
def test_a_load_time_is_judged_by_its_interval_and_blocks(finished: Path, metric: str) -> None:
    check = judged(finished, {"metric": metric, "max": 12}, BOTH | {"confidence": 0.984375})
    assert (check.status, check.level) == ("pass", "block"), check


SURE = [  # rule, figure, how often each end may be wrong
    ({"metric": "load_time_ms", "max": 12}, BOTH | {"confidence": 0.984375}, 0.025),
    ({"metric": "load_time_ms", "max_increase": "90%"}, BOTH | {"confidence": 0.984375}, 0.05),
    ({"metric": "peak_memory_bytes", "max": 12}, BOTH | {"spread": "range"}, None),
    ({"metric": "peak_memory_bytes", "max_increase": "90%"}, BOTH | {"spread": "range"}, None),
]


@pytest.mark.parametrize(("rule", "figure", "alpha"), SURE)
def test_an_end_of_a_spread_says_how_often_it_may_be_wrong(finished: Path, rule: dict, figure: dict, alpha) -> None:
    """A difference has the errors of both figures; the smallest and the largest of a few promise nothing."""
    check = judged(finished, rule, figure)
    assert check.alpha == (pytest.approx(alpha) if alpha else None)
    assert check.interval is not None
    assert (check.minimum_detectable is None) == (alpha is None)


def test_the_ends_of_a_spread_are_as_sure_as_they_were_taken() -> None:
    assert pytest.approx((1 - CONFIDENCE) / 2) == OWN_END


SET_BACK = [  # metric, what an impossible figure is put down to
    ("load_time_ms", "the clock was set back"),
    ("throughput_per_s", "the clock was set back"),
    ("energy_j", "the counter ran backwards"),
    ("model_memory_bytes", "the system miscounted"),
]


@pytest.mark.parametrize(("metric", "cause"), SET_BACK)
def test_an_impossible_figure_is_put_down_to_what_measured_it(finished: Path, metric: str, cause: str) -> None:
    figure = BOTH | {"value": -1.0, "low": -1.0}
    check = judged(finished, {"metric": metric, "max": 1e9, "level": "block"}, figure)
    assert (check.status, check.reason) == ("error", "untrusted_timing")
    assert check.message.endswith(cause), check


def test_a_second_copy_that_adds_no_memory_is_a_figure(finished: Path) -> None:
    """What a first copy freed may hold a second."""
    figure = {"value": 0.0, "low": 0.0, "high": 0.0, "samples": 5, "spread": "range"}
    assert judged(finished, {"metric": "model_memory_bytes", "max": 10}, figure).status == "pass"


UNKNOWN = [
    ("latency_p99_ms", BOTH | {"high": None, "samples": 100}),
    ("load_time_ms", BOTH | {"low": None, "high": None, "samples": 3}),
    ("load_time_cold_ms", {"value": None, "samples": 0, "reason": "its file system does not drop pages"}),
    ("model_memory_bytes", {"value": None, "samples": 0, "reason": "Linux can"}),
    ("energy_j", BOTH | {"value": 0.0, "low": 0.0}),
]


@pytest.mark.parametrize(("metric", "figure"), UNKNOWN)
def test_a_figure_without_bounds_or_value_never_passes(finished: Path, metric: str, figure: dict) -> None:
    check = judged(finished, {"metric": metric, "max": 1e9, "level": "block"}, figure)
    assert check.status == "error", check
    assert figure.get("reason", "") in check.message


def test_an_earlier_model_without_a_figure_is_no_fault_of_this_run(finished: Path) -> None:
    """No run of this commit brings it: a person may accept the run as a baseline, as where one is lost."""
    shutil.copytree(finished / "models/candidate", finished / ".compression_gate/references/baseline")
    path = finished / "reports/benchmark.json"
    found = json.loads(path.read_text())
    found["models"]["baseline"] = {**found["models"]["candidate"], "figures": {}}
    path.write_text(json.dumps(found))
    History(baseline_commit="b" * 40).write(finished / gate.HISTORY)
    rule = {"metric": "load_time_ms", "max_increase": "10%", "against": "baseline"}
    gone = {"value": None, "samples": 0, "reason": "it cannot be decoded"}
    check = judged(finished, rule, BOTH | {"confidence": 0.98}, baseline=gone)
    assert (check.status, check.reason) == ("error", "not_comparable"), check
    assert check.message.endswith("load_time_ms of baseline: it cannot be decoded"), check
    check = judged(finished, rule, gone, baseline=BOTH | {"confidence": 0.98})
    assert (check.status, check.reason) == ("error", "not_finite"), check


def test_the_eager_figure_is_no_metric_that_a_rule_may_name(finished: Path) -> None:
    with pytest.raises(ParamsError, match="eager_latency_ms"):
        judged(finished, {"metric": "eager_latency_ms", "max": 1}, BOTH)
