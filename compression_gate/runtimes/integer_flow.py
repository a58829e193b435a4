"""What lies between integer layers: bounds, sums, pools and means run on integers too, where all around them does.

Runtimes do so with operators that have DequantizeLinear before them and QuantizeLinear behind. Here these pairs are
put where they are missing, shared where two are equal, and moved where something stands between them and an operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir import Value

from compression_gate.modules.quantized_layer import LEVELS, affine
from compression_gate.runtimes.opaque import DOMAIN

LARGEST_POOL = 4096  # bytes that the weights of a pool written as a convolution may add to a file
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
MOVES = ("Reshape", "Flatten", "Squeeze")  # values pass them as they are


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a layer gives, and the range of it that was seen.

    Args:
        name: of the layer; the constants' names start with it.
    """

    name: str
    value: Value
    low: float
    high: float


def keep_integers(graph: onnx_ir.Graph, outputs: Sequence[Output]) -> None:
    """Have what lies between integer layers run on integers, in place.

    Args:
        outputs: of layers on integers, in the order in which they run.
    """
    for node in of_type(graph, "AveragePool"):
        if divides_by_all(node) and not is_padded(node):
            del node.attributes["count_include_pad"]  # says nothing where there is no padding
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        share_roundings(graph, value)
    for output in outputs:
        value, low, high = behind_bounds(output.value, output.low, output.high)
        round_for_readers(graph, value, f"{output.name}.output", low, high)
    join_sums(graph)
    for node in of_type(graph, "Add"):
        round_sum(graph, node)
    for node in of_type(graph, "ReduceMean"):
        mean_as_pool(graph, node)
    for node in of_type(graph, *MOVES):
        round_before(node)
    for node in of_type(graph, "AveragePool"):
        pool_as_convolution(graph, node)


def of_type(graph: onnx_ir.Graph, *kinds: str) -> list[onnx_ir.Node]:
    """The nodes of some kinds, in order."""
    return [node for node in graph if node.op_type in kinds]


def share_roundings(graph: onnx_ir.Graph, value: Value) -> None:
    """Leave one of several equal roundings of a value: an operator with one rounding behind it runs on integers."""
    kept: dict[tuple[float, int], Value] = {}
    for rounding in roundings_of(value):
        read, step = read_back(rounding), step_of(rounding)
        if read is None or step is None or kept.setdefault(step, read) is read:
            continue
        for use in list(read.uses()):
            use.node.replace_input_with(use.idx, kept[step])
        graph.remove([node for node in (read.producer(), rounding) if node is not None], safe=True)


def roundings_of(value: Value) -> list[onnx_ir.Node]:
    """The nodes that round a value."""
    return [use.node for use in value.uses() if use.node.op_type == "QuantizeLinear"]


def read_back(rounding: onnx_ir.Node) -> Value | None:
    """What DequantizeLinear makes of a rounding to 8 bits; None for one to fewer, which is cut before it is read."""
    uses = list(rounding.outputs[0].uses())
    plain = len(uses) == 1 and uses[0].node.op_type == "DequantizeLinear"
    return uses[0].node.outputs[0] if plain else None


def step_of(node: onnx_ir.Node) -> tuple[float, int] | None:
    """Scale and zero point of a node that rounds to unsigned integers, or reads them back, with one scale."""
    scale, zero = (constant_of(value) for value in (*node.inputs[1:3], None, None)[:2])
    if scale is None or zero is None or scale.size != 1 or zero.dtype != np.uint8:
        return None
    return float(scale), int(zero)


def constant_of(value: Value | None) -> np.ndarray | None:
    """A value that is known; None for any other."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def behind_bounds(value: Value, low: float, high: float) -> tuple[Value, float, float]:
    """Follow a value through ReLU, ReLU6 and their like while nothing else reads it; with the range that is left.

    A runtime has the operator give integers in that range, and leaves the bounds out, since integers end there.
    """
    while len(uses := list(value.uses())) == 1 and not value.is_graph_output():
        if (ends := bounds_of(uses[0].node)) is None:
            break
        value = uses[0].node.outputs[0]
        low, high = (min(max(end, ends[0]), ends[1]) for end in (low, high))
    return value, low, high


def bounds_of(node: onnx_ir.Node) -> tuple[float, float] | None:
    """What a node cuts values at; None if it does anything else."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip":
        return None
    low, high = (constant_of(value) for value in (*node.inputs[1:3], None, None)[:2])
    return None if low is None or high is None or low.dtype != np.float32 else (float(low), float(high))


def round_for_readers(graph: onnx_ir.Graph, value: Value, name: str, low: float, high: float) -> None:
    """Have all that reads a value read it rounded alike: as the one layer among them rounds it, or to a range."""
    uses = [use for use in value.uses() if not divides_by_all(use.node)]
    if value.is_graph_output() or not uses or (len(uses) == 1 and roundings_of(value)):
        return
    if (read := own_rounding(value)) is None:
        read = rounded(graph, value, name, low, high)
    else:
        uses = [use for use in uses if use.node.op_type != "QuantizeLinear"]
    for use in uses:
        use.node.replace_input_with(use.idx, read)


def own_rounding(value: Value) -> Value | None:
    """A value as the only layer that rounds it reads it; None where none does, or several, or one to fewer bits."""
    rounding = roundings_of(value)
    return read_back(rounding[0]) if len(rounding) == 1 and step_of(rounding[0]) else None


def rounded(graph: onnx_ir.Graph, value: Value, name: str, low: float, high: float) -> Value:
    """Round a value to 8 bits and back, behind the node it comes from."""
    scale, zero_point = affine(low, high)
    step = (
        constant(graph, f"{name}_scale", np.array(scale, np.float32)),
        constant(graph, f"{name}_zero_point", np.array(zero_point, np.uint8)),
    )
    rounding = onnx_ir.node("QuantizeLinear", [value, *step])
    read = onnx_ir.node("DequantizeLinear", [rounding.outputs[0], *step])
    producer = value.producer()
    assert producer is not None  # inputs of the graph are no layer's outputs
    graph.insert_after(producer, [rounding, read])
    read.outputs[0].shape = value.shape
    return read.outputs[0]


def constant(graph: onnx_ir.Graph, name: str, array: np.ndarray) -> Value:
    """An initializer; a layer that is called twice may have two, of which the second gets a number."""
    number, full = 1, name
    while full in graph.initializers:
        held = constant_of(graph.initializers[full])
        if held is not None and held.dtype == array.dtype and np.array_equal(held, array):
            return graph.initializers[full]
        number, full = number + 1, f"{name}_{number + 1}"
    value = Value(name=full, const_value=onnx_ir.tensor(array, name=full))
    graph.register_initializer(value)
    return value


def join_sums(graph: onnx_ir.Graph) -> None:
    """Let sums read the rounded form of a tensor that a layer reads too, so that residual sums run on integers."""
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        if (read := own_rounding(value)) is not None:
            for use in [use for use in value.uses() if use.node.op_type == "Add"]:
                use.node.replace_input_with(use.idx, read)


def round_sum(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Round a sum of two rounded tensors where layers, pools or other sums are behind it.

    Nobody saw its range: it is what the ranges of the two add up to, which cuts nothing.
    """
    ranges = [range_of(value) for value in node.inputs]
    if len(ranges) != 2 or ranges[0] is None or ranges[1] is None:
        return
    low, high = (one + other for one, other in zip(*ranges, strict=True))
    value, low, high = behind_bounds(node.outputs[0], low, high)
    kinds = {use.node.op_type for use in value.uses()}
    if own_rounding(value) is not None or kinds <= {"Add", "QuantizeLinear", *POOLS}:
        round_for_readers(graph, value, node.name or str(node.outputs[0].name), low, high)


def range_of(value: Value | None) -> tuple[float, float] | None:
    """The range that a tensor was rounded to; None for any other."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or (step := step_of(node)) is None:
        return None
    scale, zero = step
    return -zero * scale, (LEVELS - zero) * scale


def mean_as_pool(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Write the mean of integers over height and width as a pool, which onnxruntime has on integers.

    A convolution with weights of one, which is faster for small windows, is slower here.
    """
    inputs, axes = node.inputs[0], constant_of((*node.inputs[1:], None)[0])
    if inputs is None or range_of(inputs) is None or inputs.shape is None or axes is None:
        return
    if len(inputs.shape) != 4 or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return
    nodes = [onnx_ir.node("GlobalAveragePool", [inputs])]
    if node.attributes["keepdims"].as_int() == 0:  # Flatten says the same, and onnxruntime lets no integers through it
        shape = constant(graph, f"{DOMAIN}.0_-1", np.array([0, -1]))
        nodes.append(onnx_ir.node("Reshape", [nodes[0].outputs[0], shape]))
    last = nodes[-1].outputs[0]
    onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [node.outputs[0]], [last])
    forget_unused(graph)


def forget_unused(graph: onnx_ir.Graph) -> None:
    """Take out constants that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def round_before(node: onnx_ir.Node) -> None:
    """Round what a layer reads before it changes its shape, so that the operator before gives integers."""
    value, shaped = node.inputs[0], node.outputs[0]
    if value is None or value.producer() is None or range_of(value) is not None or len(list(value.uses())) != 1:
        return
    if len(list(shaped.uses())) != 1 or shaped.is_graph_output() or (read := own_rounding(shaped)) is None:
        return
    roundings_of(shaped)[0].replace_input_with(0, value)
    for use in list(read.uses()):
        use.node.replace_input_with(use.idx, shaped)
    node.replace_input_with(0, read)


def divides_by_all(node: onnx_ir.Node) -> bool:
    """Whether an average may have windows over the edge while padding counts.

    onnxruntime divides these by the whole window on integers, and by what lies in them on floats.
    """
    return node.op_type == "AveragePool" and all(
        name in node.attributes and node.attributes[name].as_int() == 1 for name in ("ceil_mode", "count_include_pad")
    )


def is_padded(node: onnx_ir.Node) -> bool:
    """Whether a pool sees zeros around its input."""
    return "pads" in node.attributes and any(node.attributes["pads"].as_ints())


def pool_as_convolution(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Write an average of integers as a convolution with weights of one: the same sums.

    onnxruntime's integer average costs more than the convolution before it (52 of 128 µs in the default model on a
    processor with VNNI, 7 as a convolution). Left as it is where the shape is not plain or the weights would be many.
    """
    inputs, output = node.inputs[0], node.outputs[0]
    producer = inputs.producer() if inputs is not None else None
    if inputs is None or producer is None or producer.op_type != "DequantizeLinear" or output.shape is None:
        return
    channels, size = output.shape[1], node.attributes["kernel_shape"].as_ints()
    attributes = node.attributes
    plain = not is_padded(node) and ("ceil_mode" not in attributes or attributes["ceil_mode"].as_int() == 0)
    plain = plain and ("auto_pad" not in attributes or attributes["auto_pad"].as_string() in ("NOTSET", "VALID"))
    if not plain or not isinstance(channels, int) or channels * int(np.prod(size)) > LARGEST_POOL:
        return
    if "dilations" in attributes and set(attributes["dilations"].as_ints()) != {1}:
        return
    strides = attributes["strides"].as_ints() if "strides" in attributes else [1] * len(size)
    name = f"{node.name}.weights"
    arrays: dict[str, np.ndarray] = {
        "weight_integers": np.ones((channels, 1, *size), np.int8),
        "weight_scale": np.array(1 / np.prod(size), np.float32),
        "weight_zero_point": np.array(0, np.int8),
    }
    weights = [onnx_ir.Value(name=f"{name}.{key}", const_value=onnx_ir.tensor(a)) for key, a in arrays.items()]
    for weight in weights:
        graph.register_initializer(weight)
    read = onnx_ir.node("DequantizeLinear", weights)
    sums = onnx_ir.node(
        "Conv", [inputs, read.outputs[0]], {"kernel_shape": size, "strides": strides, "group": channels}
    )
    onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], [read, sums], [output], [sums.outputs[0]])
