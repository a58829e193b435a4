"""Symbols that nothing foretells take what the shares of their values say, and what learning them costs."""

from __future__ import annotations

from math import lgamma, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compression_gate.codec import plain_coder, range_coder
from compression_gate.codec.streams import LARGE_PLANE, LARGEST_SYMBOL, Geometry, MixedStream

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9))
MOST_OVER, SPARE_BYTES = 0.01, 16


def round_trip(symbols):
    """The bytes of a plane, which come back."""
    coder, buffer = range_coder.started(), np.zeros(8192 + 16 * symbols.size, dtype=np.uint8)
    assert plain_coder.code_plane(coder, buffer, symbols, encoding=True)[0]
    data = buffer[: range_coder.finish(coder, buffer)].copy()
    found = np.zeros_like(symbols)
    assert plain_coder.code_plane(range_coder.started_on(data), data, found, encoding=False)[0]
    assert np.array_equal(found, symbols)
    return len(data)


@settings(max_examples=60)
@given(
    arrays(
        np.int32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(-LARGEST_SYMBOL, LARGEST_SYMBOL)
    )
)
def test_symbols_of_any_size_come_back(symbols):
    round_trip(symbols)


def test_a_buffer_without_room_is_told():
    symbols = np.full((1, 4000), 9, dtype=np.int32)
    coder, buffer = range_coder.started(), np.zeros(10, dtype=np.uint8)
    assert not plain_coder.code_plane(coder, buffer, symbols, encoding=True)[0]


def adaptive_bytes(symbols):
    """The ideal adaptive code of values that are known beforehand (Krichevsky and Trofimov)."""
    counts = np.unique(symbols, return_counts=True)[1]
    half = len(counts) / 2
    nats = lgamma(symbols.size + half) - lgamma(half) - sum(lgamma(n + 0.5) - lgamma(0.5) for n in counts.tolist())
    return nats / log(2) / 8


def stream_bytes(symbols, schema=2):
    stream = MixedStream(schema=schema)
    stream.plane(symbols.copy(), Geometry(*symbols.shape))
    data = stream.finish()
    found = MixedStream.reading(data, schema).plane(np.zeros_like(symbols), Geometry(*symbols.shape))
    assert np.array_equal(found, symbols)
    return len(data)


SIZES = [10, 100, LARGE_PLANE - 1, LARGE_PLANE, 10_000, 200_000]
SHARES = [0.5, 0.05, 0.005, 0.0005]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
def test_independent_symbols_take_a_hundredth_more_than_the_ideal_and_sixteen_bytes(size, share):
    random = np.random.default_rng(size)
    symbols = np.where(random.random(size) < share, random.choice([-1, 1], size), 0).astype(np.int32).reshape(1, -1)
    assert stream_bytes(symbols) <= (1 + MOST_OVER) * adaptive_bytes(symbols) + SPARE_BYTES


@pytest.mark.parametrize("levels", [2, 4, 16, 256])
def test_values_of_any_shares_take_no_more_either(levels):
    random = np.random.default_rng(levels)
    shares = random.dirichlet(np.ones(levels))
    symbols = random.choice(np.arange(levels) - levels // 2, (50, 2000), p=shares).astype(np.int32)
    assert stream_bytes(symbols) <= (1 + MOST_OVER) * adaptive_bytes(symbols) + SPARE_BYTES


def test_what_neighbours_foretell_is_mixed_still():
    symbols = np.zeros((64, 64), dtype=np.int32)
    symbols[::4] = 3
    assert stream_bytes(symbols) == pytest.approx(stream_bytes(symbols, schema=1), abs=1)
    assert stream_bytes(symbols) < adaptive_bytes(symbols) / 10
