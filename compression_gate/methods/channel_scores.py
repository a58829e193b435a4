"""What a channel, neuron, unit or head is worth, over all layers that touch it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_pruning import ops

from compression_gate.methods.base import Context
from compression_gate.methods.dependencies import NORMS, OUTGOING, ROOTS
from compression_gate.methods.scores import gradients, mean_inputs
from compression_gate.modules.opened import Units
from compression_gate.modules.surgery import CONVOLUTIONS

Importance = Literal["l1", "l2", "taylor", "activation", "norm_scale", "random"]


def scored(apart: nn.Module, importance: Importance, context: Context) -> nn.Module:
    """Return a copy to look at, with every weight traceable and, for Taylor, gradients on the calibration split."""
    subject = copy.deepcopy(apart).eval()
    for parameter in subject.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    if importance == "taylor":
        for name, gradient in gradients(subject, context).items():
            subject.get_parameter(name).grad = gradient
    return subject


class Scorer:
    """Gives each channel of a group its importance ``(C,)``, or None where there is nothing to go by."""

    def __init__(self, importance: Importance, subject: nn.Module, context: Context) -> None:
        self.importance = importance
        self.random = torch.Generator().manual_seed(context.train.seed)
        readers = (*CONVOLUTIONS, nn.Linear, Units)
        self.inputs = mean_inputs(subject, context, readers) if importance == "activation" else {}

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor | None:
        """Add up the parts that the layers of a group give to each channel of its root."""
        channels = len(group[0].idxs)
        if self.importance == "random":
            return torch.rand(channels, generator=self.random)
        total, found = torch.zeros(channels), False
        for index in range(len(group)):
            item = group[index]
            if any(root is None for root in item.root_idxs):
                continue
            for values in self.parts(item.dep):
                indices = torch.as_tensor(item.idxs)
                if len(indices) and int(indices.max()) < len(values):
                    total.index_add_(0, torch.as_tensor(item.root_idxs), values[indices].float())
                    found = True
        return total if found else None

    def parts(self, dep: Any) -> Iterator[Tensor]:
        """Yield what one layer says about its own channels, each ``(channels of the layer,)``."""
        layer, outgoing = dep.target.module, dep.handler in OUTGOING
        if self.importance == "activation":
            if layer in self.inputs and not outgoing:
                yield self.inputs[layer]
        elif isinstance(layer, NORMS):
            if layer.weight is not None:
                yield self.magnitude(layer.weight, 0)
        elif self.importance == "norm_scale":
            return
        elif isinstance(layer, Units):
            yield from self.of_units(layer, outgoing=outgoing)
        elif isinstance(layer, ROOTS):
            yield self.magnitude(layer.weight, channel_axis(layer, outgoing), repeats(layer, outgoing))

    def of_units(self, layer: Units, *, outgoing: bool) -> Iterator[Tensor]:
        """Yield what hidden units say: of themselves their rows in every gate and what they read of each other."""
        if not outgoing:
            yield self.magnitude(layer.weight_ih, 1)
            return
        for weight in (layer.weight_ih, layer.weight_hh):
            yield self.magnitude(weight, 0).view(layer.gates, -1).sum(0)
        yield self.magnitude(layer.weight_hh, 1)

    def magnitude(self, weight: Tensor, axis: int, repeats: int = 1) -> Tensor:
        """Add up |w|, w² or |w·g| over all axes but one."""
        if self.importance == "taylor":
            gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            values = (weight * gradient).abs()
        else:
            values = weight.square() if self.importance == "l2" else weight.abs()
        return values.transpose(0, axis).flatten(1).sum(1).repeat(repeats) if values.dim() > 1 else values


def channel_axis(layer: nn.Module, outgoing: bool) -> int:
    """Return which axis of a layer's weight counts the channels."""
    if isinstance(layer, nn.Embedding):
        return 1
    depthwise = isinstance(layer, CONVOLUTIONS) and ops.module2type(layer) == ops.OPTYPE.DEPTHWISE_CONV
    transposed = bool(getattr(layer, "transposed", False))
    return 0 if depthwise or outgoing != transposed else 1


def repeats(layer: nn.Module, outgoing: bool) -> int:
    """Return how often a grouped convolution's weight stands for its channels: it holds those of one group only."""
    if not isinstance(layer, CONVOLUTIONS) or ops.module2type(layer) == ops.OPTYPE.DEPTHWISE_CONV:
        return 1
    return 1 if outgoing != layer.transposed else layer.groups
