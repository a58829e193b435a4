"""What a coded file holds, tensor by tensor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record

Kind = Literal["model", "tensors", "graph"]
Profile = Literal["small", "fast"]


class CodedTensor(Record):
    """One tensor of a coded file.

    Args:
        numbers, zeros: how many it has, and how many of them are zero.
        plain_bytes: what it takes uncoded.
        coded_bytes: what it takes in the file; fractions of bytes count, since small tensors share one stream.
        forms: how its pieces are written.
        entropy_bits: of the values by themselves, per number: what a code that knows their shares, and nothing of what
            is beside them, would take.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    numbers: int
    zeros: int
    plain_bytes: int
    coded_bytes: float
    forms: tuple[str, ...]
    entropy_bits: float


class Inspection(Record):
    """A coded file, opened.

    Args:
        head_bytes: of the file, all that is no tensor: header, structure or directory, graph, lengths, checksums.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    file: str
    kind: Kind
    profile: Profile
    size_bytes: int
    head_bytes: float
    tensors: tuple[CodedTensor, ...]
