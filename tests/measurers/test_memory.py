"""What something adds to resident memory, seen by the process itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from compression_gate.errors import MeasurementError
from compression_gate.measurers import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak")
MEGABYTE = 1 << 20


@linux
def test_an_array_adds_its_bytes():
    added = memory.added_peak_bytes(lambda: np.ones(8 * MEGABYTE))
    assert 60 * MEGABYTE < added < 70 * MEGABYTE  # the system counts pages in batches


@linux
def test_what_is_freed_again_counts_at_its_peak():
    def transient():
        np.ones(8 * MEGABYTE)
        return np.ones(MEGABYTE)

    assert memory.added_peak_bytes(transient) > 60 * MEGABYTE  # the system counts pages in batches


@linux
def test_a_peak_of_before_is_not_counted():
    np.ones(16 * MEGABYTE)
    assert memory.added_peak_bytes(lambda: np.ones(MEGABYTE)) < 24 * MEGABYTE


@linux
def test_the_peak_is_at_least_what_is_resident():
    assert memory.peak_bytes() >= memory.status_bytes("VmRSS") > MEGABYTE


def test_a_system_that_does_not_reset_the_peak_is_named(monkeypatch):
    monkeypatch.setattr(memory, "PEAK_RESET", Path("/no/such/file"))
    with pytest.raises(MeasurementError, match="/no/such/file: expected to reset the peak of memory"):
        memory.added_peak_bytes(list)
