"""One tensor on a stream, in whichever form takes the fewest bytes, without any loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np

from compression_gate.codec.forms import (
    BYTES,
    CONSTANT,
    DIFFERENCE,
    FLOATS,
    FORM_NAMES,
    FORMS,
    INTEGERS,
    RAW,
    STEPS,
    TABLE,
    Layout,
    Plain,
    difference_of,
    turned,
)
from compression_gate.codec.number_types import Numbers, NumberType, integers_of, keys_of
from compression_gate.codec.steps import MOST_VALUES
from compression_gate.codec.streams import LARGEST_SYMBOL, Stream, strides_of
from compression_gate.errors import CodecError

TRIED_VALUES = 1 << 14
TRIED_NUMBERS = 1 << 16  # of a larger tensor, some rows are tried
FEW_NUMBERS = 1 << 13  # and fewer to tell the two best choices from the others
TRIED_BLOCKS = 8  # in which tried rows lie, spread over the tensor: what begins with noise may go on with zeros
COMPARED = 256  # numbers by which earlier tensors are held against one


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
    if prod(shape) == 0:
        return Numbers(kind, np.zeros(shape, dtype=kind.patterns)), FORM_NAMES[CONSTANT]
    earlier = stream.known.tensors_like(kind, shape)
    nearest = nearest_of(numbers, earlier) if numbers is not None else None
    plain = Plain(type=kind, shape=shape, numbers=numbers, earlier=earlier, nearest=nearest)
    form, layout = chosen(stream, plain) if stream.encoding else (0, Layout())
    patterns, form = coded(stream, plain, form, layout)
    found = Numbers(kind, patterns.reshape(shape))
    stream.known.add_tensor(found)
    return found, FORM_NAMES[form]


def nearest_of(numbers: Numbers, earlier: Sequence[Numbers]) -> tuple[int, Numbers] | None:
    """Which of some tensors is the least different from this one, by a few of their numbers."""
    if not earlier:
        return None
    every = 1 + numbers.patterns.size // COMPARED
    keys = [keys_of(Numbers(one.type, one.patterns.reshape(-1)[::every])) for one in (numbers, *earlier)]
    apart = [float(np.log1p(np.abs(other.astype(np.float64) - keys[0])).sum()) for other in keys[1:]]
    place = int(np.argmin(apart))
    return place, earlier[place]


def coded(stream: Stream, plain: Plain, form: int, layout: Layout) -> tuple[np.ndarray, int]:
    """Write or read a form, its number and its layout before it; return the patterns, flat, and which form it was."""
    form = stream.number(form, 3)
    if form == RAW and plain.type.name == "BOOL":
        raise CodecError(f"form of a tensor of BOOL: expected another than {FORM_NAMES[RAW]}")
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


def chosen(stream: Stream, plain: Plain) -> tuple[int, Layout]:
    """Which form and layout take the fewest bytes."""

    @cache
    def size(choice: tuple[int, Layout], most: int) -> float:
        """What so many numbers take."""
        trial = stream.trial()
        coded(trial, part_of(plain, most), *choice)
        return trial.size()

    def cheapest(choices: list[tuple[int, Layout]]) -> tuple[int, Layout]:
        """By a part of the tensor; of many, the two best by a small part."""
        if len(choices) > 2 and plain.size > FEW_NUMBERS:
            choices = sorted(choices, key=lambda choice: size(choice, FEW_NUMBERS))[:2]
        most = min(TRIED_NUMBERS, plain.size)
        return choices[0] if len(choices) == 1 else min(choices, key=lambda choice: size(choice, most))

    forms = [(form, Layout()) for form in possible(plain)]
    form, _ = cheapest(forms)
    if form == RAW:  # bits as they are take the same everywhere, the others may take far less outside of a part
        form, _ = min(forms, key=lambda choice: size(choice, plain.size))
    if form in (CONSTANT, RAW) or not stream.tries_layouts:
        return form, Layout()
    shapes = [(turn, turned(plain.shape, turn)) for turn in (False, True) if not turn or can_transpose(plain.shape)]
    return cheapest([(form, Layout(turn, stride)) for turn, shape in shapes for stride in strides_of(shape)])


def part_of(plain: Plain, most: int) -> Plain:
    """At most so many numbers, in blocks from all over a tensor; whole rows if one is not more than that."""
    assert plain.numbers is not None
    if plain.size <= most:
        return plain
    row = plain.size // plain.shape[0]
    count = most // row if row <= most else most
    blocks = min(TRIED_BLOCKS, count)
    starts = np.linspace(0, plain.size // (row if row <= most else 1) - count // blocks, blocks).astype(np.int64)

    def taken(numbers: Numbers) -> Numbers:
        patterns = numbers.patterns if row <= most else numbers.patterns.reshape(-1)
        part = np.concatenate([patterns[start : start + count // blocks] for start in starts])
        return Numbers(plain.type, part if row <= most else part.reshape(1, -1))

    part = taken(plain.numbers)
    nearest = None if plain.nearest is None else (plain.nearest[0], taken(plain.nearest[1]))
    return Plain(plain.type, part.shape, part, plain.earlier, nearest, whole=plain)


def possible(plain: Plain) -> list[int]:
    """The forms that this tensor could take."""
    assert plain.numbers is not None
    patterns = plain.numbers.patterns.reshape(-1)
    if (patterns == patterns[0]).all():
        return [CONSTANT]
    others = [RAW] if plain.type.name != "BOOL" else []  # a byte that is no truth value must not come out of it
    if plain.nearest is not None and are_symbols(difference_of(plain, plain.nearest[1])):
        others.append(DIFFERENCE)
    if not plain.type.exponent:
        integers = integers_of(plain.numbers)
        return [INTEGERS if are_symbols(integers) and plain.type.name != "U64" else BYTES, *others]
    found = [FLOATS, *others]
    # Sorting a million weights of which hardly two are alike takes longer than coding them.
    if len(np.unique(patterns[:: 1 + patterns.size // TRIED_VALUES])) > MOST_VALUES:
        return found
    if len(np.unique(patterns)) <= min(MOST_VALUES, patterns.size):
        found.append(TABLE)
        if plain.step is not None:
            found.append(STEPS)
    return found


def are_symbols(integers: np.ndarray) -> bool:
    """Whether planes take numbers of this size."""
    return bool(integers.min() >= -LARGEST_SYMBOL and integers.max() <= LARGEST_SYMBOL)
