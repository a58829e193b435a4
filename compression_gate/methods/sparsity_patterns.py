"""N:M sparsity: of every M neighbours along a layer's input axis at most N stay: some processors gain by it."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from compression_gate.modules.surgery import CONVOLUTIONS

LARGEST_GROUP = 64  # processors know 2:4; longer groups are for other hardware to come


def parsed(pattern: str) -> tuple[int, int] | None:
    """Return (N, M) of ``"N:M"``, or None where that is no pattern: 1 ≤ N < M ≤ 64."""
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", pattern)
    if found is None:
        return None
    kept, group = int(found[1]), int(found[2])
    return (kept, group) if 1 <= kept < group <= LARGEST_GROUP else None


def owners_of(model: nn.Module, weight: nn.Parameter) -> list[nn.Module]:
    """Return every module that holds this very parameter."""
    return [module for module in model.modules() if any(own is weight for own in module._parameters.values())]


def input_axis(layer: nn.Module) -> int | None:
    """Return which axis of a layer's weights counts its inputs, or None where none does."""
    if isinstance(layer, CONVOLUTIONS):
        return 0 if layer.transposed else 1
    return 1 if isinstance(layer, (nn.Linear, nn.RNNBase, nn.MultiheadAttention)) else None


def misfit(model: nn.Module, weight: nn.Parameter, pattern: str) -> str | None:
    """Say why a weight cannot have the pattern, or return None."""
    group = (parsed(pattern) or (0, 1))[1]
    layers = owners_of(model, weight)
    axes = {axis for layer in layers if (axis := input_axis(layer)) is not None}
    if len(axes) != 1:
        kinds = " and ".join(sorted({type(layer).__name__ for layer in layers}))
        return f"{pattern} needs one input axis: {kinds} has {'none' if not axes else 'several'}"
    length = weight.shape[axes.pop()]
    groups = max((layer.groups for layer in layers if isinstance(layer, CONVOLUTIONS) and layer.transposed), default=1)
    if (length // groups) % group:
        return f"{pattern} needs inputs in multiples of {group}: it has {length // groups}"
    return None


def lowest_of_groups(scores: Tensor, axis: int, pattern: str) -> Tensor:
    """Return where a weight must be zero so that the best N of every M neighbours along ``axis`` stay; ties by place.

    Source: A. Mishra et al., Accelerating Sparse Deep Neural Networks, 2021, §3 (2:4 by magnitude).
    """
    kept, group = parsed(pattern) or (1, 1)
    moved = scores.movedim(axis, -1)
    rows = moved.reshape(-1, group)
    order = rows.argsort(dim=1, stable=True)
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, : group - kept], True)
    return mask.view(moved.shape).movedim(-1, axis).contiguous()


def pattern_masks(
    model: nn.Module, treated: dict[str, nn.Parameter], scores: dict[str, Tensor], pattern: str
) -> dict[str, Tensor]:
    """Return, for each weight, where the pattern sets it to zero: bool, in the weight's shape."""
    masks = {}
    for name, weight in treated.items():
        axis = next(axis for layer in owners_of(model, weight) if (axis := input_axis(layer)) is not None)
        masks[name] = lowest_of_groups(scores[name], axis, pattern)
    return masks
