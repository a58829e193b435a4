"""What is better than what: dominance and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Values = Sequence[float]
Row = tuple[tuple[float, ...], T]  # what something comes to, and what it is


def dominates(first: Values, second: Values) -> bool:
    """Whether the first is nowhere larger than the second, and somewhere smaller."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


def extended(front: list[Row[T]], row: Row[T]) -> list[Row[T]]:
    """The front with one more, where nothing in it dominates or equals that, and without what that dominates."""
    values, _ = row
    if any(dominates(other, values) or other == values for other, _ in front):
        return front
    return [*(one for one in front if not dominates(values, one[0])), row]


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
