"""A small single-shot detector on a body of depthwise separable convolutions, its loss, and how its answers are read.

Source: W. Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016 (anchors, matching and loss: sections 2.1 and 2.2);
    A. Howard et al., MobileNets, 2017, section 3.1 (the body).
"""

from __future__ import annotations

import torch
from scenes import NOTHING, overlaps
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
# Cells along a side of each map, and the anchors of a cell: widths and heights as shares of the image.
MAPS = ((8, ((0.30, 0.30), (0.18, 0.36), (0.38, 0.20))), (4, ((0.44, 0.44), (0.24, 0.46), (0.48, 0.26))))
ANCHORS_A_CELL = 3
NUMBERS = 4 + 1 + CLASSES  # of an anchor: four offsets, then the logits of nothing and of the classes
VARIANCES = (0.1, 0.2)  # offsets are counted in these shares of the anchor, so that they are about 1
MATCHED = 0.5  # least overlap of an anchor with the item that it is to find
NEGATIVES = 3  # anchors without an item that count in the loss, for each that has one


def separable(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """A depthwise and a 1×1 convolution, each with norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Detector(nn.Module):
    """Takes images ``(N, 1, 64, 64)`` and returns ``(N, 240, 15)``: offsets and logits of every anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            separable(16, 32, 1),
            separable(32, 64, 2),
            separable(64, 64, 1),
            separable(64, 128, 2),
            separable(128, 128, 1),
            separable(128, 128, 1),
        )
        self.deeper = nn.Sequential(separable(128, 128, 2), separable(128, 128, 1))
        self.heads = nn.ModuleList(nn.Conv2d(128, ANCHORS_A_CELL * NUMBERS, 3, padding=1) for _ in MAPS)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.body(self.stem(images))
        maps = [head(maps) for head, maps in zip(self.heads, (fine, self.deeper(fine)), strict=True)]
        return torch.cat([answers.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, NUMBERS)) for answers in maps], 1)


def anchors() -> Tensor:
    """All anchors ``(240, 4)`` in the order of the model's answers: centre x, centre y, width, height."""
    boxes = []
    for cells, sizes in MAPS:
        places = [(cell + 0.5) / cells for cell in range(cells)]
        boxes += [(x, y, width, height) for y in places for x in places for width, height in sizes]
    return torch.tensor(boxes)


ANCHORS = anchors()


def corners(boxes: Tensor) -> Tensor:
    """Turn centres and sizes ``(…, 4)`` into left, top, right, bottom."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def encoded(boxes: Tensor) -> Tensor:
    """Offsets from the anchors to boxes ``(N, 240, 4)``, left, top, right, bottom."""
    sizes = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-6)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    shifts = (centres - ANCHORS[:, :2]) / ANCHORS[:, 2:] / VARIANCES[0]
    return torch.cat([shifts, (sizes / ANCHORS[:, 2:]).log() / VARIANCES[1]], -1)


def decoded(offsets: Tensor) -> Tensor:
    """Boxes ``(N, 240, 4)``, left, top, right, bottom, from offsets."""
    centres = ANCHORS[:, :2] + offsets[..., :2] * VARIANCES[0] * ANCHORS[:, 2:]
    sizes = ANCHORS[:, 2:] * (offsets[..., 2:] * VARIANCES[1]).clamp(max=4).exp()
    return corners(torch.cat([centres, sizes], -1))


def matched(items: Tensor) -> tuple[Tensor, Tensor]:
    """What each anchor is to find among items ``(N, 4, 5)``: classes ``(N, 240)``, 0 for nothing, and boxes."""
    real = items[..., 0] != NOTHING
    shared = overlaps(corners(ANCHORS).expand(len(items), -1, -1), items[..., 1:]).masked_fill(~real[:, None], -1)
    best, which = shared.max(2)
    # The nearest anchor of each item finds it, however little they overlap.
    nearest = shared.argmax(1)
    for item in range(items.shape[1]):
        rows = torch.nonzero(real[:, item]).flatten()
        best[rows, nearest[rows, item]], which[rows, nearest[rows, item]] = 1.0, item
    chosen = items.gather(1, which[..., None].expand(-1, -1, 5))
    return torch.where(best >= MATCHED, chosen[..., 0].long() + 1, 0), chosen[..., 1:]


def loss(outputs: Tensor, items: Tensor) -> Tensor:
    """Offsets of the anchors that have an item, and classes of these and of the hardest three times as many without."""
    labels, boxes = matched(items)
    positive = labels > 0
    located = functional.smooth_l1_loss(outputs[..., :4][positive], encoded(boxes)[positive], reduction="sum")
    crossed = functional.cross_entropy(outputs[..., 4:].flatten(0, 1), labels.flatten(), reduction="none")
    crossed = crossed.view(labels.shape)
    hardness = crossed.detach().masked_fill(positive, -1)
    rank = hardness.argsort(1, descending=True).argsort(1)
    counted = positive | (rank < NEGATIVES * positive.sum(1, keepdim=True))
    return (located + crossed[counted].sum()) / positive.sum().clamp_min(1)
