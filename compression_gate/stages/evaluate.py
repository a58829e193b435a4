"""``evaluate``: every model's answers to the test split, given by its exported file, reloaded."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from compression_gate.errors import DataError, MeasurementError
from compression_gate.measurers import quality
from compression_gate.measurers.quality import Answers, Outcomes
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of_file, replacing
from compression_gate.records.metrics import DataRecord, Evaluation, ModelQuality, Value
from compression_gate.records.params import Params, read_params
from compression_gate.stages.artifacts import runtime_of
from compression_gate.stages.models import open_models
from compression_gate.tasks.task import Task, open_task

MOST_SLICES = 50


def run(suite: Path) -> Evaluation:
    """Write ``reports/evaluation.json``, ``predictions.npz`` and ``confusion.csv``.

    Raises:
        MeasurementError: a model's answers cannot be measured, or examples share an id.
        MetricsError, StaleError: an artifact is missing or not the one its record speaks of.
    """
    params = read_params(suite)
    task = open_task(params, suite)
    runtime = runtime_of(params)
    models = open_models(suite, runtime.file_name)
    data = DataRecord.read(suite / "reports/data.json")
    ids = unique_ids(task)
    answers: dict[str, Answers] = {}
    for role, path in models.files.items():
        session = runtime.load(path, params.benchmark.threads)
        answers[role] = quality.predict(session, task, "test", role)
    same_targets(answers)
    outcomes = {role: quality.outcomes_of(given, task, role) for role, given in answers.items()}
    columns = columns_of(task)
    predictions = suite / "reports/predictions.npz"
    write_predictions(predictions, ids, outcomes, columns)
    write_confusion(suite / "reports/confusion.csv", outcomes["candidate"])
    evaluation = Evaluation(
        kind=params.task.kind,
        n=len(ids),
        data_digest=data.digest,
        predictions_digest=digest_of_file(predictions),
        runtime=params.compress.runtime,
        models={
            role: model_quality(artifact, answers[role], outcomes, role, params, columns)
            for role, artifact in models.artifacts.items()
        },
        absent=models.absent,
        pairs=pairs_of(outcomes, params),
        classes=tuple(str(label) for label in range(outcomes["candidate"].classes)),
    )
    evaluation.write(suite / "reports/evaluation.json")
    return evaluation


def unique_ids(task: Task) -> np.ndarray:
    """Ids of the test examples ``(N,)``.

    Raises:
        MeasurementError: two examples share one, so that outcomes cannot be joined.
    """
    ids = np.array(task.split("test").ids, dtype=np.str_)
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = names[counts > 1]
        raise MeasurementError(
            f"task.data: split 'test': expected unique ids, got {len(twice)} that occur more than once "
            f"(first: {str(twice[0])!r}): outcomes are joined by id"
        )
    return ids


def same_targets(answers: dict[str, Answers]) -> None:
    """Make sure that the data gave every model the same targets.

    Raises:
        DataError: reading the split twice gave different targets.
    """
    first = next(iter(answers.values())).targets
    for role, given in answers.items():
        if not np.array_equal(first, given.targets):
            raise DataError(
                f"task.data: split 'test': expected the same targets on every reading, got others for {role}"
            )


def columns_of(task: Task) -> dict[str, np.ndarray]:
    """The test data's own columns that have few enough values to be slices, as text ``(N,)``."""
    split = task.split("test")
    columns = {}
    for name, values in (getattr(split.dataset, "columns", None) or {}).items():
        array = np.asarray(values)
        if array.shape != (len(split.dataset),):
            raise MeasurementError(
                f"task.data: column {name!r}: expected {len(split.dataset)} values, one an example, got {array.shape}"
            )
        # As text NaN equals itself, and values of several kinds can be sorted.
        text = np.array([str(value) for value in array.tolist()], dtype=np.str_)
        if name != "class" and len(np.unique(text)) <= MOST_SLICES:
            columns[str(name)] = text[split.indices]
    return columns


def model_quality(
    artifact: Artifact,
    answers: Answers,
    outcomes: dict[str, Outcomes],
    role: str,
    params: Params,
    columns: dict[str, np.ndarray],
) -> ModelQuality:
    """One model's metrics over all examples, by class and by the data's columns."""
    own, kind = outcomes[role], params.task.kind
    metrics = quality.metrics_of(own, answers, kind)
    if absent := [name for name in params.evaluate.metrics or () if kind == "custom" and name not in metrics]:
        raise MeasurementError(
            f"evaluate.metrics: expected names that task.scorer gives ({', '.join(metrics)}), got {', '.join(absent)}"
        )
    slices = quality.column_slices(own, answers, kind, columns)
    if kind == "classification":
        metrics["agreement"] = quality.agreement(outcomes["reference"], own)
        for metric, figures in quality.class_metrics(own).items():
            slices[metric] = {**figures, **slices.get(metric, {})}
    wanted = {*params.metrics, "agreement"} if kind != "custom" or params.evaluate.metrics else {*metrics}
    return ModelQuality(
        digest=artifact.digest,
        metrics={name: value for name, value in metrics.items() if name in wanted},
        slices={name: values for name, values in slices.items() if name in wanted},
    )


def pairs_of(outcomes: dict[str, Outcomes], params: Params) -> dict[str, dict[str, Value]]:
    """How the candidate's answers differ from each other model's; labels only."""
    if params.task.kind != "classification":
        return {}
    candidate = outcomes["candidate"]
    return {role: quality.pair_metrics(own, candidate) for role, own in outcomes.items() if role != "candidate"}


def write_predictions(
    path: Path, ids: np.ndarray, outcomes: dict[str, Outcomes], columns: dict[str, np.ndarray]
) -> None:
    """Write per-example outcomes; numpy dates every entry 1980, so the same outcomes give the same bytes."""
    arrays = {"ids": ids, "target": outcomes["candidate"].target}
    arrays |= {f"column_{name}": values for name, values in columns.items()}
    for role, own in outcomes.items():
        if own.predicted is not None:
            arrays[f"{role}_predicted"] = own.predicted
        arrays |= {f"{role}_score_{name}": score for name, score in own.scores.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle


def write_confusion(path: Path, outcomes: Outcomes) -> None:
    """Write what the candidate took each test example for, as `dvc plots` counts it; no rows without classes."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("actual", "predicted"))
        if outcomes.predicted is not None:
            writer.writerows(zip(outcomes.target.tolist(), outcomes.predicted.tolist(), strict=True))
