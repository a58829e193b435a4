"""Tensors as bit patterns: every number type by its fields, so that NaN, −0 and subnormals come back as they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compression_gate.errors import CodecError


@dataclass(frozen=True)
class NumberType:
    """A number type.

    Args:
        name: as safetensors calls it.
        size: bytes of a number.
        exponent, mantissa: bits of a floating-point number's fields; 0 of any other.
        signed: whether a whole number may be negative.
    """

    name: str
    size: int
    exponent: int = 0
    mantissa: int = 0
    signed: bool = False

    @property
    def patterns(self) -> np.dtype:
        """The unsigned type that holds a number's bits."""
        return np.dtype(f"<u{self.size}")


TYPES = (  # their order is part of the format
    NumberType("F32", 4, 8, 23),
    NumberType("F16", 2, 5, 10),
    NumberType("BF16", 2, 8, 7),
    NumberType("F64", 8, 11, 52),
    NumberType("F8_E4M3", 1, 4, 3),
    NumberType("F8_E5M2", 1, 5, 2),
    NumberType("I8", 1, signed=True),
    NumberType("U8", 1),
    NumberType("I16", 2, signed=True),
    NumberType("U16", 2),
    NumberType("I32", 4, signed=True),
    NumberType("U32", 4),
    NumberType("I64", 8, signed=True),
    NumberType("U64", 8),
    NumberType("BOOL", 1),
)
BY_NAME = {kind.name: kind for kind in TYPES}


@dataclass(frozen=True)
class Numbers:
    """A tensor as it lies in memory: the patterns of its numbers, in the unsigned type of their size, in its shape."""

    type: NumberType
    patterns: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's."""
        return tuple(self.patterns.shape)


def type_named(name: str) -> NumberType:
    """Return the number type of a name.

    Raises:
        CodecError: it has none here.
    """
    if name not in BY_NAME:
        raise CodecError(f"number type: expected one of {', '.join(BY_NAME)}, got {name!r}")
    return BY_NAME[name]


def integers_of(numbers: Numbers) -> np.ndarray:
    """Whole numbers as int64; U64 beyond 2^63 wrap around, which the caller's bounds refuse."""
    kind = numbers.type
    plain = np.dtype(f"<{'i' if kind.signed else 'u'}{kind.size}")
    return numbers.patterns.view(plain).astype(np.int64)


def floats_of(numbers: Numbers) -> np.ndarray | None:
    """The values as float32 if every number of the type is one; else None."""
    name, patterns = numbers.type.name, numbers.patterns
    if name == "F32":
        return patterns.view(np.float32)
    if name == "F16":
        return patterns.view(np.float16).astype(np.float32)
    if name == "BF16":
        return (patterns.astype(np.uint32) << 16).view(np.float32)
    return None


def patterns_of(values: np.ndarray, kind: NumberType) -> np.ndarray:
    """Round float32 values to a type of :func:`floats_of`; to bfloat16 towards zero."""
    if kind.name == "F32":
        return values.astype(np.float32).view(np.uint32)
    if kind.name == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def keys_of(numbers: Numbers) -> np.ndarray:
    """Whole numbers int64 in the order of the values, neighbours one apart; −0 is before 0, NaN at the ends."""
    kind, patterns = numbers.type, numbers.patterns
    if not kind.exponent:
        return patterns.view(f"<i{kind.size}").astype(np.int64)
    sign = kind.exponent + kind.mantissa
    wide = patterns.astype(np.uint64)
    size = (wide & np.uint64((1 << sign) - 1)).astype(np.int64)
    return np.where((wide >> np.uint64(sign)).astype(bool), -size - 1, size)


def of_keys(keys: np.ndarray, kind: NumberType) -> np.ndarray:
    """The patterns of :func:`keys_of`; of larger numbers their lowest bits count."""
    wrapped = keys.astype(f"<i{kind.size}")
    if not kind.exponent:
        return wrapped.view(kind.patterns)
    sign = 1 << (kind.exponent + kind.mantissa)
    size = np.where(wrapped < 0, ~wrapped, wrapped).astype(kind.patterns)
    return np.where(wrapped < 0, size | kind.patterns.type(sign), size)
