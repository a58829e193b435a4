"""What a stream has told already: a tensor that has something in common with an earlier one says only that.

Weights that are shared across layers have one codebook, layers of one kind one step, members of an ensemble almost the
same numbers. Reader and writer keep the same, in the same order; the oldest are forgotten, so that what is kept stays
small whatever a file says.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from compression_gate.codec.number_types import Numbers, NumberType

MOST_STEPS = MOST_TABLES = 64
MOST_TENSORS = 1024  # each under 64 KiB: large ones have streams of their own

Like = tuple[str, tuple[int, ...]]  # the name of a tensor's type, and its shape


@dataclass(frozen=True)
class Table:
    """A codebook: its values, ascending, and how many of them come before zero."""

    values: Numbers
    negative: int


@dataclass
class Known:
    """Steps, tables and tensors of a stream so far.

    Args:
        keeps: whether anything is kept; schema 1 kept nothing.
    """

    keeps: bool = True
    steps: deque[np.float32] = field(default_factory=lambda: deque(maxlen=MOST_STEPS))
    tables: deque[Table] = field(default_factory=lambda: deque(maxlen=MOST_TABLES))
    tensors: deque[tuple[Like, Numbers]] = field(default_factory=lambda: deque(maxlen=MOST_TENSORS))

    def add_step(self, step: np.float32) -> None:
        """Keep a step."""
        if self.keeps:
            self.steps.append(step)

    def add_table(self, table: Table) -> None:
        """Keep a table."""
        if self.keeps:
            self.tables.append(table)

    def add_tensor(self, numbers: Numbers) -> None:
        """Keep a tensor."""
        if self.keeps:
            self.tensors.append(((numbers.type.name, numbers.shape), numbers))

    def tables_of(self, kind: NumberType) -> tuple[Table, ...]:
        """The tables of numbers of one type, the oldest first."""
        return tuple(table for table in self.tables if table.values.type == kind)

    def tensors_like(self, kind: NumberType, shape: tuple[int, ...]) -> tuple[Numbers, ...]:
        """The tensors of one type and shape, the oldest first."""
        like = (kind.name, shape)
        return tuple(one for own, one in self.tensors if own == like)

    def copy(self) -> Known:
        """As it is now, to try something out on."""
        return Known(self.keeps, self.steps.copy(), self.tables.copy(), self.tensors.copy())
