"""Pairs of models of which the faster is known: a reference, and the same one with so much more work inside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression_gate import registry
from compression_gate.runtimes import RUNTIMES
from compression_gate.runtimes.base import Arrays

TRIED = 8  # more activations in the first candidate, from which the number that is needed is told
ABOVE = 0.003  # how far over its share a candidate is aimed, so that it is not under it
NEAR = 0.01  # how far over it one may come to lie before fewer activations are tried


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Linear layers in a row, each behind a ReLU: rows of the input, width, and number of layers.

    ``small`` stays under 1 ms a call in torch and in onnxruntime, ``large`` lies at 10 to 30 ms with 14 MB of weights.
    """

    rows: int
    width: int
    layers: int

    def inputs(self) -> Arrays:
        """One batch."""
        return {"input": np.random.default_rng(0).normal(size=(self.rows, self.width)).astype(np.float32)}


SHAPES = {"small": Shape(rows=1, width=128, layers=40), "large": Shape(rows=256, width=512, layers=14)}


def model_file(runtime: str, shape: Shape, more: int, folder: Path) -> Path:
    """A file of the runtime's own, with ``more`` activations spread over the layers; written once.

    Spread, since openvino takes at most 32 activations in a row into the layer before and refuses what has more.
    """
    kind = registry.load("runtimes", runtime, RUNTIMES)
    path = folder / f"{shape.rows}-{shape.width}-{shape.layers}-{more}-{kind.file_name}"
    if path.exists():
        return path
    import torch
    from torch import nn

    torch.manual_seed(0)
    each, rest = divmod(more, shape.layers)
    layers = (
        (nn.Linear(shape.width, shape.width), nn.ReLU(), *(nn.Tanh() for _ in range(each + (layer < rest))))
        for layer in range(shape.layers)
    )
    model = nn.Sequential(*itertools.chain.from_iterable(layers)).eval()
    kind().export(model, torch.zeros(max(shape.rows, 2), shape.width), path, {})
    return path


def slowed_file(runtime: str, shape: Shape, slowed: float, folder: Path, ratio_to: Callable[[Path], float]) -> Path:
    """A file of a model that was measured to take ``slowed`` longer, or a little more.

    Args:
        ratio_to: measures how slow a file really is, by pairs that judge nothing: the decisions to come are taken anew,
            and their median says how slow it was in them.
    """
    ratio = ratio_to(model_file(runtime, shape, TRIED, folder))
    more = max(1, math.ceil(TRIED * (slowed + ABOVE) / max(ratio - 1, slowed / 10)))
    while (ratio := ratio_to(model_file(runtime, shape, more, folder))) < 1 + slowed:
        told = math.ceil(more * (slowed + ABOVE) / max(ratio - 1, slowed / 2))
        more = max(told, more + max(1, more // 10))
    # The first activation may cost less than those behind it, so that the line through TRIED of them leads too far.
    while ratio > 1 + slowed + NEAR and more > 1:
        fewer = more - max(1, more // 10)
        if (ratio := ratio_to(model_file(runtime, shape, fewer, folder))) < 1 + slowed:
            break
        more = fewer
    return model_file(runtime, shape, more, folder)
