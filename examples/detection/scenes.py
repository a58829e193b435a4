"""Scenes of 64×64 pixels with one to four real Fashion-MNIST items each, composed under a fixed seed.

Training scenes show training images and test scenes test images. An item is resized to a side of 18 to 32 pixels and
put where it covers little of the others; its box is the smallest around its pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from compression_gate.tasks import fashion_mnist

SIDE = 64
MOST_ITEMS = 4
SMALLEST, LARGEST = 18, 32  # [pixels] side of an item's image
MOST_OVERLAP = 0.1  # of two boxes, as intersection over union
VISIBLE = 40  # of 255: from here on a pixel is part of an item
TRIES = 20  # places for one item; where none is free the scene has one item less
SCENES = {"train": 6000, "test": 1000}
SEEDS = {"train": 1, "test": 2}
NOTHING = -1  # class of the rows that fill a target up


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Images ``(1, 64, 64)`` in 0–1 and their items ``(4, 5)``: class, then left, top, right, bottom as shares."""

    def __init__(self, images: Tensor, items: Tensor) -> None:
        self.images, self.items = images, items

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].float() / 255, self.items[index]


def load(split: str, *, count: int | None = None) -> Scenes:
    """Return ``count`` scenes of ``train`` or ``test``; all 6,000 or 1,000 where nothing is said."""
    if split not in SCENES:
        raise KeyError(split)
    clothes = fashion_mnist.load(split)
    random = np.random.default_rng(SEEDS[split])
    scenes = [composed(clothes.pixels, clothes.labels, random) for _ in range(count or SCENES[split])]
    return Scenes(torch.stack([image for image, _ in scenes]), torch.stack([items for _, items in scenes]))


def composed(pixels: Tensor, labels: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw one scene: image uint8 ``(1, 64, 64)`` and items ``(4, 5)``."""
    image = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    items = torch.full((MOST_ITEMS, 5), float(NOTHING))
    placed: list[Tensor] = []
    for _ in range(random.integers(1, MOST_ITEMS + 1)):
        which, side = int(random.integers(len(pixels))), int(random.integers(SMALLEST, LARGEST + 1))
        item = functional.interpolate(pixels[which][None, None].float(), (side, side), mode="bilinear")[0, 0].byte()
        rows, columns = (torch.nonzero((item >= VISIBLE).any(axis)).flatten() for axis in (1, 0))
        for top, left in random.integers(0, SIDE - side + 1, (TRIES, 2)).tolist():
            box = torch.stack([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]) / SIDE
            if placed and float(overlaps(box[None], torch.stack(placed)).max()) > MOST_OVERLAP:
                continue
            place = image[0, top : top + side, left : left + side]
            torch.maximum(place, item, out=place)
            items[len(placed)] = torch.cat([labels[which][None].float(), box])
            placed.append(box)
            break
    return image, items


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes ``(…, A, 4)`` and ``(…, B, 4)``, left, top, right, bottom: ``(…, A, B)``."""
    least = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    most = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    common = (most - least).clamp_min(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1) for boxes in (first, second)]
    return common / (areas[0][..., :, None] + areas[1][..., None, :] - common).clamp_min(1e-9)
