"""The built-in task: 28×28 images of clothing in ten classes, and a small convolutional network for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from compression_gate.errors import DataError
from compression_gate.tasks.fashion_mnist_files import locate, read

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_PREFIXES = {"train": "train", "test": "t10k"}


class Net(nn.Module):
    """Two convolutions, one pooling, two linear layers: 315,146 parameters.

    Takes images ``(N, 1, 28, 28)`` and returns logits ``(N, 10)``. The convolutions have no padding: 28 → 26 → 24 is a
    multiple of the pooled 6, so the adaptive pooling exports as one plain average pooling.
    """

    def __init__(self) -> None:
        """Initialise as torch does by default."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.pool = nn.AdaptiveAvgPool2d(6)
        self.fc1 = nn.Linear(64 * 6 * 6, 128)
        self.fc2 = nn.Linear(128, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, 10)``."""
        hidden = functional.relu(self.conv1(images))
        hidden = functional.relu(self.conv2(hidden))
        hidden = torch.flatten(self.pool(hidden), 1)
        hidden = functional.relu(self.fc1(hidden))
        return self.fc2(hidden)


class Images(Dataset[tuple[Tensor, int]]):
    """Grey images kept as one uint8 tensor, 47 MB for 60,000, and turned into float32 in 0–1 when asked for.

    Args:
        pixels: uint8 ``(N, H, W)``.
        labels: uint8 ``(N,)``, indices into ``classes``.
        split: names the examples: ``ids`` are ``split:index``.
        classes: the name of each label.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, *, split: str, classes: Sequence[str]) -> None:
        """Keep the tensors; nothing is copied."""
        self.pixels = pixels
        self.labels = labels
        self.split = split
        self.classes = tuple(classes)

    @property
    def ids(self) -> list[str]:
        """One unique name per example, in order."""
        return [f"{self.split}:{index}" for index in range(len(self))]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image ``(1, H, W)``, float32 in 0–1, and its label."""
        return self.pixels[index].unsqueeze(0).float().div_(255), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return many examples at once; a ``DataLoader`` calls this, and it is several times faster than one by one."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        images = self.pixels[chosen].unsqueeze(1).float().div_(255)
        return list(zip(images.unbind(), self.labels[chosen].tolist(), strict=True))


def load(split: str, *, folder: str | None = None) -> Images:
    """Return a split of Fashion-MNIST, complete, its files checked against their published digests.

    Args:
        split: ``train`` (60,000 examples) or ``test`` (10,000). The others are cut from ``train`` by the caller.
        folder: where the files are, instead of where ``fashion_mnist_files.locate`` finds them.

    Raises:
        KeyError: another split.
        DataError: the files are missing or damaged.
    """
    if split not in _PREFIXES:
        raise KeyError(split)
    place = Path(folder) if folder is not None else locate()
    pixels = read(place, f"{_PREFIXES[split]}-images-idx3-ubyte")
    labels = read(place, f"{_PREFIXES[split]}-labels-idx1-ubyte")
    if len(pixels) != len(labels):
        raise DataError(f"{place}: {split}: expected as many labels as images, got {len(labels)} and {len(pixels)}")
    # Copied once: torch warns of arrays that may not be written to, and these belong to the files' bytes.
    return Images(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.copy()), split=split, classes=CLASSES)
