"""Small tensors on one stream, large ones in checked segments of their own: written and read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import BinaryIO

import numpy as np

from compression_gate.codec.container import Entry, Head, read_segment
from compression_gate.codec.fast_stream import FastStream
from compression_gate.codec.number_types import Numbers
from compression_gate.codec.streams import MixedStream, Stream
from compression_gate.codec.tensors import code_tensor, code_with_form
from compression_gate.errors import CodecError


@dataclass(frozen=True)
class Part:
    """A piece of a large tensor.

    Args:
        start: its first number's place in the tensor.
        number: of its segment in the file.
    """

    entry: Entry
    start: int
    shape: tuple[int, ...]
    number: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: what it is, what it takes there [bytes], in which forms, and its numbers."""

    entry: Entry
    coded_bytes: float
    forms: tuple[str, ...]
    numbers: Numbers


def parts_of(entries: Sequence[Entry]) -> list[Part]:
    """The pieces of all large tensors, in the order of their segments."""
    pieces = [(entry, start, shape) for entry in entries if entry.large for start, shape in entry.parts]
    return [Part(entry, start, shape, number) for number, (entry, start, shape) in enumerate(pieces)]


def coded_part(part: Part, patterns: np.ndarray, *, fast: bool) -> bytes:
    """The segment of a piece, whose patterns these are."""
    stream: FastStream | MixedStream = FastStream() if fast else MixedStream()
    kind = part.entry.type
    code_tensor(stream, kind, part.shape, Numbers(kind, patterns.reshape(part.shape)))
    return stream.finish()


def coded_segments(entries: Sequence[Entry], numbers: Sequence[Numbers], *, fast: bool) -> list[bytes]:
    """The segments of all large tensors."""
    flat = {entry.name: tensor.patterns.reshape(-1) for entry, tensor in zip(entries, numbers, strict=True)}
    return [
        coded_part(part, flat[part.entry.name][part.start : part.start + part.size], fast=fast)
        for part in parts_of(entries)
    ]


def code_small(stream: Stream, entries: Sequence[Entry], numbers: Sequence[Numbers]) -> None:
    """Write the small tensors."""
    for entry, tensor in zip(entries, numbers, strict=True):
        if not entry.large:
            code_tensor(stream, entry.type, entry.shape, tensor)


def small_tensors(stream: MixedStream, entries: Sequence[Entry]) -> Iterator[Stored]:
    """Read the small tensors, to the end of the stream.

    Raises:
        CodecError: something is damaged; it says what.
    """
    for entry in entries:
        if not entry.large:
            before = stream.size()
            numbers, form = named(entry, stream, entry.shape)
            yield Stored(entry, stream.size() - before, (form,), numbers)
    stream.check_end()


def check_segments(head: Head, parts: Sequence[Part], name: str) -> None:
    """Make sure that every piece has a segment.

    Raises:
        CodecError: there are more or fewer.
    """
    if len(parts) != len(head.segments):
        raise CodecError(f"{name}: expected {len(parts)} segments, got {len(head.segments)}: the file is damaged")


def read_part(data: bytes, part: Part, *, fast: bool) -> tuple[np.ndarray, str]:
    """Read a piece from its segment, whose checksum was right: its patterns, flat, and its form.

    Raises:
        CodecError: it is not such a piece.
    """
    stream = FastStream.reading(data) if fast else MixedStream.reading(data)
    numbers, form = named(part.entry, stream, part.shape)
    stream.check_end()
    return numbers.patterns.reshape(-1), form


def large_tensors(file: BinaryIO, name: str, head: Head, entries: Sequence[Entry]) -> Iterator[Stored]:
    """Read the large tensors, one whole tensor at a time.

    Raises:
        CodecError: something is damaged; it says what.
    """
    parts = parts_of(entries)
    check_segments(head, parts, name)
    for _, group in groupby(parts, key=lambda part: part.entry.name):
        own = list(group)
        entry = own[0].entry
        try:
            patterns = np.empty(entry.size, dtype=entry.type.patterns)
        except MemoryError as error:
            raise CodecError(
                f"{name}: {entry.name}: expected memory for {entry.size:,} numbers, got none: decode the file to "
                "safetensors, which holds a piece at a time"
            ) from error
        forms: dict[str, None] = {}
        for part in own:
            data = read_segment(file, head.segments[part.number], name, part.number)
            patterns[part.start : part.start + part.size], form = read_part(data, part, fast=head.fast)
            forms[form] = None
        length = sum(head.segments[part.number].length for part in own)
        yield Stored(entry, length, tuple(forms), Numbers(entry.type, patterns.reshape(entry.shape)))


def named(entry: Entry, stream: Stream, shape: tuple[int, ...]) -> tuple[Numbers, str]:
    """Read a tensor or a piece of one, and its form; errors say which."""
    try:
        return code_with_form(stream, entry.type, shape, None)
    except CodecError as error:
        raise CodecError(f"{entry.name}: {error}: the file is damaged") from error
