"""The reference in eager torch, beside its exported file: for information, judged by no rule.

Much of what compression seems to win is the runtime's. This figure tells the two apart.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from compression_gate.errors import MeasurementError
from compression_gate.measurers.fresh import Conditions, absent
from compression_gate.measurers.order_statistics import median_of
from compression_gate.measurers.workers import run_worker
from compression_gate.records.metrics import Measurement

WORKER = "compression_gate.measurers.eager_worker"
CALLING_S = 0.5


def measure_eager(suite: Path, folder: Path, form: str, conditions: Conditions) -> Measurement:
    """Median of one call of the reference's module as the user wrote it, in float32 [ms].

    Args:
        suite: whose params say how the module is built.
        folder: the reference's artifact.
        form: what the inputs looked like before they were named; see `tasks.calling.form_of`.
        conditions: threads and inputs; the runtime is torch, whatever they say.
    """
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as name:
        inputs = Path(name) / "inputs.npz"
        with inputs.open("wb") as out:
            np.savez(out, **conditions.inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
        request = {
            "suite": str(suite.resolve()),
            "folder": str(folder.resolve()),
            "inputs": str(inputs),
            "form": form,
            "threads": conditions.threads,
            "seconds": CALLING_S,
        }
        try:
            text = run_worker(
                WORKER,
                request,
                threads=conditions.threads,
                timeout_s=conditions.patience_s,
                what=f"eager latency of {folder}",
            )
            return median_of(np.array(json.loads(text.splitlines()[-1])) * 1e3, "ms")
        except (MeasurementError, IndexError, ValueError) as error:
            return absent("ms", str(error))
