"""The stream of the fast profile: static codes for symbols, packed bits for everything else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import uint64

from compression_gate.codec import fast_coder
from compression_gate.codec.compiling import compiled
from compression_gate.codec.container import SCHEMA
from compression_gate.codec.known import Known
from compression_gate.codec.streams import LARGEST_SYMBOL, Geometry
from compression_gate.errors import CodecError

LENGTH_BITS = 32


@dataclass
class FastStream:
    """Symbols as :mod:`fast_coder` codes them, each plane behind its length in bytes; numbers as their bits.

    Numbers of one call are packed from the lowest bit of the first byte on, and end with a whole byte.
    """

    encoding: bool = True
    schema: int = SCHEMA
    known: Known = field(init=False)
    data: bytearray = field(default_factory=bytearray)
    position: int = 0
    tries_layouts = False  # a code that is the same everywhere gains nothing by another order

    def __post_init__(self) -> None:
        self.known = Known(keeps=self.schema > 1)

    @classmethod
    def reading(cls, data: bytes | memoryview, schema: int = SCHEMA) -> FastStream:
        """A stream that reads."""
        return cls(encoding=False, schema=schema, data=bytearray(data))

    def number(self, value: int, bits: int) -> int:
        """See :class:`Stream`."""
        return int(self.numbers(np.array([value], dtype=np.uint64), bits)[0])

    def numbers(self, values: np.ndarray, bits: int) -> np.ndarray:
        """See :class:`Stream`."""
        if self.encoding:
            self.data += packed(values, bits).tobytes()
            return values
        length = (len(values) * bits + 7) // 8
        return unpacked(np.frombuffer(self.taken(length), dtype=np.uint8).copy(), len(values), bits)

    def plane(self, symbols: np.ndarray, geometry: Geometry) -> np.ndarray:
        """See :class:`Stream`."""
        coded = fast_coder.encode(symbols.reshape(-1)) if self.encoding else b""
        length = self.number(len(coded), LENGTH_BITS)
        if self.encoding:
            self.data += coded
            return symbols
        found = fast_coder.decode(self.taken(length), symbols.size).reshape(symbols.shape)
        if found.size and max(int(found.max()), -int(found.min())) > LARGEST_SYMBOL:
            raise CodecError(f"stream: expected symbols of at most {LARGEST_SYMBOL}, got larger ones")
        return found

    def taken(self, length: int) -> bytes:
        """The next bytes.

        Raises:
            CodecError: there are not so many.
        """
        left = len(self.data) - self.position
        if length > left:
            raise CodecError(f"stream: expected {length} bytes from byte {self.position} on, got {left}")
        self.position += length
        return bytes(self.data[self.position - length : self.position])

    def trial(self) -> FastStream:
        """See :class:`Stream`."""
        trial = FastStream(encoding=self.encoding, schema=self.schema)
        trial.known = self.known.copy()
        return trial

    def size(self) -> float:
        """See :class:`Stream`."""
        return len(self.data) if self.encoding else self.position

    def finish(self) -> bytes:
        """What was written."""
        return bytes(self.data)

    def check_end(self) -> None:
        """Make sure that all bytes were used.

        Raises:
            CodecError: some were not.
        """
        if self.position != len(self.data):
            raise CodecError(f"stream: expected its {len(self.data)} bytes to be used up, {self.position} were")


@compiled
def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Put numbers uint64 ``(N,)`` of at most 56 bits beside each other; the bytes, uint8."""
    out = np.zeros((values.size * bits + 7) // 8, dtype=np.uint8)
    waiting, have, position = uint64(0), 0, 0
    for index in range(values.size):
        waiting |= values[index] << uint64(have)
        have += bits
        while have >= 8:
            out[position] = waiting & uint64(0xFF)
            waiting >>= uint64(8)
            have -= 8
            position += 1
    if have > 0:
        out[position] = waiting & uint64(0xFF)
    return out


@compiled
def unpacked(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Take ``count`` numbers of at most 56 bits from bytes, of which there are enough; uint64."""
    found = np.zeros(count, dtype=np.uint64)
    mask = (uint64(1) << uint64(bits)) - uint64(1)
    waiting, have, position = uint64(0), 0, 0
    for index in range(count):
        while have < bits:
            waiting |= uint64(data[position]) << uint64(have)
            have += 8
            position += 1
        found[index] = waiting & mask
        waiting >>= uint64(bits)
        have -= bits
    return found
