"""ONNX files in OpenVINO: the same file as onnxruntime's, read by OpenVINO itself, its integer layers run on integers.

OpenVINO's own format is no candidate for a file that ships: it is two files, together larger for the default
model, and one of them counts its nodes through the process, so that the same model gives other bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compression_gate.errors import ExportError
from compression_gate.runtimes.processor import sums_are_exact

# Loading needs neither torch nor the exporter: they would be most of a fresh process's start and memory.
if TYPE_CHECKING:
    from torch import nn

    from compression_gate.runtimes.base import Arrays
    from compression_gate.tasks.calling import Inputs

TELEMETRY = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import OpenVINO as it is where its telemetry is not installed, a case that it provides for.

    Otherwise its mere import posts to a server, on a thread of its own, and a process with threads has no safe fork.
    """
    modules: dict[str, Any] = sys.modules  # None in it is how an import is refused
    held = modules.get(TELEMETRY)
    modules[TELEMETRY] = None
    try:
        yield
    finally:
        del modules[TELEMETRY]
        if held is not None:
            modules[TELEMETRY] = held


with without_telemetry():
    import openvino


class OpenVinoSession:
    """A compiled file and one request on it; not for several threads at once."""

    def __init__(self, compiled: Any, path: Path) -> None:
        self.compiled, self.path = compiled, path
        self.names = {port.any_name for port in compiled.inputs}
        self.request = compiled.create_infer_request()

    def __call__(self, inputs: Arrays) -> np.ndarray:
        """Return the output ``(N, …)`` as float32."""
        # They are read where they lie, which saves a fifth of a small model's time: `held` keeps them until then.
        held = {name: np.require(value, requirements=["C", "W"]) for name, value in inputs.items()}
        if held.keys() != self.names:  # OpenVINO would take what the last call left for an input that is not given
            raise ExportError(self.mismatch(inputs))
        try:
            for name, value in held.items():
                self.request.set_tensor(name, openvino.Tensor(value, shared_memory=True))
            self.request.infer(share_outputs=True)
        except Exception as error:  # OpenVINO raises several unrelated kinds
            raise ExportError(f"{self.mismatch(inputs)}: {last_line(error)}") from error
        return np.array(self.request.get_output_tensor(0).data, dtype=np.float32)  # the next call writes over it

    def mismatch(self, inputs: Arrays) -> str:
        """What the file takes, and what it was given."""
        ports = sorted(self.compiled.inputs, key=lambda port: str(port.any_name))
        expected = ", ".join(
            f"{port.any_name} {port.partial_shape} {port.element_type.get_type_name()}" for port in ports
        )
        got = ", ".join(f"{name} {list(value.shape)} {value.dtype}" for name, value in inputs.items())
        return f"{self.path}: expected inputs {expected}, got {got}"


class OpenVino:
    """Files of ``torch.onnx`` in OpenVINO on the CPU."""

    file_name: ClassVar[str] = "model.onnx"

    def export(self, model: nn.Module, inputs: Inputs, path: Path, dynamic: dict[str, dict[int, str]]) -> None:
        """Write ``model`` to ``path``, batch axis free, the axes of ``dynamic`` too; same model, same bytes.

        Raises:
            ExportError: there is no ONNX form of it.
        """
        from compression_gate.runtimes.onnx_runtime import OnnxRuntime
        from compression_gate.runtimes.placement import NARROWEST

        OnnxRuntime().export(model, inputs, path, dynamic, NARROWEST["openvino"])

    def load(self, path: Path, threads: int) -> OpenVinoSession:
        """Open a file written by ``export``.

        Raises:
            ExportError: the file is damaged or of a newer kind.
        """
        core = openvino.Core()  # of its own: two models in one process share nothing
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", settings(threads))
        except Exception as error:  # OpenVINO raises several unrelated kinds
            raise ExportError(f"{path}: cannot be loaded by openvino: {last_line(error)}: export it again") from error
        return OpenVinoSession(compiled, path)


def settings(threads: int) -> dict[str, Any]:
    """One request at a time, on ``threads`` threads of which the caller's is the first."""
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # bf16 where the processor has it, if nothing is said
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # activations of integer weights are rounded as well, if nothing is said
        "ENABLE_CPU_PINNING": False,  # cores are the caller's to choose
    }
    # Processors without VNNI saturate the 16-bit sums of U8 × S8: another machine, another accuracy. Integer layers
    # are then computed in float32, from the same rounded values.
    if not sums_are_exact():
        chosen["LP_TRANSFORMS_MODE"] = "NO"
    return chosen


def last_line(error: BaseException) -> str:
    """What went wrong; the lines before it name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
