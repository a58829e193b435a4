"""Coded files put together by hand: what tests of the codec and its fuzzer hand to the decoder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from compression_gate.codec.container import MODEL, SCHEMA, SEGMENTS, head_bytes, varint
from compression_gate.codec.number_types import BY_NAME, Numbers
from compression_gate.codec.streams import MixedStream
from compression_gate.codec.tensors import code_tensor


def numbers(kind: str, patterns: object) -> Numbers:
    """Numbers of a type by their bits."""
    return Numbers(BY_NAME[kind], np.asarray(patterns, dtype=BY_NAME[kind].patterns))


def of_values(kind: str, values: object) -> Numbers:
    """Numbers of one of numpy's own types by their values."""
    own = {"BOOL": "u1"}.get(kind) or f"<{kind[0].lower()}{int(kind[1:]) // 8}"
    return Numbers(BY_NAME[kind], np.ascontiguousarray(np.asarray(values, dtype=own)).view(BY_NAME[kind].patterns))


def coded(tensor: Numbers) -> tuple[bytes, float]:
    """One tensor as a stream, and what the model says it costs [bytes]."""
    stream = MixedStream()
    code_tensor(stream, tensor.type, tensor.shape, tensor)
    return stream.finish(), stream.size()


def decoded(data: bytes, like: Numbers) -> Numbers:
    """The tensor of a stream, all of which was used."""
    stream = MixedStream.reading(data)
    found = code_tensor(stream, like.type, like.shape, None)
    stream.check_end()
    return found


def sealed(
    body: bytes, flags: int, *, schema: int = SCHEMA, magic: bytes = b"CGZ", missing: int = 0, behind: bytes = b""
) -> bytes:
    """A file around the bytes behind its checksum, with a length and a checksum that are right.

    Args:
        missing: by how much the length is to be too small.
        behind: what the checksum does not cover.
    """
    beginning = magic + bytes([schema, flags])
    fixed = len(beginning) + 4 + len(body) + len(behind)
    length = next(size for size in range(1, 10) if len(varint(fixed + size)) == size)
    beginning += varint(fixed + length - missing)
    return beginning + zlib.crc32(body, zlib.crc32(beginning)).to_bytes(4, "little") + body + behind


def of_model(signature: int, pool: bytes, segments: Sequence[bytes] = (), *, fast: bool = False) -> bytes:
    """A model's file around a pool and segments."""
    frames = [(len(segment), zlib.crc32(segment)) for segment in segments]
    head = head_bytes(signature=signature, directory=None, graph=None, frames=frames, pool=pool, fast=fast)
    return head + b"".join(segments)


__all__ = ["MODEL", "SEGMENTS", "coded", "decoded", "numbers", "of_model", "of_values", "sealed"]
