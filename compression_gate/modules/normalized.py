"""Normalisation of the input as part of the model, so that it ships with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """Subtract ``mean`` and divide by ``deviation`` per channel, then call ``model``.

    Applies to the first input: ``(N, C, …)`` for images and signals, ``(N, F)`` for features.
    """

    def __init__(self, model: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    mean: Tensor
    deviation: Tensor

    def forward(self, inputs: Tensor, *more: Tensor) -> Any:
        """Call the model on the normalised input."""
        shape = (1, -1) + (1,) * (inputs.dim() - 2)
        return self.model((inputs - self.mean.view(shape)) / self.deviation.view(shape), *more)


def unnormalized_shell(model: nn.Module, channels: int) -> Normalized:
    """Wrap a model in statistics that change nothing, for weights to be loaded into."""
    return Normalized(model, torch.zeros(channels), torch.ones(channels))
