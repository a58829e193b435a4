"""What a tensor has in common with an earlier one of its stream takes hardly anything the second time."""

from __future__ import annotations

import numpy as np
import pytest
from coded_files import numbers, of_values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compression_gate.codec import forms
from compression_gate.codec.known import MOST_TENSORS, Known
from compression_gate.codec.number_types import BY_NAME, TYPES, Numbers, keys_of, of_keys
from compression_gate.codec.streams import Geometry, MixedStream
from compression_gate.codec.tensors import code_with_form
from compression_gate.errors import CodecError


def written(tensors, schema=2):
    """Tensors on one stream, each with its form and what it costs [bytes]; they were read again."""
    stream, found, before = MixedStream(schema=schema), [], 0.0
    for tensor in tensors:
        _, form = code_with_form(stream, tensor.type, tensor.shape, tensor)
        found.append((form, stream.size() - before))
        before = stream.size()
    reading = MixedStream.reading(stream.finish(), schema)
    for tensor in tensors:
        again, _ = code_with_form(reading, tensor.type, tensor.shape, None)
        assert np.array_equal(again.patterns, tensor.patterns)
    reading.check_end()
    return found


def test_a_codebook_is_written_once():
    random = np.random.default_rng(0)
    codebook = random.normal(size=16)
    layers = [of_values("F32", codebook[random.integers(0, 16, (40, 50))]) for _ in range(3)]
    few = of_values("F32", codebook[random.integers(0, 3, (40, 50))])  # a layer that uses only some of them
    (first, cost), (_, second), (_, third), (form, _) = written([*layers, few])
    assert first == form == "table"
    assert cost - second > 16 * 23 / 8  # the mantissas alone
    assert second - third < 5
    assert [form for form, _ in written(layers, schema=1)] == ["table"] * 3
    assert written(layers, schema=1)[1][1] > second + 16 * 23 / 8


def test_a_step_is_written_once():
    random = np.random.default_rng(0)
    layers = [of_values("F32", random.integers(-3, 4, (9, 7)) * np.float32(0.0123)) for _ in range(2)]
    (first, _), (second, again) = written(layers)
    (_, _), (_, alone) = written(layers, schema=1)
    assert first == second == "steps"
    assert alone - again > 3


def test_a_table_of_another_type_is_not_taken():
    random = np.random.default_rng(0)
    codebook = np.array([0.5, 1.75, -3.0, 1e-3])
    places = random.integers(0, 4, (30, 30))
    layers = [
        of_values("F32", codebook[places]),
        of_values("F16", codebook[places]),
        of_values("F64", codebook[places]),
    ]
    assert [form for form, _ in written(layers)] == ["table"] * 3


def test_a_tensor_close_to_an_earlier_one_is_a_difference():
    random = np.random.default_rng(0)
    first = random.normal(size=(60, 70)).astype("<f4")
    second = first * (1 + 1e-5 * random.normal(size=first.shape)).astype("<f4")
    others = [random.normal(size=(60, 70)).astype("<f4") for _ in range(3)]
    found = written([of_values("F32", one) for one in (others[0], first, *others[1:], second)])
    assert [form for form, _ in found] == ["floats"] * 4 + ["difference"]
    assert found[-1][1] < 0.5 * found[1][1]


def test_the_same_tensor_twice_takes_hardly_anything():
    tensor = of_values("F32", np.random.default_rng(0).normal(size=(100, 100)))
    assert written([tensor, tensor])[1][1] < 40


@pytest.mark.parametrize("kind", [kind.name for kind in TYPES if kind.name != "BOOL"])
@settings(max_examples=40)
@given(data=st.data())
def test_differences_of_any_bits_come_back(kind, data):
    type_ = BY_NAME[kind]
    most = (1 << 8 * type_.size) - 1
    element = st.integers(0, most)
    patterns = data.draw(arrays(type_.patterns, (2, 7), elements=element))
    near = data.draw(arrays(np.int64, (2, 7), elements=st.integers(-3, 3)))
    first = numbers(kind, patterns)
    second = Numbers(type_, of_keys(keys_of(first) + near, type_))
    written([first, second, first])


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.size < 4], ids=lambda kind: kind.name)
def test_keys_are_in_the_order_of_the_values_and_come_back(kind):
    every = Numbers(kind, np.arange(1 << 8 * kind.size, dtype=kind.patterns))
    keys = keys_of(every)
    assert np.array_equal(of_keys(keys, kind), every.patterns)
    assert np.array_equal(np.sort(keys), np.arange(keys.size) - keys.size // 2)
    if kind.name == "F16":
        values = every.patterns.view(np.float16)[np.argsort(keys)]
        assert (np.diff(values[~np.isnan(values)].astype(np.float32)) >= 0).all()


def test_the_oldest_tensors_are_forgotten():
    known, kind = Known(), BY_NAME["U8"]
    for value in range(MOST_TENSORS + 5):
        known.add_tensor(Numbers(kind, np.array([value % 256], dtype=np.uint8)))
    kept = known.tensors_like(kind, (1,))
    assert len(kept) == MOST_TENSORS
    assert int(kept[0].patterns[0]) == 5
    assert not known.tensors_like(kind, (2,))
    assert not known.tensors_like(BY_NAME["I8"], (1,))


def hostile(stream):
    stream.number(forms.INTEGERS, 3)  # one tensor, so that the second may be a difference
    stream.plane(np.array([[1, 0]], dtype=np.int32), Geometry(1, 2))
    stream.number(forms.INTEGERS, 3)
    stream.plane(np.array([[1, 1]], dtype=np.int32), Geometry(1, 2))
    stream.number(forms.INTEGERS, 3)
    stream.plane(np.array([[0, 1]], dtype=np.int32), Geometry(1, 2))
    stream.number(forms.DIFFERENCE, 3)
    return stream


def refused(stream, kind, match):
    for _ in range(10):
        stream.number(0, 32)
    reading = MixedStream.reading(stream.finish())
    for _ in range(3):
        code_with_form(reading, BY_NAME[kind], (2,), None)
    with pytest.raises(CodecError, match=match):
        code_with_form(reading, BY_NAME[kind], (2,), None)


def test_a_tensor_that_was_not_there_is_refused():
    stream = hostile(MixedStream())
    stream.number(3, 2)
    refused(stream, "I8", "expected one of 3 that were there before, got number 3")


def test_a_difference_that_makes_no_truth_value_is_refused():
    stream = hostile(MixedStream())
    stream.number(0, 2)
    stream.plane(np.array([[1, 0]], dtype=np.int32), Geometry(1, 2))
    refused(stream, "BOOL", "difference: expected symbols of 0 to 1, got 0 to 2")
