"""Where the bytes of a coded file are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gate.codec.container import Entry, opened, read_head
from compression_gate.codec.segments import read_pieces, small_tensors
from compression_gate.codec.streams import MixedStream
from compression_gate.errors import CodecError
from compression_gate.records.coded import CodedTensor, Inspection

if TYPE_CHECKING:
    from torch import nn


def inspected(path: Path, factory_model: nn.Module | None = None) -> Inspection:
    """Decode a file and say what each tensor takes.

    Args:
        factory_model: what the file of a model is relative to.

    Raises:
        CodecError: the file is damaged, or one of a model and there is none to hold it against.
    """
    with opened(path) as (file, name):
        head = read_head(file, name)
        if head.directory is not None:
            stream, entries = MixedStream.reading(head.pool, head.schema), list(head.directory)
        elif factory_model is None:
            raise CodecError(f"{name}: a model's file: say with -C in which suite its task is")
        else:
            from compression_gate.codec.coded_model import begun, entries_of

            stream, model = begun(head, factory_model, name)
            entries = entries_of(model)
        tallies = {entry.name: Tally(entry) for entry in entries}
        for one in small_tensors(stream, entries):
            tallies[one.entry.name].add(one.numbers.patterns, one.coded_bytes, one.forms)
        for piece in read_pieces(file, name, head, entries):
            tallies[piece.part.entry.name].add(piece.patterns, piece.coded_bytes, (piece.form,))
    tensors = tuple(tally.told() for tally in tallies.values())
    return Inspection(
        file=str(path),
        kind="model" if head.directory is None else "tensors" if head.graph is None else "graph",
        profile="fast" if head.fast else "small",
        size_bytes=head.total,
        head_bytes=head.total - sum(one.coded_bytes for one in tensors),
        tensors=tensors,
    )


@dataclass
class Tally:
    """What is counted of a tensor as its pieces come: they are not held.

    Args:
        counted: distinct patterns, and how often each was there: of the first pieces together, and of the latest ones.
    """

    entry: Entry
    coded_bytes: float = 0
    forms: dict[str, None] = field(default_factory=dict)
    counted: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, patterns: np.ndarray, coded_bytes: float, forms: Sequence[str]) -> None:
        """Count a piece."""
        self.coded_bytes += coded_bytes
        self.forms |= dict.fromkeys(forms)
        self.counted.append(np.unique(patterns, return_counts=True))
        if sum(len(values) for values, _ in self.counted[1:]) >= len(self.counted[0][0]):
            self.counted = [self.together()]

    def together(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct patterns of all pieces, and how often each was there."""
        values = np.concatenate([values for values, _ in self.counted])
        counts = np.concatenate([counts for _, counts in self.counted])
        distinct, places = np.unique(values, return_inverse=True)
        return distinct, np.bincount(places, counts).astype(np.int64)

    def told(self) -> CodedTensor:
        """What the tensor takes, and what its values are like."""
        values, counts = self.together()
        shares = counts / max(self.entry.size, 1)
        return CodedTensor(
            name=self.entry.name,
            type=self.entry.type.name,
            shape=self.entry.shape,
            numbers=self.entry.size,
            zeros=int(counts[values == 0].sum()),
            plain_bytes=self.entry.size * self.entry.type.size,
            coded_bytes=float(self.coded_bytes),
            forms=tuple(self.forms),
            entropy_bits=float(abs((shares * np.log2(shares)).sum())),
        )
