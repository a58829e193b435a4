"""What is better than what: dominance, the Pareto front, and how much of the objectives' space it covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Values = Sequence[float]


def dominates(first: Values, second: Values) -> bool:
    """Whether the first is nowhere larger than the second, and somewhere smaller."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


def front_of(values: Sequence[Values]) -> list[int]:
    """Indices of those that nothing dominates, in order; of equal ones the first."""
    found: list[int] = []
    for index, one in enumerate(values):
        if any(dominates(values[other], one) or tuple(values[other]) == tuple(one) for other in found):
            continue
        found = [other for other in found if not dominates(one, values[other])] + [index]
    return found


def ranks_of(values: Sequence[Values]) -> list[int]:
    """For each, in which front it is: 0 for those that nothing dominates, 1 once these are away, and so on."""
    ranks = [0] * len(values)
    left, rank = list(range(len(values))), 0
    while left:
        best = [a for a in left if not any(dominates(values[b], values[a]) for b in left)]
        for index in best:
            ranks[index] = rank
        left, rank = [index for index in left if index not in set(best)], rank + 1
    return ranks


def hypervolume(values: Sequence[Values], bound: Values) -> float:
    """Volume that the values dominate, up to ``bound``: the larger, the better the front.

    By slicing along the last objective, which is quick for the few objectives and points of a search.

    Source: E. Zitzler, L. Thiele, Multiobjective Optimization Using Evolutionary Algorithms, 1998, §3 (size of the
    space covered).
    """
    inside = np.array([one for one in values if all(a < b for a, b in zip(one, bound, strict=True))])
    return 0.0 if not len(inside) else volume(inside, np.asarray(bound, dtype=float))


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
