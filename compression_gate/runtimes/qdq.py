"""Integer layers in ONNX: their opaque nodes become operators, and what lies between layers runs on integers too.

A layer with static inputs becomes QuantizeLinear/DequantizeLinear pairs around a plain operator: a runtime fuses
DequantizeLinear → operator → QuantizeLinear into one integer operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
from onnx_ir import Value

from compression_gate.errors import ExportError
from compression_gate.modules.quantized import QuantizedConvolution, QuantizedLinear
from compression_gate.modules.quantized_layer import QuantizedLayer, affine, levels_of
from compression_gate.modules.quantized_recurrent import QuantizedLSTM
from compression_gate.runtimes.graph_builder import GraphBuilder
from compression_gate.runtimes.opaque import DOMAIN
from compression_gate.runtimes.run_time_ranges import lower_linear, lower_lstm

LARGEST_POOL = 4096  # bytes that the weights of a pool written as a convolution may add to a file


def lowered(model: onnx_ir.Model, layers: dict[str, QuantizedLayer]) -> None:
    """Replace the opaque nodes of a graph, in place.

    Raises:
        ExportError: a layer runs inside a branch or a loop of the model.
    """
    for node in list(model.graph):
        if node.domain == DOMAIN:
            name = node.attributes["layer"].as_string()
            lower(model, node, name, layers[name])
    if left := [node.attributes["layer"].as_string() for node in model.graph.all_nodes() if node.domain == DOMAIN]:
        raise ExportError(f"model.onnx: layer {left[0]}: expected it outside of branches and loops: leave it in float")
    join_sums(model.graph)
    for node in list(model.graph):
        if node.op_type == "AveragePool":
            pool_as_convolution(model.graph, node)
    model.graph.sort()
    model.opset_imports.pop(DOMAIN, None)


def lower(model: onnx_ir.Model, node: onnx_ir.Node, name: str, layer: QuantizedLayer) -> None:
    """Replace one opaque node."""
    if node.op_type == "Weight":
        builder = GraphBuilder(model.graph, node, name)
        key = node.attributes["weight"].as_string()
        builder.splice([builder.floats(key, layer.held(key))])
    elif isinstance(layer, QuantizedLSTM):
        lower_lstm(model, GraphBuilder(model.graph, node, name), layer)
    elif layer.inputs == "dynamic":
        assert isinstance(layer, QuantizedLinear)  # the only other kind with dynamic inputs
        lower_linear(GraphBuilder(model.graph, node, name), layer)
    else:
        Lowering(model.graph, node, name, layer).replace()


def join_sums(graph: onnx_ir.Graph) -> None:
    """Let sums read the rounded form of a tensor that a layer reads too, so that residual sums run on integers."""
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or (rounding := node.inputs[0].producer()) is None:  # type: ignore[union-attr]
            continue
        source = rounding.inputs[0]
        for use in list(source.uses()) if source is not None else ():
            if use.node.op_type == "Add":
                use.node.replace_input_with(use.idx, node.outputs[0])


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
    padded = "pads" in attributes and any(attributes["pads"].as_ints())
    plain = not padded and ("ceil_mode" not in attributes or attributes["ceil_mode"].as_int() == 0)
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


class Lowering(GraphBuilder):
    """One layer's way from an opaque node to pairs around a plain operator."""

    def __init__(self, graph: onnx_ir.Graph, node: onnx_ir.Node, name: str, layer: QuantizedLayer) -> None:
        super().__init__(graph, node, name)
        self.layer = layer
        # No integer operator knows groups: the layer is computed in float32 from rounded inputs and integer weights.
        self.grouped = layer.scheme.granularity == "per_group"

    def replace(self) -> None:
        """Put the operators where the opaque node was."""
        inputs = self.node.inputs[0]
        assert inputs is not None  # it has one input
        layer = self.layer
        scale = self.constant("input_scale", layer.input_scale.numpy())
        zero = self.constant("input_zero_point", layer.input_zero_point.numpy())
        rounded = self.pair(inputs, scale, zero, layer.input_bits)
        result = self.convolution(rounded) if isinstance(layer, QuantizedConvolution) else self.linear(rounded)
        self.splice([result])
        if isinstance(layer, QuantizedConvolution) and not self.grouped:
            self.round_output(result)

    def round_output(self, result: Value) -> None:
        """Round what a convolution gives (behind its ReLU) to the range seen, unless the next layer does so.

        Without it the convolution, and the pooling behind it, would run in float32.
        """
        low, high = float(self.layer.output_low), float(self.layer.output_high)
        uses = list(result.uses())
        if len(uses) == 1 and uses[0].node.op_type == "Relu":
            result, low = uses[0].node.outputs[0], 0.0
        uses = list(result.uses())
        rounding = all(use.node.op_type == "QuantizeLinear" or use.node.domain == DOMAIN for use in uses)
        if result.is_graph_output() or rounding:
            return
        scale, zero_point = affine(low, high)
        self.nodes = []
        pair = self.pair(
            result,
            self.constant("output_scale", np.array(scale, np.float32)),
            self.constant("output_zero_point", np.array(zero_point, np.uint8)),
        )
        producer = result.producer()
        assert producer is not None  # this method's own node, or a ReLU
        self.graph.insert_after(producer, self.nodes)
        for use in uses:
            use.node.replace_input_with(use.idx, pair)

    def linear(self, inputs: Value) -> Value:
        """Gemm on matrices; MatMul and Add on anything with more axes."""
        assert isinstance(self.layer, QuantizedLinear)
        value = self.node.inputs[0]
        if value is not None and value.shape is not None and len(value.shape) == 2:
            return self.add("Gemm", inputs, self.weight(), *self.bias(), transB=1)
        product = self.add("MatMul", inputs, self.weight(transposed=True))
        if self.layer.bias is None:
            return product
        return self.add("Add", product, self.constant("bias", self.layer.bias.numpy()))

    def convolution(self, inputs: Value) -> Value:
        """Conv of one or two dimensions."""
        layer = self.layer
        assert isinstance(layer, QuantizedConvolution)
        return self.add(
            "Conv",
            inputs,
            self.weight(),
            *self.bias(),
            kernel_shape=layer.kernel_size,
            strides=layer.stride,
            pads=layer.pads(),
            dilations=layer.dilation,
            group=layer.groups,
        )

    def weight(self, *, transposed: bool = False) -> Value:
        """The layer's own integers, and what they are multiplied by; transposed for MatMul."""
        held = self.layer.held("weight")
        if self.grouped:
            floats = self.floats("weight", held)
            return self.add("Transpose", floats, perm=(1, 0)) if transposed else floats
        integers = held.integers.numpy()
        per_channel = self.layer.scheme.granularity == "per_channel"
        shape = held.scale.shape if per_channel else ()
        weight = self.integers("weight_integers", integers.T if transposed else integers, self.layer.bits)
        # Zero points of zero may be left out by the standard; onnxruntime fuses wrongly without them.
        zeros = np.zeros(shape, np.int8) if held.zero_point is None else held.zero_point.numpy().reshape(shape)
        axes: dict[str, Any] = {"axis": int(transposed)} if per_channel else {}
        scale = self.constant("weight_scale", held.scale.numpy().reshape(shape))
        return self.add("DequantizeLinear", weight, scale, self.constant("weight_zero_point", zeros), **axes)

    def bias(self) -> list[Value]:
        """The bias in the unit of the integer sums, input scale × weight scale; nothing if there is none."""
        layer = self.layer
        assert isinstance(layer, (QuantizedLinear, QuantizedConvolution))
        if layer.bias is None:
            return []
        if self.grouped:
            return [self.constant("bias", layer.bias.numpy())]
        scale = (layer.input_scale * layer.held("weight").scale).numpy()
        integers = np.rint(layer.bias.numpy().astype(np.float64) / scale).astype(np.int32)
        bias = self.constant("bias_integers", integers)
        if layer.scheme.granularity == "per_tensor":
            return [self.add("DequantizeLinear", bias, self.constant("bias_scale", scale.reshape(())))]
        return [self.add("DequantizeLinear", bias, self.constant("bias_scale", scale), axis=0)]

    def pair(self, value: Value, scale: Value, zero_point: Value, bits: int = 8) -> Value:
        """Round to integers and back; fewer than 8 bits are held in 8."""
        steps = self.add("QuantizeLinear", value, scale, zero_point)
        if bits < 8:
            ends = (self.constant(f"levels_{end}", np.array(end, np.uint8)) for end in (0, levels_of(bits)))
            steps = self.add("Clip", steps, *ends)
        return self.add("DequantizeLinear", steps, scale, zero_point)
