"""Bootstrap of metrics that are no plain proportion, pairs kept together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 5_000
SEED = 20_240_229
CHUNK_CELLS = 4_000_000  # numbers held at a time while resampling: 32 MB
Metric = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Examples counted by what happened to them: equal ones share a cell, since a resample only moves counts.

    Args:
        counts: (K,) how many examples each cell holds.
        values: one array (K,) per name: what the examples of the cell have in common.
    """

    counts: np.ndarray
    values: dict[str, np.ndarray]


def cells_of(**columns: np.ndarray) -> Cells:
    """Count the distinct rows of equally long columns ``(N,)``."""
    stacked = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)
    rows, counts = np.unique(stacked, axis=0, return_counts=True)
    return Cells(counts=counts, values={name: rows[:, index] for index, name in enumerate(columns)})


def bootstrap(cells: Cells, metric: Metric, seed: int = SEED) -> np.ndarray:
    """Return ``RESAMPLES`` values of ``metric``, which maps counts (B, K) to values (B,).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 6.
    """
    random = np.random.default_rng(seed)
    total = int(cells.counts.sum())
    size = max(1, min(RESAMPLES, CHUNK_CELLS // len(cells.counts)))
    parts = [
        metric(random.multinomial(total, cells.counts / total, size=min(size, RESAMPLES - start)))
        for start in range(0, RESAMPLES, size)
    ]
    return np.concatenate(parts)


def one_sided_bounds(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile bounds, each at ``confidence``."""
    finite = samples[np.isfinite(samples)]
    if len(finite) < len(samples) * 0.99:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [1 - confidence, confidence])
    return float(low), float(high)


def classwise(name: str, target: np.ndarray, predicted: np.ndarray, classes: np.ndarray) -> Metric:
    """Precision, recall or F1, mean over the classes, as a function of cell counts; 0 where nothing was predicted.

    A class without examples is left out of the mean, as when the figure itself is taken.
    """
    is_target = (target[:, None] == classes).astype(np.float64)  # (K, C)
    is_predicted = (predicted[:, None] == classes).astype(np.float64)

    def metric(counts: np.ndarray) -> np.ndarray:
        right = counts @ (is_target * is_predicted)
        actual, guessed = counts @ is_target, counts @ is_predicted
        bottom = {"recall": actual, "precision": guessed, "f1": (actual + guessed) / 2}[name]
        values = np.divide(right, bottom, out=np.zeros_like(right, dtype=np.float64), where=bottom > 0)
        present = actual > 0
        number = present.sum(1)
        none = np.full(len(number), np.nan)
        return np.asarray(np.divide((values * present).sum(1), number, out=none, where=number > 0))

    return metric


def weighted(name: str, target: np.ndarray, error: np.ndarray) -> Metric:
    """A regression metric of signed errors (K,) as a function of cell counts."""

    def metric(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(1)
        if name == "mae":
            return np.asarray(counts @ np.abs(error) / total)
        squares = counts @ np.square(error) / total
        if name == "rmse":
            return np.asarray(np.sqrt(squares))
        centred = target - target.mean()  # a target far from zero would lose its variance to rounding
        variance = counts @ np.square(centred) / total - np.square(counts @ centred / total)
        return np.asarray(1 - np.divide(squares, variance, out=np.full(len(squares), np.nan), where=variance > 0))

    return metric


def mean_of(scores: np.ndarray) -> Metric:
    """The mean of per-example scores (K,) as a function of cell counts."""
    return lambda counts: np.asarray(counts @ scores / counts.sum(1))
