"""Self-contained files: an ONNX graph and its tensors, to be run without the code of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto
from onnx.checker import ValidationError, check_model
from onnx.helper import make_tensor_value_info
from onnx.numpy_helper import to_array

from compression_gate.codec.container import Entry, entry_of, opened, read_head, write_file
from compression_gate.codec.number_types import Numbers, type_named
from compression_gate.codec.segments import code_small, coded_segments, large_tensors, small_tensors
from compression_gate.codec.streams import MixedStream
from compression_gate.errors import CodecError

MOST_BYTES = 2**31 - 2**20  # protobuf takes 2 GiB, which their names count to
NUMBER_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
FEWEST_NUMBERS = 16  # smaller tensors stay in the graph: naming them would take more than it saves
SCALES: dict[str, tuple[int, ...]] = {  # which inputs of a node are scales: ONNX's own nodes, and onnxruntime's
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
    "MatMulIntegerToFloat": (2, 3),
    "MatMulNBits": (2,),
    "DynamicQuantizeMatMul": (2,),
    "DynamicQuantizeLSTM": (8, 10),
}


@dataclass(frozen=True)
class Held:
    """How ONNX holds numbers of a type: as a type of ours, so many bits each."""

    name: str
    bits: int


HELD: dict[int, Held] = {
    TensorProto.FLOAT: Held("F32", 32),
    TensorProto.FLOAT16: Held("F16", 16),
    TensorProto.BFLOAT16: Held("BF16", 16),
    TensorProto.DOUBLE: Held("F64", 64),
    TensorProto.INT8: Held("I8", 8),
    TensorProto.UINT8: Held("U8", 8),
    TensorProto.INT16: Held("I16", 16),
    TensorProto.UINT16: Held("U16", 16),
    TensorProto.INT32: Held("I32", 32),
    TensorProto.UINT32: Held("U32", 32),
    TensorProto.INT64: Held("I64", 64),
    TensorProto.UINT64: Held("U64", 64),
    TensorProto.INT4: Held("I8", 4),
    TensorProto.UINT4: Held("U8", 4),
}


def encode_graph(source: Path, path: Path, *, fast: bool = False, workers: int = 1) -> int:
    """Write an ONNX file as a coded one; return its bytes.

    Args:
        fast: code large tensors by the fast profile.
        workers: threads that code pieces of large tensors beside each other.

    Raises:
        CodecError: the source is no ONNX file, or one that no reader of the coded file would take.
    """
    try:
        model = onnx.load(str(source))
    except (OSError, ValueError, DecodeError, ValidationError) as error:
        raise CodecError(f"{source}: expected an ONNX file: {error}") from error
    tensors = named_tensors(model, str(source))
    held = [tensor for tensor in tensors.values() if is_held(tensor)]
    entries = [
        entry_of([tensor.name, HELD[tensor.data_type].name, list(tensor.dims)], f"{source}: initializer")
        for tensor in held
    ]
    for tensor in tensors.values():
        if not is_held(tensor):
            check_whole(tensor, str(source))
    check_scales(model.graph, str(source))
    stream = MixedStream()
    code_small(stream, entries, (numbers_of(tensor, source) for tensor in held))
    numbers = (numbers_of(tensor, source) for tensor in held)
    segments = list(coded_segments(entries, numbers, fast=fast, workers=workers))  # before the numbers are cleared
    for tensor in held:
        for field in NUMBER_FIELDS:
            tensor.ClearField(field)
    check_graph(model, str(source))
    graph = model.SerializeToString(deterministic=True)
    check_size(entries, graph, str(source))
    return write_file(
        path,
        signature=None,
        directory=entries,
        graph=graph,
        pool=stream.finish(),
        segments=segments,
        fast=fast,
    )


def check_size(entries: Sequence[Entry], graph: bytes, where: str) -> None:
    """Make sure that a graph and its tensors fit into one ONNX file.

    Raises:
        CodecError: they do not.
    """
    size = len(graph) + sum(entry.size * entry.type.size for entry in entries)
    if size > MOST_BYTES:
        raise CodecError(
            f"{where}: expected a graph and tensors of at most {MOST_BYTES} bytes, which an ONNX file holds, "
            f"got {size}: encode the weights as .safetensors"
        )


def named_tensors(model: onnx.ModelProto, where: str) -> dict[str, TensorProto]:
    """The initializers of a graph, by name.

    Raises:
        CodecError: two have the same.
    """
    tensors: dict[str, TensorProto] = {}
    for tensor in model.graph.initializer:
        if tensors.setdefault(tensor.name, tensor) is not tensor:
            raise CodecError(f"{where}: graph: expected each initializer once, got {tensor.name!r} twice")
    return tensors


def is_held(tensor: TensorProto) -> bool:
    """Whether a tensor is coded; those of a few numbers stay in the graph, as do types that there are not here."""
    held = HELD.get(tensor.data_type)
    if held is None or prod(tensor.dims) < FEWEST_NUMBERS:
        return False
    return held.bits >= 8 or tensor.HasField("raw_data")


def numbers_of(tensor: TensorProto, source: Path) -> Numbers:
    """The numbers of a tensor that is coded, in whichever of its fields they are.

    Raises:
        CodecError: they are not as many as its shape says.
    """
    held, count = HELD[tensor.data_type], prod(tensor.dims)
    kind, where = type_named(held.name), f"{source}: initializer {tensor.name!r}"
    try:
        raw = tensor.raw_data if tensor.HasField("raw_data") else to_array(tensor).tobytes()
    except (ValueError, TypeError) as error:
        raise CodecError(f"{where}: expected {count} numbers: {error}") from error
    if len(raw) != (expected := (count * held.bits + 7) // 8):
        raise CodecError(f"{where}: expected {expected} bytes of shape {tuple(tensor.dims)}, got {len(raw)}")
    plain = np.frombuffer(raw, dtype=np.uint8)
    patterns = spread(plain, held, count) if held.bits < 8 else plain.view(kind.patterns)
    return Numbers(kind, patterns.reshape(tuple(tensor.dims)))


def decode_graph(source: Path | str | bytes | BinaryIO, *, workers: int = 1) -> bytes:
    """Return the ONNX file that :func:`encode_graph` was given, as bytes that a runtime loads and that need no others.

    Raises:
        CodecError: the file is damaged or hostile, or holds no graph.
    """
    with opened(source) as (file, name):
        head = read_head(file, name)
        if head.graph is None or head.directory is None:
            raise CodecError(f"{name}: expected a file with a graph inside: encode it with --embed-graph")
        check_size(head.directory, head.graph, name)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(head.graph)
        except DecodeError as error:
            raise CodecError(f"{name}: graph: expected an ONNX graph: {error}") from error
        for one in tensors_in(model):
            if one.external_data or one.data_location == TensorProto.EXTERNAL:
                raise CodecError(f"{name}: graph: expected the numbers of {one.name!r} inside, got a name of a file")
        waiting, coded = named_tensors(model, name), {entry.name for entry in head.directory}
        for one in waiting.values():
            if one.name not in coded:
                check_whole(one, name)
        check_graph(model, name)
        pool = MixedStream.reading(head.pool, head.schema)
        large = large_tensors(file, name, head, head.directory, workers=workers)
        for stored in chain(small_tensors(pool, head.directory), large):
            entry, tensor = stored.entry, waiting.pop(stored.entry.name, None)
            held = HELD.get(tensor.data_type) if tensor is not None else None
            if tensor is None or held is None or (held.name, tuple(tensor.dims)) != (entry.type.name, entry.shape):
                raise CodecError(f"{name}: graph: expected a tensor {entry.name!r} as the directory names it")
            patterns = stored.numbers.patterns.reshape(-1)
            tensor.raw_data = (gathered(patterns, held) if held.bits < 8 else patterns).tobytes()
        check_scales(model.graph, name)
        return model.SerializeToString(deterministic=True)


def tensors_in(message: Message) -> Iterator[TensorProto]:
    """All tensors of a graph: initializers, constants of nodes, those of graphs inside."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if isinstance(value, Sequence) else (value,):
                if isinstance(one, TensorProto):
                    yield one
                yield from tensors_in(one)


def check_whole(tensor: TensorProto, name: str) -> None:
    """Make sure that an initializer that the directory does not name has its numbers in the graph.

    Raises:
        CodecError: it has others, or none.
    """
    try:
        to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise CodecError(f"{name}: graph: initializer {tensor.name!r}: expected its numbers: {error}") from error


def check_graph(model: onnx.ModelProto, where: str) -> None:
    """Make sure that a graph is one: each node's inputs come from before it, and it is a node that there is.

    Nodes of other domains than ONNX's own may be any. Initializers count as inputs: what is in them is not looked at.

    Raises:
        CodecError: it is none.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    given = {one.name for one in plain.graph.input}
    missing = (tensor for tensor in plain.graph.initializer if tensor.name not in given)
    try:
        plain.graph.input.extend(make_tensor_value_info(one.name, one.data_type, one.dims) for one in missing)
        plain.graph.ClearField("initializer")
        check_model(plain)
    except (ValidationError, ValueError) as error:  # a name that is no text is a ValueError
        said = " ".join(str(error).split())
        raise CodecError(f"{where}: graph: expected one that ONNX's checker takes: {said}") from error


def check_scales(graph: onnx.GraphProto, where: str, outside: Mapping[str, TensorProto] | None = None) -> None:
    """Make sure that the scales of a graph, and of those inside it, are numbers.

    Args:
        outside: tensors of the graphs around it, by name.

    Raises:
        CodecError: one is NaN or infinite.
    """
    known = {**(outside or {}), **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                known.update(dict.fromkeys(node.output, attribute.t))
            for inside in (attribute.g, *attribute.graphs):
                check_scales(inside, where, known)
        for name in (node.input[place] for place in SCALES.get(node.op_type, ()) if place < len(node.input)):
            if name in known:
                check_finite(known[name], f"{where}: graph: scale {name!r}")


def check_finite(tensor: TensorProto, where: str) -> None:
    """Make sure that a tensor holds numbers.

    Raises:
        CodecError: one is NaN or infinite, or no number at all.
    """
    try:
        values = to_array(tensor).astype(np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise CodecError(f"{where}: expected finite numbers: {error}") from error
    if not (finite := np.isfinite(values)).all():
        raise CodecError(f"{where}: expected finite numbers, got {values[~finite][0]}")


def spread(raw: np.ndarray, held: Held, count: int) -> np.ndarray:
    """Numbers of four bits, two a byte, the lower one first, as bytes ``(count,)``."""
    nibbles = np.stack([raw & 15, raw >> 4], 1).reshape(-1)[:count]
    return np.where(nibbles > 7, nibbles | 0xF0, nibbles).astype(np.uint8) if held.name == "I8" else nibbles


def gathered(patterns: np.ndarray, held: Held) -> np.ndarray:
    """Numbers of four bits, two a byte again.

    Raises:
        CodecError: one of them takes more.
    """
    if not np.array_equal(spread(patterns & 15, held, 2 * patterns.size)[::2], patterns):
        raise CodecError("graph: expected numbers of four bits, got larger ones")
    padded = np.append(patterns & 15, np.zeros(patterns.size % 2, np.uint8)).reshape(-1, 2)
    return (padded[:, 0] | padded[:, 1] << 4).astype(np.uint8)
