"""Keeping zeros: the weights that pruning set to zero stay zero while what is left is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compression_gate.modules.surgery import weights


def zeros_of(model: nn.Module) -> dict[str, Tensor]:
    """Return, for each weight matrix that has zeros, where it is zero: bool, in the weight's shape."""
    masks = {name: weight.detach() == 0 for name, weight in weights(model).items()}
    return {name: mask for name, mask in masks.items() if mask.any()}


def keeper(masks: dict[str, Tensor]) -> Callable[[nn.Module], None] | None:
    """Return a function that sets those weights to zero again, to be called after each optimizer step."""
    if not masks:
        return None

    @torch.no_grad()
    def keep(model: nn.Module) -> None:
        for name, weight in weights(model).items():
            if name in masks:
                masks[name] = masks[name].to(weight.device)
                weight.masked_fill_(masks[name], 0)

    return keep
