"""Networks that no suite of this project has, for images of Fashion-MNIST ``(N, 1, 28, 28)``; logits ``(N, 10)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.second, self.second_norm = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.short = nn.Conv2d(inside, outside, 1, stride, bias=False) if inside != outside else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.first_norm(self.first(inputs)).relu()
        return (self.second_norm(self.second(inner)) + self.short(inputs)).relu()


class ResidualNetwork(nn.Sequential):
    """Three stages of two residual blocks each: 16, 32, 64 channels; 175,000 weights."""

    def __init__(self) -> None:
        widths = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
        blocks = [Block(*one) for one in widths]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        super().__init__(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), *blocks, *head)


class Transformer(nn.Module):
    """Two encoder layers over the 28 rows of an image, each a token of 64 numbers; 72,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(28, 64)
        self.position = nn.Parameter(0.02 * torch.randn(28, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embedding(images.squeeze(1)) + self.position
        return self.head(self.encoder(tokens).mean(1))
