"""Where numbers go and come from: a stream is written and read by the same calls, in the same order.

Every call takes what is to be written and returns what stands there; a stream that reads ignores what it is given. A
format is so described once, for both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt
from typing import Protocol

import numpy as np

from compression_gate.codec import plain_coder, range_coder
from compression_gate.codec.container import SCHEMA
from compression_gate.codec.known import Known
from compression_gate.codec.logistic import MOST_EXPONENT
from compression_gate.codec.range_coder import MOST_LEFT_OUT, POSITION
from compression_gate.codec.symbol_model import Learned, bucket_of, code_plane
from compression_gate.errors import CodecError

LARGEST_SYMBOL = (1 << (MOST_EXPONENT + 1)) - 1
NONE_KNOWN = np.zeros(0, dtype=np.int64)
MOST_BEHIND = 4 + MOST_LEFT_OUT  # bytes behind a stream's end that a decoder reads as zeros
LARGE_PLANE = 1 << 10  # symbols from which a plane may be coded plainly: of fewer there is nothing to be saved
SPARE = 4096  # bytes of a buffer beside what symbols are expected to take


@dataclass(frozen=True)
class Geometry:
    """How numbers lie in a plane.

    Args:
        rows, columns: of the plane.
        kernel: columns of one repetition, 1 or more.
        stride: how many columns back the neighbour in another dimension is, 1 or more.
    """

    rows: int
    columns: int
    kernel: int = 1
    stride: int = 1


def code_whole(stream: Stream, value: int) -> int:
    """Write or read a whole number of −2^63 to 2^63 − 1, small ones in few bits.

    Negative ones are folded between the others (0, −1, 1, −2, …); of the folded number plus one the bit length less one
    comes first, as that many zeros and a one, then the bits below the leading one.

    Source: P. Elias, Universal codeword sets and representations of the integers, IEEE Transactions on Information
    Theory 21(2), 1975, §4.
    """
    folded = (value << 1 if value >= 0 else ~value << 1 | 1) + 1
    below = 0
    while stream.number(int(folded >> (below + 1) == 0), 1) == 0:
        below += 1
        if below > 64:
            raise CodecError("whole number: expected at most 64 bits, got more")
    high, low = max(below - 32, 0), min(below, 32)
    rest = folded - (1 << below) if stream.encoding else 0
    rest = stream.number(rest >> low, high) << low | stream.number(rest & ((1 << low) - 1), low)
    folded = (rest | 1 << below) - 1
    return ~(folded >> 1) if folded & 1 else folded >> 1


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides worth trying in a plane made from a tensor of this shape: one to four of them, ascending."""
    columns = int(np.prod(shape[1:], dtype=np.int64)) if len(shape) > 1 else int(np.prod(shape, dtype=np.int64))
    kernel = int(np.prod(shape[2:], dtype=np.int64))
    square = isqrt(columns)
    found = {1, kernel, shape[-1] if len(shape) > 2 else 1, square if square * square == columns else 1}
    return tuple(sorted(stride for stride in found if stride == 1 or 1 < stride < columns))


class Stream(Protocol):
    """What tensors are written to or read from.

    Args:
        tries_layouts: whether it matters in which order the numbers of a plane come.
        schema: of the file.
        known: what was told so far that may come again.
    """

    encoding: bool
    tries_layouts: bool
    schema: int
    known: Known

    def number(self, value: int, bits: int) -> int:
        """A whole number of 0 to 2^bits − 1, none of which is likelier than another."""
        ...

    def plane(self, symbols: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Symbols int32 ``(R, C)``, magnitudes up to LARGEST_SYMBOL; a stream that reads fills them in."""
        ...

    def numbers(self, values: np.ndarray, bits: int) -> np.ndarray:
        """Many whole numbers, uint64 ``(N,)``, each as in :meth:`number`."""
        ...

    def trial(self) -> Stream:
        """A copy to try something out on, and to ask for its size."""
        ...

    def size(self) -> float:
        """What was written so far [bytes]; fractions of bytes count."""
        ...


@dataclass
class MixedStream:
    """A range coder behind a context model: small files."""

    encoding: bool = True
    schema: int = SCHEMA
    buffer: np.ndarray = field(default_factory=lambda: np.zeros(SPARE, dtype=np.uint8))
    coder: np.ndarray = field(default_factory=range_coder.started)
    learned: Learned = field(default_factory=Learned)
    producers: np.ndarray = field(default_factory=lambda: NONE_KNOWN)
    known: Known = field(init=False)
    cost: int = 0  # bits / 65,536
    tries_layouts = True

    def __post_init__(self) -> None:
        self.known = Known(keeps=self.schema > 1)

    @classmethod
    def reading(cls, data: bytes | memoryview, schema: int = SCHEMA) -> MixedStream:
        """A stream that reads."""
        buffer = np.frombuffer(data, dtype=np.uint8).copy()  # compiled code takes only what may be written to
        return cls(encoding=False, schema=schema, buffer=buffer, coder=range_coder.started_on(buffer))

    def reserve(self, room: int) -> None:
        """Make sure that so many bytes can be written."""
        missing = int(self.coder[POSITION]) + room - self.buffer.size
        if self.encoding and missing > 0:
            self.buffer = np.concatenate([self.buffer, np.zeros(max(missing, self.buffer.size), dtype=np.uint8)])

    def number(self, value: int, bits: int) -> int:
        """See :class:`Stream`."""
        return int(self.numbers(np.array([value], dtype=np.uint64), bits)[0])

    def numbers(self, values: np.ndarray, bits: int) -> np.ndarray:
        """See :class:`Stream`."""
        self.reserve(SPARE + len(values) * (bits // 8 + 1))
        self.cost += len(values) * bits << 16
        found = range_coder.code_numbers(self.coder, self.buffer, values, bits, self.encoding)
        self.check_within()
        return found

    def plane(self, symbols: np.ndarray, geometry: Geometry) -> np.ndarray:
        """See :class:`Stream`."""
        if self.schema == 1 or symbols.size < LARGE_PLANE:
            self.mixed_plane(symbols, geometry)
        elif self.encoding:
            self.cheaper_plane(symbols, geometry)
        elif self.number(0, 1):
            self.plain_plane(symbols)
        else:
            self.mixed_plane(symbols, geometry)
        self.check_within()
        if len(symbols) > 1:
            sums = np.abs(symbols.astype(np.int64)).sum(1)
            self.producers = np.array([bucket_of(int(total), symbols.shape[1]) for total in sums], dtype=np.int64)
        return symbols

    def cheaper_plane(self, symbols: np.ndarray, geometry: Geometry) -> None:
        """Write a plane as it takes fewer bits, and which way that is."""
        coder, learned, cost = self.coder.copy(), self.learned, self.cost  # what is learned is learned by a copy

        def back() -> None:
            self.coder, self.learned, self.cost = coder.copy(), learned, cost

        self.number(1, 1)
        self.plain_plane(symbols)
        plain = self.cost
        back()
        self.number(0, 1)
        self.mixed_plane(symbols, geometry)
        if self.cost > plain:
            back()
            self.number(1, 1)
            self.plain_plane(symbols)

    def mixed_plane(self, symbols: np.ndarray, geometry: Geometry) -> None:
        """Write or read a plane by its contexts."""

        def code(coder: np.ndarray) -> tuple[bool, int]:
            learned = self.learned.copy() if self.encoding else self.learned
            enough, cost = code_plane(
                coder, self.buffer, learned, symbols, geometry.stride, geometry.kernel, self.producers,
                encoding=self.encoding,
            )  # fmt: skip
            if enough:
                self.learned = learned
            return enough, cost

        self.code_with_room(symbols.size, code)

    def plain_plane(self, symbols: np.ndarray) -> None:
        """Write or read a plane by the shares of its values alone."""
        self.code_with_room(
            symbols.size, lambda coder: plain_coder.code_plane(coder, self.buffer, symbols, encoding=self.encoding)
        )

    def code_with_room(self, size: int, code: Callable[[np.ndarray], tuple[bool, int]]) -> None:
        """Call what codes so many symbols with a copy of the coder, until the buffer has room for what it writes."""
        room = SPARE + 4 * size
        while True:
            self.reserve(room)
            coder = self.coder.copy()
            enough, cost = code(coder)
            if enough:
                break
            room *= 2
        self.coder, self.cost = coder, self.cost + cost

    def trial(self) -> MixedStream:
        """See :class:`Stream`."""
        coder = self.coder.copy()
        coder[POSITION] = 0  # of its bytes only the cost is asked for: what was written before is not copied
        trial = MixedStream(
            encoding=self.encoding,
            schema=self.schema,
            coder=coder,
            learned=self.learned.copy(),
            producers=self.producers,
            cost=self.cost,
        )
        trial.known = self.known.copy()
        return trial

    def size(self) -> float:
        """See :class:`Stream`."""
        return self.cost / 65536 / 8

    def finish(self) -> bytes:
        """What was written."""
        self.reserve(SPARE)
        return bytes(self.buffer[: range_coder.finish(self.coder, self.buffer)])

    def check_within(self) -> None:
        """Make sure that a stream that reads has not come to its end: of zeros behind it no list would ever end.

        Raises:
            CodecError: it has.
        """
        if not self.encoding and (read := int(self.coder[POSITION])) > self.buffer.size + MOST_BEHIND:
            raise CodecError(f"stream: expected to end behind its {self.buffer.size} bytes, was read to byte {read}")

    def check_end(self) -> None:
        """Make sure that all bytes were used.

        Raises:
            CodecError: some were not: what was read is not what was written.
        """
        self.check_within()
        read = int(self.coder[POSITION])
        if read < self.buffer.size:
            raise CodecError(f"stream: expected its {self.buffer.size} bytes to be used up, {read} were")
