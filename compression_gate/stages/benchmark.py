"""``benchmark``: what every model costs: bytes, weights, operations, milliseconds, memory, energy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from compression_gate import __version__
from compression_gate.artifacts.compared import Models, open_models
from compression_gate.artifacts.decoding import decode_afresh, steps_taken
from compression_gate.errors import MeasurementError
from compression_gate.gate.intervals import limit_on_ratio
from compression_gate.gate.limits import CHANGES
from compression_gate.gate.policy import alpha_of_times
from compression_gate.gate.timing_test import ALPHA
from compression_gate.measurers.absolute import Figures, figures_of, measure_absolute
from compression_gate.measurers.eager import measure_eager
from compression_gate.measurers.evidence import accumulated
from compression_gate.measurers.fresh import LEAST_WARM, MOST_PROCESSES, Conditions, Fresh, absent, measure_fresh
from compression_gate.measurers.latency import PROCEDURE, PairedSamples, Sampled, Setting, sample_pair
from compression_gate.measurers.machine import timing_environment
from compression_gate.measurers.order_statistics import median_of
from compression_gate.measurers.workers import pinning
from compression_gate.records.artifact import Artifact
from compression_gate.records.attempts import Timed
from compression_gate.records.base import digest_of, replacing
from compression_gate.records.metrics import Benchmark, Measurement, ModelCost, PairedTiming
from compression_gate.records.params import BenchmarkParams, GateParams, Params, read_params
from compression_gate.runtimes.base import Arrays
from compression_gate.tasks.calling import form_of, named
from compression_gate.tasks.task import Task, open_task

ABSOLUTE_SHARE, FRESH_SHARE = 0.1, 0.2  # of benchmark.budget_s; pairs have what is left when they begin
OF_LOADING = ("load_time_ms", "decode_time_ms", "first_call_ms")  # what fresh processes are asked for
MENDING = 'hold the rule against the reference, or accept this run as baseline: compression-gate record --accept "why"'
PAIRED = ("latency_ms", "throughput_per_s")  # what pairs speak of, as a change


def run(suite: Path) -> Benchmark:
    """Write ``reports/benchmark.json``, ``pytest_benchmark.json`` and ``timings.npz``.

    It ends with ``benchmark.budget_s``, or with the least that its figures take where that is more.

    Raises:
        MeasurementError: the absolute figures could not be taken, or the split is smaller than a batch.
        MetricsError, StaleError: an artifact is missing or not the one its record speaks of.
    """
    params = read_params(suite)
    options = params.benchmark
    end = time.monotonic() + options.budget_s
    task = open_task(params, suite)
    models = open_models(suite, params)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    inputs = {size: inputs_of(task, size) for size in dict.fromkeys(options.batch_sizes)}
    setting = Setting(
        runtime=params.compress.runtime,
        threads=options.threads,
        inputs=inputs[options.batch_sizes[0]],
        seed=params.train.seed,
        alpha=min(ALPHA, alpha_of_times(params.gate.rules.values())),
    )
    report = suite / "reports/pytest_benchmark.json"
    timed = measure_absolute(
        models.files, setting.runtime, setting.threads, inputs, options.budget_s * ABSOLUTE_SHARE, report
    )
    conditions = Conditions(runtime=setting.runtime, threads=setting.threads, inputs=setting.inputs)
    least = least_processes(params.gate)
    fresh = measure_fresh(models.files, conditions, options.budget_s * FRESH_SHARE, least)
    fresh = with_decoding(fresh, suite, models, params, least)
    form = form_of(task.example_inputs(1, "test"))
    eager = {"reference": {"eager_latency_ms": measure_eager(suite, suite / "models/reference", form, conditions)}}
    others = [role for role in models.files if role != "candidate"]
    limits = {role: limits_on(role, params.gate, figures_of(timed[role])) for role in others}
    pairs = {
        role: measure_against(role, suite, models, replace(setting, limits=limits[role]), options, share_s)
        for role, share_s in shared(others, end)
    }
    write_timings(suite / "reports/timings.npz", pairs)
    environment = timing_environment(options.threads)
    reference = models.artifacts["reference"]
    benchmark = Benchmark(
        runtime=params.compress.runtime,
        threads=options.threads,
        batch_sizes=options.batch_sizes,
        models={
            role: ModelCost(
                digest=artifact.digest,
                figures={
                    **exact_figures(artifact, reference),
                    **figures_of(timed[role]),
                    **speedup_of(role, pairs),
                    **fresh[role].figures,
                    **eager.get(role, {}),
                },
                batches=timed[role],
                energy=fresh[role].energy,
            )
            for role, artifact in models.artifacts.items()
        },
        pairs={role: pair.timing for role, pair in pairs.items()},
        absent=models.absent,
        environment=environment,
        pinning=pinning(options.threads),
        machine_digest=digest_of(environment),
        load_average=load,
    )
    benchmark.write(suite / "reports/benchmark.json")
    return benchmark


def least_processes(gate: GateParams) -> int:
    """How many fresh processes each model has at least: as many as an interval needs where a rule asks for one."""
    asked = any(rule.metric in OF_LOADING for rule in gate.rules.values())
    return MOST_PROCESSES if asked else LEAST_WARM


def with_decoding(fresh: dict[str, Fresh], suite: Path, models: Models, params: Params, times: int) -> dict[str, Fresh]:
    """Add to the figures of every model that ships as a coded file what it takes to decode that."""
    decodings = measure_decoding(suite, models, params, times) if models.coded else {}
    return {
        role: replace(found, figures=decoded_figures(found.figures, decodings[role])) if role in decodings else found
        for role, found in fresh.items()
    }


def measure_decoding(suite: Path, models: Models, params: Params, times: int) -> dict[str, Measurement]:
    """What it takes to decode each coded file in processes that have the task's factory at hand [ms], models in turn.

    One that the code and steps of this commit cannot decode, as an earlier model's, has no figure, but the reason.
    """
    steps = steps_taken(suite, params)
    seconds: dict[str, list[float]] = {role: [] for role in models.coded}
    found: dict[str, Measurement] = {}
    for _ in range(times):
        for role in [name for name in models.coded if name not in found]:
            normalize = models.artifacts[role].normalize
            try:
                seconds[role].append(decode_afresh(suite, models.coded[role], normalize, steps, params, None))
            except MeasurementError as error:
                found[role] = absent("ms", f"this commit's code and steps do not decode its file: {error}: {MENDING}")
    return {
        role: median_of(np.array(taken) * 1e3, "ms") for role, taken in seconds.items() if role not in found
    } | found


def decoded_figures(figures: Figures, decoding: Measurement) -> Figures:
    """A coded file's figures: it is decoded before it is loaded, and how long that takes uncached nobody measured."""
    cold = absent("ms", "a coded file is only timed with the file cached")
    return {
        **figures,
        "decode_time_ms": decoding,
        "load_time_ms": sum_of(figures["load_time_ms"], decoding),
        "load_time_cold_ms": cold,
    }


def sum_of(first: Measurement, second: Measurement) -> Measurement:
    """One time after the other; the ends of the interval are added as well, which makes it wide rather than narrow."""
    if first.value is None or second.value is None:
        return first if first.value is None else second
    ends = (first.low, second.low, first.high, second.high)
    known = all(end is not None for end in ends)
    return Measurement(
        value=first.value + second.value,
        unit=first.unit,
        samples=min(first.samples, second.samples),
        low=(first.low or 0) + (second.low or 0) if known else None,
        high=(first.high or 0) + (second.high or 0) if known else None,
    )


def inputs_of(task: Task, size: int, split: str = "test") -> Arrays:
    """Real inputs of one batch size, by name; a smaller split is repeated."""
    have = len(task.split(split))
    inputs = named(task.example_inputs(min(size, have), split))
    if size <= have:
        return {name: value.numpy() for name, value in inputs.items()}
    return {name: np.resize(value.numpy(), (size, *value.shape[1:])) for name, value in inputs.items()}


def exact_figures(artifact: Artifact, reference: Artifact) -> Figures:
    """What needs no clock: bytes, weights, operations."""
    if artifact.size_bytes == 0 or artifact.parameters == 0:
        raise MeasurementError(f"models/{artifact.role}: expected bytes and weights, got none: run compress again")
    return {
        "size_bytes": Measurement(value=artifact.size_bytes, unit="bytes"),
        "compression_ratio": Measurement(value=reference.state_bytes / artifact.size_bytes, unit="ratio"),
        "parameters": Measurement(value=artifact.parameters, unit="count"),
        "nonzeros": Measurement(value=artifact.nonzeros, unit="count"),
        "sparsity": Measurement(value=1 - artifact.nonzeros / artifact.parameters, unit="fraction"),
        "macs": Measurement(value=artifact.macs, unit="count"),
    }


def limits_on(role: str, gate: GateParams, bases: Figures) -> tuple[float, ...]:
    """The ratios of times that the rules allow against one role: once all are decided, no more pairs are taken.

    They only say when to stop. A limit that is changed afterwards is judged on what was taken, and may end undecided.
    """
    limits = []
    for rule in gate.rules.values():
        against = "reference" if rule.metric == "speedup" else rule.fallback or rule.against
        base = bases[rule.metric].value if rule.metric in bases else 1.0
        paired = rule.metric == "speedup" or (rule.metric in PAIRED and rule.form in CHANGES)
        if paired and base and role in (against, rule.against):
            limits.append(limit_on_ratio(rule, base))
    return tuple(limits)


def shared(roles: Sequence[str], end: float) -> Iterator[tuple[str, float]]:
    """Each role with its share of the time that is left when its turn comes [s]: none left is none, never less."""
    for number, role in enumerate(roles):
        yield role, max(0.0, end - time.monotonic()) / (len(roles) - number)


def measure_against(
    role: str, suite: Path, models: Models, setting: Setting, options: BenchmarkParams, budget_s: float
) -> PairedSamples:
    """Time the candidate against one other model, for so long, and add it to what is known of both."""
    shapes = {name: [list(value.shape), str(value.dtype)] for name, value in setting.inputs.items()}
    timed = Timed(
        candidate=models.artifacts["candidate"].digest,
        other=models.artifacts[role].digest,
        role=role,
        runtime=setting.runtime,
        threads=setting.threads,
        batch_size=options.batch_sizes[0],
        inputs=digest_of(shapes),
        machine=digest_of(timing_environment(setting.threads)),
        package=__version__,
        procedure=PROCEDURE,
    )
    other, candidate = models.files[role].resolve(), models.files["candidate"].resolve()

    def sample(number: int) -> Sampled:
        # Each attempt throws coins of its own: models built in the same order again would lie in memory alike.
        again = replace(setting, seed=setting.seed + number - 1)
        return sample_pair(other, candidate, again, budget_s)

    return accumulated(suite, timed, sample)


def speedup_of(role: str, pairs: dict[str, PairedSamples]) -> Figures:
    """The reference's latency over the candidate's, from the pairs; the candidate's figure only."""
    if role != "candidate":
        return {}
    return {"speedup": inverted(pairs["reference"].timing)}


def inverted(timing: PairedTiming) -> Measurement:
    """A speedup out of a ratio of times."""
    low, high = timing.interval
    return Measurement(
        value=1 / timing.ratio if timing.ratio else None,
        unit="ratio",
        samples=timing.pairs,
        low=1 / high if high else None,
        high=1 / low if low else None,
        reason=timing.reason,
    )


def write_timings(path: Path, pairs: dict[str, PairedSamples]) -> None:
    """Keep every sample, so that a timing can be judged again."""
    arrays = {name: array for role, pair in pairs.items() for name, array in pair.arrays(role).items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
