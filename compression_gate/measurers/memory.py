"""Peak resident memory of a fresh process that loads a file and calls it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from compression_gate.errors import MeasurementError
from compression_gate.measurers.latency import Setting
from compression_gate.measurers.workers import run_worker
from compression_gate.records.metrics import Measurement

TIMEOUT_S = 120.0
PROCESSES = 3


def measure_memory(file: Path, setting: Setting) -> Measurement:
    """Peak resident memory [bytes]: the median of three processes, interpreter and runtime included."""
    try:
        peaks = sorted(peak_of(file, setting) for _ in range(PROCESSES))
    except MeasurementError as error:
        return Measurement(value=None, unit="bytes", samples=0, reason=str(error))
    return Measurement(value=peaks[PROCESSES // 2], unit="bytes", samples=PROCESSES, low=peaks[0], high=peaks[-1])


def peak_of(file: Path, setting: Setting) -> int:
    """One fresh process's peak [bytes].

    Raises:
        MeasurementError: it died or hung.
    """
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        inputs = Path(folder) / "inputs.npz"
        with inputs.open("wb") as out:
            np.savez(out, **setting.inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
        request = {"runtime": setting.runtime, "threads": setting.threads, "file": str(file), "inputs": str(inputs)}
        text = run_worker(
            "compression_gate.measurers.memory_worker",
            request,
            threads=setting.threads,
            timeout_s=TIMEOUT_S,
            what=f"memory of {file}",
        )
    return int(text)
