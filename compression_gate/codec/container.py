"""The bytes of ``model.cgz`` around the streams: header, lengths, checksums, and what a reader believes of them.

``docs/format.md`` describes every byte. Nothing is used before its checksum was verified, and nothing is allocated that
the file's own length does not account for.
"""

from __future__ import annotations

import io
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from compression_gate.codec.number_types import BY_NAME, NumberType
from compression_gate.errors import CodecError
from compression_gate.records.base import replacing

MAGIC = b"CGZ"
SCHEMA, OLDEST_SCHEMA = 2, 1  # what is written, and what is still read
MODEL, SEGMENTS, GRAPH, FAST = 1, 2, 4, 8
KNOWN_FLAGS = MODEL | SEGMENTS | GRAPH | FAST
LARGE_BYTES = 1 << 16  # tensors of so many bytes have segments and checksums of their own
SEGMENT_NUMBERS = 1 << 20
PER_BYTE = 1 << 18  # numbers that a byte of a file may stand for: what the likeliest symbol costs, and more
LARGEST = 1 << 40  # size of an axis, and numbers of a tensor
MOST_TEXT = 1 << 28  # bytes of a directory or a graph once it is unpacked
DIRECTORY_RATIO, GRAPH_RATIO = 100, 2000  # and so many times what it takes in the file, beside a mebibyte
PART = 1 << 20
COPIED = 1 << 24  # bytes from file to file at once


@dataclass(frozen=True)
class Entry:
    """A tensor that a file names."""

    name: str
    type: NumberType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has; in Python's integers, which do not overflow."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def large(self) -> bool:
        """Whether it lies in segments of its own."""
        return self.size * self.type.size >= LARGE_BYTES

    @property
    def segments(self) -> int:
        """How many segments it is cut into."""
        return len(self.parts) if self.large else 0

    @property
    def parts(self) -> list[tuple[int, tuple[int, ...]]]:
        """First number and shape of each segment: whole rows, or pieces of them where a row is larger."""
        row = self.size // self.shape[0]
        if row > SEGMENT_NUMBERS:
            starts = range(0, self.size, SEGMENT_NUMBERS)
            return [(start, (min(SEGMENT_NUMBERS, self.size - start),)) for start in starts]
        rows = SEGMENT_NUMBERS // row
        starts = range(0, self.shape[0], rows)
        return [(start * row, (min(rows, self.shape[0] - start), *self.shape[1:])) for start in starts]


@dataclass(frozen=True)
class Segment:
    """Where a piece of a large tensor lies: checked when it is read."""

    offset: int
    length: int
    checksum: int


@dataclass(frozen=True)
class Head:
    """What a file says of itself, verified.

    Args:
        signature: of the factory's model, 16 bits; None in a file that names its tensors.
        directory: the tensors; None in a file of a factory's model, whose structure says what they are.
        graph: an exported graph without its tensors; None where there is none.
        pool: the stream of the structure and of all small tensors.
        lengths: of the segments.
    """

    schema: int
    flags: int
    total: int
    signature: int | None
    directory: tuple[Entry, ...] | None
    graph: bytes | None
    pool: bytes
    segments: tuple[Segment, ...]

    @property
    def fast(self) -> bool:
        """Whether large tensors were coded by the fast profile."""
        return bool(self.flags & FAST)


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set in all but the last."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class Reader:
    """Bytes one after the other, with an error that says where they end."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.checksum, self.read_bytes = file, name, 0, 0

    def take(self, count: int, what: str) -> bytes:
        """Read bytes that the checksum of the head covers.

        Raises:
            CodecError: the file ends before them.
        """
        data = self.take_unchecked(count, what)
        self.checksum = zlib.crc32(data, self.checksum)
        return data

    def take_unchecked(self, count: int, what: str) -> bytes:
        """Read bytes; so many at a time that a wrong length costs no memory."""
        data = bytearray()
        while len(data) < count and (more := self.file.read(min(count - len(data), PART))):
            data += more
        if len(data) < count:
            raise CodecError(
                f"{self.name}: {what}: expected {count} bytes from byte {self.read_bytes} on, got {len(data)}: "
                "the file was cut short; get it anew"
            )
        self.read_bytes += count
        return bytes(data)

    def number(self, what: str) -> int:
        """Read a varint of at most nine bytes."""
        number = 0
        for place in range(9):
            byte = self.take(1, what)[0]
            number |= (byte & 127) << 7 * place
            if byte < 128:
                return number
        raise CodecError(f"{self.name}: {what}: expected a number of at most nine bytes: the file is damaged")


def read_head(file: BinaryIO, name: str) -> Head:
    """Read and verify everything but the segments.

    Args:
        file: seekable, at its beginning.
        name: of the file, for errors.

    Raises:
        CodecError: no coded file, of a newer kind, cut short, or damaged.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    reader = Reader(file, name)
    if (magic := reader.take(3, "magic")) != MAGIC:
        raise CodecError(f"{name}: expected a coded file, which begins with {MAGIC!r}, got {magic!r}")
    schema, flags = reader.take(2, "schema")
    if not OLDEST_SCHEMA <= schema <= SCHEMA:
        raise CodecError(
            f"{name}: schema: expected {OLDEST_SCHEMA} to {SCHEMA}, got {schema}: written by a "
            f"{'newer compression-gate: update it' if schema > SCHEMA else 'version that is not supported'}"
        )
    if flags & ~KNOWN_FLAGS:
        raise CodecError(f"{name}: flags: expected some of {KNOWN_FLAGS:#x}, got {flags:#x}: the file is damaged")
    total = reader.number("length")
    if total != length:
        raise CodecError(f"{name}: expected {total} bytes, got {length}: the file was cut short or added to")
    stored = int.from_bytes(reader.take_unchecked(4, "checksum"), "little")
    head = read_verified(reader, schema, flags, total, stored)
    if sum(segment.length for segment in head.segments) != total - reader.read_bytes:
        raise CodecError(f"{name}: segments: expected {total - reader.read_bytes} bytes in all, by their lengths "
                         f"{sum(segment.length for segment in head.segments)}: the file is damaged")  # fmt: skip
    return head


def read_verified(reader: Reader, schema: int, flags: int, total: int, stored: int) -> Head:
    """Read what follows the header; nothing of it is looked into before the checksum is right."""
    signature = int.from_bytes(reader.take(2, "signature"), "little") if flags & MODEL else None
    packed = None if flags & MODEL else reader.take(reader.number("directory"), "directory")
    graph = reader.take(reader.number("graph"), "graph") if flags & GRAPH else None
    frames: list[tuple[int, int]] = []
    if flags & SEGMENTS:
        for _ in range(checked_count(reader, reader.number("segments"), total)):
            frames.append((reader.number("segment"), int.from_bytes(reader.take(4, "segment"), "little")))
    pool_length = reader.number("pool") if flags & SEGMENTS else total - reader.read_bytes
    pool = reader.take(pool_length, "pool")
    if reader.checksum != stored:
        raise CodecError(
            f"{reader.name}: checksum of the head: expected {stored:#010x}, got {reader.checksum:#010x}: "
            "the file is damaged; get it anew"
        )
    offset, segments = reader.read_bytes, []
    for length, checksum in frames:
        segments.append(Segment(offset=offset, length=length, checksum=checksum))
        offset += length
    return Head(
        schema=schema,
        flags=flags,
        total=total,
        signature=signature,
        directory=None if packed is None else directory_of(packed, reader.name, total),
        graph=None if graph is None else unpacked_graph(graph, reader.name),
        pool=pool,
        segments=tuple(segments),
    )


def checked_count(reader: Reader, count: int, total: int) -> int:
    """Make sure that so many segments could be there, each having a length and a checksum."""
    if count * 5 > total:
        raise CodecError(f"{reader.name}: segments: expected at most {total // 5}, got {count}: the file is damaged")
    return count


def read_segment(file: BinaryIO, segment: Segment, name: str, number: int) -> bytes:
    """Read a segment and verify it.

    Raises:
        CodecError: it is damaged.
    """
    file.seek(segment.offset)
    data = Reader(file, name).take_unchecked(segment.length, f"segment {number}")
    if (found := zlib.crc32(data)) != segment.checksum:
        raise CodecError(
            f"{name}: segment {number}: checksum: expected {segment.checksum:#010x}, got {found:#010x}: "
            "the file is damaged; get it anew"
        )
    return data


def packed_directory(entries: Sequence[Entry]) -> bytes:
    """The names, types and shapes of tensors as JSON, deflated.

    Raises:
        CodecError: it would be larger than a reader takes.
    """
    plain = [[entry.name, entry.type.name, list(entry.shape)] for entry in entries]
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
    packed = zlib.compress(text, 9)
    if len(text) > (limit := limit_of(packed, DIRECTORY_RATIO)):
        raise CodecError(f"directory: expected at most {limit} bytes, got {len(text)}: give the tensors shorter names")
    return packed


def directory_of(packed: bytes, name: str, total: int) -> tuple[Entry, ...]:
    """Read a directory.

    Raises:
        CodecError: it is none, names a tensor twice, or more numbers than the file can hold.
    """
    where = f"{name}: directory"
    try:
        opened = zlib.decompressobj()
        limit = limit_of(packed, DIRECTORY_RATIO)
        text = opened.decompress(packed, limit)
        if not opened.eof or opened.unused_data:
            raise CodecError(f"{where}: expected at most {limit} bytes and no more behind them")
        plain = json.loads(text.decode())
    except (zlib.error, ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
        raise CodecError(f"{where}: expected deflated JSON: {error}") from error
    if not isinstance(plain, list):
        raise CodecError(f"{where}: expected a list of tensors, got {type(plain).__name__}")
    entries = tuple(entry_of(one, where) for one in plain)
    if len({entry.name for entry in entries}) != len(entries):
        raise CodecError(f"{where}: expected each name once")
    if (count := sum(entry.size for entry in entries)) > PER_BYTE * total:
        raise CodecError(f"{where}: expected at most {PER_BYTE * total} numbers in {total} bytes, got {count}")
    return entries


def entry_of(plain: object, where: str) -> Entry:
    """Read a line of a directory."""
    match plain:
        case [str(name), str(kind), list(shape)] if kind in BY_NAME and len(shape) <= 16 and is_text(name):
            whole = all(type(size) is int and 0 <= size < LARGEST for size in shape)
            if whole and prod(max(size, 1) for size in shape) < LARGEST:  # also beside a zero: arrays refuse more
                return Entry(name, BY_NAME[kind], tuple(shape))
    raise CodecError(f"{where}: expected [name, one of {', '.join(BY_NAME)}, sizes], got {str(plain)[:200]}")


def is_text(name: str) -> bool:
    """Whether a name can be written anywhere: JSON takes halves of characters, safetensors keeps a name to itself."""
    if name == "__metadata__":
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def limit_of(packed: bytes, ratio: int) -> int:
    """How large something packed may become."""
    return min(MOST_TEXT, ratio * len(packed) + PART)


def packed_graph(graph: bytes) -> bytes:
    """A graph without its tensors, packed.

    Raises:
        CodecError: it would be larger than a reader takes.
    """
    packed = lzma.compress(graph, preset=9 | lzma.PRESET_EXTREME)
    if len(graph) > (limit := limit_of(packed, GRAPH_RATIO)):
        raise CodecError(
            f"graph: expected at most {limit} bytes beside its initializers, got {len(graph)}: "
            "make its large constants initializers"
        )
    return packed


def unpacked_graph(packed: bytes, name: str) -> bytes:
    """Unpack a graph.

    Raises:
        CodecError: it is damaged, or larger than it may be.
    """
    try:
        opened = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MOST_TEXT)
        limit = limit_of(packed, GRAPH_RATIO)
        graph = opened.decompress(packed, limit)
    except lzma.LZMAError as error:
        raise CodecError(f"{name}: graph: expected an xz stream: {error}") from error
    if not opened.eof or opened.unused_data:
        raise CodecError(f"{name}: graph: expected at most {limit} bytes and no more behind them")
    return graph


def head_bytes(
    *,
    signature: int | None,
    directory: Sequence[Entry] | None,
    graph: bytes | None,
    frames: Sequence[tuple[int, int]],
    pool: bytes,
    fast: bool,
) -> bytes:
    """Everything of a file but the segments.

    Args:
        frames: length and checksum of each segment.
    """
    body = b""
    flags = FAST if fast else 0
    if signature is not None:
        flags |= MODEL
        body += signature.to_bytes(2, "little")
    if directory is not None:
        packed = packed_directory(directory)
        body += varint(len(packed)) + packed
    if graph is not None:
        flags |= GRAPH
        packed = packed_graph(graph)
        body += varint(len(packed)) + packed
    if frames:
        flags |= SEGMENTS
        lines = [varint(length) + checksum.to_bytes(4, "little") for length, checksum in frames]
        body += varint(len(frames)) + b"".join(lines) + varint(len(pool))
    body += pool
    beginning = MAGIC + bytes([SCHEMA, flags])
    fixed = len(beginning) + 4 + len(body) + sum(length for length, _ in frames)
    length = next(size for size in range(1, 10) if len(varint(fixed + size)) == size)
    beginning += varint(fixed + length)
    return beginning + zlib.crc32(body, zlib.crc32(beginning)).to_bytes(4, "little") + body


def write_file(
    path: Path,
    *,
    signature: int | None,
    directory: Sequence[Entry] | None,
    graph: bytes | None,
    pool: bytes,
    segments: Iterable[bytes],
    fast: bool,
) -> int:
    """Write a file under a temporary name, then rename; return its length.

    Args:
        segments: taken one by one; what they come to beyond a few mebibytes waits on the disk for the head.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.SpooledTemporaryFile(COPIED, dir=str(path.parent)) as body:
            frames = []
            for segment in segments:
                body.write(segment)
                frames.append((len(segment), zlib.crc32(segment)))
            head = head_bytes(
                signature=signature, directory=directory, graph=graph, frames=frames, pool=pool, fast=fast
            )
            body.seek(0)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(head)
                shutil.copyfileobj(body, file, COPIED)
    return path.stat().st_size


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """What goes wrong with files in the block went wrong with ``path``.

    Raises:
        CodecError: something did.
    """
    try:
        yield
    except OSError as error:
        raise CodecError(f"{path}: cannot be written: {error}") from error


@contextmanager
def opened(source: Path | str | bytes | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """Open what a coded file is read from, seekable, with a name for errors.

    Args:
        source: a path, the bytes, or an open stream; one that cannot seek is copied to a temporary file.

    Raises:
        CodecError: there is no such file.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), "coded file"
    elif isinstance(source, (str, Path)):
        try:
            file = Path(source).open("rb")  # noqa: SIM115  (what goes wrong behind this is not its opening)
        except OSError as error:
            raise CodecError(f"{source}: cannot be read: {error.strerror}") from error
        with file:
            yield file, str(source)
    else:
        name = str(getattr(source, "name", "coded file"))
        if source.seekable():
            yield source, name
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(source, copy)
            copy.seek(0)
            yield copy, name
