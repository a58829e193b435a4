"""What the next integer of a weight would cost in the coded file, place by place: an estimate to steer by.

The coder's contexts are densities: of the row, of the column, of what lies near. Here places of like densities are
counted together, and the share of non-zeros among them is their probability. Counts need no fit, so that nothing can
diverge; the estimate is compared with the real coder while training and never reported in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compression_gate.codec.streams import strides_of

CELLS, NEAR = 24, 5  # classes of density expected by row and column, half an octave of odds each, and of neighbours
PRIOR_PLACES = 150.0  # how many places of the usual density each mean is taken to have seen before: many, since the
# first weight of an empty row makes the next ones cheaper, which its own price does not know
PRIOR_COUNT = 4.0  # the same of a class of places, whose usual share is that of the coarser class
DEAREST_BITS = 7.0  # the first integer of an otherwise empty row is priced no higher, for the same reason
FEWEST_LIVE, MOST_LIVE = 1e-4, 1 - 1e-4


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Bits of a tensor's integers.

    Args:
        first: what a one costs more than a zero, in the tensor's shape, 0 or more [bits].
        further: what each higher integer costs more than the one below, a scalar [bits].
        total: of the integers as they are [bits].
    """

    first: Tensor
    further: Tensor
    total: float


@torch.no_grad()
def prices_of(integers: Tensor) -> Prices:
    """Estimate what zero, the first and each further level cost at every place of a tensor.

    A level k beyond zero is taken to follow a geometric distribution, the sign to be a bit.

    Args:
        integers: whole numbers as floats, of any shape; the first axis counts rows, as in the coded file.
    """
    levels = plane_of(integers).abs()
    live = (levels > 0).float()
    chance = chances(live, strides_of(tuple(integers.shape)))
    count = float(live.sum())
    # Of a geometric distribution: the mean level is 1 / (1 - q).
    q = (float(levels.sum()) - count + 0.5) / (float(levels.sum()) + 1)
    further = -torch.log2(torch.tensor(q))
    stop = -torch.log2(torch.tensor(1 - q))
    zero, nonzero = -torch.log2(1 - chance), 1 + stop - torch.log2(chance)
    total = (live * nonzero + (1 - live) * zero).sum() + (levels - live).sum() * further
    first = (nonzero - zero).clamp(0, DEAREST_BITS)
    return Prices(first=first.reshape(integers.shape), further=further.to(integers.device), total=float(total))


def plane_of(values: Tensor) -> Tensor:
    """Lay a tensor out as ``(R, C)``; a vector is one row."""
    return values.flatten(1) if values.dim() > 1 else values.reshape(1, -1)


def chances(live: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return how likely each place is to be non-zero, going by all the others, ``(R, C)``.

    Args:
        live: 1 where it is, else 0, ``(R, C)``.
        strides: columns from a place to its neighbours.
    """
    usual = (live.sum() + 0.5) / (live.numel() + 1)
    row = without(live, live.sum(1, keepdim=True), live.shape[1], usual)
    column = without(live, live.sum(0, keepdim=True), live.shape[0], usual)
    expected = log_odds(row) + log_odds(column) - log_odds(usual)
    cell = (2 * expected / torch.log(torch.tensor(2.0)) + CELLS * 0.75).round().clamp(0, CELLS - 1).long()
    around = neighbours(live, strides).clamp_max(NEAR - 1).long()
    coarse = shares(cell, live, CELLS, torch.sigmoid(expected))
    fine = shares(cell * NEAR + around, live, CELLS * NEAR, coarse)
    return fine.clamp(FEWEST_LIVE, MOST_LIVE)


def without(live: Tensor, total: Tensor, count: int, usual: Tensor) -> Tensor:
    """Return the mean over a line of places, each time without the place itself."""
    return (total - live + PRIOR_PLACES * usual) / (count - 1 + PRIOR_PLACES)


def shares(places: Tensor, live: Tensor, count: int, usual: Tensor) -> Tensor:
    """Return the share of non-zeros among the other places of the same class."""
    flat = places.flatten()
    sizes = torch.bincount(flat, minlength=count).to(live.dtype)[places]
    found = torch.bincount(flat, weights=live.flatten(), minlength=count).to(live.dtype)[places]
    return (found - live + PRIOR_COUNT * usual) / (sizes - 1 + PRIOR_COUNT)


def neighbours(live: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Count the non-zeros left and right, above and below, and a stride away."""
    rows, columns = live.shape
    total = torch.zeros_like(live)
    for offset in sorted({1, *strides}):
        if offset < columns:
            total[:, offset:] += live[:, :-offset]
            total[:, :-offset] += live[:, offset:]
    if rows > 1:
        total[1:] += live[:-1]
        total[:-1] += live[1:]
    return total


def log_odds(chance: Tensor) -> Tensor:
    """Return ln(p / (1 - p)) of probabilities kept away from certainty."""
    return torch.logit(chance, eps=FEWEST_LIVE)
