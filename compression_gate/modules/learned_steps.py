"""Layers that are rounded while they are trained, and learn how coarsely.

Each weight and each input passes a rounding whose step is a parameter of its own. The layers stay torch's: what is
computed with a weight, wherever in the model, is computed with the rounded one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compression_gate.modules.quantized_layer import levels_of
from compression_gate.modules.quantized_weights import NARROWEST, SMALLEST_RANGE, IntegerWeight, rounded

INPUT = "rounded_input"  # the name of a layer's input rounding


class LearnedStep(nn.Module):
    """Steps that training moves by factors: each is ``first × exp(growth)``, which stays positive.

    A growth of zero is the start, so that weight decay pulls towards it, and optimizers that make steps of one size
    for every parameter move a small step as far, in proportion, as a large one.

    Args:
        first: where the steps start, in any shape.
        rounded_each: how many numbers one step rounds.
        levels: largest magnitude that an integer may have.

    Source: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020, §2.1 and §2.2 (gradient of the step, scaled
    by 1/√(numbers × levels)). Departures: the step's logarithm is what is learned; it starts at the least squared
    error, not at 2·mean|v|/√levels.
    """

    first: Tensor

    def __init__(self, first: Tensor, *, rounded_each: int, levels: int) -> None:
        super().__init__()
        self.register_buffer("first", first.detach().clone().float().clamp_min(NARROWEST / levels))
        self.growth = nn.Parameter(torch.zeros_like(self.first))
        self.gradient_scale = 1 / math.sqrt(max(rounded_each * levels, 1))

    def forward(self) -> Tensor:
        """The steps as they are now; backwards their gradient is scaled."""
        growth = self.growth * self.gradient_scale
        return self.first * torch.exp(growth + (self.growth - growth).detach())


def through(values: Tensor, steps: Tensor, lowest: int, highest: int) -> Tensor:
    """Round to whole steps; gradients pass the rounding as if it were not there, and stop where values are cut.

    Source: Y. Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013 (straight-through
    estimator); Esser et al. 2020, eq. 1 to 5.
    """
    scaled = (values / steps).clamp(lowest, highest)
    return (scaled + (scaled.round() - scaled).detach()) * steps


class RoundedWeight(nn.Module):
    """A parametrization: the layer computes with the rounded weight, training moves the weight behind it.

    Weights that are zero at the start, which earlier steps pruned, stay zero.
    """

    live: Tensor | None

    def __init__(self, weight: Tensor, held: IntegerWeight) -> None:
        super().__init__()
        self.scheme = held.scheme
        self.shape = tuple(held.integers.shape)
        live = weight.detach() != 0
        self.register_buffer("live", None if bool(live.all()) else live)
        each = held.integers.numel() // max(held.scale.numel(), 1)
        self.step = LearnedStep(held.scale, rounded_each=each, levels=self.scheme.highest)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that the integers stand for."""
        steps = self.scheme.spread(self.step(), self.shape)
        return through(self.alive(weight), steps, self.scheme.lowest, self.scheme.highest)

    def alive(self, weight: Tensor) -> Tensor:
        """The weight without what moved away from a zero."""
        return weight if self.live is None else weight * self.live

    @torch.no_grad()
    def held(self, weight: Tensor) -> IntegerWeight:
        """The integers and the learned steps."""
        return rounded(self.alive(weight), self.step().detach(), None, self.scheme)


class RoundedInput(nn.Module):
    """Rounds what goes into a layer; the step is learned, the integer that stands for zero stays."""

    zero_point: Tensor

    def __init__(self, scale: float, zero_point: int, bits: int, rounded_each: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))
        self.step = LearnedStep(torch.tensor(scale), rounded_each=rounded_each, levels=levels_of(bits))

    def forward(self, values: Tensor) -> Tensor:
        """The values that the integers stand for."""
        zero = int(self.zero_point)
        # Halves of bfloat16 would be too coarse for 256 levels.
        return through(values.float(), self.step(), -zero, levels_of(self.bits) - zero)


def round_weight(layer: nn.Module, name: str, held: IntegerWeight) -> None:
    """Have ``layer`` compute with a rounded weight from now on."""
    parametrize.register_parametrization(layer, name, RoundedWeight(getattr(layer, name), held))
    if isinstance(layer, nn.RNNBase) and not hasattr(layer, "refreshes"):
        # These keep a list of their weights, which must be the rounded ones of each call.
        layer.refreshes = layer.register_forward_pre_hook(refreshed)


def refreshed(layer: Any, inputs: Any) -> None:
    """Read the weights anew."""
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]


def round_input(layer: nn.Module, rounding: RoundedInput) -> None:
    """Have ``layer`` see rounded inputs from now on."""
    layer.add_module(INPUT, rounding)
    layer.register_forward_pre_hook(with_rounded_input)


def with_rounded_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Round the first of a layer's inputs."""
    return (getattr(layer, INPUT)(inputs[0]), *inputs[1:])


def learned_weight(layer: Any, name: str) -> IntegerWeight:
    """The integers of a weight as training left it."""
    parametrization = layer.parametrizations[name]
    held: IntegerWeight = parametrization[0].held(parametrization.original)
    return held


def scaled_rows(held: IntegerWeight, factors: Tensor) -> IntegerWeight:
    """Multiply each output channel by a factor: its scales take the size, its integers the sign.

    Args:
        factors: ``(O,)``; of a symmetric scheme with scales of its own for each channel.
    """
    shape = tuple(held.integers.shape)
    columns = (-1, *[1] * (held.scale.dim() - 1))
    signs = torch.where(factors < 0, -1, 1).to(torch.int8).reshape(-1, *[1] * (len(shape) - 1))
    scale = held.scale * factors.abs().reshape(columns)
    integers = held.integers * signs
    dead = scale < NARROWEST / held.scheme.highest
    # A channel that a norm switched off: no scale is that small, zeros say the same.
    integers = torch.where(held.scheme.spread(dead, shape).expand(shape), torch.zeros_like(integers), integers)
    scale = torch.where(dead, torch.full_like(scale, SMALLEST_RANGE), scale)
    return IntegerWeight(integers=integers, scale=scale, zero_point=None, scheme=held.scheme)
