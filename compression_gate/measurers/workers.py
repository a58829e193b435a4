"""Fresh processes that measure: started with pinned threads, watched, and never left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import IO, Any

from compression_gate.errors import CompressionGateError, MeasurementError
from compression_gate.measurers.machine import usable_cores

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
LAST_LINES = 5
LISTENED_S = 5  # to what a worker said last, where a process of its own still holds its stderr
TOLD = "timing: "  # lines of a worker's stderr that begin so are for people
log = logging.getLogger("compression_gate")


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


def pinning(threads: int) -> dict[str, str]:
    """What workers are held to: cores they may run on, and the variables that hold every pool to ``threads``."""
    return {"usable_cores": str(usable_cores()), **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def run_module(module: str, arguments: list[str], *, threads: int, timeout_s: float, what: str) -> str:
    """Run ``python -m module`` in a process group of its own and return what it wrote to stdout.

    What it says of its timing on stderr is logged here, at once.

    Raises:
        MeasurementError: it ended with an error, was killed, or is still silent after ``timeout_s``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",  # what libraries of others say may be in any encoding
        env=environment(threads),
        start_new_session=os.name == "posix",
    )
    last: deque[str] = deque(maxlen=LAST_LINES)
    listener = Thread(target=listen, args=(process.stderr, last), daemon=True)
    process.stderr = None  # the listener's alone: `communicate` would read it too
    listener.start()
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{what}: expected an answer within {timeout_s:.0f} s, got none: the model hangs, or the machine is "
            "too busy: run it again, or raise benchmark.budget_s"
        ) from error
    finally:
        end(process)
        listener.join(LISTENED_S)
    if process.returncode != 0:
        how, words = how_it_ended(process.returncode), "\n".join(last).strip()
        raise MeasurementError(
            f"{what}: expected a measurement, got a process that ended ({how}): {words or 'no message'}"
        )
    return output


def listen(errors: IO[str], last: deque[str]) -> None:
    """Read what a worker writes to stderr until that ends: keep the last lines, log those about timing."""
    with errors:
        for line in errors:
            last.append(line.rstrip("\n"))
            if line.startswith(TOLD):
                log.info("%s", line.rstrip("\n"))


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code == -signal_of("SIGKILL"):
        return f"killed by signal {-code}, as a system does that runs out of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit {code}"


def signal_of(name: str) -> int:
    """A signal's number; 0 where the system has none of that name."""
    return int(getattr(signal, name, 0))


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
        # A second more than we wait: what hangs is told by us.
        path.write_text(json.dumps(request | {"patience_s": math.ceil(timeout_s) + 1}), encoding="utf-8")
        return run_module(module, [str(path)], threads=threads, timeout_s=timeout_s, what=what)


def answer_of(output: str, what: str) -> dict[str, Any]:
    """What a worker's last line says; the user's code may have printed others before it.

    Raises:
        MeasurementError: it is no JSON object.
    """
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise MeasurementError(f"{what}: expected a line of JSON, got {output[-200:]!r}")
    return found


def answer_or_say_why(main: Callable[[Path], None]) -> None:
    """Run a worker's ``main`` on the request that the command line names; what stops it becomes its last words.

    It ends by itself once nobody waits for it any more: whoever would have ended it may have been killed.
    """
    path = Path(sys.argv[1])
    if hasattr(signal, "alarm"):
        signal.alarm(json.loads(path.read_text(encoding="utf-8"))["patience_s"])
    try:
        main(path)
    except MemoryError as error:
        sys.exit(f"MemoryError: expected memory enough for one model, got none left: {error or 'no more is known'}")
    except (CompressionGateError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
