"""Operators and constants in the place of an opaque node; integers take as few bits as ONNX has a type for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir import DataType, Value

from compression_gate.modules.quantized_weights import IntegerWeight, held_bits, row_length
from compression_gate.runtimes.opaque import DOMAIN

# The type of so many bits, and the ONNX version that brought it.
INTEGER_TYPES = {2: (DataType.INT2, 25), 4: (DataType.INT4, 21), 8: (DataType.INT8, 20)}
FLOAT = DataType.FLOAT.value


def opset_for(bits: Iterable[int]) -> int:
    """The ONNX version that has a type for integers held in so many bits; the oldest in use where there are none."""
    return max((INTEGER_TYPES[size][1] for size in bits), default=INTEGER_TYPES[8][1])


class GraphBuilder:
    """Collects the operators that take one node's place.

    Args:
        name: of the layer; its constants' names start with it.
        node: the opaque node.
        narrowest: bits of the narrowest integer type that the runtime reads.
    """

    def __init__(self, graph: onnx_ir.Graph, node: onnx_ir.Node, name: str, narrowest: int) -> None:
        self.graph, self.node, self.name, self.narrowest = graph, node, name, narrowest
        self.nodes: list[onnx_ir.Node] = []

    def add(self, operator: str, *inputs: Value | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Value:
        """Append one operator and return its first output."""
        node = onnx_ir.node(operator, inputs, attributes, num_outputs=outputs, domain=domain)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: Any, kind: DataType | None = None) -> Value:
        """An initializer of the layer; one that is called twice shares its own."""
        return self.named(f"{self.name}.{name}", array, kind)

    def named(self, full: str, array: Any, kind: DataType | None) -> Value:
        """The graph's initializer with this array: of this name, or with a number behind it where another has that."""
        array = np.asarray(array) if kind is None else np.asarray(array).astype(kind.numpy())
        name, number = full, 1
        while (held := self.graph.initializers.get(name)) is not None:
            if holds(held, array):
                return held
            number += 1
            name = f"{full}_{number}"
        value = Value(name=name, const_value=onnx_ir.tensor(array, dtype=kind, name=name))
        self.graph.register_initializer(value)
        return value

    def shape(self, *sizes: int) -> Value:
        """A constant list of whole numbers; all layers share those that are equal."""
        return self.named(f"{DOMAIN}.{'_'.join(map(str, sizes))}", np.array(sizes, np.int64), None)

    def splice(self, results: Sequence[Value]) -> None:
        """Put the operators where the opaque node was; ``results`` take the place of its outputs."""
        old = list(self.node.outputs)[: len(results)]
        onnx_ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], self.nodes, old, results)
        self.nodes = []

    def type_of(self, bits: int) -> DataType:
        """The narrowest type for integers of so many bits."""
        return INTEGER_TYPES[held_bits(bits, self.narrowest)][0]

    def integers(self, name: str, array: np.ndarray, bits: int) -> Value:
        """Integers as int8, which operators take; runtimes unpack what is held in fewer bits when they load a file."""
        kind = self.type_of(bits)
        held = self.constant(name, np.ascontiguousarray(array), kind)
        return held if kind == DataType.INT8 else self.add("Cast", held, to=DataType.INT8.value)

    def floats(self, name: str, weight: IntegerWeight) -> Value:
        """A weight as floats, from its integers.

        Operators on constants alone, which runtimes compute once, when they load a file. DequantizeLinear says the
        same in one, but onnxruntime computes it at every call.
        """
        shape, kind = tuple(weight.integers.shape), self.type_of(weight.scheme.bits)
        steps = self.add("Cast", self.constant(f"{name}_integers", weight.integers.numpy(), kind), to=FLOAT)
        # Whole groups are an axis of their own; a short one needs the figures spread over the weight's rows.
        group = weight.scheme.group_size
        short = group is not None and row_length(shape) % group != 0
        if group is None:
            axes = (-1, *[1] * (len(shape) - 1))
        else:
            axes = (*weight.scale.shape, 1)
            steps = self.add("Reshape", steps, self.shape(shape[0], *((-1,) if short else (-1, group))))
        if weight.zero_point is not None:
            zero = self.constant(f"{name}_zero_point", weight.zero_point.reshape(axes).numpy(), kind)
            zero = self.add("Cast", zero, to=FLOAT)
            steps = self.add("Sub", steps, self.spread(zero, weight) if short else zero)
        scale = self.constant(f"{name}_scale", weight.scale.reshape(axes).numpy())
        product = self.add("Mul", steps, self.spread(scale, weight) if short else scale)
        return product if group is None else self.add("Reshape", product, self.shape(*shape))

    def spread(self, figures: Value, weight: IntegerWeight) -> Value:
        """One figure per group ``(O, G, 1)`` as one per weight ``(O, n)``."""
        (rows, groups), group = weight.scale.shape, weight.scheme.group_size
        assert group is not None  # nothing else is spread
        full = self.add("Expand", figures, self.shape(rows, groups, group))
        length = row_length(tuple(weight.integers.shape))
        return self.add(
            *("Slice", self.add("Reshape", full, self.shape(rows, -1))),
            *(self.shape(0), self.shape(length), self.shape(1)),
        )


def holds(value: Value, array: np.ndarray) -> bool:
    """Whether an initializer is just this array."""
    assert value.const_value is not None  # it is an initializer
    held = value.const_value.numpy()
    return held.dtype == array.dtype and np.array_equal(held, array)
