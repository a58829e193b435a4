"""What the stages measured: the records that the judge reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record
from compression_gate.records.choice import Choice
from compression_gate.records.sensitivity import SensitivityTable


class DataSplit(Record):
    """What `prepare` saw in one split."""

    n: int
    digest: str
    input_shapes: dict[str, tuple[int | str, ...]]
    value_range: tuple[float | None, float | None]
    class_counts: dict[str, int] | None = None
    not_finite: int = 0
    duplicates: int = 0
    cut_from_train: bool = False


class DataRecord(Record):
    """`reports/data.json`: the data as they were read, and digests of the params by which they were."""

    schema_number: Literal[1] = Field(1, alias="schema")
    digest: str
    splits: dict[str, DataSplit]
    leaks: dict[str, int]
    problems: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    params_digests: dict[str, str] = {}


class CurvePoint(Record):
    """One epoch of a training: mean loss of its batches, and figures on the validation split after it.

    Args:
        validation_loss: of the task's own loss, whatever was trained on; None where it is not finite or not measured.
        validation_quality: accuracy, where there are classes.
    """

    epoch: int = Field(ge=1)
    loss: float | None
    validation_loss: float | None
    validation_quality: float | None
    seconds: float = Field(ge=0)


class StepRecord(Record):
    """What one step of the recipe changed. ``before`` of a step is the ``after`` of the one before it.

    Args:
        curves: of each training inside the step, oldest epoch first, by what was trained; empty where nothing was.
        remarks: whatever else the method had to say.
        sensitivity: tables by which a budget was spread.
        layer_bytes: ``state_bytes`` by the module that holds them; empty in records of before there was such a field.
        norms_reestimated: batch norms whose running statistics were taken anew behind the step.
        norms_seconds: what that took, part of ``seconds``.
    """

    method: str
    options: dict[str, object]
    seconds: float = Field(ge=0)
    state_bytes: int
    parameters: int
    nonzeros: int
    macs: int
    distinct_values: int
    quality_before: dict[str, float | None] = {}
    quality: dict[str, float | None]
    covered: tuple[str, ...]
    uncovered: dict[str, str]
    effect: str
    effective: bool
    curves: dict[str, tuple[CurvePoint, ...]] = {}
    remarks: tuple[str, ...] = ()
    sensitivity: tuple[SensitivityTable, ...] = ()
    layer_bytes: dict[str, int] = {}
    norms_reestimated: int = Field(0, ge=0)
    norms_seconds: float = Field(0.0, ge=0)


class CompressionRecord(Record):
    """`reports/compression.json`: the chain of steps, measured on the validation split.

    ``reference`` is the row before the first step; ``warnings`` name effects that the shipping format cannot show;
    ``integers`` say where the layers that hold them end, in the file and in its runtime; ``choice`` says how the steps
    were chosen where a target was asked for; ``params_digests`` are of the params that the steps were made with.
    Schema 1 lacks ``layer_bytes`` and schema 2 ``integers``; both are read still: DVC may bring such a record back.
    """

    schema_number: Literal[1, 2, 3] = Field(3, alias="schema")
    recipe_digest: str
    reference: StepRecord
    steps: tuple[StepRecord, ...]
    size_bytes: int
    warnings: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    choice: Choice | None = None
    params_digests: dict[str, str] = {}


class Value(Record):
    """A figure with the number of examples it stands on; ``value`` is None, with a ``reason``, if it is not finite."""

    value: float | None
    n: int
    reason: str | None = None


class ModelQuality(Record):
    """One model's figures on the test split; ``slices`` is metric -> slice -> figure.

    A slice is a class (``class=3``), a value of one of the data's columns (``light=dim``), or all examples disturbed
    (``perturbation=shift``). ``agreement`` and ``flips`` are against the reference: where the slice is a
    perturbation, against the reference's answers to the same disturbed inputs.
    """

    digest: str
    metrics: dict[str, Value]
    slices: dict[str, dict[str, Value]] = {}


class Evaluation(Record):
    """`reports/evaluation.json`. Per-example outcomes lie in ``predictions.npz`` beside it.

    ``models`` is by role; ``absent`` says why a baseline or release is not among them.
    ``predictions.npz`` holds ``ids`` (N,), ``target`` (N,), of a regression of several values (N, K),
    ``column_<name>`` (N,) text, and for each role ``<role>_predicted`` (N,) labels (classification) or
    ``<role>_score_<name>`` (N,) per-example scores (regression: ``error``, signed; of several values the root of its
    mean square, and ``mae``; custom: the scorer's).
    Outcomes under a perturbation lie beside them, as ``<perturbation>@<role>_predicted`` and
    ``<perturbation>@<role>_score_<name>``.

    Args:
        pairs: the candidate against each other role: agreement, flips, and what these are made of, lost and won.
        pair_slices: role -> ``agreement`` and ``flips`` -> slice -> the candidate against that role.
        params_digests: of what `evaluate` reads of the params.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    kind: Literal["classification", "regression", "custom"]
    n: int
    data_digest: str
    predictions_digest: str
    runtime: str
    models: dict[str, ModelQuality]
    absent: dict[str, str] = {}
    pairs: dict[str, dict[str, Value]] = {}
    pair_slices: dict[str, dict[str, dict[str, Value]]] = {}
    classes: tuple[str, ...] = ()
    params_digests: dict[str, str] = {}


class Measurement(Record):
    """A measured figure: value, unit, how many samples, and the spread where there is one.

    Args:
        low, high: with ``spread`` "interval", the ends of an interval that holds the true value with ``confidence``; an
            end is None where the samples are too few to bound it. With "range", the smallest and the largest sample.
        confidence: the interval's own, exact and at least 0.95; None for a range, and where an end is missing.
        reason: why there is no value.
        estimated: the value is not measured but reckoned from something that is.
    """

    value: float | None
    unit: str
    samples: int = 1
    low: float | None = None
    high: float | None = None
    spread: Literal["interval", "range"] = "interval"
    confidence: float | None = None
    reason: str | None = None
    estimated: bool = False


class EnergySource(Record):
    """What a model's ``energy_j`` was reckoned from.

    Args:
        source: the counters, or the estimate and its constant.
        calls: whose energy was counted, over all processes.
        seconds: how long they took.
        busy_w: power while they ran: counted, of the whole package; or estimated, of this process.
        idle_w: power of the package just before, with nothing of ours running. Not subtracted from anything.
    """

    source: str
    calls: int
    seconds: float
    busy_w: float
    idle_w: float | None = None


class PairedTiming(Record):
    """The candidate timed against another model in the same process, call by call.

    ``ratio`` is candidate over the other (1.05: 5 % slower), the exponential of the median of the blocks; ``interval``
    what the sequential test gives for it at ``confidence``; ``control_*`` the same for the other against a copy of
    itself, in which nothing but noise can be seen.

    Args:
        blocks: for each turn, oldest first, the medians of its blocks of pairs: what `gate.timing_test` decides on.
            control_blocks: of the control.
        needed_s: about how long it would take to decide, where the time was up before.
        attempts: how often this was timed; all figures are of all attempts' pairs together.
        attempt_ratios: of each attempt alone, oldest first; None for one that ended without.
    """

    procedure: str
    clock: str
    ratio: float | None
    interval: tuple[float | None, float | None]
    confidence: float = Field(gt=0.5, lt=1)
    pairs: int
    turns: int
    control_ratio: float | None
    control_interval: tuple[float | None, float | None]
    wall_ratio: float | None
    reason: str | None = None
    needed_s: float | None = None
    blocks: tuple[tuple[float, ...], ...] = ()
    control_blocks: tuple[tuple[float, ...], ...] = ()
    attempts: int = Field(1, ge=1)
    attempt_ratios: tuple[float | None, ...] = ()


class ModelCost(Record):
    """One model's costs: metric name (unit last) -> measurement.

    Args:
        figures: what rules speak of. ``eager_latency_ms`` is the reference's alone, for information, and no metric.
        batches: at every batch size asked for: latency_ms, its percentiles, throughput_per_s. Those of the first size
            (latency) and of the largest (throughput) are among the figures too.
        energy: where the figure of energy comes from.
    """

    digest: str
    figures: dict[str, Measurement]
    batches: dict[int, dict[str, Measurement]] = {}
    energy: EnergySource | None = None


class Benchmark(Record):
    """`reports/benchmark.json`. ``pairs`` is by the role the candidate was timed against; samples: ``timings.npz``.

    Args:
        environment: the machine and its versions, never its load; ``machine_digest`` is over these alone.
        pinning: how many cores the processes that measure may run on, and the thread variables that were set for them.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    runtime: str
    threads: int
    batch_sizes: tuple[int, ...]
    models: dict[str, ModelCost]
    pairs: dict[str, PairedTiming]
    absent: dict[str, str] = {}
    environment: dict[str, str]
    pinning: dict[str, str] = {}
    machine_digest: str
    load_average: float | None = None
