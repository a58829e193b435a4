"""One trial of a search: a chain carried out, exported, reloaded, measured and judged on the validation split.

Run as ``python -m compression_gate.stages.trial SUITE FOLDER``: a request a line on stdin, its number and its answer a
line on stdout, until stdin ends. ``FOLDER`` is the search's: the params, the reference and the references that it began
with lie there, so that nothing changes under a search that runs; and the steps that trials share.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
import torch

from compression_gate.artifacts.compared import Models, add_references
from compression_gate.artifacts.exporting import runtime_of
from compression_gate.artifacts.workbench import Workbench, open_workbench, record_of_reference
from compression_gate.errors import CompressionGateError, StaleError
from compression_gate.gate.facts import Facts, Outcomes
from compression_gate.gate.judge import judge
from compression_gate.gate.limits import CHANGES
from compression_gate.gate.policy import alpha_of_times, decide
from compression_gate.gate.timing_test import ALPHA
from compression_gate.measurers.absolute import Figures
from compression_gate.measurers.latency import PairedSamples, Setting, sample_pair, together
from compression_gate.measurers.machine import timing_environment
from compression_gate.measurers.quality import Answers, metrics_of
from compression_gate.methods.chain import built, recipe_of
from compression_gate.modules.finished_steps import FinishedSteps
from compression_gate.pipeline.definition import is_dotted
from compression_gate.pipeline.state import source_digests
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, digest_of_file
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.metrics import Benchmark, CompressionRecord, Measurement, ModelCost, StepRecord
from compression_gate.records.params import Params, Step, read_params
from compression_gate.records.rules import Rule
from compression_gate.records.trial import SETTLED, Answer, Distance
from compression_gate.records.verdict import Check
from compression_gate.records.waivers import Waiver
from compression_gate.search.base import Request
from compression_gate.search.executors.room import STEPS
from compression_gate.stages.benchmark import exact_figures, inputs_of, inverted, limits_on
from compression_gate.stages.evaluate import Measured, measure, record
from compression_gate.tasks.sources import import_roots, sources_at
from compression_gate.tasks.task import Task, targets_of

log = logging.getLogger("compression_gate")
SPLIT = "validation"
WHERE = "steps"  # a trial's, as its errors say it
REFERENCE, REFERENCES = "reference", "references"
SOURCES, WAIVERS = "sources.json", "waivers.json"


@dataclass(kw_only=True)
class Laboratory:
    """A suite opened for trials: whatever all of them share is opened and measured once.

    Args:
        folder: of the search.
        waivers: that lived when the search began.
        known: what reference, baseline and release answered on the validation split.
        benches: by the share of the training examples that their task holds.
    """

    suite: Path
    folder: Path
    params: Params
    models: Models
    waivers: tuple[Waiver, ...] = ()
    known: dict[str, Answers] = field(default_factory=dict)
    benches: dict[float, Workbench] = field(default_factory=dict)

    def bench(self, share: float) -> Workbench:
        """The workbench of a share of the training examples."""
        if share not in self.benches:
            whole = self.benches.get(1.0) or open_workbench(
                self.suite, self.params, self.folder / REFERENCE, FinishedSteps(self.folder / STEPS), keeps_last=True
            )
            self.benches[1.0] = whole
            if share < 1:
                self.benches[share] = dataclasses.replace(whole, task=with_share(whole.task, share))
        return self.benches[share]

    @cached_property
    def judged_params(self) -> Params:
        """The params with those rules that a trial can answer."""
        return self.params.with_rules(answerable)

    @property
    def times(self) -> bool:
        """Whether anybody asks for the time a call takes."""
        asked = any(kind_of(rule.metric) == "timed" for rule in self.judged_params.gate.rules.values())
        return asked or "latency" in (*self.params.search.objectives, self.params.search.prefer)


def open_laboratory(suite: Path, folder: Path) -> Laboratory:
    """Open what the search laid into its folder.

    Raises:
        CompressionGateError: something of it is missing or not what it should be.
    """
    params = read_params(folder)
    runtime = runtime_of(params)
    models = Models()
    models.artifacts["reference"] = Artifact.open(folder / REFERENCE)
    models.files["reference"] = folder / REFERENCE / runtime.file_name
    add_references(models, folder / REFERENCES, runtime.file_name)
    told = json.loads((folder / WAIVERS).read_text(encoding="utf-8")) if (folder / WAIVERS).exists() else []
    waivers = tuple(Waiver.model_validate(one) for one in told)
    return Laboratory(suite=suite, folder=folder, params=params, models=models, waivers=waivers)


def answerable(rule: Rule) -> bool:
    """Whether a trial measures what a rule speaks of: qualities, sizes, and times that pairs compare."""
    if kind_of(rule.metric) in (*QUALITY, "exact"):
        return True
    return rule.metric == "speedup" or (rule.metric == "latency_ms" and rule.form in CHANGES)


def with_share(task: Task, share: float) -> Task:
    """The task with a share of its training examples, each class in its own."""
    train = task.split("train")
    for name in ("validation", "calibration"):
        task.split(name)
    count = max(1, round(len(train) * share))
    labels = targets_of(train.dataset) if task.params.kind == "classification" else None
    _, chosen = task.without(train.indices, count, labels)
    fewer = dataclasses.replace(train, indices=chosen)
    return dataclasses.replace(task, splits={**task.splits, "train": fewer})


def carry_out(request: Request, laboratory: Laboratory) -> Answer:
    """Carry a trial out; whatever goes wrong in it is its answer."""
    start = time.monotonic()
    try:
        return tried(request, laboratory, start)
    except CompressionGateError as error:
        reason = str(error)
    except MemoryError as error:
        reason = f"memory: expected enough for one model, got none left: {error or 'no more is known'}"
    except Exception as error:  # a user's code may raise anything
        log.exception("trial %d", request.number)
        reason = f"crashed: {type(error).__name__}: {error}"
    return Answer(reason=reason[:2000], seconds=time.monotonic() - start)


def tried(request: Request, laboratory: Laboratory, start: float) -> Answer:
    """Carry a trial out.

    Raises:
        CompressionGateError: a method, the export or a measurement failed, or the code changed since the search began.
    """
    unchanged(laboratory)
    bench, params = laboratory.bench(request.share), laboratory.judged_params
    steps = built([Step.model_validate(step) for step in request.steps], WHERE)
    done = bench.carry_out(steps, WHERE)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "candidate").mkdir()
        artifact = bench.write(done.model, steps, folder / "candidate")
        models = with_candidate(laboratory.models, artifact, folder / "candidate", params)
        measured = measure(models, bench.task, params, SPLIT, laboratory.known)
        laboratory.known |= {key: one for key, one in measured.answers.items() if not key.endswith("candidate")}
        evaluation = record(measured, models, params, "", folder)
        timed = laboratory.times and request.share >= params.search.train_share
        pairs = paired(models, bench.task, params) if timed else {}
        facts = Facts(
            params=params if timed else params.with_rules(lambda rule: kind_of(rule.metric) != "timed"),
            compression=CompressionRecord(
                recipe_digest=recipe_of(steps).digest,
                reference=record_of_reference(bench.before),
                steps=tuple(done.records),
                size_bytes=artifact.size_bytes,
            ),
            evaluation=evaluation,
            outcomes=Outcomes.read(folder / "predictions.npz"),
            benchmark=costs(models, pairs, params),
            artifacts=models.artifacts,
            alpha=params.gate.alpha,
        )
        decision = decide(judge(facts), params.search.policy, params.gate.policies, laboratory.waivers)
    figures = figures_of(measured, bench.task, artifact, models.artifacts["reference"], pairs)
    return Answer(
        figures={name: value for name, value in figures.items() if np.isfinite(value)},
        checks=tuple(
            distance_of(check, blocking=check in decision.blocking or is_outside(check)) for check in decision.checks
        ),
        verdict=decision.status,
        seconds=time.monotonic() - start,
        reused_steps=done.reused,
        remarks=remarks_of(done.records, figures),
    )


def unchanged(laboratory: Laboratory) -> None:
    """Make sure that the code is what it was when the search began.

    Raises:
        StaleError: it is not.
    """
    before = json.loads((laboratory.folder / SOURCES).read_text(encoding="utf-8"))
    now = digests_of_sources(laboratory.suite, laboratory.params)
    if changed := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
        raise StaleError(f"search: {', '.join(changed)}: changed since the search began: begin it anew")


def digests_of_sources(suite: Path, params: Params) -> dict[str, str]:
    """What trials rest on of the suite's files, with the models that the space names.

    A recipe in use is none of it: the search may write it anew.
    """
    paths = {f"search.space: {path}": path for path in sorted(set(models_in(params.search.space or ())))}
    found = source_digests(suite, params) | {
        Path(os.path.relpath(file, suite.resolve())).as_posix(): digest_of_file(file)
        for file in sources_at(paths, import_roots(suite))
    }
    return {name: digest for name, digest in found.items() if name != params.compress.recipe}


def models_in(value: Any) -> Iterator[str]:
    """The dotted paths under ``model``, one or a choice of them, wherever in a space."""
    if isinstance(value, Mapping):
        choices = value.get("model")
        yield from (path for path in (choices if isinstance(choices, list) else [choices]) if is_dotted(path))
    if isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from models_in(part)


def with_candidate(others: Models, artifact: Artifact, folder: Path, params: Params) -> Models:
    """The models of a trial: those that all trials are held against, and its own."""
    return Models(
        artifacts={**others.artifacts, "candidate": artifact},
        files={**others.files, "candidate": folder / runtime_of(params).file_name},
        absent=others.absent,
    )


def paired(models: Models, task: Task, params: Params) -> dict[str, PairedSamples]:
    """Time the candidate against each other model that a rule on times speaks of, the reference always."""
    inputs = inputs_of(task, params.benchmark.batch_sizes[0], SPLIT)
    times = [rule for rule in params.gate.rules.values() if kind_of(rule.metric) == "timed"]
    asked = {"reference", *(rule.against for rule in times), *(rule.fallback for rule in times)}
    found: dict[str, PairedSamples] = {}
    for role in models.files:
        if role == "candidate" or role not in asked:
            continue
        setting = Setting(
            runtime=params.compress.runtime,
            threads=params.benchmark.threads,
            inputs=inputs,
            seed=params.train.seed,
            limits=limits_on(role, params.gate, {}),
            alpha=min(ALPHA, alpha_of_times(params.gate.rules.values())),
        )
        sampled = sample_pair(models.files[role], models.files["candidate"], setting, params.search.latency_budget_s)
        found[role] = together([sampled])
    return found


def costs(models: Models, pairs: dict[str, PairedSamples], params: Params) -> Benchmark:
    """What the judge reads of costs: bytes and operations, and the pairs."""
    environment = timing_environment(params.benchmark.threads)
    reference = models.artifacts["reference"]
    times: dict[str, Figures] = {role: {} for role in models.artifacts}
    for role, pair in pairs.items():
        times[role]["latency_ms"] = median_ms(pair, 0)
        times["candidate"]["latency_ms"] = median_ms(pair, 1)
    if "reference" in pairs:
        times["candidate"]["speedup"] = inverted(pairs["reference"].timing)
    return Benchmark(
        runtime=params.compress.runtime,
        threads=params.benchmark.threads,
        batch_sizes=params.benchmark.batch_sizes,
        models={
            role: ModelCost(digest=artifact.digest, figures={**exact_figures(artifact, reference), **times[role]})
            for role, artifact in models.artifacts.items()
        },
        pairs={role: pair.timing for role, pair in pairs.items()},
        absent=models.absent,
        environment=environment,
        machine_digest=digest_of(environment),
    )


def median_ms(pair: PairedSamples, side: int) -> Measurement:
    """The median call of one side of a pair [ms]."""
    calls = np.concatenate([turn.cpu[side] for turn in pair.turns]) if pair.turns else np.array([])
    if not len(calls):
        return Measurement(value=None, unit="ms", samples=0, reason=pair.timing.reason or "nothing was timed")
    return Measurement(value=float(np.median(calls)) * 1e3, unit="ms", samples=len(calls))


def figures_of(
    measured: Measured, task: Task, artifact: Artifact, reference: Artifact, pairs: dict[str, PairedSamples]
) -> dict[str, float]:
    """The figures that objectives are made of, whatever they are."""
    answers = measured.answers["candidate"]
    quality = metrics_of(measured.outcomes["candidate"], answers, measured.kind)
    figures = {name: value.value for name, value in quality.items()}
    figures |= {name: value.value for name, value in exact_figures(artifact, reference).items()}
    if task.has_loss:
        figures["loss"] = loss_of(answers, task)
    if "reference" in pairs:
        figures["latency_ratio"] = pairs["reference"].timing.ratio
    return {name: float(value) for name, value in figures.items() if value is not None}


@torch.no_grad()
def loss_of(answers: Answers, task: Task) -> float:
    """The task's mean loss of a file's answers."""
    return float(task.loss(torch.from_numpy(answers.outputs), torch.from_numpy(answers.targets)))


def is_outside(check: Check) -> bool:
    """Whether a blocking rule's figure is beyond its limit, though nobody can prove it: no search should end there."""
    return check.level == "block" and check.status not in SETTLED and check.headroom is not None and check.headroom < 0


def distance_of(check: Check, *, blocking: bool) -> Distance:
    """How far outside its limit a check is."""
    return Distance(
        rule=check.rule,
        slice=check.slice,
        status=check.status,
        distance=0.0 if check.status == "pass" else beyond(check),
        blocking=blocking,
    )


def beyond(check: Check) -> float | None:
    """How far a figure is outside its limit, as a share of it; of an undecided one the worse end of its interval."""
    if check.headroom is None or check.allowed is None:
        return None
    headroom = check.headroom
    value = check.change if check.limit and check.limit.startswith(CHANGES) else check.observed
    if check.status == "undecided" and check.interval is not None and value is not None:
        spread = [abs(end - value) for end in check.interval if end is not None]
        headroom -= max(spread, default=0.0)
    return max(0.0, -headroom) / max(abs(check.allowed), 1e-9)


def remarks_of(records: Iterable[StepRecord], figures: Mapping[str, float]) -> tuple[str, ...]:
    """Steps that had no effect, and figures that are none."""
    idle = (f"{one.method}: no effect" for one in records if not one.effective)
    return (*idle, *(f"{name} is {value}" for name, value in figures.items() if not np.isfinite(value)))


def serve(laboratory: Laboratory, requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        values = json.loads(line)
        request = Request(number=values["number"], steps=tuple(values["steps"]), share=values["share"])
        answers.write(f"{request.number} {carry_out(request, laboratory).model_dump_json()}\n")
        answers.flush()


def main(arguments: Sequence[str]) -> None:
    """Serve on stdin and stdout; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    try:
        serve(open_laboratory(Path(arguments[0]), Path(arguments[1])), sys.stdin, answers)
    except CompressionGateError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
