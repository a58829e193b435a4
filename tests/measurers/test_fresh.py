"""Figures of fresh processes: of this file and no other, and a model that misbehaves has none, but a reason."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from compression_gate.errors import MeasurementError
from compression_gate.measurers import fresh
from compression_gate.measurers.fresh import measure_fresh, one_process, told

pytestmark = pytest.mark.usefixtures("nothing_left")
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and memory as Linux tells them")


def saved(conditions, folder):
    path = folder / "inputs.npz"
    np.savez(path, **conditions.inputs)
    return path


def test_every_figure_is_there_for_every_model(files, conditions):
    ballast = np.ones(60_000_000)  # 480 MB here must not be seen there
    found = measure_fresh(files, conditions(), budget_s=0.5)
    assert found.keys() == files.keys()
    for model in found.values():
        assert model.figures.keys() == fresh.UNITS.keys()
        assert {name: figure.unit for name, figure in model.figures.items()} == fresh.UNITS
        assert model.figures["load_time_ms"].samples >= fresh.LEAST_WARM
        assert model.figures["load_time_ms"].value > 0
        assert model.figures["first_call_ms"].value > 0
        peak = model.figures["peak_memory_bytes"]
        assert (peak.spread, peak.confidence) == ("range", None)
        assert ballast.nbytes > peak.low > 10_000_000
        assert model.energy.calls >= 3 * fresh.LEAST_WARM
        assert model.figures["energy_j"].estimated == (model.energy.idle_w is None)


@linux
def test_a_larger_model_adds_at_least_its_weights(files, conditions):
    """A second copy beside the first: the runtime, which both share, is not in it."""
    found = measure_fresh(files, conditions(), budget_s=0.5)
    narrow, wide = (found[role].figures["model_memory_bytes"] for role in ("narrow", "wide"))
    assert wide.low >= files["wide"].stat().st_size
    assert narrow.high < files["wide"].stat().st_size
    assert wide.high < found["wide"].figures["peak_memory_bytes"].low / 2


def test_a_cold_load_is_cold_or_absent_with_the_reason(files, conditions):
    found = measure_fresh({"narrow": files["narrow"]}, conditions(), budget_s=0.5)["narrow"]
    cold = found.figures["load_time_cold_ms"]
    assert (cold.value is None) == (cold.reason is not None)
    assert cold.value is None or cold.value > 0


def test_a_failed_cold_attempt_leaves_no_cold_figure_and_the_warm_ones():
    used = {"joules": None, "idle_w": None, "calls": 10, "cpu_s": 1.0, "wall_s": 1.0}
    warm = {"load_s": 1.0, "first_call_s": 2.0, "peak_bytes": 3, "added_bytes": 4, "why_not_added": None}
    samples = fresh.Samples(warm=[warm | {"energy": used}] * 3, cold=[{"load_s": 9.0}], why_no_cold="pages stayed")
    found = told(samples, examples=4).figures
    assert (found["load_time_cold_ms"].value, found["load_time_cold_ms"].reason) == (None, "pages stayed")
    assert found["load_time_ms"].value == 1000.0
    assert found["energy_j"].value == pytest.approx(fresh.ESTIMATED_W_PER_CORE / 40)
    assert found["energy_j"].estimated


def test_counted_energy_is_no_estimate_and_tells_the_idle_power():
    used = {"joules": 8.0, "idle_w": 5.0, "calls": 10, "cpu_s": 1.0, "wall_s": 2.0}
    figure, source = fresh.energy_of([used, used, used | {"joules": 12.0}], examples=4)
    assert (figure.value, figure.low, figure.high, figure.estimated) == (0.2, 0.2, 0.3, False)
    assert (source.busy_w, source.idle_w, source.calls) == (pytest.approx(28 / 6), 5.0, 30)
    assert "estimated" not in source.source


WRONG = [
    ("crashing", r"killed by signal 11"),
    ("killed", r"killed by signal 9, as a system does that runs out of memory"),
    ("raising", r"exit 1.*the model's own words"),
    ("shifting", r"narrow\.onnx: expected outputs of shape \(4, 2\) as in the first call, got \(4, 1\)"),
    ("flat", r"narrow\.onnx: expected 4 rows for as many examples, got shape \(8,\)"),
    pytest.param("starved", r"MemoryError: expected memory enough for one model", marks=linux),
]


@pytest.mark.usefixtures("strange")
@pytest.mark.parametrize(("runtime", "words"), WRONG)
def test_a_model_that_goes_wrong_is_named(files, conditions, tmp_path, runtime, words):
    made = conditions(runtime)
    with pytest.raises(MeasurementError, match=f"(?s){words}") as caught:
        one_process(files["narrow"], made, saved(made, tmp_path), cold=False)
    assert "narrow.onnx" in str(caught.value)


@pytest.mark.usefixtures("strange")
def test_a_model_that_hangs_is_ended_with_what_it_started(files, conditions, tmp_path):
    made = conditions("hanging", patience_s=3)
    with pytest.raises(MeasurementError, match=r"narrow\.onnx: expected an answer within 3 s"):
        one_process(files["narrow"], made, saved(made, tmp_path), cold=False)


@pytest.mark.parametrize("cold", [False, True])
def test_a_file_that_vanished_is_named(files, conditions, tmp_path, cold):
    files["narrow"].unlink()
    with pytest.raises(MeasurementError, match=r"No such file.*narrow\.onnx"):
        one_process(files["narrow"], conditions(), saved(conditions(), tmp_path), cold=cold)


def test_one_broken_model_takes_no_figure_from_another(files, conditions):
    files["wide"].write_bytes(b"no model")
    found = measure_fresh(files, conditions(), budget_s=0.5)
    assert found["narrow"].figures["load_time_ms"].value > 0
    assert found["wide"].energy is None
    for figure in found["wide"].figures.values():
        assert figure.value is None
        assert "wide.onnx" in figure.reason


def test_words_that_a_model_prints_are_not_taken_for_the_answer(files, conditions, tmp_path, monkeypatch):
    monkeypatch.setattr(fresh, "run_worker", lambda *_, **__: 'loading…\n{"load_s": 1.0}\n')
    assert one_process(files["narrow"], conditions(), tmp_path, cold=True) == {"load_s": 1.0}
    monkeypatch.setattr(fresh, "run_worker", lambda *_, **__: "nothing of use")
    with pytest.raises(MeasurementError, match="expected a line of JSON, got 'nothing of use'"):
        one_process(files["narrow"], conditions(), tmp_path, cold=True)
