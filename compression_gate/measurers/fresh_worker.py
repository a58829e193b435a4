"""What only a fresh process can tell of a model's file: ``python -m compression_gate.measurers.fresh_worker request``.

Loading and the first call, with the file in the cache or out of it; then, unless it was a cold start, the peak of
memory, what a second copy of the model adds to it, and the energy of calls. The answer is one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate import registry
from compression_gate.errors import MeasurementError
from compression_gate.measurers import energy, memory, page_cache
from compression_gate.measurers.workers import answer_or_say_why
from compression_gate.runtimes import RUNTIMES

CALLS = 3


class Watched:
    """A session whose every answer must have the shape of its first, one row for each example."""

    def __init__(self, session: Any, file: Path, rows: int) -> None:
        self.session, self.file, self.rows = session, file, rows
        self.shape: tuple[int, ...] | None = None

    def __call__(self, inputs: dict[str, np.ndarray]) -> None:
        """Call, and look at the shape.

        Raises:
            MeasurementError: it is another.
        """
        shape = self.session(inputs).shape
        if shape != self.shape:
            self.check(shape)

    def check(self, shape: tuple[int, ...]) -> None:
        """Take the first answer's shape as the one that is expected.

        Raises:
            MeasurementError: it has not a row for each example, or is not the first.
        """
        if self.shape is not None:
            raise MeasurementError(
                f"{self.file}: expected outputs of shape {self.shape} as in the first call, got {shape}: a model whose "
                "answer changes its shape for the same input cannot be measured"
            )
        if not shape or shape[0] != self.rows:
            raise MeasurementError(f"{self.file}: expected {self.rows} rows for as many examples, got shape {shape}")
        self.shape = shape


def main(path: Path) -> None:
    """Read the request, measure, print."""
    request = json.loads(path.read_text(encoding="utf-8"))
    with np.load(request["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    # The runtime's own libraries are imported with it: what is timed below is the file's.
    runtime = registry.load("runtimes", request["runtime"], RUNTIMES)()
    found = cold(runtime, request) if request["cold"] else warm(runtime, request, inputs)
    sys.stdout.write(f"{json.dumps(found)}\n")


def cold(runtime: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Load a file that is not in the cache.

    Raises:
        MeasurementError: it cannot be taken out.
    """
    file = Path(request["file"])
    page_cache.drop(file)
    start = time.perf_counter()
    runtime.load(file, request["threads"])
    return {"load_s": time.perf_counter() - start}


def warm(runtime: Any, request: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Load a file that the system has cached, call it, and tell time, memory and energy."""
    file, threads = Path(request["file"]), request["threads"]
    page_cache.warm(file)
    start = time.perf_counter()
    session = runtime.load(file, threads)
    loaded = time.perf_counter()
    output = session(inputs)
    called = time.perf_counter()
    watched = Watched(session, file, len(next(iter(inputs.values()))))
    watched.check(output.shape)
    for _ in range(CALLS - 1):
        watched(inputs)
    peak = memory.peak_bytes()

    def another_copy() -> Any:
        again = runtime.load(file, threads)
        for _ in range(CALLS):
            again(inputs)
        return again

    try:
        added, why_not = memory.added_peak_bytes(another_copy), None
    except MeasurementError as error:
        added, why_not = None, str(error)
    used = energy.used_by(lambda: watched(inputs), request["seconds"], energy.counters())
    return {
        "load_s": loaded - start,
        "first_call_s": called - loaded,
        "peak_bytes": peak,
        "added_bytes": added,
        "why_not_added": why_not,
        "energy": asdict(used),
    }


if __name__ == "__main__":
    answer_or_say_why(main)
