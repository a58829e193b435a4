"""Every metric this package can produce: what kind of evidence it is, which way is better, whether it is a fraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "paired_proportion", "paired_composite", "timed", "noisy_resource"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is judged.

    Args:
        kind: which row of docs/gate.md decides it.
        better: the direction in which it improves.
        fraction: lies in 0–1, so that a drop over 1 is impossible.
        summary: one line for ``compression-gate list metrics``.
    """

    kind: Kind
    better: Literal["higher", "lower"]
    summary: str
    fraction: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        kind="paired_proportion", better="higher", fraction=True, summary="share of test examples predicted right"
    ),
    "agreement": Metric(
        kind="paired_proportion", better="higher", fraction=True, summary="share predicted as the other model does"
    ),
    "flips": Metric(
        kind="paired_proportion",
        better="lower",
        fraction=True,
        summary="share of examples whose rightness differs from the other model's",
    ),
    "precision": Metric(
        kind="paired_composite", better="higher", fraction=True, summary="precision, mean over classes; per class"
    ),
    "recall": Metric(
        kind="paired_composite", better="higher", fraction=True, summary="recall, mean over classes; per class"
    ),
    "f1": Metric(kind="paired_composite", better="higher", fraction=True, summary="F1, mean over classes; per class"),
    "mae": Metric(kind="paired_composite", better="lower", summary="mean absolute error"),
    "rmse": Metric(kind="paired_composite", better="lower", summary="root of the mean squared error"),
    "r2": Metric(kind="paired_composite", better="higher", summary="share of the variance explained"),
    "size_bytes": Metric(kind="exact", better="lower", summary="bytes of every file that ships"),
    "compression_ratio": Metric(
        kind="exact", better="higher", summary="bytes of the reference's model.safetensors over size_bytes"
    ),
    "parameters": Metric(kind="exact", better="lower", summary="weights held"),
    "nonzeros": Metric(kind="exact", better="lower", summary="weights that are not zero"),
    "sparsity": Metric(kind="exact", better="higher", fraction=True, summary="share of weights that are zero"),
    "macs": Metric(kind="exact", better="lower", summary="multiply-accumulates per example"),
    "latency_ms": Metric(kind="timed", better="lower", summary="median of one call at the first batch size"),
    "latency_p95_ms": Metric(kind="timed", better="lower", summary="95th percentile of one call"),
    "latency_p99_ms": Metric(kind="timed", better="lower", summary="99th percentile of one call"),
    "throughput_per_s": Metric(kind="timed", better="higher", summary="examples a second at the largest batch size"),
    "speedup": Metric(
        kind="timed", better="higher", summary="reference latency over candidate latency, same runtime, in pairs"
    ),
    "load_time_ms": Metric(
        kind="timed",
        better="lower",
        summary="opening the cached file in a fresh process, decoding included, until a call is possible",
    ),
    "decode_time_ms": Metric(kind="timed", better="lower", summary="decoding a coded file, part of load_time_ms"),
    "load_time_cold_ms": Metric(
        kind="timed", better="lower", summary="the same with the file's pages out of the system's cache"
    ),
    "first_call_ms": Metric(kind="timed", better="lower", summary="the first call after loading, in a fresh process"),
    "peak_memory_bytes": Metric(
        kind="noisy_resource", better="lower", summary="peak resident memory of a fresh process, runtime included"
    ),
    "model_memory_bytes": Metric(
        kind="noisy_resource", better="lower", summary="what a second copy of the model, loaded and called, adds to it"
    ),
    "energy_j": Metric(
        kind="noisy_resource", better="lower", summary="energy per example, first batch size: counted, else estimated"
    ),
}

QUALITY: tuple[Kind, ...] = ("paired_proportion", "paired_composite")  # what test examples answer
BETWEEN_MODELS = ("agreement", "flips")  # what compares a model's answers with another's

DEFAULT_METRICS = {
    "classification": ("accuracy", "precision", "recall", "f1"),
    "regression": ("mae", "rmse", "r2"),
    "custom": (),
}


def direction(metric: str) -> Literal[1, -1]:
    """1 where more of a metric is better, -1 where less is; more of a custom score is."""
    return -1 if metric in METRICS and METRICS[metric].better == "lower" else 1


def is_fraction(metric: str) -> bool:
    """Whether a metric is known to lie in 0-1, so that its changes are told in points."""
    return metric in METRICS and METRICS[metric].fraction


def kind_of(metric: str) -> Kind:
    """The kind of evidence a metric is; a custom scorer's are composites."""
    return METRICS[metric].kind if metric in METRICS else "paired_composite"
