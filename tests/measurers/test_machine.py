"""The machine's fingerprint: stable, text, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from compression_gate.measurers.machine import machine_fingerprint


def test_the_fingerprint_is_stable_text():
    first = machine_fingerprint()
    assert first == machine_fingerprint()
    assert all(isinstance(value, str) and value for value in first.values())
    assert {"processor", "cores", "python", "torch", "onnxruntime"} <= first.keys()


def test_the_fingerprint_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from compression_gate.measurers.machine import machine_fingerprint; machine_fingerprint()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
