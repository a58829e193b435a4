"""The step that all numbers of a tensor are whole multiples of: to the bit, or there is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from compression_gate.codec.number_types import BY_NAME, Numbers, NumberType, floats_of, patterns_of
from compression_gate.codec.streams import LARGEST_SYMBOL, Stream
from compression_gate.errors import CodecError

MOST_VALUES = 1 << 12
LARGEST_DIVISOR = 8  # the smallest weight may be so many steps
F32 = BY_NAME["F32"]


def step_of(numbers: Numbers) -> np.float32 | None:
    """The largest step of which all values are whole multiples, exactly; None if there is none."""
    patterns = np.unique(numbers.patterns)
    values = floats_of(Numbers(numbers.type, patterns))
    if values is None:
        return None
    distinct = np.unique(values)
    sizes = np.abs(distinct[distinct != 0])
    if len(sizes) == 0 or len(distinct) > MOST_VALUES or not np.isfinite(distinct).all():
        return None
    for divisor in range(1, LARGEST_DIVISOR + 1):
        for step in near(sizes.min() / np.float32(divisor)):
            if step > 0 and fits(distinct, patterns, step, numbers.type):
                return step
    return None


def near(value: np.float32) -> Iterable[np.float32]:
    """A number and its two neighbours: a quotient is rounded."""
    yield value
    yield np.nextafter(value, np.float32(0))
    yield np.nextafter(value, np.float32(np.inf))


def fits(distinct: np.ndarray, patterns: np.ndarray, step: np.float32, kind: NumberType) -> bool:
    """Whether the values are what whole multiples of the step come out as, to the bit."""
    with np.errstate(over="ignore"):
        multiples = np.rint(distinct.astype(np.float64) / np.float64(step)) + 0.0  # integers have no −0
    if np.abs(multiples).max() > LARGEST_SYMBOL >> 2:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        again = patterns_of(multiples.astype(np.float32) * step, kind)
    return bool(np.array_equal(np.unique(again), patterns)) and bool(
        np.array_equal(floats_or_nan(again, kind), distinct)
    )


def floats_or_nan(patterns: np.ndarray, kind: NumberType) -> np.ndarray:
    """The values of patterns of a type that :func:`floats_of` knows."""
    values = floats_of(Numbers(kind, patterns))
    assert values is not None
    return values


def code_float(stream: Stream, value: np.float32) -> np.float32:
    """Write or read a positive float32: its exponent, how many bits its mantissa has, and those."""
    pattern = int(np.float32(value).view(np.uint32))
    mantissa = pattern & 0x7FFFFF
    bits = 0 if mantissa == 0 else 23 - ((mantissa & -mantissa).bit_length() - 1)
    exponent = stream.number(pattern >> 23, 8)
    bits = stream.number(bits, 5)
    if bits > F32.mantissa:
        raise CodecError(f"step: expected a mantissa of at most 23 bits, got {bits}")
    unused = F32.mantissa - bits
    mantissa = stream.number(mantissa >> unused, bits) << unused
    return np.uint32(exponent << 23 | mantissa).view(np.float32)
