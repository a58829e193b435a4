"""What a model would take in the coded file, asked of the coder itself: what methods spread bytes by."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compression_gate.codec.coded_model import entries_of, most_numbers, numbers_of, own_tensors
from compression_gate.codec.container import head_bytes
from compression_gate.codec.segments import code_small, coded_segments
from compression_gate.codec.streams import MixedStream
from compression_gate.codec.structure_code import code_structure
from compression_gate.modules.structure import describe

A_SEGMENT = 1 << 14  # bytes: of a length that takes three


def coded_bytes(model: nn.Module, without: Sequence[str] = ()) -> int:
    """Return what the coded file would take for a model's tensors [bytes], structure and head apart.

    Args:
        without: names of modules that are left out, with everything inside them.
    """
    counted = [
        (entry, tensor)
        for entry, (name, tensor) in zip(entries_of(model), own_tensors(model), strict=True)
        if not any(name.startswith(f"{one}.") for one in without)
    ]
    entries = [entry for entry, _ in counted]
    stream = MixedStream()
    code_small(stream, entries, (numbers_of(tensor) for _, tensor in counted))
    segments = coded_segments(entries, (numbers_of(tensor) for _, tensor in counted), fast=False)
    return len(stream.finish()) + sum(map(len, segments))


def framing_bytes(model: nn.Module, factory_model: nn.Module) -> int:
    """Return what a coded file takes for everything but a model's tensors [bytes], whatever is in these."""
    stream = MixedStream()
    code_structure(stream, factory_model, describe(model, factory_model), largest=most_numbers(factory_model))
    frames = [(A_SEGMENT, 0)] * sum(entry.segments for entry in entries_of(model))
    pool = stream.finish()
    return len(head_bytes(signature=0, directory=None, graph=None, frames=frames, pool=pool, fast=False))
