"""Regression of one value or several: what `evaluate` keeps of every example is what its figures are made of."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

from compression_gate.artifacts.exporting import exported_artifact
from compression_gate.gate.evidence import SAME
from compression_gate.gate.evidence import quality as judged_quality
from compression_gate.gate.facts import Facts, Outcomes, Question
from compression_gate.gate.intervals import of_outcomes
from compression_gate.measurers import quality
from compression_gate.measurers.quality import Answers
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import DataRecord
from compression_gate.records.params import read_params
from compression_gate.records.rules import Rule
from compression_gate.stages import evaluate
from compression_gate.stages.evaluate import Measured, write_predictions
from compression_gate.tasks.task import open_task

TASK = SimpleNamespace(params=SimpleNamespace(kind="regression"), scorer=None)
COLUMN = np.array(["a", "b", "b"] * 40)
METRICS = ("mae", "rmse", "r2")
SHAPES = {"one": (), "one in a row": (1,), "three": (3,), "a grid": (4, 2)}


def measured(shape, copies=None):
    """Answers of two models to 120 examples, whose values lie at levels and spreads of their own."""
    random = np.random.default_rng(0)
    levels, scales = random.normal(size=shape) * 50, np.exp(random.normal(size=shape))
    targets = levels + scales * random.normal(size=(120, *shape))
    errors = {"candidate": 0.4, "reference": 0.3}
    answers = {}
    for role, size in errors.items():
        outputs = targets + size * random.normal(size=targets.shape)
        both = (np.repeat(one[:, None], copies, 1) if copies else one for one in (outputs, targets))
        outputs, given = (one.astype(np.float32) for one in both)
        answers[role] = Answers(outputs=outputs, targets=given)
    return Measured(
        kind="regression",
        ids=np.arange(120).astype(np.str_),
        answers=answers,
        outcomes={role: quality.outcomes_of(given, TASK, role) for role, given in answers.items()},
        columns={"column": COLUMN},
    )


def estimate_of(whole, path, metric, part=None):
    """What the gate makes of what was written."""
    write_predictions(path / "predictions.npz", whole)
    rule = Rule(metric=metric, max_increase=1.0)
    question = Question(name=metric, rule=rule, slice=part, against="reference")
    return of_outcomes(question, Outcomes.read(path / "predictions.npz"), 0.05)


@pytest.mark.parametrize("part", [None, "column=a", "column=b"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gate_finds_the_figures_that_evaluate_wrote(tmp_path, shape, metric, part):
    whole = measured(shape)
    found = estimate_of(whole, tmp_path, metric, part)
    for role, value in (("candidate", found.observed), ("reference", found.compared_to)):
        slices = quality.column_slices(whole.outcomes[role], whole.answers[role], "regression", whole.columns)
        told = quality.regression_metrics(whole.answers[role])[metric] if part is None else slices[metric][part]
        assert value == pytest.approx(told.value, rel=SAME)
    low, high = found.interval
    assert low < found.change < high


@pytest.mark.parametrize("metric", METRICS)
def test_a_value_told_three_times_is_as_sure_as_told_once(tmp_path, metric):
    once, thrice = (estimate_of(measured((), copies), tmp_path, metric) for copies in (None, 3))
    assert thrice.observed == pytest.approx(once.observed)
    assert thrice.interval == pytest.approx(once.interval, rel=0.05, abs=1e-4)


def test_a_suite_of_several_values_is_judged_by_every_metric_and_under_a_perturbation(suite):
    suite.replace("int(self.targets[index])", "torch.eye(CLASSES)[self.targets[index]] * 5 + 20")
    suite.edit("task.kind", "regression")
    suite.edit("evaluate.perturbations", ["brightness"])
    limits = {"mae": {"max_increase": 1.0}, "rmse": {"max_increase": 1.0}, "r2": {"max_drop": 1.0}}
    suite.edit("gate", {"rules": {metric: {"metric": metric, **limit} for metric, limit in limits.items()}})
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    DataRecord(digest="data", splits={}, leaks={}).write(suite.path / "reports/data.json")
    for role in ("reference", "candidate"):
        folder = suite.path / "models" / role
        folder.mkdir(parents=True)
        model = task.build_model()
        save_file(model.state_dict(), folder / "model.safetensors")
        exported_artifact(model, task, params, folder, role=role)
    facts = Facts(
        params=params,
        alpha=params.gate.alpha,
        evaluation=evaluate.run(suite.path),
        outcomes=Outcomes.read(suite.path / "reports/predictions.npz"),
        artifacts={role: Artifact.open(suite.path / "models" / role) for role in ("reference", "candidate")},
    )
    for metric, rule in params.gate.rules.items():
        for part in (None, "perturbation=brightness"):
            question = Question(name=metric, rule=rule, slice=part, against="reference")
            found = judged_quality(question, facts)
            assert (found.change, found.n) == (0, 90), (metric, part)
