"""The machine's fingerprint: stable, text, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compression_gate.measurers import machine
from compression_gate.measurers.machine import machine_fingerprint


def test_the_fingerprint_is_stable_text():
    first = machine_fingerprint()
    assert first == machine_fingerprint()
    assert all(isinstance(value, str) and value for value in first.values())
    assert {"processor", "cores", "usable_cores", "virtual", "turbo", "python", "torch", "onnxruntime"} <= first.keys()


def test_the_fingerprint_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from compression_gate.measurers.machine import machine_fingerprint; machine_fingerprint()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_the_fingerprint_does_not_change_while_the_machine_is_busy():
    quiet = machine_fingerprint()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert machine_fingerprint() == quiet
    finally:
        for process in busy:
            process.kill()
            process.wait()


TURBO = [
    ("no_turbo", "0", "on"),
    ("no_turbo", "1", "off"),
    ("boost", "1", "on"),
    ("boost", "0", "off"),
    ("", "", "unknown"),
]


@pytest.mark.parametrize(("file", "text", "expected"), TURBO)
def test_turbo_is_read_where_the_system_tells(monkeypatch, tmp_path, file, text, expected):
    if file:
        (tmp_path / file).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "TURBO", tuple((tmp_path / path.name, meaning) for path, meaning in machine.TURBO))
    assert machine.turbo() == expected


@pytest.mark.parametrize(
    ("processor", "flags", "expected"),
    [
        ("x86_64", ["fpu", "hypervisor"], "yes"),
        ("AMD64", ["fpu"], "no"),
        ("x86_64", [], "unknown"),
        ("arm64", ["fp"], "unknown"),
    ],
)
def test_a_virtual_machine_is_told_by_its_flags(monkeypatch, processor, flags, expected):
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    assert machine.virtual(flags) == expected
