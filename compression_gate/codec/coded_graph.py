"""Self-contained files: an ONNX graph and its tensors, to be run without the code of the model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from compression_gate.codec.container import Entry, opened, read_head, write_file
from compression_gate.codec.number_types import Numbers, type_named
from compression_gate.codec.segments import code_small, coded_segments, large_tensors, small_tensors
from compression_gate.codec.streams import MixedStream
from compression_gate.errors import CodecError

FEWEST_NUMBERS = 16  # smaller tensors stay in the graph: naming them would take more than it saves


@dataclass(frozen=True)
class Held:
    """How ONNX holds numbers of a type: as a type of ours, so many bits each."""

    name: str
    bits: int


HELD = {
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


def encode_graph(source: Path, path: Path, *, fast: bool = False) -> int:
    """Write an ONNX file as a coded one; return its bytes.

    Raises:
        CodecError: the source is no ONNX file.
    """
    try:
        model = onnx.load(str(source))
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        raise CodecError(f"{source}: expected an ONNX file: {error}") from error
    entries, numbers = [], []
    for tensor in model.graph.initializer:
        if (held := HELD.get(tensor.data_type)) and tensor.raw_data and np.prod(tensor.dims) >= FEWEST_NUMBERS:
            kind, shape = type_named(held.name), tuple(tensor.dims)
            raw = np.frombuffer(tensor.raw_data, dtype=np.uint8)
            patterns = spread(raw, held, int(np.prod(shape))) if held.bits < 8 else raw.view(kind.patterns)
            entries.append(Entry(tensor.name, kind, shape))
            numbers.append(Numbers(kind, patterns.reshape(shape)))
            tensor.ClearField("raw_data")
    stream = MixedStream()
    code_small(stream, entries, numbers)
    return write_file(
        path,
        signature=None,
        directory=entries,
        graph=model.SerializeToString(deterministic=True),
        pool=stream.finish(),
        segments=coded_segments(entries, numbers, fast=fast),
        fast=fast,
    )


def decode_graph(source: Path | str | bytes | BinaryIO) -> bytes:
    """Return the ONNX file that :func:`encode_graph` was given, as bytes that a runtime loads.

    Raises:
        CodecError: the file is damaged or hostile, or holds no graph.
    """
    with opened(source) as (file, name):
        head = read_head(file, name)
        if head.graph is None or head.directory is None:
            raise CodecError(f"{name}: expected a file with a graph inside: encode it with --embed-graph")
        model = onnx.ModelProto()
        try:
            model.ParseFromString(head.graph)
        except DecodeError as error:
            raise CodecError(f"{name}: graph: expected an ONNX graph: {error}") from error
        waiting = {tensor.name: tensor for tensor in model.graph.initializer}
        pool = MixedStream.reading(head.pool)
        for stored in chain(small_tensors(pool, head.directory), large_tensors(file, name, head, head.directory)):
            entry, tensor = stored.entry, waiting.get(stored.entry.name)
            held = HELD.get(tensor.data_type) if tensor is not None else None
            if tensor is None or held is None or (held.name, tuple(tensor.dims)) != (entry.type.name, entry.shape):
                raise CodecError(f"{name}: graph: expected a tensor {entry.name!r} as the directory names it")
            patterns = stored.numbers.patterns.reshape(-1)
            tensor.raw_data = (gathered(patterns, held) if held.bits < 8 else patterns).tobytes()
        return model.SerializeToString(deterministic=True)


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
