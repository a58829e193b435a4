"""Metrics against figures computed by hand, and answers that cannot be measured."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compression_gate.errors import MeasurementError, TaskError
from compression_gate.measurers import quality
from compression_gate.measurers.quality import Answers, Outcomes

TARGET = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])
OUTCOMES = Outcomes(target=TARGET, predicted=PREDICTED, classes=4)


def answers(outputs, targets):
    return Answers(outputs=np.asarray(outputs, np.float32), targets=np.asarray(targets))


def task(kind, scorer=None):
    return SimpleNamespace(params=SimpleNamespace(kind=kind), scorer=scorer)


def test_confusion_has_targets_in_rows():
    assert quality.confusion(OUTCOMES).tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_class_figures_by_hand():
    slices = quality.class_metrics(OUTCOMES)
    assert slices["precision"]["class=0"].value == 2 / 4
    assert slices["recall"]["class=0"].value == 2 / 3
    assert slices["f1"]["class=0"].value == 4 / 7
    assert slices["recall"]["class=0"].n == 3


def test_a_class_never_predicted_has_precision_zero_and_one_without_examples_none():
    precision = quality.class_metrics(OUTCOMES)["precision"]
    assert precision["class=2"].value == 0
    assert precision["class=3"].value is None
    assert "no test example" in precision["class=3"].reason


def test_macro_figures_are_means_over_the_classes_with_examples():
    metrics = quality.classification_metrics(OUTCOMES)
    assert metrics["accuracy"].value == 3 / 6
    assert metrics["recall"].value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics["accuracy"].n == 6


def test_pairs_count_what_was_lost_and_won():
    other = Outcomes(target=TARGET, predicted=np.array([0, 1, 1, 1, 1, 2]), classes=4)
    pairs = quality.pair_metrics(other, OUTCOMES)
    assert {name: value.value * 6 for name, value in pairs.items()} == {"agreement": 3, "flips": 3, "lost": 2, "won": 1}


def test_regression_by_hand():
    given = answers([[1.0], [2.0], [5.0]], [1.0, 2.0, 3.0])
    metrics = quality.metrics_of(quality.outcomes_of(given, task("regression"), "m"), given, "regression")
    assert metrics["mae"].value == pytest.approx(2 / 3)
    assert metrics["rmse"].value == pytest.approx((4 / 3) ** 0.5)
    assert metrics["r2"].value == pytest.approx(1 - 4 / 2)


@pytest.mark.parametrize("target", [1.0, -0.266630814281278])
def test_r2_of_equal_targets_has_a_reason(target):
    """The mean of a thousand equal numbers may differ from them in the last digit: that is no variance to explain."""
    given = answers([0.0, 1.0] * 500, [target] * 1000)
    assert quality.regression_metrics(given)["r2"].reason == "all targets are equal"


def test_a_custom_scorer_gives_its_names():
    given = answers([[1.0], [2.0]], [1.0, 4.0])
    made = quality.outcomes_of(given, task("custom", lambda o, t: {"gap": (o[:, 0] - t).abs()}), "m")
    assert quality.metrics_of(made, given, "custom")["gap"].value == 1.0


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda o, t: o, "expected a mapping"),
        (lambda o, t: {"a": o.sum()}, r"a: expected 2 finite scores"),
        (lambda o, t: {"a": torch.tensor([1.0, float("nan")])}, "1 not finite"),
        (lambda o, t: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_scorer_is_named(scorer, message):
    with pytest.raises(TaskError, match=message):
        quality.outcomes_of(answers([[1.0], [2.0]], [1.0, 4.0]), task("custom", scorer), "m")


def test_outputs_that_are_not_finite_are_counted():
    with pytest.raises(MeasurementError, match="NaN or infinity in 2 of 3 examples"):
        quality.checked(answers([[1, 2], [np.nan, 1], [np.inf, 0]], [0, 1, 0]), "candidate")


def test_labels_outside_the_classes_are_named():
    with pytest.raises(TaskError, match=r"labels 0 to 1 .* got \[-1, 7\] in 2 examples"):
        quality.outcomes_of(answers(np.zeros((3, 2)), [7, 1, -1]), task("classification"), "m")


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2)])
def test_outputs_that_are_no_scores_per_class_are_refused(shape):
    with pytest.raises(MeasurementError, match="expected outputs"):
        quality.outcomes_of(answers(np.zeros(shape), [0, 1, 0]), task("classification"), "m")


def test_columns_make_slices():
    slices = quality.column_slices(
        OUTCOMES, answers(np.zeros((6, 4)), TARGET), "classification", {"light": np.array(list("ddnndn"))}
    )
    assert slices["accuracy"]["light=d"].value == 2 / 3
    assert slices["accuracy"]["light=n"].n == 3
