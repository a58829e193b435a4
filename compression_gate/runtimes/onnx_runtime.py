"""ONNX files in onnxruntime: exported without a trace of the machine, integer layers as QuantizeLinear pairs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnxruntime

from compression_gate.errors import ExportError
from compression_gate.runtimes.processor import sums_are_exact

# Loading needs neither torch nor the exporter: they would be most of a fresh process's start and memory.
if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

    from compression_gate.runtimes.base import Arrays
    from compression_gate.tasks.calling import Inputs

LARGEST_FILE = 2_000_000_000  # protobuf's limit is 2 GiB; what goes beyond lies in model.onnx.data beside it


class OnnxSession:
    """A loaded file."""

    def __init__(self, session: Any, path: Path) -> None:
        self.session = session
        self.path = path

    def __call__(self, inputs: Arrays) -> np.ndarray:
        """Return the output ``(N, …)`` as float32."""
        try:
            (output,) = self.session.run(None, inputs)
        except Exception as error:  # onnxruntime raises several unrelated kinds
            expected = ", ".join(f"{value.name} {value.shape} {value.type}" for value in self.session.get_inputs())
            got = ", ".join(f"{name} {list(value.shape)} {value.dtype}" for name, value in inputs.items())
            raise ExportError(f"{self.path}: expected inputs {expected}, got {got}: {error}") from error
        return np.asarray(output, dtype=np.float32)


class OnnxRuntime:
    """Files of ``torch.onnx`` in ``onnxruntime`` on the CPU."""

    file_name: ClassVar[str] = "model.onnx"

    def export(
        self, model: nn.Module, inputs: Inputs, path: Path, dynamic: dict[str, dict[int, str]], narrowest: int = 2
    ) -> None:
        """Write ``model`` to ``path``, batch axis free, the axes of ``dynamic`` too; same model, same bytes.

        Args:
            narrowest: bits of the narrowest integer type in the file, for runtimes that read fewer types than this one.

        Raises:
            ExportError: there is no ONNX form of it, or this onnxruntime knows no integers of so few bits.
        """
        import torch
        from onnx_ir.passes.common import NameFixPass

        from compression_gate.modules.opened import layer_by_layer
        from compression_gate.modules.quantized_weights import held_bits
        from compression_gate.runtimes.graph_builder import opset_for
        from compression_gate.runtimes.opaque import opaque
        from compression_gate.runtimes.qdq import lowered
        from compression_gate.runtimes.tracing import dynamic_shapes, quietly, recurrences_anew, two_examples
        from compression_gate.tasks.calling import Positional

        examples = two_examples(inputs)
        shapes = dynamic_shapes(examples, dynamic)
        traced, layers = opaque(copy.deepcopy(model).eval())
        held = {held_bits(layer.bits, narrowest) for layer in layers.values()}
        wrapped = Positional(traced, inputs).eval()
        try:
            # torch's transformer layers may run as one operation, which ONNX has not.
            with quietly(), layer_by_layer(), recurrences_anew(), torch.no_grad():
                program = torch.onnx.export(
                    wrapped,
                    tuple(examples.values()),
                    dynamo=True,
                    external_data=False,
                    opset_version=opset_for(held),
                    input_names=list(examples),
                    output_names=["output"],
                    dynamic_shapes=(shapes,),
                    verbose=False,
                )
            assert program is not None  # only the old exporter returns nothing
            graph_model = program.model
            lowered(graph_model, layers, narrowest)
            NameFixPass()(graph_model)  # inputs keep the task's names, and what they are taken from gets others
        except ExportError:
            raise
        except Exception as error:  # tracing a user's model may raise anything
            raise ExportError(
                f"model.onnx: cannot export {type(model).__name__}: {first_cause(error)}: "
                "its forward must be traceable by torch.onnx.export(dynamo=True)"
            ) from error
        rename_axes(graph_model, dynamic)
        strip(graph_model)
        write(graph_model, path)
        if narrow := sorted(held - {8}):
            self.refuse_unknown(path, narrow)

    def refuse_unknown(self, path: Path, bits: list[int]) -> None:
        """Take a file away that this onnxruntime cannot load: types of few bits came one version after another.

        Raises:
            ExportError: it cannot.
        """
        try:
            self.load(path, threads=1)
        except ExportError as error:
            path.unlink()
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
            raise ExportError(
                f"model.onnx: onnxruntime {onnxruntime.__version__} cannot hold weights of "
                f"{' and '.join(map(str, bits))} bits: {first_cause(error)}: install a newer one, or use 8 bits"
            ) from error

    def load(self, path: Path, threads: int) -> OnnxSession:
        """Open a file written by ``export``.

        Raises:
            ExportError: the file is damaged or of a newer kind.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # Processors without VNNI saturate the 16-bit sums of U8 × S8: another machine, another accuracy. U8 × U8 is
        # exact there, and a third slower where it is not needed.
        if not sums_are_exact():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises several unrelated kinds
            raise ExportError(f"{path}: cannot be loaded by onnxruntime: {error}: export it again") from error
        return OnnxSession(session, path)


def first_cause(error: BaseException) -> str:
    """The exception at the bottom of a chain, in one line: what really went wrong in the user's model."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def rename_axes(model: onnx_ir.Model, dynamic: dict[str, dict[int, str]]) -> None:
    """Name the free axes as the user does; tracing calls them s31 and the like, by the code's own counting."""
    import onnx_ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, dimension in enumerate(value.shape or ()):
            if isinstance(dimension, onnx_ir.SymbolicDim) and dimension.value is not None:
                name = "batch" if axis == 0 else dynamic.get(value.name or "", {}).get(axis, f"axis_{axis}")
                names.setdefault(dimension.value, name)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([renamed(dimension, names) for dimension in value.shape])


def renamed(dimension: Any, names: dict[str, str]) -> int | str | None:
    """A dimension with its new name; one that is computed from others has no name."""
    if isinstance(dimension, int):
        return dimension
    return names.get(dimension.value)


def strip(model: onnx_ir.Model) -> None:
    """Take out all that is not the model: stack traces, paths, shapes in between, versions of the exporter."""
    model.producer_name, model.producer_version, model.doc_string = "compression_gate", None, None
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        outside = {id(value) for value in (*graph.inputs, *graph.outputs)}
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for value in graph.initializers.values():
            if id(value) not in outside:
                value.shape, value.type = None, None
        for node in graph:
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
                if id(value) not in outside:
                    value.shape, value.type = None, None


def write(model: onnx_ir.Model, path: Path) -> None:
    """Save in one file, or, where protobuf cannot, with the weights in ``<name>.data`` beside it."""
    import onnx_ir

    from compression_gate.records.base import replacing

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size >= LARGEST_FILE:
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
        return
    with replacing(path) as temporary:
        temporary.write_bytes(onnx_ir.to_proto(model).SerializeToString(deterministic=True))
