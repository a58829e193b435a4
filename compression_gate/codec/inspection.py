"""Where the bytes of a coded file are."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression_gate.codec.container import opened, read_head
from compression_gate.codec.segments import Stored, large_tensors, small_tensors
from compression_gate.codec.streams import MixedStream
from compression_gate.errors import CodecError
from compression_gate.records.coded import CodedTensor, Inspection

if TYPE_CHECKING:
    from torch import nn


def inspected(path: Path, factory_model: nn.Module | None = None) -> Inspection:
    """Decode a file and say what each tensor takes.

    Args:
        factory_model: what the file of a model is relative to.

    Raises:
        CodecError: the file is damaged, or one of a model and there is none to hold it against.
    """
    with opened(path) as (file, name):
        head = read_head(file, name)
        if head.directory is not None:
            stream, entries = MixedStream.reading(head.pool), list(head.directory)
        elif factory_model is None:
            raise CodecError(f"{name}: a model's file: say with -C in which suite its task is")
        else:
            from compression_gate.codec.coded_model import begun, entries_of

            stream, model = begun(head, factory_model, name)
            entries = entries_of(model)
        stored = chain(small_tensors(stream, entries), large_tensors(file, name, head, entries))
        found = {one.entry.name: coded_tensor(one) for one in stored}
    return Inspection(
        file=str(path),
        kind="model" if head.directory is None else "tensors" if head.graph is None else "graph",
        profile="fast" if head.fast else "small",
        size_bytes=head.total,
        head_bytes=head.total - sum(one.coded_bytes for one in found.values()),
        tensors=tuple(found[entry.name] for entry in entries),
    )


def coded_tensor(stored: Stored) -> CodedTensor:
    """What a tensor takes, and what its values are like."""
    entry, patterns = stored.entry, stored.numbers.patterns.reshape(-1)
    counts = np.unique(patterns, return_counts=True)[1]
    shares = counts / max(patterns.size, 1)
    return CodedTensor(
        name=entry.name,
        type=entry.type.name,
        shape=entry.shape,
        numbers=entry.size,
        zeros=int((patterns == 0).sum()),
        plain_bytes=entry.size * entry.type.size,
        coded_bytes=float(stored.coded_bytes),
        forms=stored.forms,
        entropy_bits=float(abs((shares * np.log2(shares)).sum())),
    )
