"""Fresh processes that measure: started with pinned threads, watched, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from compression_gate.errors import MeasurementError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
LAST_LINES = 5


def environment(threads: int) -> dict[str, str]:
    """This process's environment with every pool held to ``threads``."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",
    }


def run_module(module: str, arguments: list[str], *, threads: int, timeout_s: float, what: str) -> str:
    """Run ``python -m module`` in a process group of its own and return what it wrote to stdout.

    Raises:
        MeasurementError: it ended with an error, was killed, or is still silent after ``timeout_s``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(threads),
        start_new_session=os.name == "posix",
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{what}: expected an answer within {timeout_s:.0f} s, got none: the model hangs, or the machine is "
            "too busy: run it again, or raise benchmark.budget_s"
        ) from error
    finally:
        end(process)
    if process.returncode != 0:
        how = f"killed by signal {-process.returncode}" if process.returncode < 0 else f"exit {process.returncode}"
        last = "\n".join(errors.strip().splitlines()[-LAST_LINES:])
        raise MeasurementError(
            f"{what}: expected a measurement, got a process that ended ({how}): {last or 'no message'}"
        )
    return output


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and what it started, and wait for it."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the whole group is gone already
            os.killpg(process.pid, 9)
    elif process.poll() is None:
        process.kill()
    process.communicate()


def run_worker(module: str, request: dict[str, Any], *, threads: int, timeout_s: float, what: str) -> str:
    """Run a worker of this package with a request, handed over in a file; returns its stdout."""
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        return run_module(module, [str(path)], threads=threads, timeout_s=timeout_s, what=what)
