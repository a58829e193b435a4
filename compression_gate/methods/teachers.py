"""Teachers: the reference, other models by dotted path, models trained for the purpose, and several of them at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compression_gate import __version__
from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Notes
from compression_gate.methods.named_models import NamedModel, built, named_model, problems_of, train_options
from compression_gate.methods.teacher_answers import content_digest
from compression_gate.modules.fused import Fused
from compression_gate.modules.surgery import state_digest
from compression_gate.modules.weights_file import load_weights, save_weights
from compression_gate.records.base import digest_of, digest_of_file, write_text
from compression_gate.tasks.calling import call
from compression_gate.tasks.sources import import_roots, sources_at
from compression_gate.tasks.training import Epoch, Fitting, fit

REFERENCE = "reference"
FOLDER = Path(".compression_gate/teachers")
MOST = 16


def teacher_problems(value: Any) -> list[str]:
    """Say what is wrong with the option ``teacher``, each problem with its key."""
    if not isinstance(value, (list, tuple)):
        return one_problem("teacher", value)
    if not 0 < len(value) <= MOST:
        return [f"teacher: expected 1 to {MOST} teachers, got {len(value)}"]
    return [problem for index, one in enumerate(value) for problem in one_problem(f"teacher.{index}", one)]


def one_problem(key: str, value: Any) -> list[str]:
    """Say what is wrong with one teacher."""
    if value == REFERENCE:
        return []
    if isinstance(value, str):
        return [f"{key}: expected {REFERENCE!r}, or a mapping of model, model_args and weights or train, got {value!r}"]
    if problems := problems_of(key, value):
        return problems
    given = [name for name in ("weights", "train") if name in value]
    if len(given) != 1:
        return [f"{key}: expected exactly one of weights, train, got {' and '.join(given) or 'none'}"]
    return []


def open_teacher(value: Any, context: Context) -> nn.Module:
    """Return the teacher in eval mode, on CPU, without gradients; several are averaged, by their outputs.

    Raises:
        CompressionError: it answers in another shape than the reference: the teacher is named.
        TaskError: its weights do not fit, or it cannot be trained.
    """
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    keys = [f"teacher.{index}" for index in range(len(values))] if value is values else ["teacher"]
    teachers = [open_one(key, one, context) for key, one in zip(keys, values, strict=True)]
    teacher = teachers[0] if len(teachers) == 1 else Fused(teachers)
    return teacher.eval().requires_grad_(False)


def open_one(key: str, value: Any, context: Context) -> nn.Module:
    """Return one teacher."""
    if value == REFERENCE:
        return copy.deepcopy(context.reference)
    named = named_model(key, value)
    model = built(named, context, context.train.seed) if named.train is None else trained(named, context)
    check_outputs(model, named, context)
    return model


@torch.no_grad()
def check_outputs(model: nn.Module, named: NamedModel, context: Context) -> None:
    """Refuse a teacher whose answers have another shape than the reference's."""
    inputs = context.task.example_inputs(2)
    expected, got = call(context.reference, inputs), call(model, inputs)
    if expected.shape != got.shape:
        what = "classes" if context.task.params.kind == "classification" else "outputs"
        raise CompressionError(
            f"{named.title}: expected answers like the reference's, (N, {', '.join(map(str, expected.shape[1:]))}), "
            f"got (N, {', '.join(map(str, got.shape[1:]))}): a teacher of the same {what} is needed"
        )


def trained(named: NamedModel, context: Context) -> nn.Module:
    """Return the teacher trained by its own block; weights are kept in the suite and used again for the same content.

    The content is the block, the code of the model, the task and the training data themselves.
    """
    options = train_options(named, context.train)
    model = built(named, context, options.seed)
    key = training_key(named, model, options.model_dump(mode="json"), context)
    weights, curve = (context.task.folder / FOLDER / f"{key}{ending}" for ending in (".safetensors", ".json"))
    if weights.exists() and curve.exists():
        load_weights(model, weights)
        context.notes.add_curve(named.key, [Epoch(**row) for row in json.loads(curve.read_text(encoding="utf-8"))])
        context.notes.remarks.append(f"{named.title}: trained earlier on the same data, used again")
        return model.eval()
    rows = fit(
        model,
        context.task,
        Fitting(options=options, checkpoint=beside(context.checkpoint, named.key), label=named.key, key=key),
    )
    save_weights(model, weights)
    write_text(curve, json.dumps([asdict(row) for row in rows]))
    context.notes.add_curve(named.key, rows)
    return model


def training_key(named: NamedModel, model: nn.Module, options: dict[str, Any], context: Context) -> str:
    """Return what a trained teacher follows from, as a digest of 16 digits."""
    task = context.task
    paths = {f"{named.key}.model": named.model or task.params.model}
    paths |= {f"task.{name}": path for name in ("collate", "loss") if (path := getattr(task.params, name))}
    sources = [digest_of_file(path) for path in sorted(sources_at(paths, import_roots(task.folder)))]
    content = content_digest(task, task.seed)
    parts = [asdict(named), options, task.params.model_dump(mode="json"), sources, content, state_digest(model)]
    return digest_of([*parts, __version__, torch.__version__])[:16]


def beside(checkpoint: Path | None, name: str) -> Path | None:
    """Return a checkpoint's path with a further name in it."""
    return None if checkpoint is None else checkpoint.with_name(f"{checkpoint.stem}-{name}{checkpoint.suffix}")


def remark_quality(teacher: nn.Module, name: str, context: Context) -> None:
    """Note how many validation examples a teacher of classes answers right: what its student can hope for."""
    if context.task.params.kind != "classification":
        return
    right = [right_answers(teacher, batch.inputs, batch.targets) for batch in context.task.batches("validation", 512)]
    count = len(context.task.split("validation"))
    context.notes.remarks.append(f"{name}: {sum(right) / count:.4f} of {count:,} validation examples right")


@torch.no_grad()
def right_answers(model: nn.Module, inputs: Any, targets: Tensor) -> int:
    """Count the right answers of a batch."""
    return int((call(model, inputs).argmax(1) == targets).sum())


def note_layers(notes: Notes, prefix: str, inner: Notes) -> None:
    """Copy which layers an inner step met, each name behind a prefix."""
    notes.covered.extend(f"{prefix}{name}" for name in inner.covered)
    notes.uncovered.update({f"{prefix}{name}": reason for name, reason in inner.uncovered.items()})


def note_training(notes: Notes, who: str, inner: Notes) -> None:
    """Copy remarks and curves of an inner step, each behind its name."""
    notes.remarks.extend(f"{who}: {remark}" for remark in inner.remarks)
    for label, curve in inner.curves.items():
        notes.add_curve(f"{who}.{label}", curve)
