"""A finished run as a fixture: records written by hand, so that judging needs no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from compression_gate.selftest.finished_run import write


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A suite whose run ended well: 5 of 1,000 lost, a tenth of the bytes, twice as fast."""
    return write(tmp_path / "suite")
