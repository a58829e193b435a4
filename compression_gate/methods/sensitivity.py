"""How much each layer bears: one layer at a time is compressed by a method's own code and asked on validation data.

The figures are kept under ``.compression_gate/sensitivity/`` by what they depend on: weights, the task with its code,
the data, the method with every option, the version of this package. Nothing is measured twice, and a table that was
interrupted goes on with the columns that are missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compression_gate import __version__
from compression_gate.codec.coded_size import coded_bytes
from compression_gate.errors import CodecError, CompressionError, MeasurementError, MetricsError
from compression_gate.measurers.cost import Costs, costs_of, stored_bytes
from compression_gate.measurers.quality import Answers, TorchSession, metrics_of, outcomes_of, predict
from compression_gate.methods.base import Context, Method, Notes
from compression_gate.methods.chain import method_of, name_of
from compression_gate.methods.options import inside, not_one_of, refuse
from compression_gate.methods.renorming import renormed
from compression_gate.methods.teacher_answers import feed
from compression_gate.modules.surgery import WEIGHTED, state_digest
from compression_gate.records.base import digest_of, digest_of_file, finite
from compression_gate.records.metric_table import direction
from compression_gate.records.params import Step
from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.tasks.sources import first_party_sources
from compression_gate.tasks.task import Task

log = logging.getLogger("compression_gate")
FOLDER = Path(".compression_gate/sensitivity")
EXAMPLES = 2000  # the standard error of an accuracy near 0.9 is then 0.7 points; that of a paired drop much less
BATCH_SIZE = 256
# What is asked of each method unless the user names other strengths.
STRENGTHS: dict[str, tuple[str, tuple[int | float, ...]]] = {
    "magnitude_pruning": ("sparsity", (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)),
    "structured_pruning": ("pruning_ratio", (0.25, 0.5, 0.75)),
    "weight_only_quantization": ("bits", (2, 4, 8)),
    "static_quantization": ("bits", (2, 4, 8)),
    "weight_sharing": ("bits", (2, 3, 4)),
    "low_rank": ("ratio", (0.25, 0.5)),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A method at one strength: what every layer is asked about.

    Args:
        option: the method's option that holds the strength.
        coded: whether the coder is asked what the treated layers take.
    """

    method: Method
    option: str
    coded: bool = False

    @property
    def strength(self) -> Any:
        """The option's value."""
        return getattr(self.method, self.option)


def columns_of(names: Iterable[str]) -> list[Column]:
    """Return the usual strengths of methods.

    Raises:
        ParamsError: a method that is unknown, or of which no usual strengths are known.
    """
    names = list(names)
    refuse(*(not_one_of("--method", name, STRENGTHS) for name in names))
    return [
        Column(method=method_of(Step.model_validate({"method": name, STRENGTHS[name][0]: value})), option=option)
        for name in names
        for option, values in [STRENGTHS[name]]
        for value in values
    ]


def sensitivity_of(
    model: nn.Module, context: Context, columns: Sequence[Column], examples: int = EXAMPLES
) -> SensitivityTable:
    """Return the table of every layer and column, from what is kept where it is there.

    Args:
        examples: of the validation split, evenly spaced in it; all where it has no more.

    Raises:
        CompressionError: a method cannot be kept from the other layers, or changed the model it was given.
    """
    asked = Asked(model=model, context=context, task=reduced(context.task, examples))
    parts = [asked.column(column) for column in columns]
    if state_digest(model) != asked.weights_digest:
        raise CompressionError("sensitivity: the model is not what it was: a method changed what it was given")
    whole = parts[0] if parts else asked.table((), 0.0)
    rows = tuple(row for part in parts for row in part.rows)
    return whole.model_copy(update={"rows": rows, "seconds": round(sum(part.seconds for part in parts), 2)})


def reduced(task: Task, examples: int) -> Task:
    """Return the task with at most so many validation examples, evenly spaced over the split."""
    split = task.split("validation")
    count = min(examples, len(split))
    chosen = np.linspace(0, len(split) - 1, count).round().astype(int)
    fewer = dataclasses.replace(split, indices=split.indices[chosen])
    return dataclasses.replace(task, splits={**task.splits, "validation": fewer})


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A model's answers to the examples, and what follows from them."""

    outputs: np.ndarray
    loss: float | None
    metric: str
    quality: float | None
    stored_bytes: int
    costs: Costs


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model, and the task whose validation split it is asked on."""

    model: nn.Module
    context: Context
    task: Task

    @cached_property
    def weights_digest(self) -> str:
        """Of the model, before any layer was treated."""
        return state_digest(self.model)

    @cached_property
    def data_digest(self) -> str:
        """Of the validation examples that are asked, and of the calibration split."""
        digest = hashlib.sha256()
        for split in ("validation", "calibration"):
            for batch in self.task.batches(split, BATCH_SIZE):
                feed(digest, batch)
        return digest.hexdigest()

    @cached_property
    def sources(self) -> dict[str, str]:
        """SHA-256 of the user's own code, by path from the suite."""
        files = first_party_sources(self.task.params, self.task.folder)
        return {
            Path(os.path.relpath(file, self.task.folder.resolve())).as_posix(): digest_of_file(file) for file in files
        }

    @cached_property
    def before(self) -> Figures:
        """Of the model as it is."""
        return figures_of(self.model, self.task)

    def column(self, column: Column) -> SensitivityTable:
        """Return one column, from its file if it is there."""
        path = self.task.folder / FOLDER / f"{self.key(column)}.json"
        try:
            return SensitivityTable.read(path)
        except MetricsError:  # not there, or damaged: measured and written anew
            pass
        start = time.monotonic()
        groups = groups_of(self.model, column.method, self.context)
        log.info("sensitivity: %s, %s %g", name_of(column.method), column.option, column.strength)
        rows = [self.cell(column, layer, groups) for layer in treatable(groups, column.method)]
        table = self.table(rows, round(time.monotonic() - start, 2))
        table.write(path)
        return table

    def key(self, column: Column) -> str:
        """A digest of everything that the figures depend on."""
        return digest_of(
            [
                __version__,
                self.weights_digest,
                self.task.params.model_dump(mode="json"),
                self.sources,
                self.data_digest,
                self.context.train.seed,
                name_of(column.method),
                dataclasses.asdict(column.method),  # type: ignore[call-overload]  # methods are dataclasses
                column.option,
                column.coded,
            ]
        )[:16]

    def table(self, rows: Iterable[Sensitivity], seconds: float) -> SensitivityTable:
        """Write rows down with what they are held against."""
        return SensitivityTable(
            weights_digest=self.weights_digest,
            n=len(self.task.split("validation")),
            metric=self.before.metric,
            loss=self.before.loss,
            quality=self.before.quality,
            rows=tuple(rows),
            seconds=seconds,
        )

    def cell(self, column: Column, layer: str, groups: dict[str, tuple[str, ...]]) -> Sensitivity:
        """Treat one layer and its companions, and compare."""
        row = Sensitivity(
            layer=layer,
            members=groups[layer],
            method=name_of(column.method),
            option=column.option,
            strength=column.strength,
        )
        method: Any = column.method
        others = {name for names in groups.values() for name in names} - set(groups[layer])
        context = dataclasses.replace(self.context, notes=Notes(), checkpoint=None)
        try:
            alone: Method = dataclasses.replace(method, ignore=tuple(sorted({*method.ignore, *others})))
            changed = alone.apply(self.model, context).eval()
            renormed(changed, self.model, context.task, context.train.seed)
            after = figures_of(changed, self.task)
            coded = coded_bytes(members_of(changed, groups[layer])) if column.coded else None
        except (CodecError, CompressionError, MeasurementError) as error:
            return row.model_copy(update={"reason": str(error)})
        return row.model_copy(update=differences(self.before, after) | {"coded_bytes": coded})


def members_of(model: nn.Module, names: Iterable[str]) -> nn.ModuleList:
    """Return these layers of a model, as a model of their own."""
    return nn.ModuleList(model.get_submodule(name) for name in names)


def differences(before: Figures, after: Figures) -> dict[str, Any]:
    """Return what got worse and what was saved."""
    drop = less(before.quality, after.quality)
    size = float(np.square(before.outputs, dtype=np.float64).mean())
    moved = float(np.square(after.outputs - before.outputs, dtype=np.float64).mean())
    return {
        "loss_rise": less(after.loss, before.loss),
        "quality_drop": None if drop is None else direction(before.metric) * drop,
        "outputs_moved": finite(moved / size) if size > 0 else None,
        "bytes_saved": before.stored_bytes - after.stored_bytes,
        "nonzeros_saved": before.costs.nonzeros - after.costs.nonzeros,
        "macs_saved": before.costs.macs - after.costs.macs,
    }


def less(value: float | None, other: float | None) -> float | None:
    """Return the difference, or None where there is none."""
    return None if value is None or other is None else finite(value - other)


def figures_of(model: nn.Module, task: Task) -> Figures:
    """Ask a model the examples of the validation split.

    Raises:
        MeasurementError: an answer is not finite.
    """
    answers = predict(TorchSession(model, task), task, "validation", "sensitivity")
    metrics = metrics_of(outcomes_of(answers, task, "sensitivity"), answers, task.params.kind)
    metric, value = next(iter(metrics.items()))
    return Figures(
        outputs=answers.outputs,
        loss=loss_of(answers, task),
        metric=metric,
        quality=value.value,
        stored_bytes=stored_bytes(model),
        costs=costs_of(model, task.example_inputs(1)),
    )


def loss_of(answers: Answers, task: Task) -> float | None:
    """Return the task's mean loss, or None where it has none or it is not finite."""
    if not task.has_loss:
        return None
    with torch.no_grad():
        return finite(float(task.loss(torch.from_numpy(answers.outputs), torch.from_numpy(answers.targets))))


def groups_of(model: nn.Module, method: Method, context: Context) -> dict[str, tuple[str, ...]]:
    """Return the layers with weights that change together, by the first of each group.

    Layers that share a parameter are one group, and those that the method's own ``together`` names.

    Raises:
        CompressionError: the method has no ``ignore``, so that one layer cannot be treated alone.
    """
    if not hasattr(method, "ignore"):
        raise CompressionError(
            f"sensitivity: {name_of(method)}: expected an option `ignore`, which keeps a method from other layers, got "
            "none: ask another method"
        )
    holders: dict[int, set[str]] = {}
    layers: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED) and not any(name.startswith(f"{one}.") for one in layers):
            layers.append(name)
            for parameter in module.parameters():
                holders.setdefault(id(parameter), set()).add(name)
    together = getattr(method, "together", None)
    bonds = [*holders.values(), *(set(names) for names in (together(model, context) if together else ()))]
    return joined(layers, bonds)


def joined(layers: Sequence[str], bonds: Iterable[set[str]]) -> dict[str, tuple[str, ...]]:
    """Return the groups that bonds make of layers, in the order of the layers."""
    groups: list[set[str]] = [{layer} for layer in layers]
    for bond in bonds:
        touched = [group for group in groups if group & bond]
        groups = [group for group in groups if not group & bond] + [set().union(*touched)]
    ordered = sorted(
        (sorted(group, key=layers.index) for group in groups if group), key=lambda one: layers.index(one[0])
    )
    return {group[0]: tuple(group) for group in ordered}


def treatable(groups: dict[str, tuple[str, ...]], method: Any) -> list[str]:
    """Return the groups of which the method's own ``ignore`` leaves something."""
    return [layer for layer, members in groups.items() if not all(inside(name, method.ignore) for name in members)]
