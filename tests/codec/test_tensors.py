"""Tensors in bytes: all numbers come back to the bit, in few of them."""

from __future__ import annotations

import numpy as np
import pytest
from coded_files import coded, decoded, numbers, of_values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compression_gate.codec import forms, tensors
from compression_gate.codec.fast_stream import FastStream
from compression_gate.codec.forms import FORM_NAMES, Layout, Plain
from compression_gate.codec.number_types import BY_NAME, TYPES, Numbers, patterns_of
from compression_gate.codec.streams import LARGEST_SYMBOL, Geometry, MixedStream, code_whole, strides_of
from compression_gate.codec.tensors import code_tensor, possible
from compression_gate.errors import CodecError

NAMES = [kind.name for kind in TYPES]
FLOATS = [kind.name for kind in TYPES if kind.exponent]
WHOLE = [kind.name for kind in TYPES if not kind.exponent and kind.name != "BOOL"]
SHAPES = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 6), min_size=1, max_size=5).map(tuple),
    st.sampled_from([(0, 3), (3, 0, 2), (1, 1, 1), (1, 300), (300, 1), (2, 1, 9), (9, 16), (4, 25, 1), (25, 2, 2, 2)]),
)


def assert_same(tensor):
    """Coded and decoded it is the same, and takes what the model says."""
    data, cost = coded(tensor)
    found = decoded(data, tensor)
    assert found.type == tensor.type
    assert found.patterns.dtype == tensor.type.patterns
    assert found.shape == tensor.shape
    assert np.array_equal(found.patterns, tensor.patterns)
    assert len(data) <= 1.01 * cost + 16
    return len(data)


def highest(kind):
    """Of the bit patterns of a type."""
    return 1 if kind == "BOOL" else (1 << 8 * BY_NAME[kind].size) - 1


@pytest.mark.parametrize("kind", NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_any_bits_come_back(kind, data):
    """NaN with payloads, infinities, subnormals, −0 and integers of the full range among them."""
    elements = st.one_of(st.integers(0, highest(kind)), st.sampled_from([0, highest(kind), highest(kind) // 2 + 1]))
    shape = data.draw(SHAPES)
    assert_same(numbers(kind, data.draw(arrays(BY_NAME[kind].patterns, shape, elements=elements))))


@pytest.mark.parametrize("kind", NAMES)
@settings(max_examples=15)
@given(data=st.data())
def test_few_values_come_back(kind, data):
    values = data.draw(st.lists(st.integers(0, highest(kind)), min_size=1, max_size=4))
    places = data.draw(arrays(np.int64, data.draw(SHAPES), elements=st.integers(0, len(values) - 1)))
    assert_same(numbers(kind, np.array(values, dtype=BY_NAME[kind].patterns)[places]))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@settings(max_examples=25)
@given(
    step=st.floats(2.0**-20, 2.0**10, width=32),
    multiples=arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(-9, 9)),
)
def test_multiples_of_a_step_come_back(kind, step, multiples):
    values = multiples.astype(np.float32) * np.float32(step)
    assert_same(Numbers(BY_NAME[kind], patterns_of(values, BY_NAME[kind])))


SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, 1.0]


@pytest.mark.parametrize("kind", ["F32", "F16", "F64"])
@pytest.mark.parametrize("repeats", [1, 40])
def test_special_floats_come_back(kind, repeats):
    with np.errstate(over="ignore"):
        assert_same(of_values(kind, np.tile(np.array(SPECIAL), (repeats, 1))))


@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("kind", ["F32", "F16", "F64"])
def test_one_value_everywhere_takes_no_bytes_for_each(kind, value):
    with np.errstate(over="ignore"):
        assert assert_same(of_values(kind, np.full((300, 40), value))) <= 2 + BY_NAME[kind].size


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1), (70_000,), (7, 10_000), (3, 2, 12_000)])
@pytest.mark.parametrize("kind", ["F32", "I8"])
def test_huge_aspects_come_back(kind, shape):
    values = np.random.default_rng(0).integers(-2, 3, shape)
    assert_same(of_values(kind, values * 0.25 if kind == "F32" else values))


def test_a_step_is_that_of_the_whole_tensor():
    """Of rows of zeros there is none, and of larger multiples only it would be another."""
    random = np.random.default_rng(0)
    for first in (0, 9, 0.5):
        values = random.integers(-3, 4, (1024, 96)) * np.float32(0.25)
        values[:1000] = first
        assert assert_same(of_values("F32", values)) < 1200


@pytest.mark.parametrize("stream", [MixedStream, FastStream])
@pytest.mark.parametrize("noisy", [slice(64), slice(500, 564), slice(0, 1024, 16), slice(960, None)])
def test_a_tensor_that_is_noise_in_parts_is_not_written_raw(stream, noisy):
    values = np.zeros((1024, 1024), dtype=np.int8)
    values[noisy] = np.random.default_rng(0).integers(-128, 128, values[noisy].shape)
    tensor, writing = of_values("I8", values), stream()
    code_tensor(writing, tensor.type, tensor.shape, tensor)
    data = writing.finish()
    assert len(data) < values.size / 4
    assert np.array_equal(code_tensor(stream.reading(data), tensor.type, tensor.shape, None).patterns, tensor.patterns)


# Strides are tried on some rows alone, which have others than the whole.
TRIED_IN_PART = [(1024, 784), (1024, 65), (2, 5, 100, 200), (2, 300, 301), (70_000, 4), (4, 256, 18, 18)]


@pytest.mark.parametrize("shape", TRIED_IN_PART)
def test_strides_of_the_whole_are_tried_on_a_part(shape):
    values = np.random.default_rng(0).integers(0, 2, shape)
    size = assert_same(of_values("U8", values))
    assert size <= 1.01 * values.size / 8 + 64


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(16, 9), (9, 4, 3), (5, 4, 3, 3), (2, 36)])
@pytest.mark.parametrize("form", range(1, 5))
def test_every_layout_of_every_form_reads_what_it_wrote(shape, transposed, form):
    tensor = of_values("F32", np.random.default_rng(1).integers(-3, 4, shape) * np.float32(0.37))
    tensor = of_values("I8", np.random.default_rng(1).integers(-3, 4, shape)) if form == forms.INTEGERS else tensor
    turned = forms.turned(shape, transposed)
    for stride in strides_of(turned):
        stream = MixedStream()
        tensors.coded(stream, Plain(tensor.type, shape, tensor), form, Layout(transposed, stride))
        assert np.array_equal(decoded(stream.finish(), tensor).patterns, tensor.patterns), (form, stride)


@pytest.mark.parametrize("kind", ["F32", "F64", "F16"])
def test_mantissas_of_ones_at_the_end_are_no_missing_bytes(kind):
    """They end a stream in many zeros, of which only a few may be left out: a decoder could not tell the end else."""
    type_ = BY_NAME[kind]
    ones = (1 << type_.mantissa) - 1
    tensor = numbers(kind, [((exponent + 3) << type_.mantissa) | ones for exponent in range(20)])
    stream = MixedStream()
    tensors.coded(stream, Plain(type_, tensor.shape, tensor), forms.FLOATS, Layout())
    assert np.array_equal(decoded(stream.finish(), tensor).patterns, tensor.patterns)


def entropy_bytes(values):
    """Of the values' frequencies, order 0."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


DENSE = {  # a tensor without any pattern -> what it may take above the entropy of its own frequencies
    "8 bits, normal": lambda random: np.clip(np.rint(random.normal(0, 20, (256, 300))), -127, 127),
    "4 bits, normal": lambda random: np.clip(np.rint(random.normal(0, 2, (256, 300))), -7, 7),
    "Laplace": lambda random: np.clip(np.rint(random.laplace(0, 6, (256, 300))), -127, 127),
    "two values on one side of zero": lambda random: random.integers(-2, 2, (256, 300)),
    "a range that is not symmetric": lambda random: np.clip(np.rint(random.normal(3, 4, (256, 300))), -4, 11),
    "three values": lambda random: random.integers(-1, 2, (256, 300)),
    "sparse": lambda random: np.where(random.random((256, 300)) < 0.95, 0, random.integers(-3, 4, (256, 300))),
    "very sparse": lambda random: np.where(random.random((256, 300)) < 0.998, 0, random.integers(-1, 2, (256, 300))),
}


@pytest.mark.parametrize("name", DENSE)
def test_integers_without_a_pattern_take_little_more_than_their_entropy(name):
    values = DENSE[name](np.random.default_rng(0))
    assert assert_same(of_values("I8", values)) <= 1.01 * entropy_bytes(values) + 64


def test_a_negative_zero_is_no_multiple_of_a_step():
    assert_same(numbers("F16", [[0x8000] + [1] * 40]))


@pytest.mark.parametrize("count", [2, 4, 16])
def test_a_small_table_takes_its_values_and_an_index_each(count):
    random = np.random.default_rng(0)
    table = random.normal(size=count).astype(np.float32)
    values = table[random.integers(0, count, (64, 64))]
    assert assert_same(of_values("F32", values)) <= 1.03 * 4096 * np.log2(count) / 8 + 4 * count + 24


def test_structure_among_neighbours_takes_fewer_bytes_than_the_entropy():
    """Rows of different size, and columns that are nearly all zero, as pruning and training leave them."""
    random = np.random.default_rng(0)
    sizes = np.exp(random.normal(0, 1, (200, 1))) * (random.random(300) < 0.3)
    values = np.rint(random.normal(0, 1, (200, 300)) * sizes)
    assert assert_same(of_values("I16", values)) <= 0.8 * entropy_bytes(values)


FORMS = [  # a tensor -> the forms that it could take
    (of_values("F32", [1.5, 1.5]), {"constant"}),
    (of_values("F32", [0.5, 1.5, -1.0]), {"floats", "table", "steps", "raw"}),
    (of_values("F32", [0.1, float("nan"), 0.2]), {"floats", "table", "raw"}),
    (of_values("I8", [1, 2]), {"integers", "raw"}),
    (of_values("I32", [1, LARGEST_SYMBOL]), {"integers", "raw"}),
    (of_values("I32", [1, LARGEST_SYMBOL + 1]), {"bytes", "raw"}),
    (of_values("I64", [0, -(2**63)]), {"bytes", "raw"}),
    (of_values("U64", [0, 1]), {"bytes", "raw"}),
    (of_values("BOOL", [0, 1]), {"integers"}),
    (of_values("F64", [0.5, 1.5]), {"floats", "table", "raw"}),
]


@pytest.mark.parametrize(("tensor", "forms"), FORMS)
def test_the_forms_that_are_tried(tensor, forms):
    found = possible(Plain(tensor.type, tensor.shape, tensor))
    assert {FORM_NAMES[form] for form in found} == forms
    assert_same(tensor)


def test_a_tensor_without_numbers_takes_no_bytes():
    for shape in [(0,), (3, 0), (0, 5, 2)]:
        assert assert_same(numbers("F32", np.zeros(shape, dtype=np.uint32))) == 0


# What no encoder writes: a form and the numbers behind it -> the complaint.
HOSTILE = {
    "a difference from nothing": ("F32", [(7, 3)], r"expected an earlier tensor of F32 \(40,\), got none"),
    "truth values by their bits": ("BOOL", [(6, 3)], "form of a tensor of BOOL: expected another than raw"),
    "a NaN step": ("F32", [(2, 3), (0xFF, 8), (1, 5), (1, 1)], "expected a finite step, got nan"),
    "an infinite step": ("F32", [(2, 3), (0xFF, 8), (0, 5)], "expected a finite step, got inf"),
    "a step with a mantissa of 24 bits": ("F32", [(2, 3), (1, 8), (24, 5)], "at most 23 bits, got 24"),
    "steps of integers": ("I8", [(2, 3)], "expected a tensor of F32, F16 or BF16, got I8"),
    "too many unused bits": ("F32", [(4, 3), (9, 8), (24, 6)], "at most 23 unused bits, got 24"),
    "too many unused bits of a constant": ("F16", [(0, 3), (16, 6)], "at most 15 unused bits, got 16"),
    "floats of integers with unused bits": ("I64", [(4, 3), (1, 6)], "at most 0 unused bits, got 1"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_forms_are_refused(case):
    kind, written, complaint = HOSTILE[case]
    stream = MixedStream()
    for value, bits in [*written, (0, 32), (0, 32), (0, 32)]:
        stream.number(value, bits)
    with pytest.raises(CodecError, match=complaint):
        code_tensor(MixedStream.reading(stream.finish()), BY_NAME[kind], (40,), None)


def test_a_stride_that_there_is_not_is_refused():
    stream = MixedStream()
    for value, bits in [(1, 3), (0, 1), (3, 2), (0, 32)]:
        stream.number(value, bits)
    with pytest.raises(CodecError, match="stride of a tensor: expected one of 2, got number 3"):
        code_tensor(MixedStream.reading(stream.finish()), BY_NAME["I8"], (2, 9), None)


WIDE = [("BOOL", forms.INTEGERS, 2), ("BOOL", forms.BYTES, 2), ("U8", forms.INTEGERS, 256),
        ("I8", forms.INTEGERS, 128), ("U8", forms.BYTES, 256), ("U16", forms.INTEGERS, -1)]  # fmt: skip


@pytest.mark.parametrize(("kind", "form", "symbol"), WIDE)
def test_symbols_that_the_type_does_not_hold_are_refused(kind, form, symbol):
    stream = MixedStream()
    stream.number(form, 3)
    columns = BY_NAME[kind].size if form == forms.BYTES else 1
    plane = np.array([[0] * columns, [symbol] * columns], dtype=np.int32)
    geometry = Geometry(2, columns) if form == forms.BYTES else Geometry(1, 2)
    stream.plane(plane.reshape(geometry.rows, geometry.columns), geometry)
    with pytest.raises(CodecError, match=f"got .*{symbol}"):
        code_tensor(MixedStream.reading(stream.finish()), BY_NAME[kind], (2,), None)


CONSTANTS = [("I8", 1000), ("I8", 128), ("I8", -129), ("U8", 255), ("U8", 1 << 40), ("U16", 40_000), ("BOOL", 256),
             ("BOOL", -255), ("I64", 1 << 63), ("U64", -(1 << 63) - 1)]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), CONSTANTS)
def test_a_constant_that_the_type_does_not_hold_is_refused(kind, value):
    """Unsigned ones are written as the signed number of the same bits."""
    stream = MixedStream()
    stream.number(forms.CONSTANT, 3)
    code_whole(stream, value)
    with pytest.raises(CodecError, match=f"constant: expected symbols of .* got {value} to {value}"):
        code_tensor(MixedStream.reading(stream.finish()), BY_NAME[kind], (3,), None)


def test_a_table_index_beyond_its_end_is_refused():
    stream = MixedStream()
    stream.number(forms.TABLE, 3)
    stream.number(1, 12)  # two values
    stream.number(0, 13)
    table = of_values("F32", [0.5, 1.5])
    forms.code_floats(stream, Plain(table.type, (2,), table), Layout())
    stream.plane(np.array([[0, 2]], dtype=np.int32), Geometry(1, 2))
    with pytest.raises(CodecError, match="table: expected symbols of 0 to 1, got 0 to 2"):
        code_tensor(MixedStream.reading(stream.finish()), BY_NAME["F32"], (2,), None)


@pytest.mark.parametrize("kind", NAMES)
@settings(max_examples=60)
@given(data=st.binary(max_size=60), shape=SHAPES)
def test_random_bytes_are_a_tensor_or_a_codec_error(kind, data, shape):
    try:
        found = code_tensor(MixedStream.reading(data), BY_NAME[kind], shape, None)
    except CodecError:
        return
    assert found.shape == shape
    assert kind != "BOOL" or not found.patterns.size or found.patterns.max() <= 1
