"""Numbers by their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coded_files import numbers, of_values

from compression_gate.codec.number_types import (
    BY_NAME,
    TYPES,
    Numbers,
    floats_of,
    integers_of,
    patterns_of,
    type_named,
)
from compression_gate.errors import CodecError

# Files of schema 1 name a type by its place here.
SCHEMA_1 = "F32 F16 BF16 F64 F8_E4M3 F8_E5M2 I8 U8 I16 U16 I32 U32 I64 U64 BOOL"


def test_types_keep_their_places():
    assert [kind.name for kind in TYPES] == SCHEMA_1.split()


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.exponent], ids=lambda kind: kind.name)
def test_fields_of_a_float_fill_it(kind):
    assert 1 + kind.exponent + kind.mantissa == 8 * kind.size
    assert kind.patterns == np.dtype(f"<u{kind.size}")


def test_a_type_that_is_none_is_named_with_those_that_are():
    with pytest.raises(CodecError, match=r"number type: expected one of F32, F16, .*BOOL, got 'F4'"):
        type_named("F4")


@pytest.mark.parametrize("kind", ["I8", "U8", "I16", "U16", "I32", "U32", "I64"])
def test_whole_numbers_of_the_full_range(kind):
    limits = np.iinfo(np.dtype(f"{kind[0].lower()}{BY_NAME[kind].size}"))
    assert integers_of(of_values(kind, [limits.min, 0, limits.max])).tolist() == [limits.min, 0, limits.max]


def test_floats_of_every_bfloat16():
    patterns = np.arange(1 << 16, dtype=np.uint16)
    wanted = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float().numpy()
    assert np.array_equal(floats_of(Numbers(BY_NAME["BF16"], patterns)).view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_values_become_their_own_patterns_again(kind):
    patterns = np.arange(0, 1 << 16, 7).astype(BY_NAME[kind].patterns)
    values = floats_of(Numbers(BY_NAME[kind], patterns))
    finite = np.isfinite(values)
    assert np.array_equal(patterns_of(values[finite], BY_NAME[kind]), patterns[finite])


def test_bfloat16_is_rounded_towards_zero():
    values = np.array([1.0078124, -1.0078124, 1.0], dtype=np.float32)
    assert floats_of(Numbers(BY_NAME["BF16"], patterns_of(values, BY_NAME["BF16"]))).tolist() == [1.0, -1.0, 1.0]


@pytest.mark.parametrize("kind", ["F64", "F8_E4M3", "F8_E5M2", "I8"])
def test_other_types_have_no_float32_values(kind):
    assert floats_of(numbers(kind, [0, 1])) is None
