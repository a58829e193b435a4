"""The seam between methods and formats: layers that hold integers, scales and activation ranges openly.

A quantizing method returns these; a runtime lowers them to its own integer operators, the coded file stores them.
All three compute the same function: weights ``(integers − zero point) × scale``, inputs rounded as the layer says.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_recurrent import QuantizedGRU, QuantizedLSTM
from compression_gate.modules.quantized_weights import Granularity


class QuantizedLinear(QuantizedLayer):
    """``nn.Linear`` on integers: ``(N, …, I)`` to ``(N, …, O)``."""

    float_type = nn.Linear
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        bits: int = 8,
        granularity: Granularity = "per_channel",
        group_size: int | None = None,
        symmetric: bool = True,
        inputs: str = "static",
        input_bits: int = 8,
    ) -> None:
        super().__init__(
            {"weight": (out_features, in_features)},
            {"bias": out_features if bias else None},
            bits=bits,
            granularity=granularity,
            group_size=group_size,
            symmetric=symmetric,
            inputs=inputs,
            input_bits=input_bits,
        )
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def sizes_of(cls, layer: Any) -> dict[str, Any]:
        """Sizes of a linear layer."""
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for."""
        return self.read("weight")

    def forward(self, inputs: Tensor) -> Tensor:
        """The linear map of rounded inputs."""
        return functional.linear(self.rounded_input(inputs), self.read("weight"), self.bias)


class QuantizedConvolution(QuantizedLayer):
    """What 1-d and 2-d convolutions share; zero padding only."""

    dimensions: ClassVar[int]
    input_kinds = ("static", "float")
    bias: Tensor | None
    padding_mode = "zeros"

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
        bits: int = 8,
        granularity: Granularity = "per_channel",
        group_size: int | None = None,
        symmetric: bool = True,
        inputs: str = "static",
        input_bits: int = 8,
    ) -> None:
        super().__init__(
            {"weight": (out_channels, in_channels // groups, *kernel_size)},
            {"bias": out_channels if bias else None},
            bits=bits,
            granularity=granularity,
            group_size=group_size,
            symmetric=symmetric,
            inputs=inputs,
            input_bits=input_bits,
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = tuple(kernel_size), tuple(stride), tuple(dilation)
        self.padding = padding if isinstance(padding, str) else tuple(padding)

    @classmethod
    def sizes_of(cls, layer: Any) -> dict[str, Any]:
        """Sizes of a convolution."""
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

    @classmethod
    def why_not(cls, layer: Any) -> str | None:
        """Runtimes pad integers with zeros only."""
        return None if layer.padding_mode == "zeros" else f"padding with {layer.padding_mode}, not zeros"

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for."""
        return self.read("weight")

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
        values, weight = self.rounded_input(inputs), self.read("weight")
        output: Tensor = convolve(values, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return output


class QuantizedConv1d(QuantizedConvolution):
    """``nn.Conv1d`` on integers: ``(N, C, T)`` to ``(N, O, T')``."""

    float_type = nn.Conv1d
    dimensions = 1


class QuantizedConv2d(QuantizedConvolution):
    """``nn.Conv2d`` on integers: ``(N, C, H, W)`` to ``(N, O, H', W')``."""

    float_type = nn.Conv2d
    dimensions = 2


class QuantizedEmbedding(QuantizedLayer):
    """``nn.Embedding`` with integer rows: indices ``(…)`` to ``(…, D)``; a channel is a row."""

    float_type = nn.Embedding
    input_kinds = ("float",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        bits: int = 8,
        granularity: Granularity = "per_channel",
        group_size: int | None = None,
        symmetric: bool = True,
        inputs: str = "float",
        input_bits: int = 8,
    ) -> None:
        super().__init__(
            {"weight": (num_embeddings, embedding_dim)},
            {},
            bits=bits,
            granularity=granularity,
            group_size=group_size,
            symmetric=symmetric,
            inputs=inputs,
            input_bits=input_bits,
        )
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx

    @classmethod
    def sizes_of(cls, layer: Any) -> dict[str, Any]:
        """Sizes of an embedding."""
        return {
            "num_embeddings": layer.num_embeddings,
            "embedding_dim": layer.embedding_dim,
            "padding_idx": layer.padding_idx,
        }

    @classmethod
    def why_not(cls, layer: Any) -> str | None:
        """A norm limit changes the weights at every call."""
        return None if layer.max_norm is None else "max_norm changes its weights while it runs"

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for."""
        return self.read("weight")

    def forward(self, indices: Tensor) -> Tensor:
        """The rows at ``indices``."""
        return functional.embedding(indices, self.read("weight"))


LAYER_TYPES: dict[str, type[QuantizedLayer]] = {
    kind.__name__: kind
    for kind in (QuantizedLinear, QuantizedConv1d, QuantizedConv2d, QuantizedEmbedding, QuantizedLSTM, QuantizedGRU)
}


def quantized_type_of(layer: nn.Module) -> type[QuantizedLayer] | None:
    """The integer layer for exactly this type of float layer; subclasses may compute something else."""
    return next((kind for kind in LAYER_TYPES.values() if type(layer) is kind.float_type), None)
