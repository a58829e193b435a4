"""ONNX graphs as coded files: what comes back is whole, and what no reader would take is not written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compression_gate.codec import coded_graph, container
from compression_gate.codec.coded_graph import decode_graph, encode_graph
from compression_gate.codec.container import write_file
from compression_gate.codec.streams import MixedStream
from compression_gate.errors import CodecError

RANDOM = np.random.default_rng(0)


def model_of(*initializers, nodes=()):
    return helper.make_model(helper.make_graph(list(nodes), "g", [], [], initializer=list(initializers)))


def there_and_back(tmp_path, *initializers, **how):
    onnx.save(model_of(*initializers), tmp_path / "x.onnx")
    encode_graph(tmp_path / "x.onnx", tmp_path / "x.cgz", **how)
    return onnx.load_model_from_string(decode_graph(tmp_path / "x.cgz", workers=how.get("workers", 1)))


TYPES = [
    *("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"),
    *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (4, 8, 16, 32, 64)),
]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("raw", [False, True], ids=["fields of the type", "raw"])
def test_numbers_come_back_from_whichever_field_they_are_in(tmp_path, name, raw):
    kind = getattr(TensorProto, name)
    tensor = helper.make_tensor("w", kind, (3, 9), RANDOM.integers(0, 8, 27).tolist())
    given = numpy_helper.from_array(numpy_helper.to_array(tensor), "w") if raw else tensor
    (again,) = there_and_back(tmp_path, given).graph.initializer
    assert (again.data_type, tuple(again.dims)) == (kind, (3, 9))
    assert np.array_equal(numpy_helper.to_array(again), numpy_helper.to_array(tensor))


def test_weights_in_fields_of_their_type_are_coded_too(tmp_path):
    tensor = helper.make_tensor("w", TensorProto.FLOAT, (64, 64), RANDOM.integers(-1, 2, 4096).tolist())
    there_and_back(tmp_path, tensor)
    assert (tmp_path / "x.cgz").stat().st_size < 1200


def test_threads_change_no_byte(tmp_path):
    weight = numpy_helper.from_array(RANDOM.normal(size=(300, 200)).astype(np.float32), "w")
    there_and_back(tmp_path, weight)
    alone = (tmp_path / "x.cgz").read_bytes()
    (again,) = there_and_back(tmp_path, weight, workers=3).graph.initializer
    assert (tmp_path / "x.cgz").read_bytes() == alone
    assert again.raw_data == weight.raw_data


def of_bytes(name, length):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[32])
    tensor.raw_data = bytes(length)
    return tensor


WHOLE = numpy_helper.from_array(np.arange(32, dtype=np.float32), "w")
ZEROS = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros((2048, 2048), np.float32)))
CIRCLE = model_of(nodes=[helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])
UNWRITABLE = {  # a graph -> why no coded file is made of it
    "too few bytes": (
        model_of(of_bytes("w", 100)), r"x\.onnx: initializer 'w': expected 128 bytes of shape \(32,\), got 100"
    ),
    "no numbers": (
        model_of(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[32])), "initializer 'w': expected 32 numbers"
    ),
    "few numbers, and none of them": (
        model_of(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])), "initializer 'w': expected its numbers"
    ),
    "a name twice": (model_of(WHOLE, WHOLE), "expected each initializer once, got 'w' twice"),
    "a name that no file holds": (
        model_of(numpy_helper.from_array(np.arange(32), "__metadata__")), "initializer: expected .*__metadata__"
    ),
    "a circle": (CIRCLE, "graph: expected one that ONNX's checker takes: .*input 'b' of node"),
    "a constant that a reader takes for a bomb": (model_of(nodes=[ZEROS]), "make its large constants initializers"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_no_reader_would_take_is_not_written(tmp_path, case):
    model, complaint = UNWRITABLE[case]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(CodecError, match=complaint):
        encode_graph(tmp_path / "x.onnx", tmp_path / "x.cgz")
    assert not (tmp_path / "x.cgz").exists()


def test_tensors_beyond_what_one_onnx_file_holds_are_refused_by_both_sides(tmp_path, monkeypatch):
    onnx.save(model_of(WHOLE), tmp_path / "x.onnx")
    encode_graph(tmp_path / "x.onnx", tmp_path / "x.cgz")
    monkeypatch.setattr(coded_graph, "MOST_BYTES", 128)
    with pytest.raises(CodecError, match=r"at most 128 bytes, which an ONNX file holds, got \d+"):
        decode_graph(tmp_path / "x.cgz")
    with pytest.raises(CodecError, match=r"x\.onnx: expected a graph and tensors of at most 128 bytes"):
        encode_graph(tmp_path / "x.onnx", tmp_path / "y.cgz")


def elsewhere():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../etc/hostname")
    return tensor


HOSTILE = {  # a graph -> why it is not given back
    "an initializer in a file": (model_of(elsewhere()), "expected the numbers of 'w' inside, got a name of a file"),
    "a constant in a file": (
        model_of(nodes=[helper.make_node("Constant", [], ["c"], value=elsewhere())]), "the numbers of 'w' inside"
    ),
    "a constant of a graph inside": (
        model_of(nodes=[helper.make_node("If", ["x"], ["y"], then_branch=model_of(elsewhere()).graph)]),
        "the numbers of 'w' inside",
    ),
    "an initializer without numbers": (
        model_of(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])), "initializer 'w': expected its numbers"
    ),
    "an initializer of no type": (model_of(TensorProto(name="w", dims=[4])), "initializer 'w': expected its numbers"),
    "a name twice": (model_of(WHOLE, WHOLE), "expected each initializer once, got 'w' twice"),
    "a circle": (CIRCLE, "expected one that ONNX's checker takes: .*input 'b' of node"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_graph_that_is_not_whole_is_not_given_back(tmp_path, case):
    model, complaint = HOSTILE[case]
    graph, pool = model.SerializeToString(), MixedStream().finish()
    write_file(tmp_path / "x.cgz", signature=None, directory=[], graph=graph, pool=pool, segments=[], fast=False)
    with pytest.raises(CodecError, match=rf"x\.cgz: graph: .*{complaint}"):
        decode_graph(tmp_path / "x.cgz")


def quantized(scale, *, inside=False):
    """Integers times a scale of so many numbers, in a branch if asked to."""
    names, own = ["w", "s"], {"domain": "some.where"}
    initializers = [
        numpy_helper.from_array(np.ones((len(scale), 4), np.int8), "w"),
        numpy_helper.from_array(scale, "s"),
    ]
    node = helper.make_node("DequantizeLinear", names, ["y"], axis=0)
    if inside:
        branch = helper.make_graph([node], "inside", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
        initializers.append(numpy_helper.from_array(np.array(True), "c"))
    nodes = [helper.make_node("Unheard", ["w"], ["o"], **own), node]
    graph = helper.make_graph(nodes, "g", [], [], initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("some.where", 1)])


@pytest.mark.parametrize("inside", [False, True], ids=["", "in a branch"])
@pytest.mark.parametrize("count", [3, 40], ids=["in the graph", "coded"])
@pytest.mark.parametrize("last", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_not_written_nor_read(tmp_path, monkeypatch, count, last, inside):
    scale = np.full(count, 0.5, np.float32)
    onnx.save(quantized(scale, inside=inside), tmp_path / "x.onnx")
    encode_graph(tmp_path / "x.onnx", tmp_path / "x.cgz")
    assert decode_graph(tmp_path / "x.cgz")
    scale[-1] = last
    onnx.save(quantized(scale, inside=inside), tmp_path / "x.onnx")
    with pytest.raises(CodecError, match=rf"x\.onnx: graph: scale 's': expected finite numbers, got {last}"):
        encode_graph(tmp_path / "x.onnx", tmp_path / "y.cgz")
    with monkeypatch.context() as patch:
        patch.setattr(coded_graph, "check_scales", lambda graph, where: None)
        encode_graph(tmp_path / "x.onnx", tmp_path / "x.cgz")
    with pytest.raises(CodecError, match=rf"x\.cgz: graph: scale 's': expected finite numbers, got {last}"):
        decode_graph(tmp_path / "x.cgz")


def test_a_graph_is_checked_before_its_tensors_are_read(tmp_path):
    entry = container.entry_of(["w", "F32", [1 << 28]], "")
    held = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 28])
    graph = model_of(held, nodes=CIRCLE.graph.node).SerializeToString()
    write_file(
        tmp_path / "x.cgz", signature=None, directory=[entry], graph=graph, pool=b"x" * 2000, segments=[], fast=False
    )
    with pytest.raises(CodecError, match="expected one that ONNX's checker takes"):
        decode_graph(tmp_path / "x.cgz")
