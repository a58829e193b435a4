"""Many questions at once: which of several p-values still prove something.

Both functions take p-values in any order and answer in that order.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected so that any false rejection at all has probability ``alpha`` at most.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    rejected = [False] * len(p_values)
    for done, index in enumerate(ascending(p_values)):
        if not p_values[index] <= alpha / (len(p_values) - done):
            break
        rejected[index] = True
    return rejected


def benjamini_hochberg(p_values: Sequence[float], share: float) -> list[bool]:
    """Which hypotheses are rejected so that false ones are ``share`` of the rejected at most, on average.

    Source: Benjamini and Hochberg 1995, Controlling the false discovery rate, Journal of the Royal Statistical Society
        B 57; valid for independent and for positively dependent tests, which slices of one test set are.
    """
    order = ascending(p_values)
    last = max((rank for rank, index in enumerate(order, 1) if p_values[index] <= share * rank / len(order)), default=0)
    rejected = [False] * len(p_values)
    for index in order[:last]:
        rejected[index] = True
    return rejected


def ascending(p_values: Sequence[float]) -> list[int]:
    """Positions by rising p-value; NaN, which proves nothing, last."""
    return sorted(range(len(p_values)), key=lambda index: (p_values[index] != p_values[index], p_values[index]))
