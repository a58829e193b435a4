"""Out of the page cache with a file, so that loading it reads the disk: proven page by page, or refused."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from compression_gate.errors import MeasurementError

CHUNK_BYTES = 1 << 20


def parts_of(file: Path) -> list[Path]:
    """A model's file and what lies beside it under its name: ``model.onnx`` and ``model.onnx.data``."""
    return [file, *sorted(path for path in file.parent.glob(f"{file.name}.*") if path.is_file())]


def warm(file: Path) -> None:
    """Read a file once, so that the system has it cached; its bytes are not kept."""
    for part in parts_of(file):
        with part.open("rb", buffering=0) as opened:
            while opened.read(CHUNK_BYTES):
                pass


def drop(file: Path) -> None:
    """Take every page of a file out of the cache.

    What is cached below the system stays so: by a disk, or by the host of a virtual machine.

    Raises:
        MeasurementError: the system has no such call, or pages are still there; the file would be loaded warm.
    """
    if not hasattr(os, "posix_fadvise"):
        raise MeasurementError(f"cold load of {file}: expected a system with posix_fadvise, got none: no such figure")
    for part in parts_of(file):
        with part.open("rb") as opened:
            os.fsync(opened.fileno())  # pages that are not written yet are not dropped
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if left := cached_pages(part):
            raise MeasurementError(
                f"cold load of {part}: expected no page of it in the cache, got {left} still there: its file system "
                "does not drop pages, or another process maps it"
            )


def cached_pages(path: Path) -> int:
    """How many pages of a file are in the page cache.

    Raises:
        MeasurementError: the system does not tell.
    """
    size = path.stat().st_size
    if size == 0:
        return 0
    # A private, writable mapping, since ctypes takes an address of no other; nothing is written and no page touched.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        residence = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        first = (ctypes.c_char * size).from_buffer(mapped)
        try:
            told = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), residence)
        except AttributeError:
            told = -1
        finally:
            del first  # a mapping that is pointed into cannot be closed
    if told != 0:
        raise MeasurementError(f"cold load of {path}: expected mincore to tell which pages are cached, got no answer")
    return sum(page & 1 for page in residence)
