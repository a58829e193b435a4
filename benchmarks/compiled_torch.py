"""Programs that torch has compiled ahead of time, as a runtime: what torchao's documents lower its models with.

`rivals_table.py` makes it known to the processes that take times, as a package of somebody else's would be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from compression_gate.runtimes.base import Arrays
from compression_gate.tasks.calling import Inputs

ENTRY_POINTS = "[compression_gate.runtimes]\ncompiled_torch = compiled_torch:CompiledTorch\n"


class CompiledSession:
    """A loaded program, for one example at a time: the shape it was compiled for."""

    def __init__(self, program: Any) -> None:
        self.program = program

    def __call__(self, inputs: Arrays) -> np.ndarray:
        """Return the output ``(1, classes)`` as float32."""
        with torch.inference_mode():
            answer = self.program(torch.from_numpy(inputs["input"]))
        return np.asarray((answer[0] if isinstance(answer, tuple | list) else answer).float().numpy())


class CompiledTorch:
    """Packages of AOTInductor: generated C++ with the weights inside."""

    file_name: ClassVar[str] = "model.pt2"

    def export(self, model: nn.Module, inputs: Inputs, path: Path, dynamic: dict[str, dict[int, str]]) -> None:
        """Compile for the shape of ``inputs``, weights frozen."""
        assert isinstance(inputs, torch.Tensor)  # the only task that it is used for
        assert not dynamic
        with torch.no_grad():
            compile_ahead(torch.export.export(model, (inputs,)), path)

    def load(self, path: Path, threads: int) -> CompiledSession:
        """Open a package."""
        torch.set_num_threads(threads)
        return CompiledSession(torch._inductor.aoti_load_package(str(path)))


def compile_ahead(program: torch.export.ExportedProgram, path: Path) -> None:
    """Compile an exported program into a package."""
    from torch._inductor import config

    with config.patch({"freezing": True}), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
