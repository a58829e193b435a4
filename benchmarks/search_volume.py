"""How much of the objectives' space trials cover: what the tables of searches are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from compression_gate.search.front import Row, Values, extended


def hypervolume(values: Sequence[Values], bound: Values) -> float:
    """Volume that the values dominate, up to ``bound``: the larger, the better their front.

    By slicing along the last objective, which is quick for the few objectives and points of a search.

    Source: E. Zitzler, L. Thiele, Multiobjective Optimization Using Evolutionary Algorithms, 1998, §3 (size of the
    space covered).
    """
    inside = [(tuple(one), None) for one in values if all(a < b for a, b in zip(one, bound, strict=True))]
    front = reduce(extended, inside, list[Row[None]]())
    return volume(np.array([one for one, _ in front]), np.asarray(bound, dtype=float)) if front else 0.0


def volume(points: np.ndarray, bound: np.ndarray) -> float:
    """The same for points ``(N, D)`` that all lie under the bound ``(D,)``."""
    if points.shape[1] == 1:
        return float(bound[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = [*points[1:, -1], bound[-1]]
    total = 0.0
    for index, end in enumerate(ends):
        depth = end - points[index, -1]
        if depth > 0:
            total += depth * volume(points[: index + 1, :-1], bound[:-1])
    return total
