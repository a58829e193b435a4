"""Load one file, call it, and print the peak of resident memory [bytes]: a process of its own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from compression_gate import registry
from compression_gate.errors import CompressionGateError
from compression_gate.runtimes import RUNTIMES

CALLS = 3


def peak_bytes() -> int:
    """Peak resident memory of this process so far.

    Linux's ``ru_maxrss`` survives exec and may be the parent's peak, hence ``VmHWM`` where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(match[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset"))  # noqa: B009  # there on Windows alone
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def main(path: Path) -> None:
    """Read the request, load, call, print."""
    request = json.loads(path.read_text(encoding="utf-8"))
    with np.load(request["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    session = registry.load("runtimes", request["runtime"], RUNTIMES)().load(Path(request["file"]), request["threads"])
    for _ in range(CALLS):
        session(inputs)
    sys.stdout.write(f"{peak_bytes()}\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except CompressionGateError as error:
        sys.exit(f"{type(error).__name__}: {error}")
