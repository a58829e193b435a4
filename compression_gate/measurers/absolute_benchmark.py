"""What pytest-benchmark runs, in a process of its own, over every model: calls at each batch size.

``COMPRESSION_GATE_BENCHMARK`` names the request. Not collected by a user's own tests: its name does not match them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression_gate import registry
from compression_gate.errors import MeasurementError
from compression_gate.runtimes import RUNTIMES

REQUEST: dict[str, Any] = json.loads(Path(os.environ["COMPRESSION_GATE_BENCHMARK"]).read_text(encoding="utf-8"))
RUNTIME = registry.load("runtimes", REQUEST["runtime"], RUNTIMES)()
LEAST_ROUNDS, MOST_ROUNDS = 20, 2000


def inputs_of(batch_size: int) -> dict[str, np.ndarray]:
    """The request's inputs of one batch size."""
    with np.load(REQUEST["inputs"][str(batch_size)]) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("batch_size", REQUEST["batch_sizes"])
@pytest.mark.parametrize("role", sorted(REQUEST["files"]))
def test_latency(benchmark: Any, role: str, batch_size: int) -> None:
    """One call."""
    benchmark.extra_info.update(role=role, batch_size=batch_size)
    session = RUNTIME.load(Path(REQUEST["files"][role]), REQUEST["threads"])
    inputs = inputs_of(batch_size)
    shapes = {session(inputs).shape}
    start = time.perf_counter()
    session(inputs)
    took = time.perf_counter() - start
    rounds = int(min(max(REQUEST["seconds"] / took, LEAST_ROUNDS), MOST_ROUNDS))
    benchmark.pedantic(session, args=(inputs,), rounds=rounds, warmup_rounds=min(rounds, 100))
    shapes.add(session(inputs).shape)
    if len(shapes) > 1 or next(iter(shapes))[:1] != (batch_size,):
        got = ", ".join(map(str, sorted(shapes)))
        raise MeasurementError(f"{REQUEST['files'][role]}: expected one shape of {batch_size} rows, got {got}")
