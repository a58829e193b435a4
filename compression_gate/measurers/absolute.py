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
from scipy import stats

from compression_gate.errors import MeasurementError
from compression_gate.measurers.latency import CONFIDENCE, sign_interval
from compression_gate.measurers.workers import LAST_LINES, end, environment
from compression_gate.records.base import finite, replacing
from compression_gate.records.metrics import Measurement
from compression_gate.runtimes.base import Arrays

BENCHMARK = Path(__file__).with_name("absolute_benchmark.py")
START_S = 240.0
Figures = dict[str, Measurement]


def measure_absolute(
    files: dict[str, Path], runtime: str, threads: int, inputs: dict[int, Arrays], budget_s: float, report: Path
) -> dict[str, Figures]:
    """Load time, latency and throughput of every file.

    Args:
        files: role -> the file that the runtime loads.
        runtime: its name in the table.
        threads: that the runtime and every pool may use.
        inputs: batch size -> inputs; the first is the one of ``latency_ms``, the largest that of ``throughput_per_s``.
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
        temporary.write_text(json.dumps(without_machine_names(found), indent=1) + "\n", encoding="utf-8")
    return {role: figures_of(role, found["benchmarks"], list(inputs)) for role in files}


def saved(path: Path, inputs: Arrays) -> Path:
    """Write inputs to a file and return its path."""
    with path.open("wb") as out:
        np.savez(out, **inputs)  # type: ignore[arg-type]  # its stubs take a keyword for allow_pickle
    return path


def run_pytest(folder: Path, threads: int, budget_s: float) -> None:
    """Run the packaged benchmark with no configuration and no plugin but its own."""
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options = ["-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "--import-mode=importlib", "-q"]
    places = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    json_option = f"--benchmark-json={folder / 'benchmark.json'}"
    own = {"COMPRESSION_GATE_BENCHMARK": str(folder / "request.json"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", str(BENCHMARK), *options, *places, json_option, "--benchmark-disable-gc"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(threads), **own, "PYTEST_ADDOPTS": ""},
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
        raise MeasurementError(f"pytest-benchmark: expected exit 0, got {process.returncode}:\n{last}")


def without_machine_names(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the host's name and the folder's commit, which are nobody's business in an artifact."""
    machine = {key: value for key, value in found["machine_info"].items() if key != "node"}
    return {**found, "machine_info": machine}


def figures_of(role: str, benchmarks: list[dict[str, Any]], batch_sizes: list[int]) -> Figures:
    """One model's figures out of pytest-benchmark's samples."""
    samples = {
        (row["extra_info"]["measure"], row["extra_info"].get("batch_size")): np.array(row["stats"]["data"])
        for row in benchmarks
        if row["extra_info"]["role"] == role
    }
    calls = samples["latency", batch_sizes[0]] * 1e3
    figures = {
        "latency_ms": median_of(calls, "ms"),
        "latency_p95_ms": quantile_of(calls, 0.95),
        "latency_p99_ms": quantile_of(calls, 0.99),
        "load_time_ms": median_of(samples["load_time", None] * 1e3, "ms"),
        "throughput_per_s": median_of(max(batch_sizes) / samples["latency", max(batch_sizes)], "per_s"),
    }
    for size in batch_sizes[1:]:
        figures[f"latency_batch_{size}_ms"] = median_of(samples["latency", size] * 1e3, "ms")
    return figures


def median_of(values: np.ndarray, unit: str) -> Measurement:
    """A median with its exact sign interval."""
    low, high = sign_interval(np.sort(values), CONFIDENCE)
    return Measurement(
        value=finite(float(np.median(values))), unit=unit, samples=len(values), low=finite(low), high=finite(high)
    )


def quantile_of(values: np.ndarray, share: float) -> Measurement:
    """A quantile of the samples with its exact interval; no end where the samples are too few for one.

    Source: W. J. Conover, Practical Nonparametric Statistics, 1999, §3.2: order statistics at binomial quantiles.
    """
    tail, count, ordered = (1 - CONFIDENCE) / 2, len(values), np.sort(values)
    below = int(stats.binom.ppf(tail, count, share)) - 1
    above = int(stats.binom.ppf(1 - tail, count, share)) + 1
    return Measurement(
        value=finite(float(np.quantile(values, share))),
        unit="ms",
        samples=count,
        low=float(ordered[below]) if below >= 0 else None,
        high=float(ordered[above - 1]) if above <= count else None,
    )
