"""`compress`: apply the recipe step by step, measure what each step changed, export what ships."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from compression_gate import __version__
from compression_gate.errors import CompressionError, CompressionGateError
from compression_gate.measurers.cost import Costs, costs_of, weights_of
from compression_gate.measurers.quality import outcomes_of, predict, validation_quality
from compression_gate.methods.base import Context, Method, Notes
from compression_gate.methods.chain import factory_of, name_of, recipe_of, steps_of
from compression_gate.methods.ladder import check_target, facts_of
from compression_gate.modules.checkpoints import build_reference, load_reference
from compression_gate.modules.finished_steps import FinishedSteps
from compression_gate.modules.norms import Reestimation, norms_of, reestimate
from compression_gate.modules.structure import load_model, save_model
from compression_gate.modules.surgery import state_digest
from compression_gate.pipeline.state import source_digests
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, finite, replacing_folder
from compression_gate.records.metrics import CompressionRecord, CurvePoint, DataRecord, StepRecord
from compression_gate.records.params import Params, read_params
from compression_gate.stages.artifacts import CODED, CODED_FILE, exported_artifact, listed_artifact, runtime_of
from compression_gate.stages.decoding import decode_afresh
from compression_gate.stages.target import Made, Workshop, climb
from compression_gate.tasks.calling import Inputs, call
from compression_gate.tasks.task import Task, open_task
from compression_gate.tasks.training import Epoch

log = logging.getLogger("compression_gate")
REFERENCE, CANDIDATE = Path("models/reference"), Path("models/candidate")
CHECKPOINTS = Path(".compression_gate/checkpoints")
INVISIBLE_IN_ONNX = {"fewer_nonzeros": "zeros", "fewer_values": "shared values"}
RELOAD_TOLERANCE = 1e-5


def run(suite: Path) -> CompressionRecord:
    """Compress the reference and write `models/candidate/` and `reports/compression.json`."""
    params = read_params(suite)
    steps = steps_of(params, suite)
    task = open_task(params, suite)
    reference_artifact = Artifact.open(suite / REFERENCE)
    reference = load_reference(task, suite / REFERENCE, normalize=reference_artifact.normalize)
    before = measured(reference, task)
    shell = build_reference(task, normalize=reference_artifact.normalize)
    finished = FinishedSteps(suite / CHECKPOINTS / "steps")
    bench = Bench(suite=suite, params=params, task=task, shell=shell, finished=finished)

    def carried_out(methods: Sequence[Method]) -> tuple[nn.Module, list[StepRecord]]:
        return chained(reference, before, methods, bench)

    def written(model: nn.Module, methods: Sequence[Method], folder: Path) -> Artifact:
        factory, digest = factory_of(methods, shell, task), recipe_of(methods).digest
        save_model(model, factory, folder)
        model = reloaded(model, factory, task, folder)
        finish = exported_artifact
        if params.compress.format == CODED:
            from compression_gate.codec.coded_model import encode_model

            encode_model(model, factory, folder / CODED_FILE)
            # The runtime's file beside it does not ship: a later commit compares with it, when this one's code is gone.
            file = folder / runtime_of(params).file_name
            decode_afresh(suite, folder / CODED_FILE, reference_artifact.normalize, methods, params, file)
            finish = listed_artifact
        parent = reference_artifact.digest
        return finish(model, task, params, folder, role="candidate", recipe_digest=digest, parent_digest=parent)

    choice = None
    if params.compress.target is None:
        model, records = carried_out(steps)
    else:
        check_target(params)
        chosen = climb(
            params.compress.target,
            facts_of(reference, params.compress.runtime, params.compress.format),
            workshop(reference, reference_artifact, bench, carried_out, written),
        )
        steps, choice = chosen.methods, chosen.record
        model, records = chosen.made.model, chosen.made.records
    recipe = recipe_of(steps).digest
    with replacing_folder(suite / CANDIDATE) as folder:
        artifact = written(model, steps, folder)
    record = CompressionRecord(
        recipe_digest=recipe,
        reference=step_record(
            "reference", {}, 0.0, before, before, Notes(), effect="", effective=True, norms=Reestimation()
        ),
        steps=tuple(records),
        size_bytes=artifact.size_bytes,
        warnings=tuple(invisible_effects(records, params)),
        choice=choice,
    )
    record.write(suite / "reports" / "compression.json")
    finished.clear()
    return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Where steps are carried out.

    Args:
        shell: what the task's factory builds, which finished steps are read into.
        finished: steps of a run that was killed.
    """

    suite: Path
    params: Params
    task: Task
    shell: nn.Module
    finished: FinishedSteps


def workshop(
    reference: nn.Module,
    artifact: Artifact,
    bench: Bench,
    carried_out: Callable[[Sequence[Method]], tuple[nn.Module, list[StepRecord]]],
    written: Callable[[nn.Module, Sequence[Method], Path], Artifact],
) -> Workshop:
    """Return what climbing to a target needs: chains carried out, their files measured on the validation split."""
    suite, params, task = bench.suite, bench.params, bench.task
    runtime = runtime_of(params)
    scratch = suite / ".compression_gate"
    scratch.mkdir(exist_ok=True)

    def accuracy(path: Path) -> float:
        session = runtime.load(path, params.benchmark.threads)
        answers = predict(session, task, "validation", "validation")
        outcomes = outcomes_of(answers, task, "validation")
        return float((outcomes.target == outcomes.predicted).mean())

    def make(methods: Sequence[Method]) -> Made:
        model, records = carried_out(methods)
        with TemporaryDirectory(dir=scratch) as name:
            made = written(model, methods, Path(name))
            return Made(
                model=model,
                records=records,
                size_bytes=made.size_bytes,
                accuracy=accuracy(Path(name) / runtime.file_name),
            )

    def file_bytes(model: nn.Module) -> int:
        with TemporaryDirectory(dir=scratch) as name:
            if params.compress.format == CODED:
                from compression_gate.codec.coded_model import encode_model

                return encode_model(model, bench.shell, Path(name) / CODED_FILE)
            path = Path(name) / runtime.file_name
            runtime.export(model, task.example_inputs(2), path, params.task.dynamic)
            return sum(file.stat().st_size for file in Path(name).iterdir())

    return Workshop(
        reference=reference,
        context=Context(task=task, reference=reference, train=params.train),
        make=make,
        file_bytes=file_bytes,
        state_bytes=artifact.state_bytes,
        reference_accuracy=accuracy(suite / REFERENCE / runtime.file_name),
        n=len(task.split("validation")),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A model's figures between two steps."""

    cost: Costs
    layer_bytes: dict[str, int]
    distinct_values: int
    integer_weights: int
    quality: dict[str, float | None]
    weights_digest: str


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
    """Bytes of the state dict by the module that holds them."""
    found: dict[str, int] = {}
    for name, value in model.state_dict().items():
        module = name.rpartition(".")[0]
        found[module] = found.get(module, 0) + value.numel() * value.element_size()
    return found


def chained(
    reference: nn.Module, before: Measured, steps: Sequence[Method], bench: Bench
) -> tuple[nn.Module, list[StepRecord]]:
    """Apply the steps in order; those that a run which was killed had finished are taken from it.

    Args:
        before: the reference's figures.
    """
    task, params, suite, finished = bench.task, bench.params, bench.suite, bench.finished
    model, records = reference, []
    rests_on = [__version__, params.digest_of_task, source_digests(suite, params), data_digest(suite)]
    for number, step in enumerate(steps):
        name, options = name_of(step), dataclasses.asdict(step)  # type: ignore[call-overload]
        log.info("compress: step %d of %d: %s", number + 1, len(steps), name)
        # Nothing is continued but behind the very same steps, code, data and starting weights.
        key = digest_of([before.weights_digest, name, options, params.train.model_dump(mode="json"), *rests_on])[:16]
        factory = factory_of(steps[: number + 1], bench.shell, task)
        if (done := finished.read(key, factory)) is not None:
            log.info("compress: step %d was finished before: continuing behind it", number + 1)
            model, record = done
            records.append(record)
            before = measured(model, task)
            continue
        context = Context(
            task=task,
            reference=reference,
            train=params.train,
            checkpoint=suite / CHECKPOINTS / f"compress-{number}-{key}.pt",
        )
        start = time.monotonic()
        try:
            smaller = step.apply(model, context).eval()
        except CompressionGateError as error:
            error.args = (f"params.yaml: compress.steps.{number}: {name}: {error}",)
            raise
        norms = renormed(smaller, model, task, params.train.seed)
        model, after = smaller, measured(smaller, task)
        effective = has_effect(step, before, after)
        records.append(
            step_record(
                name,
                options,
                time.monotonic() - start,
                before,
                after,
                context.notes,
                effect=step.effect,
                effective=effective,
                norms=norms,
            )
        )
        before = after
        if number + 1 < len(steps):
            finished.write(key, model, factory, records[-1])
    return model, records


def data_digest(suite: Path) -> str | None:
    """The digest of all splits, as `prepare` saw them."""
    path = suite / "reports" / "data.json"
    return DataRecord.read(path).digest if path.exists() else None


def renormed(model: nn.Module, before: nn.Module, task: Task, seed: int) -> Reestimation:
    """Take the statistics of the norms anew, in place, if a step changed what they see.

    Not where weights are integers: activation ranges were calibrated with the statistics as they were.
    """
    integers = any(not weight.is_floating_point() for weight in weights_of(model))
    if integers or not norms_of(model):
        return Reestimation()
    if outputs_distance(model, before, task.example_inputs(8)) <= RELOAD_TOLERANCE:
        return Reestimation()
    return reestimate(model, task, seed=seed)


@torch.no_grad()
def outputs_distance(model: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference of two models' outputs, against 1 or the largest output if that is more."""
    expected, got = call(other, inputs), call(model, inputs)
    return float((expected - got).abs().max()) / max(1.0, float(expected.abs().max()))


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
    if not distance <= RELOAD_TOLERANCE:
        raise CompressionError(
            f"{folder.name}: expected the saved model to answer as the one in memory, got outputs {distance:.3g} "
            "apart: a method left state that structure.json does not hold"
        )
    return again


def invisible_effects(records: Sequence[StepRecord], params: Params) -> list[str]:
    """Steps whose effect the shipping format stores at full price."""
    if params.compress.format == CODED:
        return []
    return [
        f"{record.method}: {INVISIBLE_IN_ONNX[record.effect]} do not make {params.compress.format} files smaller"
        for record in records
        if record.effect in INVISIBLE_IN_ONNX
    ]
