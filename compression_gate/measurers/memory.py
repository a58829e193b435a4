"""Resident memory of the process that asks: its peak, and what one more of something adds to it."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path

from compression_gate.errors import MeasurementError

STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Peak resident memory of this process so far.

    Linux's ``ru_maxrss`` survives exec and may be the parent's peak, hence ``VmHWM`` where there is one.
    """
    if STATUS.exists():
        return status_bytes("VmHWM")
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset"))  # noqa: B009  # there on Windows alone
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def status_bytes(field: str) -> int:
    """A field of this process's status [bytes].

    Raises:
        MeasurementError: the system's status has no such field.
    """
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    if found is None:
        raise MeasurementError(f"{STATUS}: expected a line {field}, got none: this system does not tell its memory")
    return int(found[1]) * 1024


def added_peak_bytes(make: Callable[[], object]) -> int:
    """By how much the peak rises above what is resident now while ``make`` runs, its result being held [bytes].

    What was freed before is given back to the system first, so that it is not taken for room that costs nothing.
    Linux counts pages in batches: the figure is good to about 0.1 MB.

    Raises:
        MeasurementError: the system does not reset a process's peak: only Linux does.
    """
    gc.collect()
    give_back()
    try:
        PEAK_RESET.write_text("5", encoding="ascii")  # 5: the peak begins anew at what is resident; man 5 proc
    except OSError as error:
        raise MeasurementError(f"{PEAK_RESET}: expected to reset the peak of memory, got {error}: Linux can") from error
    before = status_bytes("VmRSS")
    made = make()
    peak = status_bytes("VmHWM")
    del made
    return peak - before


def give_back() -> None:
    """Hand free memory back to the system, where the C library has a call for it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
