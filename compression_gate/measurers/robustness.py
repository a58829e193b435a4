"""Disturbed test inputs: seeded by the example's id, so that every model is asked about the very same ones.

One function per perturbation. Each takes a floating tensor ``(N, …)``, a generator per example, the strength in
(0, 1] and the :class:`Spread` of the split, and returns a new tensor of the same shape. What an example becomes
depends on its id, the perturbation, the input's name and its own values: not on the batch, its size or its order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from compression_gate.errors import MeasurementError
from compression_gate.progress import tracked
from compression_gate.records.params import Perturbation
from compression_gate.tasks.calling import named
from compression_gate.tasks.task import Task

BATCH_SIZE = 256
POSITIONAL = ("shift", "dropout")  # these need an axis of places: pixels, frames

Draws: TypeAlias = Sequence[np.random.Generator]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What the values of one input are like over a whole split, as the model is given them.

    It is read from the collated batches and not from ``reports/data.json``, whose range is of what the dataset
    returns (bytes, perhaps) and of all inputs together (token ids beside pixels).

    Args:
        low: smallest value.
        high: largest value; a disturbed input is clipped to ``low`` … ``high``.
        deviation: standard deviation over all examples and places.
    """

    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, moments: np.ndarray) -> Spread:
        """Join the moments ``(N, 5)`` of all examples.

        The variance of everything is the mean of the variances within examples, plus the variance of their means.
        """
        low, high, count, mean, variance = moments.T
        total = np.average(mean, weights=count)
        within, between = np.average(variance, weights=count), np.average((mean - total) ** 2, weights=count)
        return cls(low=float(low.min()), high=float(high.max()), deviation=math.sqrt(within + between))


def moments_of(values: Tensor) -> np.ndarray:
    """Smallest, largest, count, mean and variance of each example: ``(N, …)`` → ``(N, 5)``, float64."""
    flat = values.detach().cpu().double().reshape(len(values), -1).numpy()
    counts = np.full(len(flat), flat.shape[1], dtype=np.float64)
    return np.stack([flat.min(1), flat.max(1), counts, flat.mean(1), flat.var(1)], axis=1)


def gaussian_noise(values: Tensor, draws: Draws, strength: float, spread: Spread) -> Tensor:
    """Add normal noise whose standard deviation is ``strength`` × that of the split."""
    noise = np.stack([draw.standard_normal(values.shape[1:], dtype=np.float32) for draw in draws])
    return values + torch.from_numpy(noise).to(values) * (strength * spread.deviation)


def brightness(values: Tensor, draws: Draws, strength: float, spread: Spread) -> Tensor:
    """Lighten or darken each example by ``strength`` × the range of the split; which of the two is drawn."""
    signs = torch.tensor([2.0 * draw.integers(2) - 1 for draw in draws]).to(values)
    offset = signs * (strength * (spread.high - spread.low))
    return values + offset.reshape(-1, *[1] * (values.dim() - 1))


def shift(values: Tensor, draws: Draws, strength: float, spread: Spread) -> Tensor:
    """Move each example by whole places, at most ``strength`` × the length of the axis; never by none at all.

    Images ``(N, C, H, W)`` and volumes move along their last two axes, sequences ``(N, T, F)`` and ``(N, T)`` along
    time. How far and which way is drawn evenly from all moves allowed. What moves in repeats the edge: zero need
    not be the background of a normalised image.
    """
    axes = moving_axes(values)
    moves = np.array([drawn_move(draw, reach(values, strength)) for draw in draws])
    for axis, offsets in zip(axes, torch.from_numpy(moves).T, strict=True):
        length = values.shape[axis]
        places = (torch.arange(length) - offsets[:, None]).clamp(0, length - 1)  # (N, length)
        shape = [len(values) if one == 0 else length if one == axis else 1 for one in range(values.dim())]
        values = values.gather(axis, places.reshape(shape).expand_as(values))
    return values


def moving_axes(values: Tensor) -> tuple[int, ...]:
    """The axes along which :func:`shift` moves: the last two from rank 4 on, else the one after the batch."""
    return (values.dim() - 2, values.dim() - 1) if values.dim() > 3 else (1,)


def reach(values: Tensor, strength: float) -> tuple[int, ...]:
    """The longest move along each moving axis [places]."""
    # The little more keeps 0.29 × 100 from being 28.
    return tuple(int(strength * values.shape[axis] + 1e-9) for axis in moving_axes(values))


def drawn_move(draw: np.random.Generator, most: tuple[int, ...]) -> tuple[int, ...]:
    """One of the moves of at most ``most`` along each axis, but not the one that stays; zeros where none is left."""
    sizes = tuple(2 * one + 1 for one in most)
    count = math.prod(sizes)
    if count == 1:
        return most
    drawn = int(draw.integers(count - 1))
    # Staying is in the middle of the row: leave it out.
    index = drawn + (drawn >= count // 2)
    return tuple(int(place) - one for place, one in zip(np.unravel_index(index, sizes), most, strict=True))


def dropout(values: Tensor, draws: Draws, strength: float, spread: Spread) -> Tensor:
    """Set ``strength`` × all pixels (of every channel at once) or frames to zero; a larger share holds the smaller.

    Zero is what silence, padding and a dead sensor give; a split that never reaches it has its nearest value.
    Pixels are the places of ``(N, C, H, W)`` and of higher ranks, frames those along T of ``(N, T, F)``, ``(N, T)``.
    """
    places = places_of(values)
    count, taken = math.prod(places), taken_by(values, strength)
    gone = np.zeros((len(values), count), dtype=bool)
    for row, draw in zip(gone, draws, strict=True):
        order = draw.random(count)
        row[np.argpartition(order, taken - 1)[:taken] if taken else []] = True
    spatial = values.dim() > 3
    shape = (len(values), *([1] if spatial else []), *places, *([1] if values.dim() == 3 else []))
    return values.masked_fill(torch.from_numpy(gone).reshape(shape), min(max(0.0, spread.low), spread.high))


def places_of(values: Tensor) -> tuple[int, ...]:
    """The sizes of the axes whose places :func:`dropout` takes: all behind the channels, or time."""
    return tuple(values.shape[2:]) if values.dim() > 3 else (values.shape[1],)


def taken_by(values: Tensor, strength: float) -> int:
    """How many places of an example :func:`dropout` takes."""
    return round(strength * math.prod(places_of(values)))


DISTURB: dict[str, Callable[[Tensor, Draws, float, Spread], Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "brightness": brightness,
    "shift": shift,
    "dropout": dropout,
}


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """A perturbation made ready for one split: called with a batch, it returns the batch disturbed.

    Args:
        ids: the name of each example of the split ``(N,)``.
        spreads: input name -> what its values are like.
    """

    perturbation: Perturbation
    ids: Sequence[str]
    spreads: Mapping[str, Spread]

    def __call__(self, inputs: Mapping[str, Tensor], positions: Iterable[int]) -> dict[str, Tensor]:
        """Return the inputs of the examples at ``positions``, floating ones disturbed and clipped to their range."""
        ids = [self.ids[int(position)] for position in positions]
        return {name: self.disturbed(name, values, ids) for name, values in inputs.items()}

    def disturbed(self, name: str, values: Tensor, ids: Sequence[str]) -> Tensor:
        """One input, or the tensor itself where this perturbation means nothing for it."""
        kind, spread = self.perturbation.name, self.spreads.get(name)
        if spread is None or not takes(values, kind):
            return values
        draws = [generator(kind, name, one) for one in ids]
        return DISTURB[kind](values, draws, self.perturbation.strength, spread).clamp(spread.low, spread.high)


def generator(perturbation: str, name: str, example: str) -> np.random.Generator:
    """The source of an example's draws; the same for every model and run, of its own for every input.

    The bits are Philox's, which numpy keeps for good; how it turns them into normal numbers it may change.
    """
    key = hashlib.blake2b("\0".join((perturbation, name, example)).encode(), digest_size=16)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest(), "little")))


def takes(values: Tensor, perturbation: str) -> bool:
    """Whether a perturbation means something for this tensor: floating, not empty, with places where it needs them."""
    ranks = 2 if perturbation in POSITIONAL else 1
    return values.is_floating_point() and values.dim() >= ranks and values.numel() > 0


def disturbances_of(perturbations: Sequence[Perturbation], task: Task, split: str) -> dict[str, Disturbance]:
    """Make perturbations ready, by name, with one reading of the split and before any model is asked.

    Raises:
        MeasurementError: one that would disturb nothing.
    """
    if not perturbations:
        return {}
    moments: dict[str, list[np.ndarray]] = {}
    batches = -(-len(task.split(split)) // BATCH_SIZE)
    for batch in tracked(task.batches(split, BATCH_SIZE), batches, "range of the inputs"):
        inputs = named(batch.inputs)
        for perturbation in perturbations:
            make_sure_of_effect(perturbation, inputs)
        for name, values in inputs.items():
            if takes(values, "gaussian_noise"):
                moments.setdefault(name, []).append(moments_of(values))
    spreads = {name: Spread.of(np.concatenate(parts)) for name, parts in moments.items()}
    if all(spread.low == spread.high for spread in spreads.values()):
        raise MeasurementError(
            f"params.yaml: evaluate.perturbations: split {split!r}: expected inputs that differ, got the same number "
            f"everywhere in {', '.join(spreads)}: nothing can be disturbed: mend task.data, or leave perturbations out"
        )
    ids = task.split(split).ids
    return {one.name: Disturbance(perturbation=one, ids=ids, spreads=spreads) for one in perturbations}


def make_sure_of_effect(perturbation: Perturbation, inputs: Mapping[str, Tensor]) -> None:
    """Refuse what would leave a batch as it is, since its figures would look like those of a robust model.

    Raises:
        MeasurementError: no input it means something for, or a strength too small for any of them.
    """
    where = f"params.yaml: evaluate.perturbations: {perturbation.name}"
    given = ", ".join(f"{name} {values.dtype} {tuple(values.shape)}" for name, values in inputs.items())
    fitting = [values for values in inputs.values() if takes(values, perturbation.name)]
    if not fitting:
        wanted = "(N, T, …) or (N, C, H, W)" if perturbation.name in POSITIONAL else "(N, …)"
        raise MeasurementError(
            f"{where}: expected an input of floating numbers {wanted}, got {given}: leave it out (token ids and "
            "other whole numbers cannot be disturbed), or let task.data or task.collate return floats"
        )
    strength = perturbation.strength
    if perturbation.name == "shift" and not any(any(reach(values, strength)) for values in fitting):
        raise MeasurementError(
            f"{where}: expected a strength that moves by one place at least, got {strength:g} for {given}: "
            "raise it to 1 / the length of the axis, or leave it out"
        )
    if perturbation.name == "dropout" and not any(taken_by(values, strength) for values in fitting):
        raise MeasurementError(
            f"{where}: expected a strength that takes one place at least, got {strength:g} for {given}: "
            "raise it to 1 / the number of pixels or frames, or leave it out"
        )
