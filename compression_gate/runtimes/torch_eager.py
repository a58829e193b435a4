"""Torch as a runtime: an exported program, saved with its weights and run operator by operator."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from compression_gate.errors import ExportError
from compression_gate.records.base import replacing
from compression_gate.runtimes.base import Arrays
from compression_gate.runtimes.tracing import dynamic_shapes, quietly, two_examples
from compression_gate.tasks.calling import Inputs, Positional, named

FIXED_DATE = (1980, 1, 1, 0, 0, 0)


class TorchSession:
    """A loaded program; one thread count for the whole process, as torch has it.

    Args:
        expected: shape and type of each input, by name, as messages tell them.
    """

    def __init__(self, module: Any, expected: dict[str, str], path: Path) -> None:
        self.module, self.expected, self.path = module, expected, path

    def __call__(self, inputs: Arrays) -> np.ndarray:
        """Return the output ``(N, …)`` as float32."""
        if inputs.keys() != self.expected.keys():
            raise ExportError(self.mismatch(inputs))
        try:
            with torch.inference_mode():
                given = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.expected)
                output = self.module(*given)
        except Exception as error:  # a guard fails with an AssertionError, operators with several others
            raise ExportError(
                f"{self.mismatch(inputs)}: {error}: axes beside the batch are free where task.dynamic names them"
            ) from error
        return np.asarray(output.float().numpy())

    def mismatch(self, inputs: Arrays) -> str:
        """What the file takes, and what it was given."""
        expected = ", ".join(f"{name} {form}" for name, form in self.expected.items())
        got = ", ".join(f"{name} {list(value.shape)} {value.dtype}" for name, value in inputs.items())
        return f"{self.path}: expected inputs {expected}, got {got}"


class TorchEager:
    """Files of ``torch.export``."""

    file_name: ClassVar[str] = "model.pt2"

    def export(self, model: nn.Module, inputs: Inputs, path: Path, dynamic: dict[str, dict[int, str]]) -> None:
        """Write ``model`` to ``path``, batch axis free, the axes of ``dynamic`` too; same model, same bytes.

        Raises:
            ExportError: torch cannot trace it.
        """
        wrapped = Positional(copy.deepcopy(model).eval(), inputs).eval()
        examples = two_examples(inputs)
        try:
            with quietly(), torch.no_grad():
                shapes = (dynamic_shapes(examples, dynamic),)
                program = torch.export.export(wrapped, tuple(examples.values()), dynamic_shapes=shapes)
                for node in program.graph.nodes:  # they hold the folders of this machine
                    node.meta.pop("stack_trace", None)
                names = "\n".join(named(inputs))
                with replacing(path) as temporary:
                    torch.export.save(program, temporary, extra_files={"inputs.txt": names})
                    repack(temporary)
        except Exception as error:  # tracing a user's model may raise anything
            raise ExportError(
                f"runtime torch: cannot export {type(model).__name__}: {type(error).__name__}: {error}: "
                "its forward must be traceable by torch.export"
            ) from error

    def __init__(self) -> None:
        self.sessions: dict[Path, TorchSession] = {}

    def load(self, path: Path, threads: int) -> TorchSession:
        """Open a file written by ``export``.

        Raises:
            ExportError: the file is damaged or of a newer kind.
        """
        torch.set_num_threads(threads)
        if path not in self.sessions:
            return read(path)
        with quietly():  # a copy, since weights read before a fork would lie at the same place in every one of them
            return copy.deepcopy(self.sessions[path])

    def preload(self, path: Path) -> None:
        """Read a file that ``load`` will be asked for: torch takes long to do so for the first time.

        Raises:
            ExportError: the file is damaged or of a newer kind.
        """
        self.sessions[path] = read(path)


def read(path: Path) -> TorchSession:
    """The program in a file, with the names of its inputs."""
    extra = {"inputs.txt": ""}
    try:
        with quietly():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # a damaged file may fail in any way
        raise ExportError(f"{path}: cannot be loaded by torch: {error}: export it again") from error
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    forms = [shape_of(values[name]) for name in program.graph_signature.user_inputs]
    return TorchSession(program.module(), dict(zip(extra["inputs.txt"].split("\n"), forms, strict=True)), path)


def shape_of(value: torch.Tensor) -> str:
    """Shape and type of a traced input; free axes are question marks."""
    axes = ", ".join(str(axis) if isinstance(axis, int) else "?" for axis in value.shape)
    return f"[{axes}] {str(value.dtype).removeprefix('torch.')}"


def repack(path: Path) -> None:
    """Write the archive anew with entries in order and without dates or stack traces."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in sorted(old.namelist())}
    folder = next(name for name in entries if "/" in name).split("/")[0]  # named for the file: here a temporary name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in entries.items():
            inner = name.split("/", 1)[-1] if name.split("/")[0] == folder else name
            new.writestr(zipfile.ZipInfo(f"model/{inner}", FIXED_DATE), content)
