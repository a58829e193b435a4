"""Streams: the same calls write and read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.codec.streams import LARGEST_SYMBOL, SPARE, Geometry, MixedStream, code_whole, strides_of
from compression_gate.errors import CodecError

CALLS = st.one_of(
    st.tuples(st.just("number"), st.integers(0, 2**64 - 1), st.integers(0, 64)),
    st.tuples(st.just("whole"), st.integers(-(2**63), 2**63 - 1), st.just(0)),
    st.tuples(st.just("plane"), st.integers(0, 2**32), st.integers(0, 30)),
)


def call(stream, kind, value, extent):
    if kind == "number":
        return stream.number(value & ((1 << extent) - 1) if stream.encoding else 0, extent)
    if kind == "whole":
        return code_whole(stream, value if stream.encoding else 0)
    symbols = np.random.default_rng(value).integers(-3, 4, (extent, 3)).astype(np.int32)
    return stream.plane(symbols if stream.encoding else np.zeros_like(symbols), Geometry(extent, 3)).tolist()


@given(st.lists(CALLS, max_size=12))
def test_a_stream_reads_what_was_written_in_the_same_order(calls):
    stream = MixedStream()
    written = [call(stream, *one) for one in calls]
    data = stream.finish()
    assert len(data) <= 1.01 * stream.size() + 16
    reading = MixedStream.reading(data)
    assert [call(reading, *one) for one in calls] == written
    reading.check_end()


WHOLE = [
    (0, 1),
    (-1, 3),
    (1, 3),
    (-2, 5),
    (2, 5),
    (3, 5),
    (100, 15),
    (2**31 - 1, 63),
    (2**63 - 1, 127),
    (-(2**63), 129),
]


@pytest.mark.parametrize(("value", "bits"), WHOLE)
def test_small_whole_numbers_take_few_bits(value, bits):
    stream = MixedStream()
    code_whole(stream, value)
    assert stream.cost == bits << 16
    assert code_whole(MixedStream.reading(stream.finish()), 0) == value


def test_a_whole_number_that_never_ends_is_refused():
    stream = MixedStream()
    for _ in range(3):
        stream.number(0, 32)
    with pytest.raises(CodecError, match="at most 64 bits"):
        code_whole(MixedStream.reading(stream.finish()), 0)


STRIDES = [  # a shape -> columns to the neighbours in other dimensions
    ((), (1,)),
    ((7,), (1,)),
    ((49,), (1, 7)),
    ((8, 5), (1,)),
    ((300, 784), (1, 28)),
    ((6, 4, 9), (1, 9, 6)),
    ((8, 16, 3, 3), (1, 3, 9, 12)),
    ((8, 1, 5, 5), (1, 5)),
    ((4, 4, 2, 3, 3), (1, 3, 18)),
    ((2, 0, 3), (1,)),
]


@pytest.mark.parametrize(("shape", "strides"), STRIDES)
def test_strides_of_a_shape(shape, strides):
    assert strides_of(shape) == tuple(sorted(strides))


def test_a_trial_leaves_the_stream_as_it_was():
    symbols = np.random.default_rng(0).integers(-3, 4, (20, 20)).astype(np.int32)
    plain, tried = MixedStream(), MixedStream()
    for stream in (plain, tried):
        stream.plane(symbols, Geometry(20, 20))
    trial = tried.trial()
    trial.plane(symbols, Geometry(20, 20))
    trial.number(5, 9)
    for stream in (plain, tried):
        stream.plane(symbols[:5], Geometry(5, 20))
    assert plain.finish() == tried.finish()
    assert plain.size() == tried.size()


def test_a_trial_takes_memory_for_what_is_tried_not_for_what_was_written():
    symbols = np.random.default_rng(0).integers(-3, 4, (20, 20)).astype(np.int32)
    stream = MixedStream()
    stream.numbers(np.zeros(1 << 18, dtype=np.uint64), 32)
    before, trial = stream.size(), stream.trial()
    trial.plane(symbols, Geometry(20, 20))
    assert trial.buffer.size <= 2 * (SPARE + 4 * symbols.size)
    stream.plane(symbols, Geometry(20, 20))
    assert trial.size() == stream.size() > before


def test_a_stream_grows_with_what_is_written():
    values = np.random.default_rng(0).integers(0, 2**63, 5000).astype(np.uint64)
    symbols = np.random.default_rng(0).integers(-LARGEST_SYMBOL, LARGEST_SYMBOL, (40, 50)).astype(np.int32)
    stream = MixedStream()
    stream.numbers(values, 63)
    stream.plane(symbols, Geometry(40, 50))
    reading = MixedStream.reading(stream.finish())
    assert np.array_equal(reading.numbers(np.zeros_like(values), 63), values)
    assert np.array_equal(reading.plane(np.zeros_like(symbols), Geometry(40, 50)), symbols)
    reading.check_end()


def test_bytes_that_were_not_used_are_told():
    stream = MixedStream.reading(bytes(range(40)))
    stream.number(0, 8)
    with pytest.raises(CodecError, match="expected its 40 bytes to be used up, 5 were"):
        stream.check_end()


def test_a_list_does_not_go_on_behind_the_end():
    """Zeros are read there; without a bound three bytes could ask for a million replaced layers."""
    stream = MixedStream.reading(b"abc")
    with pytest.raises(CodecError, match="expected to end behind its 3 bytes"):
        [stream.number(0, 32) for _ in range(10)]
    with pytest.raises(CodecError, match="expected to end behind its 3 bytes"):
        MixedStream.reading(b"abc").numbers(np.zeros(100, dtype=np.uint64), 20)
