"""Where chains are carried out: step after step from the reference, each measured, the result written down.

`compress` carries out one chain here, a search many: what was finished before is taken from where it lies.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from compression_gate import __version__
from compression_gate.artifacts.decoding import decode_afresh
from compression_gate.artifacts.exporting import CODED, CODED_FILE, exported_artifact, listed_artifact, runtime_of
from compression_gate.errors import CompressionError, CompressionGateError
from compression_gate.measurers.cost import Costs, costs_of, weights_of
from compression_gate.measurers.quality import validation_quality
from compression_gate.methods.base import Context, Method, Notes
from compression_gate.methods.chain import factory_of, name_of, recipe_of
from compression_gate.methods.renorming import ALIKE, outputs_distance, renormed
from compression_gate.modules.checkpoints import build_reference, load_reference
from compression_gate.modules.finished_steps import FinishedSteps
from compression_gate.modules.norms import Reestimation
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest
from compression_gate.modules.weights_file import first_names
from compression_gate.pipeline.state import source_digests
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, finite
from compression_gate.records.metrics import CurvePoint, DataRecord, StepRecord
from compression_gate.records.params import Params
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Epoch

log = logging.getLogger("compression_gate")
CHECKPOINTS = Path(".compression_gate/checkpoints")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A model's figures between two steps."""

    cost: Costs
    layer_bytes: dict[str, int]
    distinct_values: int
    integer_weights: int
    quality: dict[str, float | None]
    weights_digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarriedOut:
    """What became of the reference, a record for each step, and how many steps had been finished before."""

    model: nn.Module
    records: list[StepRecord]
    reused: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workbench:
    """A suite opened for chains.

    Args:
        reference: the model that every chain starts from, and ``before`` its figures.
        artifact: what the reference is on disk.
        shell: what the task's factory builds, which finished steps are read into.
        finished: steps of runs that were killed, or of other chains that begin alike.
        keeps_last: whether the last step of a chain is kept too: another may go on behind it, or be tried after it.
    """

    suite: Path
    params: Params
    task: Task
    reference: nn.Module
    artifact: Artifact
    before: Measured
    shell: nn.Module
    finished: FinishedSteps
    keeps_last: bool = False

    def carry_out(self, steps: Sequence[Method], where: str) -> CarriedOut:
        """Apply the steps in order; those that were finished before are taken from where they lie.

        Args:
            where: the steps are written, for errors.
        """
        model, reused = self.reference, 0
        before: Measured | None = self.before  # of ``model``; None where nobody has asked yet
        records: list[StepRecord] = []
        for number, step in enumerate(steps):
            log.info("compress: step %d of %d: %s", number + 1, len(steps), name_of(step))
            key, factory = self.key_of(step, model), factory_of(steps[: number + 1], self.shell, self.task)
            if (done := self.finished.read(key, factory)) is not None:
                log.info("compress: step %d was finished before: continuing behind it", number + 1)
                (model, record), before, reused = done, None, reused + 1
            else:
                try:
                    model, before, record = self.apply(step, model, before or measured(model, self.task), key)
                except CompressionGateError as error:
                    error.locate(f"{where}.{number}: {name_of(step)}")
                    raise
                if self.keeps_last or number + 1 < len(steps):
                    self.finished.write(key, model, factory, record)
            records.append(record)
        return CarriedOut(model=model, records=records, reused=reused)

    def key_of(self, step: Method, model: nn.Module) -> str:
        """What a finished step is found by: it is continued behind the very same weights, options, code and data."""
        options = dataclasses.asdict(step)  # type: ignore[call-overload]  # methods are dataclasses
        train = self.params.train.model_dump(mode="json")
        return digest_of([state_digest(model), name_of(step), options, train, *self.rests_on])[:16]

    @cached_property
    def rests_on(self) -> tuple[object, ...]:
        """What all steps depend on beside weights and options."""
        sources = source_digests(self.suite, self.params)
        examples = {name: len(self.task.split(name)) for name in ("train", "validation", "calibration")}
        return (__version__, self.params.digest_of_task, sources, data_digest(self.suite), examples)

    def apply(
        self, step: Method, model: nn.Module, before: Measured, key: str
    ) -> tuple[nn.Module, Measured, StepRecord]:
        """Apply one step and measure what became of the model.

        Raises:
            CompressionError: the method can treat nothing of it.
        """
        checkpoint = self.suite / CHECKPOINTS / f"compress-{key}.pt"
        context = Context(task=self.task, reference=self.reference, train=self.params.train, checkpoint=checkpoint)
        start = time.monotonic()
        smaller = step.apply(model, context).eval()
        norms = renormed(smaller, model, self.task, self.params.train.seed)
        after = measured(smaller, self.task)
        # Epochs of before a kill were not on this process's clock.
        trained = sum(epoch.seconds for curve in context.notes.curves.values() for epoch in curve)
        record = step_record(
            name_of(step),
            dataclasses.asdict(step),  # type: ignore[call-overload]
            max(time.monotonic() - start, trained),
            before,
            after,
            context.notes,
            effect=step.effect,
            effective=has_effect(step, before, after),
            norms=norms,
        )
        return smaller, after, record

    def write(self, model: nn.Module, methods: Sequence[Method], folder: Path) -> Artifact:
        """Write a model that came of these methods, reload it, export it, and list what there is."""
        task, params = self.task, self.params
        factory, digest = factory_of(methods, self.shell, task), recipe_of(methods).digest
        save_model(model, factory, folder)
        model = reloaded(model, factory, task, folder)
        finish = exported_artifact
        if params.compress.format == CODED:
            from compression_gate.codec.coded_model import encode_model

            encode_model(model, factory, folder / CODED_FILE, fast=params.compress.profile == "fast")
            # The runtime's file beside it does not ship: a later commit compares with it, when this one's code is gone.
            file = folder / runtime_of(params).file_name
            decode_afresh(self.suite, folder / CODED_FILE, self.artifact.normalize, methods, params, file)
            finish = listed_artifact
        parent = self.artifact.digest
        return finish(model, task, params, folder, role="candidate", recipe_digest=digest, parent_digest=parent)


def open_workbench(
    suite: Path, params: Params, folder: Path, finished: FinishedSteps, *, keeps_last: bool = False
) -> Workbench:
    """Open the task and the reference that lies in ``folder``.

    Raises:
        MetricsError: there is no reference.
        TaskError: the task's model or data are not what they should be.
    """
    task = open_task(params, suite)
    artifact = Artifact.open(folder)
    reference = load_reference(task, folder, normalize=artifact.normalize)
    return Workbench(
        suite=suite,
        params=params,
        task=task,
        reference=reference,
        artifact=artifact,
        before=measured(reference, task),
        shell=build_reference(task, normalize=artifact.normalize),
        finished=finished,
        keeps_last=keeps_last,
    )


def record_of_reference(before: Measured) -> StepRecord:
    """The row before the first step."""
    return step_record("reference", {}, 0.0, before, before, Notes(), effect="", effective=True, norms=Reestimation())


def measured(model: nn.Module, task: Task) -> Measured:
    """Count a model's costs and measure it on the validation split."""
    return Measured(
        cost=costs_of(model, task.example_inputs(1)),
        layer_bytes=layer_bytes(model),
        distinct_values=sum(weight.detach().unique().numel() for weight in weights_of(model)),
        integer_weights=sum(weight.numel() for weight in weights_of(model) if not weight.is_floating_point()),
        quality=validation_quality(model, task),
        weights_digest=state_digest(model),
    )


def layer_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of the state dict by the module that holds them; what is tied counts under its first name."""
    found, state = Counter[str](), model.state_dict()
    for name in dict.fromkeys(first_names(model).values()):
        found[name.rpartition(".")[0]] += state[name].nbytes
    return dict(found)


def data_digest(suite: Path) -> str | None:
    """The digest of all splits, as `prepare` saw them."""
    path = suite / "reports" / "data.json"
    return DataRecord.read(path).digest if path.exists() else None


def has_effect(step: Method, before: Measured, after: Measured) -> bool:
    """Whether the step changed what its method claims to change."""
    match step.effect:
        case "fewer_parameters":
            return after.cost.parameters < before.cost.parameters
        case "fewer_nonzeros":
            return after.cost.nonzeros < before.cost.nonzeros
        case "fewer_values":
            return after.distinct_values < before.distinct_values
        case "integer_weights":
            return after.integer_weights > before.integer_weights
        case _:
            return after.weights_digest != before.weights_digest


def step_record(
    name: str,
    options: dict[str, Any],
    seconds: float,
    before: Measured,
    after: Measured,
    notes: Notes,
    *,
    effect: str,
    effective: bool,
    norms: Reestimation,
) -> StepRecord:
    """Write down one step."""
    return StepRecord(
        method=name,
        options=options,
        seconds=round(seconds, 2),
        state_bytes=sum(after.layer_bytes.values()),
        parameters=after.cost.parameters,
        nonzeros=after.cost.nonzeros,
        macs=after.cost.macs,
        distinct_values=after.distinct_values,
        quality_before=before.quality,
        quality=after.quality,
        covered=tuple(notes.covered),
        uncovered=notes.uncovered,
        effect=effect,
        effective=effective,
        curves={label: curve_points(curve) for label, curve in notes.curves.items()},
        remarks=tuple(notes.remarks),
        sensitivity=tuple(notes.sensitivity),
        layer_bytes=after.layer_bytes,
        norms_reestimated=len(norms.norms),
        norms_seconds=round(norms.seconds, 4),
    )


def curve_points(curve: Iterable[Epoch]) -> tuple[CurvePoint, ...]:
    """Write down a training curve; what is not finite has no figure."""
    return tuple(
        CurvePoint(
            epoch=row.epoch,
            loss=finite(row.loss),
            validation_loss=finite(row.validation_loss),
            validation_quality=row.validation_quality,
            seconds=round(row.seconds, 2),
        )
        for row in curve
    )


def reloaded(model: nn.Module, factory: nn.Module, task: Task, folder: Path) -> nn.Module:
    """Rebuild the model from its files and make sure that it answers as the one in memory did."""
    again = load_model(factory, folder).eval()
    distance = outputs_distance(again, model, task.example_inputs(8))
    if not distance <= ALIKE:
        raise CompressionError(
            f"{folder.name}: expected the saved model to answer as the one in memory, got outputs {distance:.3g} "
            "apart: a method left state that structure.json does not hold"
        )
    return again
