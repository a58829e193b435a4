"""`compress`: apply the recipe step by step, measure what each step changed, export what ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from compression_gate.artifacts.exporting import CODED, CODED_FILE, runtime_of
from compression_gate.artifacts.target import TARGET_KEY, Made, Workshop, climb
from compression_gate.artifacts.workbench import CHECKPOINTS, Workbench, open_workbench, record_of_reference
from compression_gate.measurers.quality import outcomes_of, predict
from compression_gate.methods.base import Context, Method
from compression_gate.methods.chain import recipe_of, steps_key, steps_of
from compression_gate.methods.ladder import check_target, facts_of
from compression_gate.modules.finished_steps import FinishedSteps
from compression_gate.records.base import replacing_folder
from compression_gate.records.metrics import CompressionRecord, StepRecord
from compression_gate.records.params import Params, read_params
from compression_gate.records.provenance import params_digests
from compression_gate.runtimes.placement import integer_lines, widened_lines

REFERENCE, CANDIDATE = Path("models/reference"), Path("models/candidate")
INVISIBLE_IN_ONNX = {"fewer_nonzeros": "zeros", "fewer_values": "shared values"}


def run(suite: Path) -> CompressionRecord:
    """Compress the reference and write `models/candidate/` and `reports/compression.json`."""
    params = read_params(suite)
    steps = steps_of(params, suite)
    finished, climbing = FinishedSteps(suite / CHECKPOINTS / "steps"), params.compress.target is not None
    bench = open_workbench(suite, params, suite / REFERENCE, finished, keeps_last=climbing)
    ships_as = params.compress.runtime, params.compress.format
    choice = None
    if params.compress.target is None:
        done = bench.carry_out(steps, steps_key(params))
        model, records = done.model, done.records
    else:
        check_target(params)
        facts = facts_of(bench.reference, *ships_as)
        chosen = climb(params.compress.target, facts, workshop(bench))
        steps, choice = chosen.methods, chosen.record
        model, records = chosen.made.model, chosen.made.records
    with replacing_folder(suite / CANDIDATE) as folder:
        artifact = bench.write(model, steps, folder)
    record = CompressionRecord(
        recipe_digest=recipe_of(steps).digest,
        reference=record_of_reference(bench.before),
        steps=tuple(records),
        size_bytes=artifact.size_bytes,
        warnings=(*invisible_effects(records, params), *widened_lines(model, *ships_as)),
        integers=tuple(integer_lines(model, *ships_as)),
        choice=choice,
        params_digests=params_digests("compress", params),
    )
    record.write(suite / "reports" / "compression.json")
    bench.finished.clear()
    return record


def workshop(bench: Workbench) -> Workshop:
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
        done = bench.carry_out(methods, f"{TARGET_KEY}: steps")
        with TemporaryDirectory(dir=scratch) as name:
            made = bench.write(done.model, methods, Path(name))
            return Made(
                model=done.model,
                records=done.records,
                size_bytes=made.size_bytes,
                accuracy=accuracy(Path(name) / runtime.file_name),
            )

    def file_bytes(model: nn.Module) -> int:
        with TemporaryDirectory(dir=scratch) as name:
            if params.compress.format == CODED:
                from compression_gate.codec.coded_model import encode_model

                fast = params.compress.profile == "fast"
                return encode_model(model, bench.shell, Path(name) / CODED_FILE, fast=fast)
            path = Path(name) / runtime.file_name
            runtime.export(model, task.example_inputs(2), path, params.task.dynamic)
            return sum(file.stat().st_size for file in Path(name).iterdir())

    return Workshop(
        reference=bench.reference,
        context=Context(task=task, reference=bench.reference, train=params.train),
        make=make,
        file_bytes=file_bytes,
        state_bytes=bench.artifact.state_bytes,
        reference_accuracy=accuracy(suite / REFERENCE / runtime.file_name),
        n=len(task.split("validation")),
    )


def invisible_effects(records: Sequence[StepRecord], params: Params) -> list[str]:
    """Steps whose effect the shipping format stores at full price."""
    if params.compress.format == CODED:
        return []
    return [
        f"{record.method}: {INVISIBLE_IN_ONNX[record.effect]} do not make {params.compress.format} files smaller"
        for record in records
        if record.effect in INVISIBLE_IN_ONNX
    ]
