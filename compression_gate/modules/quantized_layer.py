"""What all integer layers share: the buffers they hold, and how their input is rounded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.modules.quantized_weights import (
    FEWEST_BITS,
    MOST_BITS,
    Granularity,
    IntegerWeight,
    Scheme,
    is_whole,
    widened,
)

LEVELS = 255  # activations of 8 bits are unsigned integers
BIAS_LIMIT = float(2**30)  # biases are held as 32-bit integers in files; half the range leaves room for the sum
INPUT_KINDS = ("static", "dynamic", "float")


@dataclass(frozen=True, kw_only=True)
class StaticInput:
    """Ranges that were found before: of what comes in, and of what goes out.

    Args:
        scale, zero_point: an input is ``(integer − zero_point) × scale``, the integer in 0 to 2^bits − 1.
        output_low, output_high: lowest and highest output seen.
    """

    scale: float
    zero_point: int
    output_low: float
    output_high: float
    bits: int = 8


class QuantizedLayer(nn.Module):
    """A layer whose weights are integers; its biases are float.

    Buffers, for each weight called ``name``: ``name_integers`` int8 in the float weight's shape, ``name_scale``, and
    ``name_zero_point`` or None, as :class:`IntegerWeight` has them. Biases under their own names, float or None.
    With static inputs also ``input_scale`` and ``input_zero_point`` (uint8), ``output_low`` and ``output_high``.

    Args:
        shapes: of the weights, by name.
        biases: lengths by name, None where there is none.
        inputs: ``static``: rounded to a range found before; ``dynamic``: to that of each call; ``float``: left.
        input_bits: of static inputs, 2 to 8.
    """

    float_type: ClassVar[type[nn.Module]]
    input_kinds: ClassVar[tuple[str, ...]] = INPUT_KINDS
    why_no_others: ClassVar[str | None] = None  # why these kinds only, where that is not plain
    input_scale: Tensor
    input_zero_point: Tensor
    output_low: Tensor
    output_high: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        biases: dict[str, int | None],
        *,
        bits: int,
        granularity: Granularity,
        group_size: int | None,
        symmetric: bool,
        inputs: str,
        input_bits: int,
    ) -> None:
        super().__init__()
        self.scheme = Scheme(bits=bits, granularity=granularity, group_size=group_size, symmetric=symmetric)
        if inputs not in self.input_kinds:
            raise CompressionError(f"inputs: expected one of {', '.join(self.input_kinds)}, got {inputs!r}")
        if not is_whole(input_bits) or not FEWEST_BITS <= input_bits <= MOST_BITS:
            raise CompressionError(f"input_bits: expected {FEWEST_BITS} to {MOST_BITS}, got {input_bits!r}")
        self.inputs, self.input_bits = inputs, input_bits
        self.weight_names, self.bias_names = tuple(shapes), tuple(biases)
        for name, shape in shapes.items():
            parts = self.scheme.scale_shape(shape)
            self.register_buffer(f"{name}_integers", torch.zeros(shape, dtype=torch.int8))
            self.register_buffer(f"{name}_scale", torch.ones(parts))
            self.register_buffer(f"{name}_zero_point", None if symmetric else torch.zeros(parts, dtype=torch.int8))
        for name, length in biases.items():
            self.register_buffer(name, None if length is None else torch.zeros(length))
        if inputs == "static":
            self.register_buffer("input_scale", torch.ones(()))
            self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8))
            self.register_buffer("output_low", torch.zeros(()))
            self.register_buffer("output_high", torch.zeros(()))

    @property
    def bits(self) -> int:
        """Of each weight."""
        return self.scheme.bits

    @classmethod
    def sizes_of(cls, layer: Any) -> dict[str, Any]:
        """Constructor arguments that a float layer implies, or an integer layer of the same kind."""
        raise NotImplementedError

    @classmethod
    def why_not(cls, layer: Any) -> str | None:
        """Why a float layer of this kind has no integer form; None if it has one."""
        return None

    def constructor_arguments(self) -> dict[str, Any]:
        """Plain JSON values from which the constructor builds a layer of the same shape."""
        own = {"inputs": self.inputs, "input_bits": self.input_bits}
        return {**self.sizes_of(self), **dataclasses.asdict(self.scheme), **own}

    @classmethod
    def from_float(
        cls, layer: nn.Module, weights: dict[str, IntegerWeight], inputs: StaticInput | Literal["dynamic", "float"]
    ) -> Self:
        """Build the integer form of a layer from its rounded weights.

        Args:
            layer: a layer of ``float_type``; not changed.
            weights: by the names the layer has them under, all of one scheme.
            inputs: the ranges of static inputs, or how inputs are treated else.
        """
        scheme = next(iter(weights.values())).scheme
        static = inputs if isinstance(inputs, StaticInput) else None
        made = cls(
            **cls.sizes_of(layer),
            **dataclasses.asdict(scheme),
            inputs="static" if isinstance(inputs, StaticInput) else inputs,
            input_bits=static.bits if static else 8,
        )
        for name in made.bias_names:
            bias = getattr(layer, name)
            setattr(made, name, None if bias is None else bias.detach().float().clone())
        for name, weight in weights.items():
            made.hold(name, made.with_room(name, weight, static) if static else weight)
        if static:
            made.input_scale = torch.tensor(static.scale, dtype=torch.float32)
            made.input_zero_point = torch.tensor(static.zero_point, dtype=torch.uint8)
            made.output_low = torch.tensor(static.output_low, dtype=torch.float32)
            made.output_high = torch.tensor(static.output_high, dtype=torch.float32)
        return made.train(layer.training)

    def with_room(self, name: str, weight: IntegerWeight, static: StaticInput) -> IntegerWeight:
        """Make scales so coarse that a bias, a multiple of both scales in the file, fits its 32 bits."""
        bias = getattr(self, name.replace("weight", "bias"), None)
        if bias is None or self.scheme.granularity == "per_group":  # files hold such a layer's bias as float
            return weight
        least = bias.abs() / (static.scale * BIAS_LIMIT)
        return weight.coarser(least if self.scheme.granularity == "per_channel" else least.max())

    def hold(self, name: str, weight: IntegerWeight) -> None:
        """Put a weight into its buffers."""
        setattr(self, f"{name}_integers", weight.integers.clone())
        setattr(self, f"{name}_scale", weight.scale.clone())
        setattr(self, f"{name}_zero_point", None if weight.zero_point is None else weight.zero_point.clone())

    def held(self, name: str) -> IntegerWeight:
        """A weight as it is held."""
        return IntegerWeight(
            integers=getattr(self, f"{name}_integers"),
            scale=getattr(self, f"{name}_scale"),
            zero_point=getattr(self, f"{name}_zero_point"),
            scheme=self.scheme,
        )

    def read(self, name: str) -> Tensor:
        """A weight as floats. All computation asks here, so that an exporter can put its own in the place."""
        return self.held(name).dequantized()

    def numbers(self) -> list[Tensor]:
        """What stands for the float layer's parameters: integers and biases."""
        biases = [getattr(self, name) for name in self.bias_names]
        integers = [getattr(self, f"{name}_integers") for name in self.weight_names]
        return [*integers, *(bias for bias in biases if bias is not None)]

    def rounded_input(self, values: Tensor) -> Tensor:
        """Round an input as the layer's kind of inputs says."""
        if self.inputs == "float":
            return values
        if self.inputs == "dynamic":
            return rounded_to_own_range(values)
        zero = self.input_zero_point.to(values.dtype)
        steps = torch.clamp(torch.round(values / self.input_scale) + zero, 0, levels_of(self.input_bits))
        return (steps - zero) * self.input_scale

    def extra_repr(self) -> str:
        """The arguments, for printing."""
        return ", ".join(f"{name}={value}" for name, value in self.constructor_arguments().items())


def levels_of(bits: int) -> int:
    """The largest integer of an activation: 255 for 8 bits."""
    return int(2**bits - 1)


def step_between(low: float, high: float, bits: int) -> float:
    """The step with which 0 to 2^bits − 1 span ``low`` to ``high``."""
    return float(widened(torch.tensor(high - low, dtype=torch.float64))) / levels_of(bits)


def affine(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Scale and zero point with which 0 to 2^bits − 1 span ``low`` to ``high``, zero being hit exactly.

    Source: B. Jacob et al., CVPR 2018, §3.1: the range is widened to hold zero, the zero point rounded.
    """
    low, high, levels = min(low, 0.0), max(high, 0.0), levels_of(bits)
    scale = float(torch.tensor(step_between(low, high, bits), dtype=torch.float32))
    return scale, int(min(max(round(-low / scale), 0), levels))


def rounded_to_own_range(values: Tensor) -> Tensor:
    """Round to the 256 values that span the tensor's own range and zero, as DynamicQuantizeLinear of ONNX does."""
    low, high = torch.aminmax(values)
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = torch.where(high > low, (high - low) / LEVELS, torch.ones_like(high))
    zero = torch.clamp(torch.round(-low / scale), 0, LEVELS)
    return (torch.clamp(torch.round(values / scale) + zero, 0, LEVELS) - zero) * scale
