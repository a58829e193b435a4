"""Genes as somebody sees them who walks through a genome: in which order they are settled, and what is known of each.

First what is in the chain, then where it stands, then the options of the steps that are in it, those by layer from the
most sensitive group of layers on. Genes of steps that are left out are not part of the walk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.records.trial import Genome
from compression_gate.search.genes import ByLayer, Choice, Gene, Number, is_number
from compression_gate.search.space import Alternative, Slot, Space

Kind = Literal["pick", "place", "option", "strength"]
KINDS: tuple[Kind, ...] = ("pick", "place", "option", "strength")
FULL_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What was measured of the layers before the search began.

    Args:
        table: of sensitivities, each layer alone.
        stored_bytes: of the reference's weights, as the table counts what is saved.
        most_bytes: what the gate lets through; None where no rule says so.
    """

    table: SensitivityTable
    stored_bytes: int | None = None
    most_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a group of layers loses and saves by the strength of one method.

    Args:
        strengths: ascending.
        losses, saved: of the group together; bytes, as the table counts them.
    """

    strengths: tuple[float, ...]
    losses: tuple[float, ...]
    saved: tuple[float, ...]

    def loss(self, strength: Any) -> float:
        """What is lost at a strength, between those that were measured; nothing for layers that stay as they are."""
        return float(np.interp(strength, self.strengths, self.losses)) if strength else 0.0

    def bytes_saved(self, strength: Any) -> float:
        """What is saved at a strength."""
        return float(np.interp(strength, self.strengths, self.saved)) if strength else 0.0


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A gene on the walk.

    Args:
        kind: strengths are options that are numbers, bits and epochs among them.
        owner: of an option or strength, the alternative whose it is.
        group: of a strength by layer, which group of layers.
        curve: of a strength by layer where the table knows the layers.
    """

    name: str
    gene: Gene
    kind: Kind
    slot: Slot
    owner: Alternative | None = None
    group: int | None = None
    curve: Curve | None = None

    def is_used(self, genome: Genome) -> bool:
        """Whether the gene says anything about the chain, as far as the genome's picks are known."""
        if self.kind == "pick":
            return True
        picked = self.slot.picked(genome)
        return picked is not None and (self.owner is None or picked is self.owner)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """All genes of a space in the order in which they are settled."""

    space: Space
    stops: tuple[Stop, ...]

    def used(self, genome: Genome) -> list[bool]:
        """For each stop, whether its gene says anything about the chain that a genome stands for."""
        genome = self.space.complete(genome)
        return [stop.is_used(genome) for stop in self.stops]

    def places(self, genome: Genome) -> np.ndarray:
        """Where each gene's value lies in its range, in [0, 1), ``(S,)``."""
        return np.array([place_of(stop.gene, genome[stop.name]) for stop in self.stops])

    @cached_property
    def features(self) -> np.ndarray:
        """What is known of each gene beforehand, ``(S, F)``: kind, slot, group, share of what is lost and saved."""
        slots = max(1, len(self.space.slots) - 1)
        lost = largest_of([stop.curve.losses for stop in self.stops if stop.curve])
        saved = largest_of([stop.curve.saved for stop in self.stops if stop.curve])
        rows = []
        for stop in self.stops:
            group = 0.0 if stop.group is None or stop.owner is None else (stop.group + 1) / len(stop.owner.layers)
            known = (max(stop.curve.losses) / lost, max(stop.curve.saved) / saved) if stop.curve else (0.0, 0.0)
            kinds = [float(stop.kind == kind) for kind in KINDS]
            rows.append([*kinds, self.space.slots.index(stop.slot) / slots, group, *known])
        return np.array(rows)


def walk_of(space: Space, known: Knowledge | None = None) -> Walk:
    """The walk through a space."""
    picks, places, options = [], [], []
    for slot in space.slots:
        if f"{slot.name}.pick" in space.genes:
            picks.append(Stop(name=f"{slot.name}.pick", gene=slot.pick, kind="pick", slot=slot))
        if f"{slot.name}.place" in space.genes:
            name = f"{slot.name}.place"
            places.append(Stop(name=name, gene=space.genes[name], kind="place", slot=slot))
        for owner in slot.alternatives:
            options += [stop_of(name, gene, slot, owner, known) for name, gene in owner.flat().items()]
    return Walk(space=space, stops=(*picks, *places, *options))


def stop_of(name: str, gene: Gene, slot: Slot, owner: Alternative, known: Knowledge | None) -> Stop:
    """An option of a step, or its strength for one group of layers."""
    key, _, index = name.removeprefix(f"{owner.name}.").rpartition(".")
    if not isinstance(owner.genes.get(key), ByLayer):
        numeric = isinstance(gene, Number) or all(is_number(value) for value in gene.values)
        return Stop(name=name, gene=gene, kind="strength" if numeric else "option", slot=slot, owner=owner)
    curve = None if known is None else curve_of(known.table, owner, key, int(index))
    return Stop(name=name, gene=gene, kind="strength", slot=slot, owner=owner, group=int(index), curve=curve)


def curve_of(table: SensitivityTable, owner: Alternative, key: str, group: int) -> Curve | None:
    """What the table knows of a group of layers; None where a layer or the option is missing there."""
    members = set(owner.layers[group])
    rows = [
        cells
        for cells in table.of(owner.method).values()
        if set(cells[0].members) <= members and cells[0].option == key
    ]
    if not rows or {name for cells in rows for name in cells[0].members} != members:
        return None
    untouched = FULL_BITS if key == "bits" else 0
    strengths = sorted({float(row.strength) for cells in rows for row in cells} | {float(untouched)})
    return Curve(
        strengths=tuple(strengths),
        losses=tuple(sum(at(cells, losses_of(cells, key), one, untouched) for cells in rows) for one in strengths),
        saved=tuple(
            sum(at(cells, [row.bytes_saved for row in cells], one, untouched) for cells in rows) for one in strengths
        ),
    )


def losses_of(cells: Sequence[Sensitivity], key: str) -> list[float]:
    """What each row loses, in their order, as budgets count it."""
    from compression_gate.methods import budgets

    return budgets.losses_of(cells, rising=key != "bits")


def at(cells: Sequence[Sensitivity], values: Sequence[float], strength: float, untouched: float) -> float:
    """A value of one layer at any strength: between those measured, nothing where the layer is untouched."""
    known = {float(row.strength): float(value) for row, value in zip(cells, values, strict=True)} | {untouched: 0.0}
    strengths, found = zip(*sorted(known.items()), strict=True)
    return float(np.interp(strength, strengths, found))


def largest_of(rows: Sequence[Sequence[float]]) -> float:
    """The largest number of all, 1 where there is none over 0: something to divide by."""
    return max((value for row in rows for value in row if value > 0), default=1.0)


def place_of(gene: Gene, value: Any) -> float:
    """Where a value lies in its gene's range: ``gene.at`` of it is the value again, but for rounding."""
    if isinstance(gene, Choice):
        return (gene.values.index(value) + 0.5) / gene.size
    if gene.log:
        return math.log(value / gene.low) / math.log(gene.high / gene.low)
    if gene.count is None:
        return float((value - gene.low) / (gene.high - gene.low))
    return float((round((value - gene.low) / (gene.step or 1)) + 0.5) / gene.count)


def settled(genes: Mapping[str, Gene]) -> Genome:
    """A genome with every gene in the middle of its range, for what nobody asks about."""
    return {name: gene.at(0.5) for name, gene in genes.items()}
