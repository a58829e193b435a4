"""CIFAR-10 from the folder that its archive unpacks to; Fashion-MNIST, enlarged, where that folder is absent.

CIFAR-10 comes as ``cifar-10-batches-py`` (pickles) or ``cifar-10-batches-bin`` (plain records), and either will do.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from compression_gate.tasks import fashion_mnist

log = logging.getLogger(__name__)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE * SIDE
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
# What a pickle of CIFAR-10 is made of. A pickle may name any function to be called: all other names are refused.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Images(Dataset[tuple[Tensor, int]]):
    """Colour images kept as uint8 ``(N, 3, 32, 32)``; given out as float32 in 0–1."""

    def __init__(self, name: str, split: str, pixels: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        self.name, self.split = name, split
        self.pixels, self.targets = pixels, labels
        self.classes = tuple(classes)

    @property
    def ids(self) -> list[str]:
        """They begin with the name of the data: every record of the run tells which they were."""
        return [f"{self.name}:{self.split}:{index}" for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].float() / 255, int(self.targets[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return list(zip((self.pixels[chosen].float() / 255).unbind(), self.targets[chosen].tolist(), strict=True))


def load(split: str, *, folder: str = "data/cifar-10-batches-py", limit: int | None = None) -> Images:
    """Return ``train`` or ``test`` of CIFAR-10, or of Fashion-MNIST where there is no such folder, and say so.

    Args:
        folder: of CIFAR-10, relative to this file.
        limit: take only so many training images.
    """
    if split not in BATCHES:
        raise KeyError(split)
    place = Path(__file__).parent / folder
    images = cifar(place, split) if place.is_dir() else clothing(place, split)
    if limit is None or split != "train":
        return images
    return Images(images.name, split, images.pixels[:limit], images.targets[:limit], images.classes)


def clothing(absent: Path, split: str) -> Images:
    """Fashion-MNIST with a border of two pixels, its grey in all three channels."""
    log.warning("no CIFAR-10 in %s: these are images of Fashion-MNIST, enlarged to 32×32", absent)
    grey = fashion_mnist.load(split)
    border = (SIDE - grey.pixels.shape[-1]) // 2
    pixels = functional.pad(grey.pixels, (border,) * 4).unsqueeze(1).expand(-1, CHANNELS, -1, -1)
    return Images("fashion-mnist", split, pixels, grey.labels.long(), grey.classes)


def cifar(folder: Path, split: str) -> Images:
    """All batches of a split, in order.

    Raises:
        RuntimeError: a batch is missing or no batch of CIFAR-10.
    """
    parts = [batch(folder, name) for name in BATCHES[split]]
    pixels = torch.from_numpy(np.concatenate([part for part, _ in parts]))
    labels = torch.from_numpy(np.concatenate([part for _, part in parts]))
    return Images("cifar-10", split, pixels, labels, CIFAR_CLASSES)


def batch(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch: pixels uint8 ``(N, 3, 32, 32)`` and labels int64 ``(N,)``."""
    if (path := folder / f"{name}.bin").is_file():
        content = np.fromfile(path, dtype=np.uint8)
        if not content.size or content.size % (1 + PIXELS):
            raise RuntimeError(f"{path}: expected records of {1 + PIXELS} bytes, got {content.size} bytes: unpack anew")
        records = content.reshape(-1, 1 + PIXELS)
        labels, flat = records[:, 0].astype(np.int64), records[:, 1:]
    elif (path := folder / name).is_file():
        labels, flat = unpickled(path)
    else:
        raise RuntimeError(f"{folder}: expected {name} or {name}.bin there, got neither: unpack the archive anew")
    if labels.min() < 0 or labels.max() >= len(CIFAR_CLASSES):
        raise RuntimeError(f"{path}: expected labels 0 to 9, got {labels.min()} to {labels.max()}: no CIFAR-10")
    return flat.reshape(-1, CHANNELS, SIDE, SIDE), labels


def unpickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read labels and pixels of a pickled batch, which Python 2 wrote: a mapping of bytes with both."""
    try:
        with path.open("rb") as file:
            values = Plain(file, encoding="bytes").load()
        flat, labels = np.asarray(values[b"data"]), np.asarray(values[b"labels"], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise RuntimeError(f"{path}: expected a batch of CIFAR-10, got {type(error).__name__}: {error}") from error
    if flat.dtype != np.uint8 or flat.shape != (len(labels), PIXELS):
        raise RuntimeError(f"{path}: expected uint8 ({len(labels)}, {PIXELS}), got {flat.dtype} {flat.shape}")
    return labels, flat


class Plain(pickle.Unpickler):
    """Reads arrays and plain values, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no batch needs")
        return super().find_class(module, name)
