"""One tensor on a stream, in whichever form takes the fewest bytes, without any loss.

A form is written and read by one function: see :mod:`compression_gate.codec.streams`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compression_gate.codec.number_types import (
    BY_NAME,
    Numbers,
    NumberType,
    floats_of,
    integers_of,
    patterns_of,
)
from compression_gate.codec.streams import LARGEST_SYMBOL, Geometry, Stream, code_whole, strides_of
from compression_gate.errors import CodecError

MOST_VALUES = 1 << 12  # of a table
LARGEST_DIVISOR = 8  # the smallest weight may be so many steps
TRIED_VALUES = 1 << 14
TRIED_NUMBERS = 1 << 16  # of a larger tensor, some rows are tried
FEW_NUMBERS = 1 << 13  # and fewer to tell the two best choices from the others
TRIED_BLOCKS = 8  # in which tried rows lie, spread over the tensor: what begins with noise may go on with zeros
F32 = BY_NAME["F32"]


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
        whole: what this is a part of; None if it is all.
    """

    type: NumberType
    shape: tuple[int, ...]
    numbers: Numbers | None
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


def code_tensor(stream: Stream, kind: NumberType, shape: tuple[int, ...], numbers: Numbers | None) -> Numbers:
    """Write a tensor, or read one.

    Raises:
        CodecError: what is read is no tensor of this type and shape.
    """
    return code_with_form(stream, kind, shape, numbers)[0]


def code_with_form(
    stream: Stream, kind: NumberType, shape: tuple[int, ...], numbers: Numbers | None
) -> tuple[Numbers, str]:
    """Write a tensor, or read one; with the name of its form."""
    plain = Plain(type=kind, shape=shape, numbers=numbers)
    if plain.size == 0:
        return Numbers(kind, np.zeros(shape, dtype=kind.patterns)), FORM_NAMES[CONSTANT]
    form, layout = chosen(stream, plain) if stream.encoding else (0, Layout())
    patterns, form = coded(stream, plain, form, layout)
    return Numbers(kind, patterns.reshape(shape)), FORM_NAMES[form]


def coded(stream: Stream, plain: Plain, form: int, layout: Layout) -> tuple[np.ndarray, int]:
    """Write or read a form, its number and its layout before it; return the patterns, flat, and which form it was."""
    form = stream.number(form, 3)
    if form >= len(FORMS) or (form == RAW and plain.type.name == "BOOL"):
        raise CodecError(f"form of a tensor of {plain.type.name}: expected 0 to {len(FORMS) - 1}, got {form}")
    transposed = bool(stream.number(layout.transposed, 1)) if can_transpose(plain.shape) else False
    strides, chosen_stride = strides_of(turned(plain.shape, transposed)), layout.stride
    if len(strides) > 1:
        # A part of a tensor, on which strides are tried, may have other strides to choose from.
        number = stream.number(strides.index(chosen_stride) if chosen_stride in strides else 0, 2)
        if number >= len(strides):
            raise CodecError(f"stride of a tensor: expected one of {len(strides)}, got number {number}")
        chosen_stride = chosen_stride if stream.encoding else strides[number]
    return FORMS[form](stream, plain, Layout(transposed, chosen_stride)), form


def can_transpose(shape: tuple[int, ...]) -> bool:
    """Whether there are two axes worth changing."""
    return len(shape) > 1 and shape[0] > 1 and shape[1] > 1


def turned(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    """The shape, with its first two axes changed if they are."""
    return (shape[1], shape[0], *shape[2:]) if transposed else shape


def chosen(stream: Stream, plain: Plain) -> tuple[int, Layout]:
    """Which form and layout take the fewest bytes."""
    forms = [(form, Layout()) for form in possible(plain)]
    form, _ = cheapest(stream, plain, forms)
    if form == RAW:  # bits as they are take the same everywhere, the others may take far less outside of a part
        (form, _), *_ = by_size(stream, plain, forms)
    if form in (CONSTANT, RAW) or not stream.tries_layouts:
        return form, Layout()
    shapes = [(turn, turned(plain.shape, turn)) for turn in (False, True) if not turn or can_transpose(plain.shape)]
    layouts = [Layout(turn, stride) for turn, shape in shapes for stride in strides_of(shape)]
    return cheapest(stream, plain, [(form, layout) for layout in layouts])


def cheapest(stream: Stream, plain: Plain, choices: list[tuple[int, Layout]]) -> tuple[int, Layout]:
    """The choice that takes the fewest bytes on a part of the tensor; of many, the two best on a small part."""
    if len(choices) > 2 and plain.size > FEW_NUMBERS:
        choices = by_size(stream, part_of(plain, FEW_NUMBERS), choices)[:2]
    return choices[0] if len(choices) == 1 else by_size(stream, part_of(plain, TRIED_NUMBERS), choices)[0]


def by_size(stream: Stream, plain: Plain, choices: list[tuple[int, Layout]]) -> list[tuple[int, Layout]]:
    """The choices, those that take the fewest bytes first."""

    def size(choice: tuple[int, Layout]) -> float:
        trial = stream.trial()
        coded(trial, plain, *choice)
        return trial.size()

    return sorted(choices, key=size)


def part_of(plain: Plain, most: int) -> Plain:
    """At most so many numbers, in blocks from all over a tensor; whole rows if one is not more than that."""
    assert plain.numbers is not None
    if plain.size <= most:
        return plain
    row = plain.size // plain.shape[0]
    patterns = plain.numbers.patterns if row <= most else plain.numbers.patterns.reshape(-1)
    count = most // row if row <= most else most
    blocks = min(TRIED_BLOCKS, count)
    starts = np.linspace(0, len(patterns) - count // blocks, blocks).astype(np.int64)
    part = np.concatenate([patterns[start : start + count // blocks] for start in starts])
    part = part if row <= most else part.reshape(1, -1)
    return Plain(plain.type, tuple(part.shape), Numbers(plain.type, part), whole=plain)


def possible(plain: Plain) -> list[int]:
    """The forms that this tensor could take."""
    assert plain.numbers is not None
    patterns = plain.numbers.patterns.reshape(-1)
    if (patterns == patterns[0]).all():
        return [CONSTANT]
    raw = [RAW] if plain.type.name != "BOOL" else []  # a byte that is no truth value must not come out of it
    if not plain.type.exponent:
        integers = integers_of(plain.numbers)
        within = integers.min() >= -LARGEST_SYMBOL and integers.max() <= LARGEST_SYMBOL
        return [INTEGERS if within and plain.type.name != "U64" else BYTES, *raw]
    found = [FLOATS, *raw]
    # Sorting a million weights of which hardly two are alike takes longer than coding them.
    if len(np.unique(patterns[:: 1 + patterns.size // TRIED_VALUES])) > MOST_VALUES:
        return found
    if len(np.unique(patterns)) <= min(MOST_VALUES, patterns.size):
        found.append(TABLE)
        if plain.step is not None:
            found.append(STEPS)
    return found


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
    step = code_float(stream, step)
    if not np.isfinite(step):
        raise CodecError(f"steps: expected a finite step, got {step}")
    symbols = code_symbols(stream, plain.shape, symbols, layout)
    with np.errstate(over="ignore", invalid="ignore"):
        return patterns_of(symbols.astype(np.float32) * step, plain.type)


def code_table(stream: Stream, plain: Plain, layout: Layout) -> np.ndarray:
    """A table of the values, ascending, and for each number which of them it is, counted from zero's."""
    table, symbols, negative = np.zeros(0, dtype=plain.type.patterns), None, 0
    if plain.numbers is not None:
        table, symbols = ordered(plain.numbers)
        negative = int(np.searchsorted(order_of(table, plain.type), 0))
        symbols -= negative
    count = stream.number(max(len(table) - 1, 0), 12) + 1
    negative = stream.number(negative, 13)
    values = Numbers(plain.type, table) if len(table) else None
    table = code_floats(stream, Plain(plain.type, (count,), values), Layout())
    found = code_symbols(stream, plain.shape, symbols, layout)
    check_range("table", found, -negative, count - 1 - negative)
    return table[found + negative]


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


FORMS: tuple[Form, ...] = (code_constant, code_integers, code_steps, code_table, code_floats, code_bytes, code_raw)
CONSTANT, INTEGERS, STEPS, TABLE, FLOATS, BYTES, RAW = range(len(FORMS))
FORM_NAMES = ("constant", "integers", "steps", "table", "floats", "bytes", "raw")


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


def check_range(what: str, symbols: np.ndarray, low: int, high: int) -> None:
    """Make sure that all symbols lie in a range.

    Raises:
        CodecError: they do not.
    """
    least, most = int(symbols.min()), int(symbols.max())
    if least < low or most > high:
        raise CodecError(f"{what}: expected symbols of {low} to {high}, got {least} to {most}")


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


def ordered(numbers: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patterns, ascending by value, and the place of each number among them."""
    distinct, places = np.unique(numbers.patterns.reshape(-1), return_inverse=True)
    order = np.argsort(order_of(distinct, numbers.type), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[places]


def order_of(patterns: np.ndarray, kind: NumberType) -> np.ndarray:
    """A key by which patterns stand in the order of their values, −0 before 0, NaN at the ends."""
    sign = kind.exponent + kind.mantissa
    wide = patterns.astype(np.uint64)
    size = (wide & np.uint64((1 << sign) - 1)).astype(np.int64)
    return np.where((wide >> np.uint64(sign)).astype(bool), -size - 1, size)
