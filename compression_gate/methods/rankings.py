"""Which weights are worth least: of each matrix, or of all together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["local", "global"]
Share = float | Mapping[str, float]


def lowest(scores: dict[str, Tensor], share: Share, scope: Scope) -> dict[str, Tensor]:
    """Return where the lowest ``share`` of the scores is, of each tensor or of all together; ties by position.

    Args:
        share: 0-1; by name where each tensor, in the scope ``local``, has its own.
    """
    if isinstance(share, Mapping):
        return {name: lowest_of(values.flatten(), share[name]).view(values.shape) for name, values in scores.items()}
    if scope == "global":
        together = lowest_of(torch.cat([values.flatten() for values in scores.values()]), share)
        parts = together.split([values.numel() for values in scores.values()])
        return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
    return {name: lowest_of(values.flatten(), share).view(values.shape) for name, values in scores.items()}


def lowest_of(values: Tensor, share: float) -> Tensor:
    """Return where the ``floor(share × n)`` lowest of the values ``(n,)`` are."""
    # A billionth of slack: 0.7 × 10 is a little under 7 in floating point.
    count = math.floor(share * len(values) + 1e-9)
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.argsort(stable=True)[:count]] = True
    return mask
