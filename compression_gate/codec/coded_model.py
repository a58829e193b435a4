"""A model to a coded file and back: what differs from the factory's model, then one tensor after the other."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from compression_gate.codec.container import Entry, Head, opened, read_head, write_file
from compression_gate.codec.number_types import BY_NAME, Numbers
from compression_gate.codec.segments import Piece, code_small, coded_segments, read_pieces, small_tensors
from compression_gate.codec.streams import MixedStream
from compression_gate.codec.structure_code import code_structure
from compression_gate.errors import CodecError
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.structure import describe

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
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
SPARE_NUMBERS = 1 << 20
EXTRA = "_extra_state"  # what a module's get_extra_state returns is saved as
NAMES = {kind: name for name, kind in TORCH_TYPES.items()}


def encode_model(
    model: nn.Module, factory_model: nn.Module, path: Path, *, fast: bool = False, workers: int = 1
) -> int:
    """Write a model, relative to what its factory builds; return the bytes.

    All numbers come back to the bit, but for −0, which becomes 0.

    Args:
        fast: code large tensors by the fast profile.
        workers: threads that code pieces of large tensors beside each other.

    Raises:
        CodecError: a tensor is of a type that no coded file holds, or a scale is not finite.
        CompressionError: the model differs in a way that its structure cannot say.
    """
    entries, signature = entries_of(model), signature_of(factory_model)
    check_scales(model)
    structure = describe(model, factory_model)
    stream = MixedStream()
    code_structure(stream, factory_model, structure, largest=most_numbers(factory_model))
    code_small(stream, entries, (numbers_of(tensor) for _, tensor in own_tensors(model)))
    numbers = (numbers_of(tensor) for _, tensor in own_tensors(model))
    return write_file(
        path,
        signature=signature,
        directory=None,
        graph=None,
        pool=stream.finish(),
        segments=coded_segments(entries, numbers, fast=fast, workers=workers),
        fast=fast,
    )


def decode_model(factory_model: nn.Module, source: Path | str | bytes | BinaryIO, *, workers: int = 1) -> nn.Module:
    """Return the model that :func:`encode_model` wrote, in eval mode; ``factory_model`` stays as it is.

    Raises:
        CodecError: the file is damaged, hostile, of a newer kind, or of another model.
    """
    with opened(source) as (file, name):
        head = read_head(file, name)
        stream, model = begun(head, factory_model, name)
        state, entries = dict(own_tensors(model)), entries_of(model)
        pieces = read_pieces(file, name, head, entries, workers=workers)
        with torch.no_grad():
            for stored in small_tensors(stream, entries):
                state[stored.entry.name].copy_(tensor_of(stored.numbers))
            for entry, group in groupby(pieces, key=lambda piece: piece.part.entry):
                fill(state[entry.name], group)
        try:
            check_scales(model)
        except CodecError as error:
            raise CodecError(f"{name}: {error}") from error
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
    stream = MixedStream.reading(head.pool, head.schema)
    _, model = code_structure(stream, factory_model, None, largest=most_numbers(factory_model))
    return stream, model


def most_numbers(factory_model: nn.Module) -> int:
    """How many numbers replaced layers may hold: compressed ones hold fewer, and a file is not to ask for more."""
    return 4 * sum(tensor.numel() for tensor in state_of(factory_model).values()) + SPARE_NUMBERS


def signature_of(factory_model: nn.Module) -> int:
    """16 bits that tell the names, types and shapes of a model's tensors from those of another."""
    lines = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in state_of(factory_model).items()]
    return zlib.crc32("\n".join(lines).encode()) & 0xFFFF


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All saved parameters and buffers, by each of their names.

    Raises:
        CodecError: something else is saved too.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if name.rpartition(".")[2] == EXTRA or not isinstance(value, Tensor) or value.layout != torch.strided:
            got = f"a tensor of layout {value.layout}" if isinstance(value, Tensor) else type(value).__name__
            raise CodecError(
                f"{name}: expected a parameter or buffer that is a dense tensor, got {got}: no coded file holds it"
            )
    return state


def check_scales(model: nn.Module) -> None:
    """Make sure that integer layers compute numbers.

    Raises:
        CodecError: one of their scales is NaN or infinite.
    """
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            for key, buffer in module.named_buffers(name, recurse=False):
                if key.endswith("scale") and not bool(buffer.isfinite().all()):
                    raise CodecError(f"{key}: expected finite scales, got {buffer[~buffer.isfinite()][0].item()}")


def own_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each saved tensor once, under the first of its names; complex numbers by a last axis of their two parts."""
    seen: set[int] = set()
    for name, tensor in state_of(model).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor


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
    """The tensor of numbers, in the same memory."""
    flat = torch.from_numpy(numbers.patterns.reshape(-1).view(np.uint8))
    return flat.view(TORCH_TYPES[numbers.type.name]).reshape(numbers.shape)


def fill(tensor: Tensor, pieces: Iterable[Piece]) -> None:
    """Put a large tensor's pieces where they belong, one after the other."""
    flat = tensor.contiguous().view(-1)  # of the same memory, but for a tensor that lies there in another order
    for piece in pieces:
        part = piece.part
        flat[part.start : part.start + part.size] = tensor_of(Numbers(part.entry.type, piece.patterns))
    if not tensor.is_contiguous():
        tensor.copy_(flat.view(tensor.shape))
