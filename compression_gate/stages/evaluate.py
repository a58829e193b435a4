"""``evaluate``: every model's answers to the test split, given by its exported file, reloaded.

Answers and outcomes are kept by role, and those to disturbed inputs by ``<perturbation>@<role>``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression_gate.artifacts.compared import Models, open_models
from compression_gate.artifacts.exporting import runtime_of
from compression_gate.errors import DataError, MeasurementError
from compression_gate.measurers import quality
from compression_gate.measurers.quality import Answers, Kind, Metrics, Outcomes, Slices
from compression_gate.measurers.robustness import Disturbance, disturbances_of
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of_file, replacing
from compression_gate.records.metric_table import BETWEEN_MODELS
from compression_gate.records.metrics import DataRecord, Evaluation, ModelQuality
from compression_gate.records.params import Params, read_params
from compression_gate.records.perturbation_table import PERTURBATION
from compression_gate.records.provenance import params_digests
from compression_gate.runtimes.base import Session
from compression_gate.tasks.task import Task, offered, open_task

MOST_SLICES = 50


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What all models answered, and what was made of it; keys as the module says.

    Args:
        ids: of the examples ``(N,)``.
        columns: the data's own columns that make slices, as text ``(N,)``.
        perturbations: the names of those the models were asked under.
    """

    kind: Kind
    ids: np.ndarray
    answers: dict[str, Answers]
    outcomes: dict[str, Outcomes]
    columns: dict[str, np.ndarray]
    perturbations: tuple[str, ...] = ()

    def conditions(self, role: str) -> dict[str, str]:
        """The slices that are perturbations: name of the slice -> key of what ``role`` answered there."""
        return {f"{PERTURBATION}={name}": under(name, role) for name in self.perturbations}


def under(perturbation: str, role: str) -> str:
    """The key of what a role answered to disturbed inputs."""
    return f"{perturbation}@{role}"


def run(suite: Path) -> Evaluation:
    """Write ``reports/evaluation.json``, ``predictions.npz`` and ``confusion.csv``.

    Raises:
        MeasurementError: a model's answers cannot be measured, or examples share an id.
        MetricsError, StaleError: an artifact is missing or not the one its record speaks of.
    """
    params = read_params(suite)
    task = open_task(params, suite)
    models = open_models(suite, params)
    data = DataRecord.read(suite / "reports/data.json")
    measured = measure(models, task, params, "test")
    evaluation = record(measured, models, params, data.digest, suite / "reports")
    write_confusion(suite / "reports/confusion.csv", measured.outcomes["candidate"])
    return evaluation


def measure(
    models: Models, task: Task, params: Params, split: str, known: Mapping[str, Answers] | None = None
) -> Measured:
    """Ask every model for every example of a split, as it is and disturbed.

    Args:
        known: what models answered before, by role and by perturbation; they are not asked again.

    Raises:
        MeasurementError: a model's answers cannot be measured, or examples share an id.
        KeyError, ValueError: the data have no such split, as their callable says it.
    """
    runtime = runtime_of(params)
    ids = unique_ids(task, split)
    columns = columns_of(task, params, split)
    disturbances = disturbances_of(params.evaluate.perturbations, task, split)
    answers: dict[str, Answers] = dict(known or {})
    for role, path in models.files.items():
        if role in answers:
            continue
        answers |= answers_of(runtime.load(path, params.benchmark.threads), task, split, role, disturbances)
    same_targets(answers, split)
    return Measured(
        kind=params.task.kind,
        ids=ids,
        answers=answers,
        outcomes={key: quality.outcomes_of(given, task, key) for key, given in answers.items()},
        columns=columns,
        perturbations=tuple(disturbances),
    )


def record(measured: Measured, models: Models, params: Params, data_digest: str, folder: Path) -> Evaluation:
    """Write ``evaluation.json`` and ``predictions.npz`` of what was measured into a folder."""
    predictions = folder / "predictions.npz"
    write_predictions(predictions, measured)
    others = [role for role in models.artifacts if role != "candidate"] if params.task.kind == "classification" else []
    evaluation = Evaluation(
        kind=params.task.kind,
        n=len(measured.ids),
        data_digest=data_digest,
        predictions_digest=digest_of_file(predictions),
        runtime=params.compress.runtime,
        models={role: model_quality(artifact, measured, role, params) for role, artifact in models.artifacts.items()},
        absent=models.absent,
        pairs={role: quality.pair_metrics(measured.outcomes[role], measured.outcomes["candidate"]) for role in others},
        pair_slices={role: paired_slices(measured, role, "candidate") for role in others},
        classes=tuple(str(label) for label in range(measured.outcomes["candidate"].classes)),
        params_digests=params_digests("evaluate", params),
    )
    evaluation.write(folder / "evaluation.json")
    return evaluation


def answers_of(
    session: Session, task: Task, split: str, role: str, disturbances: dict[str, Disturbance]
) -> dict[str, Answers]:
    """Ask a loaded model for a split as it is, then once more under each perturbation."""
    answers = {role: quality.predict(session, task, split, role)}
    for name, disturbance in disturbances.items():
        key = under(name, role)
        answers[key] = quality.predict(session, task, split, key, disturbance=disturbance)
    return answers


def unique_ids(task: Task, split: str) -> np.ndarray:
    """Ids of a split's examples ``(N,)``.

    Raises:
        MeasurementError: two examples share one, so that outcomes cannot be joined.
    """
    ids = np.array(task.split(split).ids, dtype=np.str_)
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = names[counts > 1]
        raise MeasurementError(
            f"task.data: split {split!r}: expected unique ids, got {len(twice)} that occur more than once "
            f"(first: {str(twice[0])!r}): outcomes are joined by id"
        )
    return ids


def same_targets(answers: dict[str, Answers], split: str) -> None:
    """Make sure that the data gave every model the same targets.

    Raises:
        DataError: reading the split twice gave different targets.
    """
    first = next(iter(answers.values())).targets
    for role, given in answers.items():
        if not np.array_equal(first, given.targets):
            raise DataError(
                f"task.data: split {split!r}: expected the same targets on every reading, got others for {role}"
            )


def columns_of(task: Task, params: Params, split: str) -> dict[str, np.ndarray]:
    """The data's own columns that have few enough values to be slices, as text ``(N,)``.

    Raises:
        MeasurementError: a column of another length, or one named as the slices of perturbations are.
    """
    examples = task.split(split)
    columns = {}
    own = offered(examples.dataset, "columns")
    for name, values in own.items() if hasattr(own, "items") else ():  # a list of names makes no slices
        expected = len(examples.dataset)
        try:
            array = np.asarray(values)
            got: object = array.shape
        except ValueError as error:
            got = error
        if got != (expected,):
            raise MeasurementError(f"task.data: column {name!r}: expected {expected} values, one an example, got {got}")
        # As text NaN equals itself, and values of several kinds can be sorted.
        text = np.array([str(value) for value in array.tolist()], dtype=np.str_)
        if name == PERTURBATION and params.evaluate.perturbations:
            raise MeasurementError(
                f"task.data: column {name!r}: expected another name, since evaluate.perturbations makes slices of this "
                "one: rename the column, or leave the perturbations out"
            )
        if name != "class" and len(np.unique(text)) <= MOST_SLICES:
            columns[str(name)] = text[examples.indices]
    return columns


def model_quality(artifact: Artifact, measured: Measured, role: str, params: Params) -> ModelQuality:
    """One model's metrics over all examples, by class, by the data's columns and under each perturbation."""
    metrics = quality.metrics_of(measured.outcomes[role], measured.answers[role], measured.kind)
    if absent := [name for name in params.evaluate.metrics or () if measured.kind == "custom" and name not in metrics]:
        raise MeasurementError(
            f"evaluate.metrics: expected names that task.scorer gives ({', '.join(metrics)}), got {', '.join(absent)}"
        )
    slices = task_slices(measured, role)
    if measured.kind == "classification":
        metrics |= compared(measured.outcomes["reference"], measured.outcomes[role])
        slices |= paired_slices(measured, "reference", role)
    wanted = {*params.metrics, *BETWEEN_MODELS} if measured.kind != "custom" or params.evaluate.metrics else {*metrics}
    return ModelQuality(
        digest=artifact.digest,
        metrics={name: value for name, value in metrics.items() if name in wanted},
        slices={name: values for name, values in slices.items() if name in wanted},
    )


def task_slices(measured: Measured, role: str) -> Slices:
    """The task's own metrics of one model, in every slice: metric -> slice -> figure."""
    own, answers = measured.outcomes[role], measured.answers[role]
    slices: Slices = quality.class_metrics(own) if measured.kind == "classification" else {}
    for metric, figures in quality.column_slices(own, answers, measured.kind, measured.columns).items():
        slices.setdefault(metric, {}).update(figures)
    for part, key in measured.conditions(role).items():
        for metric, figure in quality.metrics_of(measured.outcomes[key], measured.answers[key], measured.kind).items():
            slices.setdefault(metric, {})[part] = figure
    return slices


def paired_slices(measured: Measured, other: str, role: str) -> Slices:
    """Agreement and flips of one model against another in every slice; both see the same disturbed inputs."""
    slices = quality.pair_slices(measured.outcomes[other], measured.outcomes[role], measured.columns)
    theirs = measured.conditions(other)
    for part, key in measured.conditions(role).items():
        for metric, figure in compared(measured.outcomes[theirs[part]], measured.outcomes[key]).items():
            slices[metric][part] = figure
    return slices


def compared(other: Outcomes, own: Outcomes) -> Metrics:
    """Agreement and flips of one model against another, over all examples."""
    figures = quality.pair_metrics(other, own)
    return {metric: figures[metric] for metric in BETWEEN_MODELS}


def write_predictions(path: Path, measured: Measured) -> None:
    """Write per-example outcomes; numpy dates every entry 1980, so the same outcomes give the same bytes."""
    arrays = {"ids": measured.ids, "target": measured.outcomes["candidate"].target}
    arrays |= {f"column_{name}": values for name, values in measured.columns.items()}
    for key, own in measured.outcomes.items():
        if own.predicted is not None:
            arrays[f"{key}_predicted"] = own.predicted
        arrays |= {f"{key}_score_{name}": score for name, score in own.scores.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle


def write_confusion(path: Path, outcomes: Outcomes) -> None:
    """Write what the candidate took each test example for, as `dvc plots` counts it; no rows without classes."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("actual", "predicted"))
        if outcomes.predicted is not None:
            writer.writerows(zip(outcomes.target.tolist(), outcomes.predicted.tolist(), strict=True))
