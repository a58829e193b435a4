"""Actions clipped to a budget: no walk goes on that could not end within the bytes that the gate lets through.

Source: Y. He et al., AMC: AutoML for Model Compression, 2018, §3.3 and algorithm 1: after each layer, what all later
ones could still save at most bounds how gentle the action may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compression_gate import registry
from compression_gate.methods import METHODS
from compression_gate.records.trial import Genome
from compression_gate.search.descriptors import FULL_BITS, Knowledge, Stop, Walk
from compression_gate.search.genes import Choice
from compression_gate.search.space import Alternative

PLACES = 32  # of a range that are tried for one that saves enough


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """What is saved so far, and what has to be saved yet; where too little is known, everything is let through."""

    walk: Walk
    known: Knowledge | None = None

    def share_saved(self, stop: Stop, genome: Genome) -> float:
        """What a gene saves of the reference's bytes; 0 where nobody knows."""
        if stop.curve is None or self.known is None or not self.known.stored_bytes:
            return 0.0
        return stop.curve.bytes_saved(genome[stop.name]) / self.known.stored_bytes

    def saved(self, genome: Genome, used: list[bool]) -> np.ndarray:
        """The same for each gene of a whole genome, ``(S,)``; 0 for what is not used."""
        pairs = zip(self.walk.stops, used, strict=True)
        return np.array([self.share_saved(stop, genome) if is_used else 0.0 for stop, is_used in pairs])

    def clipped(self, index: int, genome: Genome, value: Any) -> Any:
        """The value, or the gentlest one with which the budget can still be met; the one that saves most if none can.

        Args:
            index: of the gene on the walk; what comes before it is settled.
        """
        stop = self.walk.stops[index]
        least = self.least_share(index, genome)
        if stop.curve is None or least is None or self.share_of(stop, value) >= least:
            return value
        gene = stop.gene
        values = gene.values if isinstance(gene, Choice) else [gene.at(place / PLACES) for place in range(PLACES + 1)]
        enough = [one for one in values if self.share_of(stop, one) >= least]
        if enough:
            return min(enough, key=lambda one: self.share_of(stop, one))
        return max(values, key=lambda one: self.share_of(stop, one))

    def share_of(self, stop: Stop, value: Any) -> float:
        """What a gene would save with another value."""
        return self.share_saved(stop, {stop.name: value})

    def least_share(self, index: int, genome: Genome) -> float | None:
        """The least that a gene has to save of the reference's bytes; None where that cannot be told."""
        stop, known = self.walk.stops[index], self.known
        if stop.curve is None or known is None or not known.stored_bytes or known.most_bytes is None:
            return None
        others = 1.0
        for slot in self.walk.space.slots:
            picked = slot.picked(self.walk.space.complete(genome))
            if picked is None or picked is stop.owner:
                continue
            kept = self.kept_by(picked, index, genome)
            if kept is None:
                return None
            others *= kept
        needed = 1 - known.most_bytes / known.stored_bytes / others
        own = [(place, one) for place, one in enumerate(self.walk.stops) if one.owner is stop.owner and one.curve]
        before = sum(self.share_saved(one, genome) for place, one in own if place < index)
        behind = sum(self.most_of(one) for place, one in own if place > index)
        return needed - before - behind

    def most_of(self, stop: Stop) -> float:
        """The most that a gene can save, as a share."""
        gene = stop.gene
        values = gene.values if isinstance(gene, Choice) else (gene.low, gene.high)
        return max(self.share_of(stop, value) for value in values)

    def kept_by(self, picked: Alternative, index: int, genome: Genome) -> float | None:
        """What a step keeps of the bytes, at the least where that is still open; None where nobody knows."""
        curves = [(place, one) for place, one in enumerate(self.walk.stops) if one.owner is picked and one.curve]
        if curves:
            return 1 - sum(
                self.share_saved(one, genome) if place < index else self.most_of(one) for place, one in curves
            )
        if registry.load("methods", picked.method, METHODS).effect == "changed_weights":
            return 1.0
        gene = picked.genes.get("bits")
        settled = (one.name for one in self.walk.stops[:index] if one.owner is picked and one.gene is gene)
        if gene is None:
            bits = picked.options.get("bits")
        elif (name := next(settled, None)) is not None:
            bits = genome[name]
        else:
            bits = min(getattr(gene, "values", (None,)))
        return bits / FULL_BITS if isinstance(bits, int) else None
