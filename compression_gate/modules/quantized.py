"""The seam between methods and formats: layers that hold integers, scales and activation ranges openly.

A quantizing method returns these; a runtime lowers them to its own integer operators, the coded file stores them.
All three compute the same function: inputs rounded to ``input_scale``, weights ``weight_integers × weight_scale``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.errors import CompressionError

LEVELS = 255  # activations are unsigned 8-bit integers
SMALLEST_RANGE = 1e-6  # a narrower range than this would make scales that float32 cannot divide by
BIAS_LIMIT = float(2**30)  # biases are held as 32-bit integers in files; half the range leaves room for the sum


class QuantizedLayer(nn.Module):
    """What the integer layers share: the buffers, and how a float layer becomes one.

    Buffers: ``weight_integers`` int8 in the float weight's shape, within ±(2^(bits−1) − 1); ``weight_scale`` ``(O,)``
    per channel or ``(1,)`` per tensor; ``bias`` ``(O,)`` float or None; ``input_scale`` and ``input_zero_point``
    (uint8) of the activations that come in; ``output_low`` and ``output_high``, the range seen at the output.
    """

    float_type: ClassVar[type[nn.Module]]
    weight_integers: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor
    input_zero_point: Tensor
    output_low: Tensor
    output_high: Tensor

    def __init__(self, shape: tuple[int, ...], *, bias: bool, bits: int, per_channel: bool) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise CompressionError(f"{type(self).__name__}: bits: expected 2 to 8, got {bits!r}")
        self.bits, self.per_channel = bits, per_channel
        self.register_buffer("weight_integers", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(shape[0] if per_channel else 1))
        self.register_buffer("bias", torch.zeros(shape[0]) if bias else None)
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("output_low", torch.zeros(()))
        self.register_buffer("output_high", torch.zeros(()))

    def constructor_arguments(self) -> dict[str, Any]:
        """Plain JSON values from which the constructor builds a layer of the same shape."""
        raise NotImplementedError

    @classmethod
    def arguments_from(cls, layer: Any) -> dict[str, Any]:
        """Constructor arguments that a float layer of the same kind implies, without bits and granularity."""
        raise NotImplementedError

    @classmethod
    def from_float(
        cls,
        layer: nn.Module,
        *,
        bits: int,
        input_range: tuple[float, float],
        output_range: tuple[float, float],
        weight_limit: Tensor,
    ) -> Self:
        """Round a float layer's weights to integers.

        Args:
            layer: a layer of ``float_type``; not changed.
            bits: of the weights, 2 to 8.
            input_range, output_range: lowest and highest activation to be represented.
            weight_limit: ``(O,)`` or ``(1,)``, the magnitude that the largest integer stands for.

        Source: B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, CVPR 2018, §2.1 and §3; weights symmetric, so that their zero point is 0.
        """
        weight = layer.get_parameter("weight").detach()
        bias = layer.bias.detach() if isinstance(layer.bias, Tensor) else None
        quantized = cls(**cls.arguments_from(layer), bits=bits, per_channel=weight_limit.numel() > 1)
        input_scale, zero_point = affine(*input_range)
        scale = weight_limit.clamp_min(SMALLEST_RANGE) / largest_integer(bits)
        if bias is not None:
            # A bias is a multiple of both scales in the file: too fine a scale would overflow its 32 bits.
            floor = bias.abs() / (input_scale * BIAS_LIMIT)
            scale = torch.maximum(scale, floor if quantized.per_channel else floor.max().reshape(1))
            quantized.bias = bias.clone()
        quantized.weight_scale = scale.float()
        quantized.weight_integers = rounded(weight, quantized.weight_scale, bits)
        quantized.input_scale = torch.tensor(input_scale, dtype=torch.float32)
        quantized.input_zero_point = torch.tensor(zero_point, dtype=torch.uint8)
        quantized.output_low = torch.tensor(output_range[0], dtype=torch.float32)
        quantized.output_high = torch.tensor(output_range[1], dtype=torch.float32)
        return quantized.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for."""
        return self.weight_integers * by_channel(self.weight_scale, self.weight_integers.dim())

    def input_rounded(self, inputs: Tensor) -> Tensor:
        """Round the input to the 256 values that 8 bits can tell apart, as QuantizeLinear of ONNX does."""
        zero = self.input_zero_point.to(inputs.dtype)
        levels = torch.clamp(torch.round(inputs / self.input_scale) + zero, 0, LEVELS)
        return (levels - zero) * self.input_scale

    def extra_repr(self) -> str:
        """The arguments, for printing."""
        return ", ".join(f"{name}={value}" for name, value in self.constructor_arguments().items())


class QuantizedLinear(QuantizedLayer):
    """``nn.Linear`` on integers: ``(N, …, I)`` to ``(N, …, O)``."""

    float_type = nn.Linear

    def __init__(self, in_features: int, out_features: int, bias: bool, bits: int, per_channel: bool) -> None:
        super().__init__((out_features, in_features), bias=bias, bits=bits, per_channel=per_channel)
        self.in_features, self.out_features = in_features, out_features

    def constructor_arguments(self) -> dict[str, Any]:
        """Plain JSON values from which the constructor builds a layer of the same shape."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "bits": self.bits,
            "per_channel": self.per_channel,
        }

    @classmethod
    def arguments_from(cls, layer: nn.Linear) -> dict[str, Any]:
        """Sizes of a linear layer."""
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """The linear map of rounded inputs."""
        return functional.linear(self.input_rounded(inputs), self.weight, self.bias)


class QuantizedConvolution(QuantizedLayer):
    """What 1-d and 2-d convolutions share; zero padding only."""

    dimensions: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: list[int],
        stride: list[int],
        padding: list[int] | str,
        dilation: list[int],
        groups: int,
        bias: bool,
        bits: int,
        per_channel: bool,
    ) -> None:
        shape = (out_channels, in_channels // groups, *kernel_size)
        super().__init__(shape, bias=bias, bits=bits, per_channel=per_channel)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = tuple(kernel_size), tuple(stride), tuple(dilation)
        self.padding = padding if isinstance(padding, str) else tuple(padding)

    def constructor_arguments(self) -> dict[str, Any]:
        """Plain JSON values from which the constructor builds a layer of the same shape."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.kernel_size),
            "stride": list(self.stride),
            "padding": self.padding if isinstance(self.padding, str) else list(self.padding),
            "dilation": list(self.dilation),
            "groups": self.groups,
            "bias": self.bias is not None,
            "bits": self.bits,
            "per_channel": self.per_channel,
        }

    @classmethod
    def arguments_from(cls, layer: nn.Conv1d | nn.Conv2d) -> dict[str, Any]:
        """Sizes of a convolution."""
        if layer.padding_mode != "zeros":
            raise CompressionError(f"{layer}: expected padding with zeros, got {layer.padding_mode!r}")
        return {
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "kernel_size": list(layer.kernel_size),
            "stride": list(layer.stride),
            "padding": layer.padding if isinstance(layer.padding, str) else list(layer.padding),
            "dilation": list(layer.dilation),
            "groups": layer.groups,
            "bias": layer.bias is not None,
        }

    def pads(self) -> list[int]:
        """Zeros before each axis, then after each, as ONNX counts them."""
        if self.padding == "valid":
            return [0] * (2 * self.dimensions)
        if isinstance(self.padding, tuple):
            return [*self.padding, *self.padding]
        total = [dilation * (size - 1) for dilation, size in zip(self.dilation, self.kernel_size, strict=True)]
        return [*(zeros // 2 for zeros in total), *(zeros - zeros // 2 for zeros in total)]

    def forward(self, inputs: Tensor) -> Tensor:
        """The convolution of rounded inputs."""
        convolve: Any = functional.conv1d if self.dimensions == 1 else functional.conv2d
        rounded_inputs = self.input_rounded(inputs)
        output: Tensor = convolve(
            rounded_inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        return output


class QuantizedConv1d(QuantizedConvolution):
    """``nn.Conv1d`` on integers: ``(N, C, T)`` to ``(N, O, T')``."""

    float_type = nn.Conv1d
    dimensions = 1


class QuantizedConv2d(QuantizedConvolution):
    """``nn.Conv2d`` on integers: ``(N, C, H, W)`` to ``(N, O, H', W')``."""

    float_type = nn.Conv2d
    dimensions = 2


LAYER_TYPES: dict[str, type[QuantizedLayer]] = {
    "QuantizedLinear": QuantizedLinear,
    "QuantizedConv1d": QuantizedConv1d,
    "QuantizedConv2d": QuantizedConv2d,
}


def quantized_type_of(layer: nn.Module) -> type[QuantizedLayer] | None:
    """The integer layer for exactly this type of float layer; subclasses may compute something else."""
    return next((kind for kind in LAYER_TYPES.values() if type(layer) is kind.float_type), None)


def largest_integer(bits: int) -> int:
    """The largest weight of ``bits`` bits, symmetric around zero: 127 for 8, 1 for 2."""
    return int(2 ** (bits - 1) - 1)


def by_channel(scale: Tensor, dimensions: int) -> Tensor:
    """Shape per-channel figures ``(O,)`` so that they multiply a weight ``(O, …)``."""
    return scale.reshape(-1, *[1] * (dimensions - 1))


def rounded(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integers nearest to ``weight / scale``, held within ``bits`` bits."""
    limit = largest_integer(bits)
    return torch.round(weight / by_channel(scale, weight.dim())).clamp(-limit, limit).to(torch.int8)


def affine(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point with which 0 to 255 span ``low`` to ``high``, zero being hit exactly.

    Source: B. Jacob et al., CVPR 2018, §3.1: the range is widened to hold zero, the zero point rounded.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, SMALLEST_RANGE) / LEVELS
    scale = float(torch.tensor(scale, dtype=torch.float32))
    return scale, int(min(max(round(-low / scale), 0), LEVELS))
