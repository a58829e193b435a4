"""A model to a coded file and back: what differs from the factory's model, then one tensor after the other."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from compression_gate.codec.container import (
    Entry,
    Head,
    head_bytes,
    opened,
    read_head,
    read_segment,
)
from compression_gate.codec.number_types import BY_NAME, Numbers
from compression_gate.codec.streams import MixedStream
from compression_gate.codec.structure_code import code_structure
from compression_gate.codec.tensors import code_tensor
from compression_gate.errors import CodecError
from compression_gate.modules.structure import describe
from compression_gate.records.base import replacing

TORCH_TYPES: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
SPARE_NUMBERS = 1 << 20
NAMES = {kind: name for name, kind in TORCH_TYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: what it is, what it takes there [bytes], and its numbers."""

    entry: Entry
    coded_bytes: float
    numbers: Numbers


def encode_model(model: nn.Module, factory_model: nn.Module, path: Path) -> int:
    """Write a model, relative to what its factory builds; return the bytes.

    All numbers come back to the bit, but for −0, which becomes 0.

    Raises:
        CodecError: a tensor is of a type that no coded file holds.
        CompressionError: the model differs in a way that its structure cannot say.
    """
    structure = describe(model, factory_model)
    stream = MixedStream()
    code_structure(stream, factory_model, structure, largest=most_numbers(factory_model))
    entries, numbers = entries_of(model), [numbers_of(tensor) for _, tensor in own_tensors(model)]
    pool, segments = coded_tensors(stream, entries, numbers)
    frames = [(len(segment), zlib.crc32(segment)) for segment in segments]
    head = head_bytes(
        signature=signature_of(factory_model), directory=None, graph=None, frames=frames, pool=pool, fast=False
    )
    return write(path, [head, *segments])


def decode_model(factory_model: nn.Module, source: Path | str | bytes | BinaryIO) -> nn.Module:
    """Return the model that :func:`encode_model` wrote, in eval mode; ``factory_model`` stays as it is.

    Raises:
        CodecError: the file is damaged, hostile, of a newer kind, or of another model.
    """
    with opened(source) as (file, name):
        head = read_head(file, name)
        stream, model = begun(head, factory_model, name)
        state = dict(own_tensors(model))
        for stored in stored_tensors(file, name, head, entries_of(model), stream):
            with torch.no_grad():
                state[stored.entry.name].copy_(tensor_of(stored.numbers))
    return model.eval()


def begun(head: Head, factory_model: nn.Module, name: str) -> tuple[MixedStream, nn.Module]:
    """Read the structure; return the stream behind it, and a model without weights.

    Raises:
        CodecError: the file is of another model.
    """
    if head.signature is None:
        raise CodecError(f"{name}: expected a model's file, got one of named tensors: decode it without a model")
    if head.signature != signature_of(factory_model):
        raise CodecError(
            f"{name}: expected the file of a model like {type(factory_model).__name__}, got one of another: "
            "check task.model and task.model_args, or restore the code it was written with"
        )
    stream = MixedStream.reading(head.pool)
    _, model = code_structure(stream, factory_model, None, largest=most_numbers(factory_model))
    return stream, model


def most_numbers(factory_model: nn.Module) -> int:
    """How many numbers replaced layers may hold: compressed ones hold fewer, and a file is not to ask for more."""
    return 4 * sum(tensor.numel() for tensor in factory_model.state_dict().values()) + SPARE_NUMBERS


def signature_of(factory_model: nn.Module) -> int:
    """16 bits that tell the names, types and shapes of a model's tensors from those of another."""
    lines = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in factory_model.state_dict().items()]
    return zlib.crc32("\n".join(lines).encode()) & 0xFFFF


def own_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each saved tensor once, under the first of its names."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def entries_of(model: nn.Module) -> list[Entry]:
    """What the tensors of a model are.

    Raises:
        CodecError: one is of a type that no coded file holds.
    """
    entries = []
    for name, tensor in own_tensors(model):
        if tensor.dtype not in NAMES:
            raise CodecError(f"{name}: expected one of {', '.join(map(str, NAMES))}, got {tensor.dtype}")
        entries.append(Entry(name, BY_NAME[NAMES[tensor.dtype]], tuple(tensor.shape)))
    return entries


def numbers_of(tensor: Tensor) -> Numbers:
    """A tensor's numbers by their bits; −0 becomes 0."""
    plain = tensor.detach().cpu().contiguous()
    kind = BY_NAME[NAMES[plain.dtype]]
    if plain.dtype == torch.bool:
        plain = plain.to(torch.uint8)
    elif plain.is_floating_point() and kind.size > 1:
        plain = plain.masked_fill(plain == 0, 0)
    shape = tuple(plain.shape)
    return Numbers(kind, plain.reshape(-1).view(torch.uint8).numpy().view(kind.patterns).reshape(shape))


def tensor_of(numbers: Numbers) -> Tensor:
    """The tensor of numbers."""
    flat = torch.frombuffer(bytearray(numbers.patterns.tobytes()) or bytearray(8), dtype=TORCH_TYPES[numbers.type.name])
    return flat[: numbers.patterns.size].reshape(numbers.shape)


def coded_tensors(
    stream: MixedStream, entries: Sequence[Entry], numbers: Sequence[Numbers]
) -> tuple[bytes, list[bytes]]:
    """Write small tensors on the stream, large ones in segments of their own; return the bytes of both."""
    segments: list[bytes] = []
    for entry, tensor in zip(entries, numbers, strict=True):
        if entry.large:
            segments += [coded_part(entry, tensor, start, shape) for start, shape in entry.parts]
        else:
            code_tensor(stream, entry.type, entry.shape, tensor)
    return stream.finish(), segments


def coded_part(entry: Entry, numbers: Numbers, start: int, shape: tuple[int, ...]) -> bytes:
    """A segment of a large tensor."""
    stream = MixedStream()
    part = numbers.patterns.reshape(-1)[start : start + int(np.prod(shape))].reshape(shape)
    code_tensor(stream, entry.type, shape, Numbers(entry.type, part))
    return stream.finish()


def stored_tensors(
    file: BinaryIO, name: str, head: Head, entries: Sequence[Entry], stream: MixedStream
) -> Iterator[Stored]:
    """Read all tensors, the small ones first.

    Raises:
        CodecError: something is damaged; it says what.
    """
    if (wanted := sum(entry.segments for entry in entries)) != len(head.segments):
        raise CodecError(f"{name}: expected {wanted} segments, got {len(head.segments)}: the file is damaged")
    for entry in entries:
        if not entry.large:
            before = stream.size()
            numbers = named(entry, stream, entry.shape)
            yield Stored(entry, stream.size() - before, numbers)
    stream.check_end()
    number = 0
    for entry in entries:
        if entry.large:
            patterns = np.empty(entry.size, dtype=entry.type.patterns)
            first = number
            for start, shape in entry.parts:
                data = read_segment(file, head.segments[number], name, number)
                part = MixedStream.reading(data)
                patterns[start : start + int(np.prod(shape))] = named(entry, part, shape).patterns.reshape(-1)
                part.check_end()
                number += 1
            length = sum(segment.length for segment in head.segments[first:number])
            yield Stored(entry, length, Numbers(entry.type, patterns.reshape(entry.shape)))


def named(entry: Entry, stream: MixedStream, shape: tuple[int, ...]) -> Numbers:
    """Read a tensor, or a part of one; errors say which."""
    try:
        return code_tensor(stream, entry.type, shape, None)
    except CodecError as error:
        raise CodecError(f"{entry.name}: {error}: the file is damaged") from error


def write(path: Path, parts: Sequence[bytes]) -> int:
    """Write a file under a temporary name, then rename; return its length."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)
    return sum(map(len, parts))
