"""Bits to bytes and back."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.codec import range_coder
from compression_gate.codec.range_coder import MOST_LEFT_OUT, POSITION, code_bit, code_numbers, compiled, finish

PROBABILITIES = st.one_of(st.integers(1, 65535), st.sampled_from([1, 2, 32768, 65534, 65535]))


@compiled
def code_bits(coder, buffer, ones, bits, encoding):
    """Bits of given probabilities."""
    found = np.zeros(len(bits), dtype=np.int64)
    for place in range(len(bits)):
        found[place] = code_bit(coder, buffer, ones[place], bits[place], encoding)
    return found


def written(ones, bits):
    coder, buffer = range_coder.started(), np.zeros(5 * len(bits) + 8, dtype=np.uint8)
    code_bits(coder, buffer, ones, bits, True)
    return buffer[: finish(coder, buffer)].copy()


def assert_same(ones, bits):
    ones, bits = np.array(ones, dtype=np.int64), np.array(bits, dtype=np.int64)
    data = written(ones, bits)
    coder = range_coder.started_on(data)
    assert np.array_equal(code_bits(coder, data, ones, np.zeros_like(bits), False), bits)
    assert len(data) <= int(coder[POSITION]) <= len(data) + 4 + MOST_LEFT_OUT
    return data


@given(st.lists(st.tuples(PROBABILITIES, st.integers(0, 1)), max_size=200))
def test_bits_of_any_probability_come_back(pairs):
    assert_same([one for one, _ in pairs], [bit for _, bit in pairs])


@pytest.mark.parametrize(("one", "bit"), [(65535, 0), (1, 1), (65534, 0), (2, 1)])
def test_the_unlikeliest_bits_come_back(one, bit):
    data = assert_same([one] * 400, [bit] * 400)
    assert len(data) <= 400 * 16 / 8 + 4


@pytest.mark.parametrize("one", [40, 3000, 32768, 65000])
def test_bytes_are_those_of_the_entropy(one):
    """The interval never gets narrower than 2^16 of 2^32 for long: what rounding costs is lost among the bits."""
    bits = (np.random.default_rng(0).random(40_000) < one / 65536).astype(np.int64)
    ideal = -bits.sum() * log2(one / 65536) - (1 - bits).sum() * log2(1 - one / 65536)
    assert len(assert_same([one] * 40_000, bits)) <= 1.001 * ideal / 8 + 4


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 64))
def test_numbers_of_any_width_come_back(values, bits):
    values = np.array([value & ((1 << bits) - 1) for value in values], dtype=np.uint64)
    coder, buffer = range_coder.started(), np.zeros(9 * len(values) + 16, dtype=np.uint8)
    code_numbers(coder, buffer, values, bits, True)
    data = buffer[: finish(coder, buffer)].copy()
    assert len(data) <= (len(values) * bits + 7) // 8 + 4
    again = code_numbers(range_coder.started_on(data), data, np.zeros_like(values), bits, False)
    assert np.array_equal(again, values)


def test_nothing_takes_no_bytes():
    assert len(assert_same([], [])) == 0


def test_zeros_at_the_end_are_left_out_but_not_all_of_them():
    """A decoder could not tell a stream that ends in many zeros from one that was cut short."""
    data = assert_same([32768] * 800, [0] * 8 + [1] * 792)
    assert 90 <= len(data) <= 100
    assert not data[-4:].any()
