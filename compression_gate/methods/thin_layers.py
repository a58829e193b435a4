"""The thin layers that take the place of a wide one, from the factors of its kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def balanced(outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """Give the columns of ``(O, r)`` and the rows of ``(r, I)`` equal lengths; their product stays."""
    ratio = (inner.norm(dim=1) / outer.norm(dim=0)).clamp_min(1e-12).sqrt()
    return outer * ratio, inner / ratio[:, None]


def linears(layer: Any, outer: Tensor, inner: Tensor) -> nn.Sequential:
    """Return two linear layers with the product ``(O, r) · (r, I)``."""
    outer, inner = balanced(outer, inner)
    first = nn.Linear(layer.in_features, len(inner), bias=False)
    last = nn.Linear(len(inner), layer.out_features, bias=layer.bias is not None)
    return filled(layer, (first, inner), (last, outer))


def geometry(layer: Any) -> dict[str, Any]:
    """Return how a kernel moves over its input."""
    return {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}


def pointwise(layer: Any, outer: Tensor, inner: Tensor) -> nn.Sequential:
    """Return two 1×1 convolutions; the first takes the stride, so that the second works on fewer places."""
    outer, inner = balanced(outer, inner)
    first = type(layer)(layer.in_channels, len(inner), bias=False, **geometry(layer))
    last = type(layer)(len(inner), layer.out_channels, 1, bias=layer.bias is not None)
    return filled(layer, (first, inner), (last, outer))


def convolutions(layer: Any, outer: Tensor, core: Tensor, inner: Tensor, *, groups: int = 1) -> nn.Sequential:
    """Return a 1×1, a k×k and a 1×1 convolution; a 1×1 that would be square is multiplied into the middle.

    Args:
        outer, core, inner: ``(O, a)``, ``(a, b / groups, K)`` and ``(b, I)``.
    """
    kind, parts = type(layer), []
    if len(inner) < layer.in_channels or groups > 1:
        parts.append((kind(layer.in_channels, len(inner), 1, bias=False), inner))
    else:
        core = torch.einsum("abk,bi->aik", core, inner)
    whole = outer.shape[1] >= layer.out_channels and groups == 1
    core = torch.einsum("oa,aik->oik", outer, core) if whole else core
    bias = layer.bias is not None
    middle = kind(len(inner), len(core), bias=whole and bias, groups=groups, **geometry(layer))
    parts.append((middle, core))
    if not whole:
        parts.append((kind(len(core), layer.out_channels, 1, bias=bias), outer))
    return filled(layer, *parts)


@torch.no_grad()
def filled(layer: nn.Module, *parts: tuple[nn.Module, Tensor]) -> nn.Sequential:
    """Give each new layer its weight, the last one the old bias, all of them what the old one had of type and state."""
    old = layer.get_parameter("weight")
    for new, values in parts:
        weight = new.get_parameter("weight")
        weight.copy_(values.reshape(weight.shape))
    last = parts[-1][0]
    if isinstance(layer.bias, Tensor):
        last.get_parameter("bias").copy_(layer.bias)
    pair = nn.Sequential(*(new for new, _ in parts)).to(old.dtype)
    return pair.requires_grad_(old.requires_grad).train(layer.training)
