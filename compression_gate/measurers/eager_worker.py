"""Time the reference's module in eager torch: ``python -m compression_gate.measurers.eager_worker request``.

The answer is one line of JSON: seconds of every call.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression_gate.measurers.workers import answer_or_say_why
from compression_gate.modules.checkpoints import load_reference
from compression_gate.records.artifact import Artifact
from compression_gate.records.params import read_params
from compression_gate.tasks.calling import call, formed
from compression_gate.tasks.task import open_task

WARM_UP, LEAST_CALLS, MOST_CALLS = 3, 10, 2000


def main(path: Path) -> None:
    """Read the request, build the module, call it, print."""
    request = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    suite, folder = Path(request["suite"]), Path(request["folder"])
    task = open_task(read_params(suite), suite)
    model = load_reference(task, folder, normalize=Artifact.open(folder).normalize).float()
    with np.load(request["inputs"]) as file:
        inputs = formed({name: torch.from_numpy(file[name]) for name in file.files}, request["form"])
    sys.stdout.write(f"{json.dumps(timed(model, inputs, request['seconds']))}\n")


def timed(model: torch.nn.Module, inputs: Any, seconds: float) -> list[float]:
    """Seconds of each call, for about as long as asked for."""
    took: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP):
            call(model, inputs)
        gc.collect()
        gc.disable()
        end = time.perf_counter() + seconds
        while len(took) < LEAST_CALLS or (time.perf_counter() < end and len(took) < MOST_CALLS):
            start = time.perf_counter()
            call(model, inputs)
            took.append(time.perf_counter() - start)
    return took


if __name__ == "__main__":
    answer_or_say_why(main)
