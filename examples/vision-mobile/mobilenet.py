"""A MobileNetV2 for small images: inverted residuals with depthwise convolutions, 32×32 pixels in."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, channels out, blocks, stride of the first; the image is 16×16 behind the stem and 4×4 at the end.
STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 1), (4, 64, 2, 2))
STEM, LAST = 16, 192


def convolution(channels_in: int, channels_out: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the image's size at stride 1, and its norm."""
    layer = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out))


class InvertedResidual(nn.Module):
    """Widen, look at each channel by itself, narrow; added to what came in where the shapes agree.

    Source: M. Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, section 3.3. The
        activation is ReLU, where theirs is ReLU6.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.adds = stride == 1 and channels_in == channels_out
        widen = [convolution(channels_in, hidden, 1), nn.ReLU()] if expansion > 1 else []
        depthwise = [convolution(hidden, hidden, 3, stride=stride, groups=hidden), nn.ReLU()]
        self.body = nn.Sequential(*widen, *depthwise, convolution(hidden, channels_out, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.body(maps) if self.adds else self.body(maps)


class MobileNetV2(nn.Module):
    """Takes images ``(N, 3, 32, 32)`` and returns logits ``(N, classes)``."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        blocks: list[nn.Module] = [convolution(3, STEM, 3, stride=2), nn.ReLU()]
        channels = STEM
        for expansion, width, count, first_stride in STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, width, stride=stride, expansion=expansion))
                channels = width
        self.features = nn.Sequential(*blocks, convolution(channels, LAST, 1), nn.ReLU())
        self.head = nn.Linear(LAST, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))
