"""Files of named tensors: a safetensors file of any size to a coded one and back, piece by piece.

No more is held in memory than a few pieces of 2²⁰ numbers and the stream of the tensors under 64 KiB. What was coded
or decoded before a kill is kept beside the file that is being written, and the next run goes on behind it.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from compression_gate.codec.container import COPIED, SCHEMA, Entry, entry_of, head_bytes, opened, read_head, writable
from compression_gate.codec.number_types import Numbers
from compression_gate.codec.segments import (
    Part,
    code_small,
    coded_part,
    parts_of,
    read_pieces,
    side_by_side,
    small_tensors,
)
from compression_gate.codec.streams import MixedStream
from compression_gate.codec.unfinished import body_of, room_of, unfinished
from compression_gate.errors import CodecError
from compression_gate.progress import tracked
from compression_gate.records.base import digest_of, replacing

DECODING = "decoding"
MOST_HEADER = 100_000_000  # what safetensors itself takes


@dataclass(frozen=True)
class Source:
    """A safetensors file: its tensors, and where in it each begins [bytes]."""

    path: Path
    entries: tuple[Entry, ...]
    offsets: dict[str, int]

    @classmethod
    def of(cls, path: Path) -> Source:
        """Read a file's header.

        Raises:
            CodecError: there is no such file, or it is damaged.
        """
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > MOST_HEADER:
                    raise CodecError(f"{path}: expected a safetensors file, got a header of {length} bytes")
                plain = json.loads(file.read(length))
            lines = {name: one for name, one in plain.items() if name != "__metadata__"}
            entries = tuple(entry_of([name, one["dtype"], one["shape"]], str(path)) for name, one in lines.items())
            spans = {entry: span_of(lines[entry.name]["data_offsets"], entry, path) for entry in entries}
        except OSError as error:
            raise CodecError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CodecError(f"{path}: expected a safetensors file: {error!r}") from error
        end = 0
        for entry, span in sorted(spans.items(), key=lambda item: item[1]):
            if span[0] != end:
                raise CodecError(
                    f"{path}: {entry.name}: data_offsets: expected {end}, where the tensor before it ends, "
                    f"got {span[0]}: the file is damaged"
                )
            end = span[1]
        if (behind := path.stat().st_size - 8 - length) != end:
            raise CodecError(
                f"{path}: expected {end} bytes behind its header, got {behind}: the file was cut short or added to"
            )
        offsets = {entry.name: 8 + length + start for entry, (start, _) in spans.items()}
        return cls(path=path, entries=entries, offsets=offsets)

    def patterns(self, entry: Entry, start: int, size: int) -> np.ndarray:
        """Read so many numbers of a tensor, from the ``start``-th on, by their bits."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[entry.name] + start * entry.type.size)
            return np.frombuffer(file.read(size * entry.type.size), dtype=entry.type.patterns).copy()


def span_of(plain: object, entry: Entry, path: Path) -> tuple[int, int]:
    """Where behind a header a tensor begins and ends [bytes].

    Raises:
        CodecError: not as far from each other as its numbers take.
    """
    length = entry.size * entry.type.size
    match plain:
        case [int(start), int(end)] if end - start == length:
            return start, end
    raise CodecError(
        f"{path}: {entry.name}: data_offsets: expected two whole numbers, {length} apart, got {str(plain)[:200]}: "
        "the file is damaged"
    )


def encode_tensors(source: Path, path: Path, *, fast: bool = False, workers: int = 1) -> int:
    """Write a coded file of all tensors of a safetensors file; return its bytes.

    Args:
        fast: the fast profile.
        workers: threads that code pieces beside each other.

    Raises:
        CodecError: the source is damaged, or holds numbers of a type that no coded file holds.
        ParamsError: another process writes the same file.
    """
    tensors = Source.of(source)
    parts = parts_of(tensors.entries)

    def coded(part: Part) -> bytes:
        return coded_part(part, tensors.patterns(part.entry, part.start, part.size), fast=fast)

    status = source.stat()
    key = digest_of([str(source.resolve()), status.st_size, status.st_mtime_ns, fast, SCHEMA])
    with writable(path), unfinished(path, "segments", key) as work:
        for segment in tracked(side_by_side(coded, parts[len(work.pieces) :], workers), len(parts), "coded pieces"):
            work.add(work.end, segment)
        frames = [(length, checksum) for _, length, checksum in work.pieces]
        stream = MixedStream()
        code_small(stream, tensors.entries, (small_numbers(tensors, entry) for entry in tensors.entries))
        head = head_bytes(
            signature=None, directory=tensors.entries, graph=None, frames=frames, pool=stream.finish(), fast=fast
        )
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(head)
            work.body.seek(0)
            shutil.copyfileobj(work.body, file, COPIED)
            if file.tell() != (expected := len(head) + work.end):
                raise CodecError(
                    f"{path}: expected {expected} bytes, got {file.tell()}: "
                    f"something else wrote to {work.body.name}: encode again"
                )
    return path.stat().st_size


def small_numbers(source: Source, entry: Entry) -> Numbers:
    """A small tensor's numbers; none of a large one."""
    size = 0 if entry.large else entry.size
    patterns = source.patterns(entry, 0, size)
    return Numbers(entry.type, patterns if entry.large else patterns.reshape(entry.shape))


def decode_tensors(source: Path | str | bytes | BinaryIO, path: Path, *, workers: int = 1) -> None:
    """Write the safetensors file of a coded file's tensors.

    Raises:
        CodecError: the file is damaged or hostile, or one of a model: that needs its factory.
        ParamsError: another process writes the same file.
    """
    with opened(source) as (file, name):
        head = read_head(file, name)
        if head.directory is None:
            raise CodecError(f"{name}: expected a file of named tensors, got a model's: decode it in its suite")
        header, offsets = header_of(head.directory)
        size = len(header) + sum(entry.size * entry.type.size for entry in head.directory)
        checksums = [segment.checksum for segment in head.segments]
        key = digest_of([head.schema, head.flags, head.total, zlib.crc32(header), zlib.crc32(head.pool), checksums])
        with writable(path):
            check_room(path, size)
            with unfinished(path, DECODING, key) as work:
                done = len(work.pieces)
                for piece in read_pieces(file, name, head, head.directory, first=done, workers=workers):
                    entry = piece.part.entry
                    place = offsets[entry.name] + piece.part.start * entry.type.size
                    work.add(place, piece.patterns.tobytes())
                for stored in small_tensors(MixedStream.reading(head.pool, head.schema), head.directory):
                    work.body.seek(offsets[stored.entry.name])
                    work.body.write(stored.numbers.patterns.tobytes())
                work.body.seek(0)
                work.body.write(header)
                work.body.truncate(size)
                work.body.close()
                whole = body_of(path, DECODING)
                whole.chmod(0o644)
                whole.replace(path)


def check_room(path: Path, size: int) -> None:
    """Make sure that a decoded file has room, beside what an earlier run left of it.

    Raises:
        CodecError: it has not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    free, missing = shutil.disk_usage(path.parent).free, size - room_of(path, DECODING)
    if free < missing:
        raise CodecError(f"{path}: expected {missing:,} bytes of room on its disk, got {free:,}: decode to another")


def header_of(entries: Sequence[Entry]) -> tuple[bytes, dict[str, int]]:
    """A safetensors header over tensors one behind the other, and where in the file each begins [bytes]."""
    plain: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, position = {}, 0
    for entry in entries:
        end = position + entry.size * entry.type.size
        plain[entry.name] = {"dtype": entry.type.name, "shape": entry.shape, "data_offsets": [position, end]}
        starts[entry.name], position = position, end
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}
