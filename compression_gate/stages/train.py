"""`train`: the reference, trained here or adopted, written as weights and as the file the runtime reads."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from compression_gate.artifacts.exporting import exported_artifact
from compression_gate.errors import CompressionGateError, TaskError
from compression_gate.modules.checkpoints import adopt_weights, save_reference
from compression_gate.modules.normalized import Normalized
from compression_gate.pipeline.state import source_digests
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, replacing_folder, write_text
from compression_gate.records.metrics import DataRecord
from compression_gate.records.params import Params, read_params
from compression_gate.tasks.calling import call, line_of, named
from compression_gate.tasks.task import Task, function, open_task
from compression_gate.tasks.training import Epoch, Fitting, fit

log = logging.getLogger("compression_gate")


def run(suite: Path) -> Artifact:
    """Train or adopt the reference and write `models/reference/` and `reports/training.csv`."""
    params = read_params(suite)
    data = DataRecord.read(suite / "reports" / "data.json")
    task = open_task(params, suite)
    model, curve = trained(task, params, suite, data)
    check_model(model, task, data)
    with replacing_folder(suite / "models" / "reference") as folder:
        save_reference(model, folder)
        artifact = exported_artifact(model, task, params, folder, role="reference")
    write_curve(curve, suite / "reports" / "training.csv")
    return artifact


def trained(task: Task, params: Params, suite: Path, data: DataRecord) -> tuple[nn.Module, list[Epoch]]:
    """Return the reference in eval mode, and its training curve if it was trained here."""
    model = task.build_model()
    weights = params.task.weights
    if weights == "from_model":
        return normalized(model, task, params), []
    if weights is not None:
        adopt_weights(model, suite / weights)
        return normalized(model, task, params), []
    model = normalized(model, task, params)
    answered(model, task, data)  # before hours of training are spent on it
    if params.task.trainer:
        return trained_by_user(model, task, params), []
    checkpoint = suite / ".compression_gate" / "checkpoints" / "train.pt"
    key = digest_of([data.digest, params.digest_of_task, source_digests(suite, params)])
    curve = fit(model, task, Fitting(options=params.train, checkpoint=checkpoint, label="train", key=key))
    return model, curve


def trained_by_user(model: nn.Module, task: Task, params: Params) -> nn.Module:
    """Call the user's own loop."""
    trainer = function("task.trainer", str(params.task.trainer), "model", "datasets", "options")
    datasets = {name: task.split(name) for name in ("train", "validation", "calibration")}
    try:
        result = trainer(model, datasets, params.train)
    except CompressionGateError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise TaskError(
            f"task.trainer: {params.task.trainer}: raised {type(error).__name__}: {error}{line_of(error)}: mend it"
        ) from error
    if not isinstance(result, nn.Module):
        raise TaskError(
            f"task.trainer: {params.task.trainer}: expected the trained torch.nn.Module, got {type(result).__name__}: "
            "return the model"
        )
    return result.cpu().eval()


def normalized(model: nn.Module, task: Task, params: Params) -> nn.Module:
    """Wrap the model in the training data's mean and deviation per channel, if `train.normalize` asks for it."""
    if not params.train.normalize:
        return model
    total, squares, count = torch.zeros(1), torch.zeros(1), 0
    for batch in task.batches("train", 1024):
        inputs = named(batch.inputs)
        first = next(iter(inputs.values()))
        by_name = isinstance(batch.inputs, dict)
        if by_name or len(inputs) > 1 or not first.is_floating_point() or first.dim() < 2:
            got = ", ".join(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in inputs.items())
            raise TaskError(
                "params.yaml: train.normalize: expected one float input (N, C, …) by position, "
                f"got {'by name ' if by_name else ''}{got}: normalise in the dataset instead"
            )
        axes = [axis for axis in range(first.dim()) if axis != 1]
        total = total + first.double().sum(axes)
        squares = squares + first.double().square().sum(axes)
        count += first.numel() // first.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return Normalized(model, mean.float(), deviation.float()).eval()


def check_model(model: nn.Module, task: Task, data: DataRecord) -> None:
    """Make sure that the model answers in the form of its task, and finitely.

    Raises:
        TaskError: it does not.
    """
    outputs = answered(model, task, data)
    if not torch.isfinite(outputs).all():
        raise TaskError(
            f"task.model: expected finite outputs, got {int((~torch.isfinite(outputs)).sum())} of {outputs.numel()} "
            "NaN or infinite: lower train.learning_rate, or look at the weights"
        )


@torch.no_grad()
def answered(model: nn.Module, task: Task, data: DataRecord) -> Tensor:
    """Return the model's answers ``(N, …)`` to some examples; for classes, with a column for each label.

    Raises:
        TaskError: they have another form.
    """
    inputs = task.example_inputs(32)
    outputs = call(model.eval(), inputs)
    count = len(next(iter(named(inputs).values())))
    if outputs.dim() == 0 or len(outputs) != count:
        raise TaskError(
            f"task.model: expected outputs (N, …) with N = {count}, got {tuple(outputs.shape)}: "
            "keep the batch axis first"
        )
    if task.params.kind == "classification":
        largest = max((int(label) for split in data.splits.values() for label in split.class_counts or {}), default=0)
        if outputs.dim() != 2 or outputs.shape[1] <= max(largest, 1):
            raise TaskError(
                f"task.model: expected outputs (N, classes) with more than {max(largest, 1)} columns, one for each "
                f"label up to the largest in the data, got {tuple(outputs.shape)}: return one score a class, "
                "two where there are two classes, or set task.kind"
            )
    return outputs


def write_curve(curve: list[Epoch], path: Path) -> None:
    """Write the training curve; the header alone if nothing was trained."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["epoch", "loss", "validation_loss", "validation_quality", "seconds"])
    for row in curve:
        quality = "" if row.validation_quality is None else f"{row.validation_quality:.6f}"
        writer.writerow([row.epoch, f"{row.loss:.6f}", f"{row.validation_loss:.6f}", quality, f"{row.seconds:.1f}"])
    write_text(path, buffer.getvalue())
