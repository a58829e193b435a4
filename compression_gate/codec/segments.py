"""Small tensors on one stream, large ones in checked segments of their own: written and read piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from math import prod
from typing import BinaryIO, TypeVar

import numpy as np

from compression_gate.codec.container import Entry, Head, read_segment
from compression_gate.codec.fast_stream import FastStream
from compression_gate.codec.number_types import Numbers
from compression_gate.codec.streams import MixedStream, Stream
from compression_gate.codec.tensors import code_with_form
from compression_gate.errors import CodecError
from compression_gate.progress import tracked

Item = TypeVar("Item")
Result = TypeVar("Result")


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
class Piece:
    """A part as it was read: its patterns, flat, its form, and what it takes in the file [bytes]."""

    part: Part
    patterns: np.ndarray
    form: str
    coded_bytes: int


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
    named(part.entry, stream, part.shape, Numbers(part.entry.type, patterns.reshape(part.shape)))
    return stream.finish()


def coded_segments(
    entries: Sequence[Entry], numbers: Iterable[Numbers], *, fast: bool, workers: int = 1
) -> Iterator[bytes]:
    """The segments of all large tensors, as they are coded: of tensors only those are held that are being coded.

    Args:
        numbers: of all tensors, small ones too.
        workers: threads that code pieces beside each other.
    """

    def coded(piece: tuple[Part, np.ndarray]) -> bytes:
        return coded_part(*piece, fast=fast)

    count = sum(entry.segments for entry in entries)
    return tracked(side_by_side(coded, pieces_of(entries, numbers), workers), count, "coded pieces")


def pieces_of(entries: Sequence[Entry], numbers: Iterable[Numbers]) -> Iterator[tuple[Part, np.ndarray]]:
    """The pieces of all large tensors, and their patterns."""
    parts = iter(parts_of(entries))
    for entry, tensor in zip(entries, numbers, strict=True):
        for part in islice(parts, entry.segments):
            yield part, tensor.patterns.reshape(-1)[part.start : part.start + part.size]


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results in order, a few of them made ahead in threads: compiled code lets go of the interpreter's lock."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def code_small(stream: Stream, entries: Sequence[Entry], numbers: Iterable[Numbers]) -> None:
    """Write the small tensors, of the numbers of all."""
    for entry, tensor in zip(entries, numbers, strict=True):
        if not entry.large:
            named(entry, stream, entry.shape, tensor)


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


def read_pieces(
    file: BinaryIO, name: str, head: Head, entries: Sequence[Entry], *, first: int = 0, workers: int = 1
) -> Iterator[Piece]:
    """Read the large tensors piece by piece: by one thread, one after the other, and decode them by several.

    Args:
        first: the piece to begin with.

    Raises:
        CodecError: something is damaged; it says what.
    """
    parts = parts_of(entries)
    if len(parts) != len(head.segments):
        raise CodecError(f"{name}: expected {len(parts)} segments, got {len(head.segments)}: the file is damaged")
    segments = ((part, read_segment(file, head.segments[part.number], name, part.number)) for part in parts[first:])

    def read(pair: tuple[Part, bytes]) -> Piece:
        part, data = pair
        stream = (FastStream if head.fast else MixedStream).reading(data, head.schema)
        numbers, form = named(part.entry, stream, part.shape)
        stream.check_end()
        return Piece(part, numbers.patterns.reshape(-1), form, len(data))

    yield from tracked(side_by_side(read, segments, workers), len(parts), "decoded pieces")


def large_tensors(
    file: BinaryIO, name: str, head: Head, entries: Sequence[Entry], *, workers: int = 1
) -> Iterator[Stored]:
    """Read the large tensors, one whole tensor at a time.

    Raises:
        CodecError: something is damaged; it says what.
    """
    pieces = read_pieces(file, name, head, entries, workers=workers)
    for entry, group in groupby(pieces, key=lambda piece: piece.part.entry):
        try:
            patterns = np.empty(entry.size, dtype=entry.type.patterns)
        except MemoryError as error:
            raise CodecError(
                f"{name}: {entry.name}: expected memory for {entry.size:,} numbers, got none: decode the file to "
                "safetensors, which holds a piece at a time"
            ) from error
        forms, length = dict[str, None](), 0
        for piece in group:
            patterns[piece.part.start : piece.part.start + piece.part.size] = piece.patterns
            forms[piece.form] = None
            length += piece.coded_bytes
        yield Stored(entry, length, tuple(forms), Numbers(entry.type, patterns.reshape(entry.shape)))


def named(entry: Entry, stream: Stream, shape: tuple[int, ...], numbers: Numbers | None = None) -> tuple[Numbers, str]:
    """Write or read a tensor or a piece of one, and return it with its form; errors say which."""
    try:
        return code_with_form(stream, entry.type, shape, numbers)
    except CodecError as error:
        raise CodecError(f"{entry.name}: {error}{'' if stream.encoding else ': the file is damaged'}") from error
