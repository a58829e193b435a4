"""The forms a tensor may take on a stream; each is written and read by one function.

See :mod:`compression_gate.codec.streams`. Which form a tensor takes is chosen in :mod:`compression_gate.codec.tensors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compression_gate.codec.known import Table
from compression_gate.codec.number_types import (
    Numbers,
    NumberType,
    floats_of,
    integers_of,
    keys_of,
    of_keys,
    patterns_of,
)
from compression_gate.codec.steps import code_float, step_of
from compression_gate.codec.streams import Geometry, Stream, code_whole
from compression_gate.errors import CodecError


@dataclass(frozen=True)
class Layout:
    """How a tensor becomes a plane: its first axis is the rows, or its second one; and how far back a neighbour is.

    Args:
        transposed: whether the first two axes change places.
        stride: columns from a number to its neighbour in another dimension, one of :func:`strides_of`.
    """

    transposed: bool = False
    stride: int = 1


@dataclass(frozen=True)
class Plain:
    """What a form works on.

    Args:
        numbers: the tensor; None for a stream that reads.
        earlier: tensors like it that the stream has told already.
        nearest: which of them is the least different, and its numbers; None for a stream that reads, or without any.
        whole: what this is a part of; None if it is all.
    """

    type: NumberType
    shape: tuple[int, ...]
    numbers: Numbers | None
    earlier: tuple[Numbers, ...] = ()
    nearest: tuple[int, Numbers] | None = None
    whole: Plain | None = None

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def step(self) -> np.float32 | None:
        """What all numbers are whole multiples of, those of the whole too; None if there is no such step."""
        if self.whole is not None:
            return self.whole.step
        return None if self.numbers is None else step_of(self.numbers)


Form = Callable[[Stream, Plain, Layout], np.ndarray]


# Each form: writes the tensor of ``plain``, or reads one of its type and shape; returns the patterns, flat.


def code_constant(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """The one value of all numbers: whole ones as such, of others the bits that are not zeros at the end."""
    kind, first = plain.type, 0
    if not kind.exponent:
        if plain.numbers is not None:
            first = int(plain.numbers.patterns.reshape(-1).view(f"<i{kind.size}")[0])
        first, half = code_whole(stream, first), 1 << (8 * kind.size - 1)
        check_range("constant", np.array([first]), *((0, 1) if kind.name == "BOOL" else (-half, half - 1)))
        return np.full(plain.size, first & (2 * half - 1), dtype=kind.patterns)
    if plain.numbers is not None:
        first = int(plain.numbers.patterns.reshape(-1)[0])
    unused = stream.number((first & -first).bit_length() - 1 if first else 8 * kind.size - 1, 6)
    if unused >= 8 * kind.size:
        raise CodecError(f"constant: expected at most {8 * kind.size - 1} unused bits, got {unused}")
    bits = 8 * kind.size - unused
    low = min(bits, 32)
    first >>= unused
    first = stream.number(first >> low, bits - low) << low | stream.number(first & ((1 << low) - 1), low)
    first <<= unused
    return np.full(plain.size, first, dtype=kind.patterns)


def code_integers(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """Whole numbers, as symbols."""
    integers = None if plain.numbers is None else integers_of(plain.numbers)
    symbols = code_symbols(stream, plain.shape, integers, layout)
    bits = 8 * plain.type.size
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if plain.type.signed else (0, (1 << bits) - 1)
    check_range("integers", symbols, low, 1 if plain.type.name == "BOOL" else high)
    return symbols.astype(f"<i{plain.type.size}").view(plain.type.patterns)


def code_steps(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """Whole numbers times a step, in float32."""
    if plain.type.name not in ("F32", "F16", "BF16"):
        raise CodecError(f"steps: expected a tensor of F32, F16 or BF16, got {plain.type.name}")
    step, symbols = np.float32(0), None
    if plain.numbers is not None:
        values = floats_of(plain.numbers)
        assert values is not None
        assert plain.step is not None
        step, symbols = plain.step, np.rint(values.astype(np.float64) / np.float64(plain.step)).astype(np.int64)
    step = code_step(stream, step)
    symbols = code_symbols(stream, plain.shape, symbols, layout)
    with np.errstate(over="ignore", invalid="ignore"):
        return patterns_of(symbols.astype(np.float32) * step, plain.type)


def code_table(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """A table of the values, ascending, and for each number which of them it is, counted from zero's."""
    known = stream.known.tables_of(plain.type)
    own, symbols, place = None, None, None
    if plain.numbers is not None:
        distinct = np.unique(plain.numbers.patterns)
        place = next((index for index, one in enumerate(known) if np.isin(distinct, one.values.patterns).all()), None)
        own = known[place] if place is not None else table_of(Numbers(plain.type, distinct))
        symbols = places_in(own, plain.numbers)
    place = code_again(stream, len(known), place)
    table = known[place] if place is not None else code_own_table(stream, plain.type, own)
    found = code_symbols(stream, plain.shape, symbols, layout)
    patterns, negative = table.values.patterns, table.negative
    check_range("table", found, -negative, len(patterns) - 1 - negative)
    return patterns[found + negative]


def code_own_table(stream: Stream, kind: NumberType, table: Table | None) -> Table:
    """Write or read a table that was not there before."""
    values = table.values if table is not None else None
    count = stream.number(0 if values is None else len(values.patterns) - 1, 12) + 1
    negative = stream.number(0 if table is None else table.negative, 13)
    patterns = code_floats(stream, Plain(kind, (count,), values), Layout())
    found = Table(Numbers(kind, patterns), negative)
    stream.known.add_table(found)
    return found


def code_floats(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """Sign and exponent as a symbol, 0 being the number zero; then the mantissas, without bits that are zero in all."""
    kind = plain.type
    mask = (1 << kind.exponent) - 1
    symbols, mantissas, top, unused = None, np.zeros(0, dtype=np.uint64), 0, 0
    if plain.numbers is not None:
        patterns = plain.numbers.patterns.reshape(-1).astype(np.uint64)
        exponents = ((patterns >> np.uint64(kind.mantissa)) & np.uint64(mask)).astype(np.int64)
        negative = (patterns >> np.uint64(kind.mantissa + kind.exponent)).astype(bool)
        some = patterns != 0
        top = int(exponents[some].max()) if some.any() else 0
        symbols = np.where(some, np.where(negative, -1, 1) * (1 + top - exponents), 0)
        mantissas = patterns[some] & np.uint64((1 << kind.mantissa) - 1)
        together = int(np.bitwise_or.reduce(mantissas, initial=0))
        unused = kind.mantissa if together == 0 else (together & -together).bit_length() - 1
    top = stream.number(top, kind.exponent)
    unused = stream.number(unused, 6)
    if unused > kind.mantissa:
        raise CodecError(f"floats: expected at most {kind.mantissa} unused bits, got {unused}")
    found = code_symbols(stream, plain.shape, symbols, layout)
    check_range("floats", np.abs(found), 0, top + 1)
    some = found != 0
    if plain.numbers is None:
        mantissas = np.zeros(int(some.sum()), dtype=np.uint64)
    mantissas = stream.numbers(mantissas >> np.uint64(unused), kind.mantissa - unused) << np.uint64(unused)
    patterns = np.zeros(found.size, dtype=np.uint64)
    exponents = (top + 1 - np.abs(found[some])).astype(np.uint64)
    negative = (found[some] < 0).astype(np.uint64)
    patterns[some] = (negative << np.uint64(kind.exponent + kind.mantissa)) | (exponents << np.uint64(kind.mantissa))
    patterns[some] |= mantissas
    return patterns.astype(kind.patterns)


def code_bytes(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """The bytes of each number as a row of symbols: for whole numbers of any size."""
    size = plain.type.size
    symbols = np.zeros((plain.size, size), dtype=np.int32)
    if plain.numbers is not None:
        symbols[:] = plain.numbers.patterns.reshape(-1, 1).view(np.uint8)
    found = stream.plane(symbols, Geometry(rows=plain.size, columns=size))
    check_range("bytes", found, 0, 1 if plain.type.name == "BOOL" else 255)
    return np.ascontiguousarray(found.astype(np.uint8)).view(plain.type.patterns).reshape(-1)


def code_raw(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """The bits of each number as they are, the upper half of eight bytes first: where nothing can be foretold."""
    kind = plain.type
    patterns = np.zeros(plain.size, dtype=np.uint64)
    if plain.numbers is not None:
        patterns = plain.numbers.patterns.reshape(-1).astype(np.uint64)
    if kind.size < 8:
        return stream.numbers(patterns, 8 * kind.size).astype(kind.patterns)
    upper = stream.numbers(patterns >> np.uint64(32), 32)
    return upper << np.uint64(32) | stream.numbers(patterns & np.uint64(0xFFFFFFFF), 32)


def code_difference(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """How far each number is from that of an earlier tensor, counted in numbers of the type that lie between."""
    if not plain.earlier:
        raise CodecError(f"difference: expected an earlier tensor of {plain.type.name} {plain.shape}, got none")
    place, symbols = 0, None
    if plain.nearest is not None:
        place, base = plain.nearest
        symbols = difference_of(plain, base)
    place = code_among(stream, len(plain.earlier), place)
    base = plain.earlier[place] if plain.nearest is None else plain.nearest[1]
    found = code_symbols(stream, plain.shape, symbols, layout)
    patterns = of_keys(keys_of(base).reshape(-1) + found, plain.type)
    if plain.type.name == "BOOL":
        check_range("difference", patterns.astype(np.int64), 0, 1)
    return patterns


def difference_of(plain: Plain, base: Numbers) -> np.ndarray:
    """Numbers less those of another tensor, int64, the short way round."""
    assert plain.numbers is not None
    return (keys_of(plain.numbers) - keys_of(base)).astype(f"<i{plain.type.size}").astype(np.int64)


FORMS: tuple[Form, ...] = (
    code_constant,
    code_integers,
    code_steps,
    code_table,
    code_floats,
    code_bytes,
    code_raw,
    code_difference,
)
CONSTANT, INTEGERS, STEPS, TABLE, FLOATS, BYTES, RAW, DIFFERENCE = range(len(FORMS))
FORM_NAMES = ("constant", "integers", "steps", "table", "floats", "bytes", "raw", "difference")


def code_symbols(stream: Stream, shape: tuple[int, ...], symbols: np.ndarray | None, layout: Layout) -> np.ndarray:
    """Write or read symbols of a tensor's shape, as a plane; return them flat, int64, in the tensor's order."""
    axes = turned(shape, layout.transposed)
    columns = int(np.prod(axes[1:], dtype=np.int64)) if len(axes) > 1 else int(np.prod(axes, dtype=np.int64))
    rows = axes[0] if len(axes) > 1 else 1
    kernel = int(np.prod(axes[2:], dtype=np.int64))
    plane = np.zeros((rows, columns), dtype=np.int32)
    if symbols is not None:
        whole = symbols.reshape(shape)
        plane[:] = (whole.swapaxes(0, 1) if layout.transposed else whole).reshape(rows, columns)
    found = stream.plane(plane, Geometry(rows, columns, kernel, layout.stride)).reshape(axes)
    if layout.transposed:
        found = found.swapaxes(0, 1)
    return found.reshape(-1).astype(np.int64)


def code_step(stream: Stream, step: np.float32) -> np.float32:
    """Write or read a step; one that was there before takes its place among them.

    Raises:
        CodecError: it is not finite.
    """
    known = stream.known.steps
    place = code_again(stream, len(known), known.index(step) if stream.encoding and step in known else None)
    if place is not None:
        return known[place]
    step = code_float(stream, step)
    if not np.isfinite(step):
        raise CodecError(f"steps: expected a finite step, got {step}")
    stream.known.add_step(step)
    return step


def code_again(stream: Stream, count: int, place: int | None) -> int | None:
    """Write or read whether one of those that are known comes again, and which; nothing where none is known."""
    if count == 0 or not stream.number(place is not None, 1):
        return None
    return code_among(stream, count, place or 0)


def code_among(stream: Stream, count: int, place: int) -> int:
    """Write or read which of so many."""
    place = stream.number(place, (count - 1).bit_length())
    if place >= count:
        raise CodecError(f"expected one of {count} that were there before, got number {place}")
    return place


def table_of(distinct: Numbers) -> Table:
    """A table of distinct numbers."""
    keys = keys_of(distinct)
    order = np.argsort(keys, kind="stable")
    return Table(Numbers(distinct.type, distinct.patterns[order]), int(np.searchsorted(keys[order], 0)))


def places_in(table: Table, numbers: Numbers) -> np.ndarray:
    """The place of each number in a table that has all of them, less that of zero."""
    return np.searchsorted(keys_of(table.values), keys_of(numbers).reshape(-1)) - table.negative


def turned(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    """The shape, with its first two axes changed if they are."""
    return (shape[1], shape[0], *shape[2:]) if transposed else shape


def check_range(what: str, symbols: np.ndarray, low: int, high: int) -> None:
    """Make sure that all symbols lie in a range.

    Raises:
        CodecError: they do not.
    """
    least, most = int(symbols.min()), int(symbols.max())
    if least < low or most > high:
        raise CodecError(f"{what}: expected symbols of {low} to {high}, got {least} to {most}")
