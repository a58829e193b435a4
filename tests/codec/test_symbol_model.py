"""The context model: the same symbols come back, on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compression_gate.codec import range_coder, symbol_model
from compression_gate.codec.logistic import BUCKETS
from compression_gate.codec.streams import LARGEST_SYMBOL, NONE_KNOWN
from compression_gate.codec.symbol_model import Learned, bucket_of, code_plane

SYMBOLS = st.one_of(
    st.just(0), st.integers(-3, 3), st.integers(-300, 300), st.sampled_from([LARGEST_SYMBOL, -LARGEST_SYMBOL, 1 << 24])
)
PLANES = arrays(np.int32, st.tuples(st.integers(0, 9), st.integers(1, 9)), elements=SYMBOLS)
PRODUCERS = st.lists(st.integers(0, BUCKETS - 1), max_size=4).map(lambda found: np.array(found, dtype=np.int64))


def coded(planes, stride=1, kernel=1, producers=NONE_KNOWN, learned=None):
    coder, buffer = range_coder.started(), np.zeros(300 * sum(plane.size for plane in planes) + 600, dtype=np.uint8)
    learned, cost = learned or Learned(), 0
    for plane in planes:
        enough, one = code_plane(coder, buffer, learned, plane, stride, kernel, producers, encoding=True)
        assert enough
        cost += one
    return buffer[: range_coder.finish(coder, buffer)].copy(), cost / 65536 / 8


def decoded(data, shapes, stride=1, kernel=1, producers=NONE_KNOWN):
    coder, learned, found = range_coder.started_on(data), Learned(), []
    for shape in shapes:
        plane = np.zeros(shape, dtype=np.int32)
        code_plane(coder, data, learned, plane, stride, kernel, producers, encoding=False)
        found.append(plane)
    return found


@settings(max_examples=150)
@given(planes=st.lists(PLANES, max_size=3), stride=st.integers(1, 12), kernel=st.integers(1, 700), producers=PRODUCERS)
def test_planes_come_back_one_behind_the_other(planes, stride, kernel, producers):
    data, cost = coded(planes, stride, kernel, producers)
    found = decoded(data, [plane.shape for plane in planes], stride, kernel, producers)
    assert all(np.array_equal(one, plane) for one, plane in zip(found, planes, strict=True))
    assert len(data) <= 1.01 * cost + 16


@settings(max_examples=60)
@given(
    data=st.binary(max_size=80),
    shape=st.tuples(st.integers(0, 12), st.integers(1, 80)),
    stride=st.integers(1, 90),
    kernel=st.integers(1, 700),
    producers=PRODUCERS,
)
def test_any_bytes_are_symbols_within_bounds(data, shape, stride, kernel, producers):
    (found,) = decoded(np.frombuffer(data, dtype=np.uint8).copy(), [shape], stride, kernel, producers)
    assert found.size == 0 or np.abs(found).max() <= LARGEST_SYMBOL


def test_symbols_at_the_ends_of_the_range_take_their_bits():
    random = np.random.default_rng(0)
    plane = random.integers(-LARGEST_SYMBOL, LARGEST_SYMBOL + 1, (60, 70)).astype(np.int32)
    data, _ = coded([plane])
    assert len(data) <= 1.01 * plane.size * 26 / 8 + 16
    assert np.array_equal(decoded(data, [plane.shape])[0], plane)


def test_a_buffer_that_is_too_small_is_told():
    plane = np.ones((4, 4), dtype=np.int32)
    small = np.zeros(symbol_model.ROOM - 1, dtype=np.uint8)
    enough, _ = code_plane(range_coder.started(), small, Learned(), plane, 1, 1, NONE_KNOWN, encoding=True)
    assert not enough


def test_a_copy_of_what_was_learned_goes_its_own_way():
    learned = Learned()
    kept = learned.copy()
    coded([np.ones((9, 9), dtype=np.int32)], learned=learned)
    fresh = Learned()
    assert not np.array_equal(learned.probabilities, fresh.probabilities)
    assert np.array_equal(kept.seen, fresh.seen)
    assert np.array_equal(kept.probabilities, fresh.probabilities)
    assert learned.asked.any()
    assert not kept.asked.any()


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_buckets_are_half_octaves(count):
    """Bucket b begins at the mean 2^(b/2 − 9); each holds its lower end."""
    for total in [0, 1, 2, 3, 5, 100, 4567, 10**6, 10**9]:
        bucket, scaled = bucket_of(total, count), (total << 9) // count
        assert bucket == 0 or bucket == BUCKETS - 1 or Fraction(2) ** bucket <= scaled * scaled < 2 ** (bucket + 1)
        assert scaled * scaled < 2 ** (bucket + 1) or bucket == BUCKETS - 1


SCRIPT = """
import sys, zlib, numpy as np
from numba import config
assert config.DISABLE_JIT
from compression_gate.codec import range_coder
from compression_gate.codec.symbol_model import Learned, code_plane
np.seterr(over="ignore")
plane = np.rint(np.random.default_rng(5).standard_t(2, (24, 36)) * 2).astype(np.int32)
producers = np.arange(12, dtype=np.int64)
buffer, coder = np.zeros(40_000, dtype=np.uint8), range_coder.started()
code_plane(coder, buffer, Learned(), plane, 6, 1, producers, encoding=True)
data = buffer[: range_coder.finish(coder, buffer)].copy()
found = np.zeros_like(plane)
code_plane(range_coder.started_on(data), data, Learned(), found, 6, 1, producers, encoding=False)
assert (found == plane).all()
print(zlib.crc32(data.tobytes()))
"""


def test_compiled_and_plain_python_give_the_same_bytes():
    """Nothing hangs on how a compiler treats numbers that are too large."""
    plane = np.rint(np.random.default_rng(5).standard_t(2, (24, 36)) * 2).astype(np.int32)
    data, _ = coded([plane], stride=6, producers=np.arange(12, dtype=np.int64))
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == zlib.crc32(data.tobytes())
