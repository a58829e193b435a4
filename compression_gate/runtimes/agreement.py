"""A file that answers otherwise than its module is refused where it is made: whatever is measured later is of files."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compression_gate.errors import ExportError
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.runtimes.base import Runtime
from compression_gate.tasks.calling import Inputs, call, named

# Of the answers' norm, and of how far rounding itself moves two answers. Files of floats hardly differ; those with
# integers may by more than that move, since sums between layers are rounded in files only.
FARTHEST, TIMES_ROUNDING = 0.02, 8.0


def export(runtime: Runtime, model: nn.Module, inputs: Inputs, path: Path, dynamic: dict[str, dict[int, str]]) -> None:
    """Write ``model`` to ``path`` as the runtime does, and hold its answers to ``inputs`` against the module's.

    Raises:
        ExportError: the runtime cannot hold it, or answers otherwise; no file is left.
    """
    runtime.export(model, inputs, path, dynamic)
    try:
        refuse_other_answers(runtime, model, inputs, path)
    except ExportError as error:
        path.unlink()
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        raise ExportError(
            f"{path.name}: cannot hold {type(model).__name__}: {error}: write it with other operators, or choose "
            "another runtime"
        ) from error


def refuse_other_answers(runtime: Runtime, model: nn.Module, inputs: Inputs, path: Path) -> None:
    """Load a file and call it.

    Raises:
        ExportError: it is further from the module than rounding can bring it.
    """
    # Threads are those that this process has anyway: torch's are the whole process's.
    session = runtime.load(path, threads=torch.get_num_threads())
    given = session({name: value.detach().cpu().numpy() for name, value in named(inputs).items()})
    plain = copy.deepcopy(model).eval()
    expected = answers_of(plain, inputs)
    for layer in plain.modules():
        if isinstance(layer, QuantizedLayer):
            layer.inputs = "float"
    allowed = FARTHEST + TIMES_ROUNDING * apart(answers_of(plain, inputs), expected)
    distance = apart(given, expected) if given.shape == expected.shape else float("inf")
    if not distance <= allowed:
        raise ExportError(
            f"expected answers {expected.shape} within {allowed:.1%} of the module's, got {given.shape}, "
            f"{distance:.0%} away: an operator is computed otherwise than in torch"
        )


@torch.no_grad()
def answers_of(model: nn.Module, inputs: Inputs) -> np.ndarray:
    """What a module answers ``(N, …)``, as float32."""
    answers: np.ndarray = call(model, inputs).float().numpy()
    return answers


def apart(given: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference as a share of what is expected; values that are not finite in both are left out."""
    compared = np.isfinite(given) | np.isfinite(expected)
    norm = float(np.linalg.norm(expected[compared].astype(np.float64)))
    difference = float(np.linalg.norm(given[compared].astype(np.float64) - expected[compared]))
    return difference / norm if norm > 0 else difference
