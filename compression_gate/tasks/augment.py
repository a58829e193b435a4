"""Augmentation of a training batch: seeded by torch's generator, a different draw for every example."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from compression_gate.errors import TaskError
from compression_gate.tasks.calling import Inputs

SHIFT_SHARE, ROTATION_DEGREES, NOISE_SHARE, ERASE_SHARE = 0.08, 8.0, 0.05, 0.3


def augmented(inputs: Inputs, names: Iterable[str]) -> Inputs:
    """Apply the augmentations in order to a batch of images ``(N, C, H, W)``; ``noise`` takes any float tensor.

    Raises:
        TaskError: the input is not one float tensor of images.
    """
    for name in names:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or (name != "noise" and inputs.dim() != 4):
            got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TaskError(
                f"params.yaml: train.augment: {name} expects float images (N, C, H, W), got {got}: "
                "leave it out, or augment in the dataset"
            )
        inputs = AUGMENTATIONS[name](inputs)
    return inputs


def warped(images: Tensor, degrees: float, share: float) -> Tensor:
    """Rotate by up to ``degrees`` and shift by up to ``share`` of the side, zeros coming in."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * degrees * torch.pi / 180
    offset = (torch.rand(count, 2) * 2 - 1) * share * 2
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack(
        [torch.stack([cosine, -sine, offset[:, 0]], 1), torch.stack([sine, cosine, offset[:, 1]], 1)], 1
    )
    grid = functional.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def shifted(images: Tensor) -> Tensor:
    """Shift each image by up to 8 % of its side."""
    return warped(images, 0.0, SHIFT_SHARE)


def rotated(images: Tensor) -> Tensor:
    """Rotate each image by up to 8 degrees."""
    return warped(images, ROTATION_DEGREES, 0.0)


def flipped(images: Tensor) -> Tensor:
    """Mirror half of the images left to right."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


def noised(values: Tensor) -> Tensor:
    """Add Gaussian noise of 5 % of the batch's own spread."""
    return values + torch.randn_like(values) * values.std() * NOISE_SHARE


def erased(images: Tensor) -> Tensor:
    """Set a rectangle of up to 30 % of each side to zero in half of the images."""
    count, _, height, width = images.shape

    def inside(length: int) -> Tensor:
        size = (torch.rand(count, 1) * ERASE_SHARE * length).ceil()
        start = torch.rand(count, 1) * (length - size)
        place = torch.arange(length)
        return (place >= start) & (place < start + size)

    hole = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
    return images.masked_fill(hole & (torch.rand(count, 1, 1, 1) < 0.5), 0)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": shifted,
    "rotate": rotated,
    "flip": flipped,
    "noise": noised,
    "erase": erased,
}
