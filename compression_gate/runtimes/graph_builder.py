"""Operators and constants in the place of an opaque node; integers take as few bits as ONNX has a type for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir import DataType, Value

from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_weights import IntegerWeight, row_length

# The narrowest type for integers of so many bits, and the ONNX version that brought it. There is none of 3 bits.
INTEGER_TYPES = {2: (DataType.INT2, 25), 3: (DataType.INT4, 21), 4: (DataType.INT4, 21)}
BYTES = (DataType.INT8, 20)


def opset_for(layers: dict[str, QuantizedLayer]) -> int:
    """The ONNX version that has a type for every layer's integers; the oldest in use where there are none."""
    return max((INTEGER_TYPES.get(layer.bits, BYTES)[1] for layer in layers.values()), default=BYTES[1])


class GraphBuilder:
    """Collects the operators that take one node's place.

    Args:
        name: of the layer; its constants' names start with it.
        node: the opaque node.
    """

    def __init__(self, graph: onnx_ir.Graph, node: onnx_ir.Node, name: str) -> None:
        self.graph, self.node, self.name = graph, node, name
        self.nodes: list[onnx_ir.Node] = []

    def add(self, operator: str, *inputs: Value | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Value:
        """Append one operator and return its first output."""
        node = onnx_ir.node(operator, inputs, attributes, num_outputs=outputs, domain=domain)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: Any, kind: DataType | None = None) -> Value:
        """An initializer of the graph; a layer called twice shares its own."""
        full = f"{self.name}.{name}"
        if full not in self.graph.initializers:
            array = np.asarray(array) if kind is None else np.asarray(array).astype(kind.numpy())
            value = Value(name=full, const_value=onnx_ir.tensor(array, dtype=kind, name=full))
            self.graph.register_initializer(value)
        return self.graph.initializers[full]

    def shape(self, name: str, sizes: Sequence[int]) -> Value:
        """A constant shape."""
        return self.constant(name, np.array(sizes, np.int64))

    def splice(self, results: Sequence[Value]) -> None:
        """Put the operators where the opaque node was; ``results`` take the place of its outputs."""
        old = list(self.node.outputs)[: len(results)]
        onnx_ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], self.nodes, old, results)
        self.nodes = []

    def integers(self, name: str, array: np.ndarray, bits: int) -> Value:
        """Integers as int8, which operators take; runtimes unpack what is held in fewer bits when they load a file."""
        kind, _ = INTEGER_TYPES.get(bits, BYTES)
        held = self.constant(name, np.ascontiguousarray(array), kind)
        return held if kind == DataType.INT8 else self.add("Cast", held, to=DataType.INT8.value)

    def floats(self, name: str, weight: IntegerWeight) -> Value:
        """A weight as floats, from its integers.

        Operators on constants alone, which runtimes compute once, when they load a file. DequantizeLinear says the
        same in one, but onnxruntime computes it at every call.
        """
        shape, kind = tuple(weight.integers.shape), INTEGER_TYPES.get(weight.scheme.bits, BYTES)[0]
        held = self.constant(f"{name}_integers", weight.integers.numpy(), kind)
        steps = self.add("Cast", held, to=DataType.FLOAT.value)
        if weight.zero_point is not None:
            zero = self.constant(f"{name}_zero_point", weight.zero_point.numpy(), kind)
            zero = self.add("Cast", zero, to=DataType.FLOAT.value)
            steps = self.add("Sub", steps, self.spread(f"{name}_zero_point", zero, weight, shape))
        scale = self.constant(f"{name}_scale", weight.scale.numpy())
        return self.add("Mul", steps, self.spread(f"{name}_scale", scale, weight, shape))

    def spread(self, name: str, figures: Value, weight: IntegerWeight, shape: tuple[int, ...]) -> Value:
        """One figure per scale in a form that multiplies the weight."""
        group = weight.scheme.group_size
        if group is None:
            sizes = [weight.scale.shape[0], *[1] * (len(shape) - 1)]
            return self.add("Reshape", figures, self.shape(f"{name}_axes", sizes))
        rows, groups = weight.scale.shape
        figures = self.add("Reshape", figures, self.shape(f"{name}_column", (rows, groups, 1)))
        figures = self.add("Expand", figures, self.shape(f"{name}_groups", (rows, groups, group)))
        figures = self.add("Reshape", figures, self.shape(f"{name}_rows", (rows, groups * group)))
        if groups * group != row_length(shape):
            bounds = [self.shape(f"{name}_{key}", (at,)) for key, at in (("first", 0), ("end", row_length(shape)))]
            figures = self.add("Slice", figures, *bounds, self.shape(f"{name}_axis", (1,)))
        return self.add("Reshape", figures, self.shape(f"{name}_axes", shape))
