"""Weights as integers: how a tensor is cut into parts with a scale each, rounded, and computed back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

import torch
from torch import Tensor

from compression_gate.errors import CompressionError

Granularity = Literal["per_tensor", "per_channel", "per_group"]
Fit = Literal["minmax", "mse"]

FEWEST_BITS, MOST_BITS = 2, 8
FILE_BITS = (2, 4, 8)  # of the integer types that files have
SMALLEST_RANGE = 1e-6  # taken where all is zero, which any scale holds
NARROWEST = 1e-15  # range: squared errors and products of two scales still are numbers that float32 has
SHRINKS = tuple(share / 100 for share in range(10, 101))  # ranges tried by mse: 10 % to all of the weights'


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a weight ``(O, …)`` is held.

    Args:
        bits: of each integer, 2 to 8. In memory an integer takes a byte whatever its bits; files may pack them.
        granularity: one scale for the tensor ``(1,)``, for each output channel ``(O,)``, or for each group ``(O, G)``.
        group_size: consecutive weights of one output channel that share a scale; the last group may be shorter.
        symmetric: integers lie in ±(2^(bits−1) − 1) and zero is 0; else they lie in −2^(bits−1) to 2^(bits−1) − 1,
            and a zero point of the scale's shape says which of them stands for zero.

    Raises:
        CompressionError: values that do not go together.
    """

    bits: int = 8
    granularity: Granularity = "per_channel"
    group_size: int | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        if problems := scheme_problems(self.bits, self.granularity, self.group_size, self.symmetric):
            raise CompressionError("; ".join(problems))

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return -self.highest if self.symmetric else -(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        """The largest integer: 127 for 8 bits, 1 for 2."""
        return int(2 ** (self.bits - 1) - 1)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a weight of ``shape``."""
        if self.granularity == "per_tensor":
            return (1,)
        if self.granularity == "per_channel":
            return (shape[0],)
        assert self.group_size is not None  # __post_init__ saw to it
        return shape[0], -(-row_length(shape) // self.group_size)

    def divided(self, weight: Tensor) -> Tensor:
        """Cut a weight ``(O, …)`` into rows ``(P, n)`` that share a scale; a short last group ends in zeros."""
        if self.granularity == "per_tensor":
            return weight.reshape(1, -1)
        rows = weight.flatten(1) if weight.dim() > 1 else weight.unsqueeze(1)
        if self.granularity == "per_channel":
            return rows
        assert self.group_size is not None
        missing = -rows.shape[1] % self.group_size
        return torch.nn.functional.pad(rows, (0, missing)).reshape(-1, self.group_size)

    def spread(self, figures: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Shape one figure per scale so that it multiplies a weight of ``shape``."""
        if self.granularity != "per_group":
            return figures.reshape(-1, *[1] * (len(shape) - 1))
        assert self.group_size is not None
        return figures.repeat_interleave(self.group_size, 1)[:, : row_length(shape)].reshape(shape)


@dataclass(frozen=True, kw_only=True)
class IntegerWeight:
    """A weight as it is held: ``(integers − zero_point) × scale``.

    Args:
        integers: int8, in the float weight's shape.
        scale: float32, in the scheme's scale shape.
        zero_point: int8, in the scale's shape; None where the scheme is symmetric.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    scheme: Scheme

    def dequantized(self) -> Tensor:
        """The weights that the integers stand for."""
        shape = tuple(self.integers.shape)
        steps: Tensor = self.integers
        if self.zero_point is not None:
            # In int8 the difference could overflow.
            steps = steps.to(torch.int16) - self.scheme.spread(self.zero_point.to(torch.int16), shape)
        return steps * self.scheme.spread(self.scale, shape)

    def coarser(self, least: Tensor) -> IntegerWeight:
        """Round anew wherever a scale lies below ``least``, which has one value or one for each scale."""
        least = least.expand_as(self.scale)
        if not bool((self.scale < least).any()):
            return self
        return rounded(self.dequantized(), torch.maximum(self.scale, least), self.zero_point, self.scheme)


def held_bits(bits: int, narrowest: int = FEWEST_BITS) -> int:
    """What an integer of so many bits takes in a file whose narrowest type has ``narrowest``."""
    return next(size for size in FILE_BITS if size >= max(bits, narrowest))


def scheme_problems(bits: object, granularity: object, group_size: object, symmetric: object) -> list[str]:
    """Say what is wrong with a scheme's options, each starting with its name."""
    found = []
    if not is_whole(bits) or not FEWEST_BITS <= bits <= MOST_BITS:
        found.append(f"bits: expected a whole number from {FEWEST_BITS} to {MOST_BITS}, got {bits!r}")
    if granularity not in get_args(Granularity):
        found.append(f"granularity: expected one of {', '.join(get_args(Granularity))}, got {granularity!r}")
    elif granularity == "per_group" and not (is_whole(group_size) and group_size > 0):
        found.append(f"group_size: expected 1 or more for per_group, got {group_size!r}")
    elif granularity != "per_group" and group_size is not None:
        found.append(f"group_size: expected none for {granularity}, got {group_size!r}")
    if not isinstance(symmetric, bool):
        found.append(f"symmetric: expected true or false, got {symmetric!r}")
    return found


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is an integer and no flag."""
    return isinstance(value, int) and not isinstance(value, bool)


def row_length(shape: tuple[int, ...]) -> int:
    """How many weights an output channel has."""
    length = 1
    for size in shape[1:]:
        length *= size
    return length


def rounded(weight: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: Scheme) -> IntegerWeight:
    """Give each weight the nearest integer of given scales."""
    shape = tuple(weight.shape)
    steps = torch.round(weight.detach() / scheme.spread(scale, shape))
    if zero_point is not None:
        steps = steps + scheme.spread(zero_point.to(weight.dtype), shape)
    integers = steps.clamp(scheme.lowest, scheme.highest).to(torch.int8)
    return IntegerWeight(integers=integers, scale=scale.float(), zero_point=zero_point, scheme=scheme)


def quantized_weight(weight: Tensor, scheme: Scheme, fit: Fit) -> IntegerWeight:
    """Choose scales for a weight and round it.

    Args:
        fit: ``minmax``: the largest integer stands for the largest weight of a part; ``mse``: the range, of those
            tried, with the least sum of squared rounding errors, for each part by itself.

    Source: B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, CVPR 2018, §2.1 and §3. R. Banner et al., Post training 4-bit quantization of convolutional networks,
    NeurIPS 2019, §3 (least squares), whose closed form is replaced by a search.
    """
    weight = weight.detach().float()
    scale, zero = fitted(scheme.divided(weight), scheme, fit)
    shape = scheme.scale_shape(tuple(weight.shape))
    zero_point = None if scheme.symmetric else zero.reshape(shape).to(torch.int8)
    return rounded(weight, scale.reshape(shape), zero_point, scheme)


def fitted(parts: Tensor, scheme: Scheme, fit: Fit) -> tuple[Tensor, Tensor]:
    """Return scale and zero point ``(P,)`` of parts ``(P, n)``."""
    low, high = parts.amin(1).clamp_max(0), parts.amax(1).clamp_min(0)
    best_scale, best_zero = grid(low, high, scheme)
    if fit == "minmax":
        return best_scale, best_zero
    least = torch.full_like(low, float("inf"))
    for share in SHRINKS:
        scale, zero = grid(low * share, high * share, scheme)
        column, offset = scale.unsqueeze(1), zero.unsqueeze(1)
        steps = (torch.round(parts / column) + offset).clamp(scheme.lowest, scheme.highest) - offset
        error = (steps * column - parts).square().sum(1)
        better = error < least
        best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
        least = torch.minimum(error, least)
    return best_scale, best_zero


def grid(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, both as float, with which the scheme's integers span ``low`` to ``high``."""
    if scheme.symmetric:
        scale = widened(torch.maximum(-low, high)) / scheme.highest
        return scale, torch.zeros_like(scale)
    scale = widened(high - low) / (scheme.highest - scheme.lowest)
    return scale, (scheme.lowest - torch.round(low / scale)).clamp(scheme.lowest, scheme.highest)


def widened(ranges: Tensor) -> Tensor:
    """Widths of ranges, wide enough to be divided by."""
    return torch.where(ranges > 0, ranges.clamp_min(NARROWEST), SMALLEST_RANGE)
