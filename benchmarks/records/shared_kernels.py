"""A layer of one's own for the records: the rows of a linear layer of images are few kernels, at many places each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.modules.layer_types import register_layer


class SharedKernels(nn.Module):
    """A linear layer of square images of one channel, whose rows are kernels, each at every place of a grid.

    Args:
        side: of an image [pixels].
        size, stride: of a kernel, and from one place to the next [pixels].
    """

    def __init__(self, kernels: int, side: int, size: int, stride: int) -> None:
        super().__init__()
        self.kernels, self.side, self.size, self.stride = kernels, side, size, stride
        self.weight = nn.Parameter(torch.empty(kernels, 1, size, size))
        self.bias = nn.Parameter(torch.zeros(kernels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, flat: Tensor) -> Tensor:
        """Units ``(N, kernels · places)`` of images ``(N, side²)``."""
        images = flat.view(-1, 1, self.side, self.side)
        return functional.conv2d(images, self.weight, self.bias, stride=self.stride).flatten(1)


register_layer("records.SharedKernels", SharedKernels, ("kernels", "side", "size", "stride"))
