"""Absolute figures of this machine, now, taken by pytest-benchmark: reported, never compared with older ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compression_gate.errors import MeasurementError
from compression_gate.measurers.order_statistics import median_of, quantile_of
from compression_gate.measurers.workers import LAST_LINES, end, environment, how_it_ended
from compression_gate.records.base import replacing
from compression_gate.records.metrics import Measurement
from compression_gate.runtimes.base import Arrays

BENCHMARK = Path(__file__).with_name("absolute_benchmark.py")
START_S = 240.0
Figures = dict[str, Measurement]


def measure_absolute(
    files: dict[str, Path], runtime: str, threads: int, inputs: dict[int, Arrays], budget_s: float, report: Path
) -> dict[str, dict[int, Figures]]:
    """Latency and throughput of every file at every batch size.

    Args:
        files: role -> the file that the runtime loads.
        runtime: its name in the table.
        threads: that the runtime and every pool may use.
        inputs: batch size -> inputs.
        budget_s: shared out among all calls.
        report: where pytest-benchmark's own JSON goes.

    Raises:
        MeasurementError: pytest-benchmark failed; the message holds its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as name:
        folder = Path(name)
        request = {
            "runtime": runtime,
            "threads": threads,
            "files": {role: str(path.resolve()) for role, path in files.items()},
            "batch_sizes": list(inputs),
            "inputs": {str(size): str(saved(folder / f"inputs_{size}.npz", own)) for size, own in inputs.items()},
            "seconds": budget_s / (len(files) * len(inputs)),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        run_pytest(folder, threads, budget_s)
        found = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))
    with replacing(report) as temporary:
        temporary.write_text(json.dumps(without_names(found), indent=1) + "\n", encoding="utf-8")
    return {role: batches_of(role, found["benchmarks"], list(inputs)) for role in files}


def saved(path: Path, inputs: Arrays) -> Path:
    """Write inputs to a file and return its path."""
    with path.open("wb") as out:
        np.savez(out, **inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
    return path


def run_pytest(folder: Path, threads: int, budget_s: float) -> None:
    """Run the packaged benchmark with no configuration and no plugin but its own."""
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options = ["-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "--import-mode=importlib", "-q", "--tb=line"]
    places = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    json_option = f"--benchmark-json={folder / 'benchmark.json'}"
    # Of a pytest that this runs in, such as one of several workers, the own one is to know nothing.
    alone = {name: value for name, value in environment(threads).items() if not name.startswith("PYTEST_")}
    own = {"COMPRESSION_GATE_BENCHMARK": str(folder / "request.json"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", str(BENCHMARK), *options, *places, json_option, "--benchmark-disable-gc"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**alone, **own},
        start_new_session=os.name == "posix",
    )
    timeout_s = START_S + 3 * budget_s
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"pytest-benchmark: expected an end within {timeout_s:.0f} s, got none") from error
    finally:
        end(process)
    if process.returncode != 0:
        last = "\n".join(output.strip().splitlines()[-3 * LAST_LINES :])
        how = how_it_ended(process.returncode)
        raise MeasurementError(f"pytest-benchmark: expected exit 0, got a process that ended ({how}):\n{last}")


def without_names(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the host's name and the folder's commit, which are nobody's business in an artifact."""
    machine = {key: value for key, value in found["machine_info"].items() if key != "node"}
    return {**{key: value for key, value in found.items() if key != "commit_info"}, "machine_info": machine}


def batches_of(role: str, benchmarks: list[dict[str, Any]], batch_sizes: list[int]) -> dict[int, Figures]:
    """One model's figures at every batch size, out of pytest-benchmark's samples.

    ``throughput_per_s`` is of the median call: examples in it over its time.
    """
    samples = {
        row["extra_info"]["batch_size"]: np.array(row["stats"]["data"])
        for row in benchmarks
        if row["extra_info"]["role"] == role
    }
    return {
        size: {
            "latency_ms": median_of(samples[size] * 1e3, "ms"),
            "latency_p95_ms": quantile_of(samples[size] * 1e3, 0.95, "ms"),
            "latency_p99_ms": quantile_of(samples[size] * 1e3, 0.99, "ms"),
            "throughput_per_s": median_of(size / samples[size], "per_s"),
        }
        for size in batch_sizes
    }


def figures_of(batches: dict[int, Figures]) -> Figures:
    """What rules speak of: latency at the first batch size, throughput at the largest."""
    first, largest = batches[next(iter(batches))], batches[max(batches)]
    return {**first, "throughput_per_s": largest["throughput_per_s"]}
