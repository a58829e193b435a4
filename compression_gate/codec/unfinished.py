"""Files that take long to write: what a killed run wrote of one is verified, and the next run goes on behind it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from compression_gate.errors import CodecError
from compression_gate.records.lock import locked

BLOCK = 512  # bytes, what a file's blocks on the disk are counted in


@dataclass(frozen=True)
class Unfinished:
    """A file that is being written.

    Args:
        journal: a line for each piece, behind one that says what the file is made of.
        body: the file itself, under another name.
        pieces: place, length [bytes] and checksum of those that are whole, one behind the other.
    """

    journal: TextIO
    body: BinaryIO
    pieces: list[tuple[int, int, int]]

    @property
    def end(self) -> int:
        """Where the last piece ends."""
        return sum(self.pieces[-1][:2]) if self.pieces else 0

    def add(self, place: int, data: bytes) -> None:
        """Write a piece: a later run takes it as it is."""
        self.body.seek(place)
        self.body.write(data)
        self.body.flush()
        self.pieces.append((place, len(data), zlib.crc32(data)))
        self.journal.write(f"{json.dumps(self.pieces[-1])}\n")
        self.journal.flush()


@contextmanager
def unfinished(path: Path, ending: str, key: str) -> Iterator[Unfinished]:
    """What an earlier run wrote of the same file, to be added to; it goes when the block ends well, or cannot end well.

    Args:
        ending: of the name under which the file is written.
        key: what it is made of: what was written by another key is left.

    Raises:
        ParamsError: another process writes the same file.
    """
    journal_path, body_path = path.with_name(f".{path.name}.journal"), body_of(path, ending)
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, held=f"{path}: being written", do="wait for it, or write to another file"):
        try:
            pieces = whole_pieces(journal_path, body_path, key)
            body_path.touch()
            with journal_path.open("w", encoding="utf-8") as journal, body_path.open("r+b") as body:
                journal.write(f"{json.dumps(key)}\n" + "".join(f"{json.dumps(piece)}\n" for piece in pieces))
                journal.flush()
                work = Unfinished(journal=journal, body=body, pieces=pieces)
                body.truncate(work.end)
                yield work
        except CodecError:
            remove(journal_path, body_path, lock)
            raise
        remove(journal_path, body_path)
    lock.unlink()


def body_of(path: Path, ending: str) -> Path:
    """The name under which a file is written."""
    return path.with_name(f".{path.name}.{ending}")


def room_of(path: Path, ending: str) -> int:
    """What an earlier run's part of a file takes on the disk [bytes]: holes take nothing."""
    body = body_of(path, ending)
    return BLOCK * getattr(body.stat(), "st_blocks", 0) if body.exists() else 0


def remove(*paths: Path) -> None:
    """Remove files that may be there."""
    for path in paths:
        path.unlink(missing_ok=True)


def whole_pieces(journal: Path, body: Path, key: str) -> list[tuple[int, int, int]]:
    """Place, length and checksum of each piece that an earlier run wrote whole; none if it was of another file."""
    if not journal.exists() or not body.exists():
        return []
    lines = journal.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != json.dumps(key):
        return []
    pieces: list[tuple[int, int, int]] = []
    with body.open("rb") as file:
        for line in lines[1:]:
            try:
                place, length, checksum = json.loads(line)
            except ValueError:  # the line was cut short
                break
            file.seek(place)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data) != checksum:
                break
            pieces.append((place, length, checksum))
    return pieces
