"""The user's own model: what their training script and the suite both import."""

from __future__ import annotations

from torch import Tensor, nn


def convolution(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    """A 3×3 convolution, its norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Clothes(nn.Module):
    """Takes images ``(N, 1, 28, 28)`` and returns logits ``(N, 10)``: 509,082 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(1, 32, stride=2), convolution(32, 64, stride=2), convolution(64, 64))
        self.hidden = nn.Linear(64 * 7 * 7, 144)
        self.head = nn.Linear(144, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.body(images).flatten(1)).relu())
