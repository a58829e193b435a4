"""Bits of given probabilities to bytes and back: a range coder of 32 bits, compiled.

The state of a coder is an array of four numbers: the lower and the upper end of the interval, the number that is being
decoded, and how many bytes were written or read. Behind the last byte a decoder reads zeros, so that an encoder leaves
out up to four at the end.

Source: G. N. N. Martin, Range encoding: an algorithm for removing redundancy from a digitised message, Video & Data
Recording Conference, 1979; without carries as in M. Mahoney, Data Compression Explained, 2013, §3.2.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from compression_gate.codec.compiling import compiled, inlined

LOW, HIGH, CODE, POSITION = 0, 1, 2, 3
FULL = -1  # the buffer is too small
MOST_LEFT_OUT = 4  # zeros at the end: a decoder is at most so many bytes, and the four it begins with, behind the last
TOP, BYTE, WORD = 0xFF000000, 0xFF, 0xFFFFFFFF


def started() -> np.ndarray:
    """The state of a new encoder."""
    return np.array([0, WORD, 0, 0], dtype=np.uint64)


@compiled
def started_on(buffer: np.ndarray) -> np.ndarray:
    """The state of a new decoder of a buffer."""
    coder = np.zeros(4, dtype=np.uint64)
    coder[HIGH] = uint64(WORD)
    for _ in range(4):
        coder[CODE] = (coder[CODE] << uint64(8)) | uint64(byte_at(buffer, coder[POSITION]))
        coder[POSITION] += uint64(1)
    return coder


@inlined
def byte_at(buffer: np.ndarray, position: int) -> int:
    """A byte of the buffer, or zero behind it."""
    return buffer[position] if position < uint64(buffer.size) else 0


@inlined
def code_bit(coder: np.ndarray, buffer: np.ndarray, one: int, bit: int, encoding: bool) -> int:
    """Encode ``bit``, or decode one; the caller makes sure of five bytes of room in the buffer.

    Args:
        one: probability that the bit is 1, of 1 to 65,535 out of 65,536.
    """
    low, high = coder[LOW], coder[HIGH]
    share, width = uint64(one), high - low
    middle = low + (width >> uint64(16)) * share + (((width & uint64(0xFFFF)) * share) >> uint64(16))
    if not encoding:
        bit = 1 if coder[CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + uint64(1)
    while ((low ^ high) & uint64(TOP)) == 0:
        if encoding:
            buffer[coder[POSITION]] = high >> uint64(24)
        else:
            code = (coder[CODE] << uint64(8)) & uint64(WORD)
            coder[CODE] = code | uint64(byte_at(buffer, coder[POSITION]))
        coder[POSITION] += uint64(1)
        low = (low << uint64(8)) & uint64(WORD)
        high = ((high << uint64(8)) & uint64(WORD)) | uint64(BYTE)
    coder[LOW], coder[HIGH] = low, high
    return bit


@compiled
def code_numbers(coder: np.ndarray, buffer: np.ndarray, values: np.ndarray, bits: int, encoding: bool) -> np.ndarray:
    """Encode or decode numbers uint64 ``(N,)`` of so many bits, each of which may be anything."""
    found = np.zeros(values.size, dtype=np.uint64)
    for index in range(values.size):
        number = uint64(0)
        for place in range(bits):
            bit = int((values[index] >> uint64(bits - 1 - place)) & uint64(1))
            number = (number << uint64(1)) | uint64(code_bit(coder, buffer, 32768, bit, encoding))
        found[index] = number
    return found


@compiled
def finish(coder: np.ndarray, buffer: np.ndarray) -> int:
    """Write the fewest bytes that name a number of the interval; return how many bytes there are in all."""
    position = coder[POSITION]
    for count in range(5):
        unused = uint64(8 * (4 - count))
        number = (coder[HIGH] >> unused) << unused
        if number >= coder[LOW]:
            for place in range(count):
                buffer[position] = (number >> uint64(24 - 8 * place)) & uint64(BYTE)
                position += uint64(1)
            break
    for _ in range(MOST_LEFT_OUT):
        if position > 0 and buffer[position - uint64(1)] == 0:
            position -= uint64(1)
    return int(position)
