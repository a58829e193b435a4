"""How good a model's answers are: per-example outcomes, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compression_gate.errors import MeasurementError, TaskError
from compression_gate.measurers.robustness import Disturbance
from compression_gate.progress import tracked
from compression_gate.records.base import finite
from compression_gate.records.metric_table import BETWEEN_MODELS
from compression_gate.records.metrics import Value
from compression_gate.runtimes.base import Session
from compression_gate.tasks.calling import call, named
from compression_gate.tasks.task import Task

BATCH_SIZE = 256
Kind = Literal["classification", "regression", "custom"]
Metrics = dict[str, Value]
Slices = dict[str, Metrics]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model answered to a split, in order: outputs ``(N, …)`` and targets ``(N, …)``."""

    outputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Per-example outcomes of one model.

    Args:
        target: labels or target values ``(N,)``, of a regression of several values ``(N, K)``.
        predicted: labels ``(N,)``, for classification.
        scores: name -> ``(N,)``, for the other kinds (regression: ``error``, and of several values ``mae``).
        classes: number of classes, 0 where there are none.
    """

    target: np.ndarray
    predicted: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    classes: int = 0

    def of_examples(self, inside: np.ndarray) -> Outcomes:
        """Return the outcomes of the examples at positions ``inside`` alone."""
        return Outcomes(
            target=self.target[inside],
            predicted=None if self.predicted is None else self.predicted[inside],
            scores={name: score[inside] for name, score in self.scores.items()},
            classes=self.classes,
        )


def predict(
    session: Session,
    task: Task,
    split: str,
    label: str,
    batch_size: int = BATCH_SIZE,
    disturbance: Disturbance | None = None,
) -> Answers:
    """Let a loaded file answer every example of a split once, as it is or disturbed.

    Raises:
        MeasurementError: an answer for fewer or more examples than asked, or one that is not finite.
    """
    outputs, targets = [], []
    batches = -(-len(task.split(split)) // batch_size)
    for batch in tracked(task.batches(split, batch_size), batches, label):
        inputs = named(batch.inputs)
        if disturbance is not None:
            inputs = disturbance(inputs, batch.positions)
        output = session({name: value.numpy() for name, value in inputs.items()})
        outputs.append(output)
        targets.append(batch.targets.numpy())
        if output.ndim == 0 or len(output) != len(batch.targets):
            raise MeasurementError(
                f"{label}: expected one answer for each of {len(batch.targets)} examples, got {output.shape}: "
                "the model's first axis must be the batch"
            )
    return checked(Answers(outputs=joined(outputs, label), targets=joined(targets, label)), label)


def joined(parts: list[np.ndarray], label: str) -> np.ndarray:
    """Join the answers of all batches."""
    try:
        return np.concatenate(parts)
    except ValueError as error:
        raise MeasurementError(
            f"{label}: expected answers of one shape, got {sorted({part.shape[1:] for part in parts})} in different "
            "batches: let the model return the same shape for every length, or task.collate pad to one length"
        ) from error


def checked(answers: Answers, label: str) -> Answers:
    """Return the answers if all are finite."""
    bad = ~np.isfinite(answers.outputs.reshape(len(answers.outputs), -1)).all(axis=1)
    if bad.any():
        raise MeasurementError(
            f"{label}: expected finite outputs, got NaN or infinity in {int(bad.sum())} of {len(bad)} examples "
            f"(first: {int(np.flatnonzero(bad)[0])}): look at the weights, the data, the last step of the recipe"
        )
    return answers


def outcomes_of(answers: Answers, task: Task, label: str) -> Outcomes:
    """Turn outputs into per-example outcomes by the task's kind."""
    if task.params.kind == "classification":
        return classified(answers, label)
    if task.params.kind == "regression":
        return regressed(answers, label)
    return scored(answers, task, label)


def classified(answers: Answers, label: str) -> Outcomes:
    """The class with the largest output, for outputs ``(N, C)`` and labels ``(N,)`` in 0 … C − 1.

    Raises:
        MeasurementError: outputs of another shape.
        TaskError: labels that are no classes of this model.
    """
    outputs, targets = answers.outputs, answers.targets
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise MeasurementError(
            f"{label}: classification: expected outputs (N, C) with C of 2 or more, got {outputs.shape}: "
            "return one score per class, or set task.kind"
        )
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise TaskError(
            f"task.data: classification: expected whole numbers (N,) as targets, got {targets.dtype} {targets.shape}"
        )
    classes = outputs.shape[1]
    outside = (targets < 0) | (targets >= classes)
    if outside.any():
        raise TaskError(
            f"task.data: expected labels 0 to {classes - 1} (the model has {classes} outputs), got "
            f"{sorted(set(targets[outside].tolist()))[:5]} in {int(outside.sum())} examples: mend labels or model"
        )
    return Outcomes(target=targets.astype(np.int64), predicted=outputs.argmax(1).astype(np.int64), classes=classes)


def regressed(answers: Answers, label: str) -> Outcomes:
    """Signed errors of the answers; of several values per example the root of their mean square, and ``mae``.

    Raises:
        MeasurementError: outputs that cannot be laid over the targets.
    """
    targets = answers.targets.astype(np.float64)
    if answers.outputs.size != targets.size:
        raise MeasurementError(
            f"{label}: regression: expected outputs of the targets' shape {targets.shape}, got {answers.outputs.shape}"
        )
    targets = targets.reshape(len(targets), -1)
    errors = answers.outputs.astype(np.float64).reshape(targets.shape) - targets
    if targets.shape[1] == 1:
        return Outcomes(target=targets[:, 0], scores={"error": errors[:, 0]})
    return Outcomes(target=targets, scores={"error": np.sqrt((errors**2).mean(1)), "mae": np.abs(errors).mean(1)})


def scored(answers: Answers, task: Task, label: str) -> Outcomes:
    """What the user's scorer says about each example.

    Raises:
        TaskError: the scorer failed or returned something else than ``{name: (N,)}``, finite.
    """
    assert task.scorer is not None  # params.yaml demands one for kind custom
    try:
        returned: Any = task.scorer(torch.from_numpy(answers.outputs), torch.from_numpy(answers.targets))
    except Exception as error:  # a user's function may raise anything
        raise TaskError(f"task.scorer: {label}: raised {type(error).__name__}: {error}") from error
    if not isinstance(returned, Mapping) or not returned:
        raise TaskError(f"task.scorer: expected a mapping {{name: scores (N,)}}, got {type(returned).__name__}")
    scores = {}
    for name, value in returned.items():
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
        if array.shape != (len(answers.outputs),) or not np.isfinite(array).all():
            raise TaskError(
                f"task.scorer: {name}: expected {len(answers.outputs)} finite scores, one an example, "
                f"got shape {array.shape} with {int((~np.isfinite(array)).sum())} not finite"
            )
        scores[str(name)] = array
    targets = answers.targets
    return Outcomes(target=targets if targets.ndim == 1 else np.arange(len(targets)), scores=scores)


def metrics_of(outcomes: Outcomes, answers: Answers, kind: Kind) -> Metrics:
    """Every metric of the kind, over all examples."""
    if kind == "classification":
        return classification_metrics(outcomes)
    if kind == "regression":
        return regression_metrics(answers)
    return {name: Value(value=finite(score.mean()), n=len(score)) for name, score in outcomes.scores.items()}


def confusion(outcomes: Outcomes) -> np.ndarray:
    """Counts ``(C, C)``: rows are the targets, columns the predictions."""
    assert outcomes.predicted is not None  # only classification has a confusion
    flat = outcomes.target * outcomes.classes + outcomes.predicted
    return np.bincount(flat, minlength=outcomes.classes**2).reshape(outcomes.classes, outcomes.classes)


def class_metrics(outcomes: Outcomes) -> Slices:
    """Accuracy, precision, recall and F1 of every class: metric -> ``class=<label>`` -> figure.

    A class that has examples and is never predicted has precision 0, not an undefined one: a model must not gain by
    giving up a class. A class without examples in the test data has no figure, and a reason.
    """
    table = confusion(outcomes)
    slices: Slices = {name: {} for name in ("accuracy", "precision", "recall", "f1")}
    for label in range(outcomes.classes):
        right, actual, claimed = int(table[label, label]), int(table[label].sum()), int(table[:, label].sum())
        key = f"class={label}"
        if actual == 0:
            for values in slices.values():
                values[key] = Value(value=None, n=0, reason=f"no test example of class {label}")
            continue
        slices["accuracy"][key] = slices["recall"][key] = Value(value=right / actual, n=actual)
        slices["precision"][key] = Value(value=right / claimed if claimed else 0.0, n=claimed)
        slices["f1"][key] = Value(value=2 * right / (actual + claimed), n=actual)
    return slices


def classification_metrics(outcomes: Outcomes) -> Metrics:
    """Accuracy, and precision, recall and F1 as plain means over the classes that have examples."""
    count = len(outcomes.target)
    metrics = {"accuracy": Value(value=float((outcomes.target == outcomes.predicted).mean()), n=count)}
    by_class = class_metrics(outcomes)
    for name in ("precision", "recall", "f1"):
        values = [figure.value for figure in by_class[name].values() if figure.value is not None]
        metrics[name] = Value(value=float(np.mean(values)), n=count)
    return metrics


def regression_metrics(answers: Answers) -> Metrics:
    """Mean absolute error, root mean squared error, and the share of the variance explained (r2)."""
    targets = answers.targets.astype(np.float64).reshape(len(answers.targets), -1)
    errors = answers.outputs.astype(np.float64).reshape(targets.shape) - targets
    spread = float(((targets - targets.mean(0)) ** 2).sum()) if np.ptp(targets, axis=0).any() else 0.0
    r2 = Value(value=finite(1 - float((errors**2).sum()) / spread), n=len(targets)) if spread > 0 else None
    return {
        "mae": Value(value=finite(float(np.abs(errors).mean())), n=len(targets)),
        "rmse": Value(value=finite(float(np.sqrt((errors**2).mean()))), n=len(targets)),
        "r2": r2 or Value(value=None, n=len(targets), reason="all targets are equal"),
    }


def column_slices(outcomes: Outcomes, answers: Answers, kind: Kind, columns: dict[str, np.ndarray]) -> Slices:
    """Every metric within every value of the data's own columns: metric -> ``column=value`` -> figure."""
    slices: Slices = {}
    for column, values in columns.items():
        for value in sorted(set(values.tolist()), key=str):
            inside = np.flatnonzero(values == value)
            part = outcomes.of_examples(inside)
            some = Answers(outputs=answers.outputs[inside], targets=answers.targets[inside])
            for metric, figure in metrics_of(part, some, kind).items():
                slices.setdefault(metric, {})[f"{column}={value}"] = figure
    return slices


def agreement(first: Outcomes, second: Outcomes) -> Value:
    """Share of the examples that both models put into the same class."""
    same = np.asarray(first.predicted == second.predicted)
    return Value(value=float(same.mean()), n=len(first.target))


def pair_metrics(other: Outcomes, own: Outcomes) -> Metrics:
    """How a model's answers differ from another model's, as shares of all examples.

    ``lost``: the other was right and this one is not; ``won`` the reverse; ``flips`` their sum.

    Source: A. Dutta et al., Accuracy is Not All You Need, NeurIPS 2024, §3 (flips).
    """
    before, after = other.target == other.predicted, own.target == own.predicted
    count = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    return {
        "agreement": agreement(other, own),
        "flips": Value(value=(lost + won) / count, n=count),
        "lost": Value(value=lost / count, n=count),
        "won": Value(value=won / count, n=count),
    }


def pair_slices(other: Outcomes, own: Outcomes, columns: dict[str, np.ndarray]) -> Slices:
    """Agreement and flips within every class and every value of the data's own columns.

    A class without examples in the test data has no figure, and a reason, as in :func:`class_metrics`.
    """
    parts = {f"class={label}": own.target == label for label in range(own.classes)}
    for column, values in columns.items():
        parts |= {f"{column}={value}": values == value for value in np.unique(values).tolist()}
    slices: Slices = {metric: {} for metric in BETWEEN_MODELS}
    for name, inside in parts.items():
        nobody = Value(value=None, n=0, reason=f"no test example of {name.replace('=', ' ', 1)}")
        both = (one.of_examples(np.flatnonzero(inside)) for one in (other, own))
        figures = pair_metrics(*both) if inside.any() else dict.fromkeys(BETWEEN_MODELS, nobody)
        for metric in BETWEEN_MODELS:
            slices[metric][name] = figures[metric]
    return slices


class TorchSession:
    """A module behind the interface of a loaded file."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model = model
        self.inputs = task.example_inputs(1, "validation")

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the output ``(N, …)`` as float32."""
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.inference_mode():
            if isinstance(self.inputs, Tensor):
                output = call(self.model, next(iter(tensors.values())))
            elif isinstance(self.inputs, Mapping):
                output = call(self.model, tensors)
            else:
                output = call(self.model, tuple(tensors.values()))
        return np.asarray(output.float().numpy())


def validation_quality(model: nn.Module, task: Task) -> dict[str, float | None]:
    """Every metric of the task's kind on the validation split, of a module in torch; leaves its mode as it was."""
    training = model.training
    model.eval()
    try:
        answers = predict(TorchSession(model, task), task, "validation", "validation")
    finally:
        model.train(training)
    outcomes = outcomes_of(answers, task, "validation")
    return {name: figure.value for name, figure in metrics_of(outcomes, answers, task.params.kind).items()}
