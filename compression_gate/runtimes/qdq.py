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
from compression_gate.modules.quantized_layer import QuantizedLayer, levels_of
from compression_gate.modules.quantized_recurrent import QuantizedLSTM
from compression_gate.runtimes.graph_builder import GraphBuilder
from compression_gate.runtimes.integer_flow import Output, keep_integers
from compression_gate.runtimes.opaque import DOMAIN
from compression_gate.runtimes.run_time_ranges import lower_linear, lower_lstm


def lowered(model: onnx_ir.Model, layers: dict[str, QuantizedLayer], narrowest: int) -> None:
    """Replace the opaque nodes of a graph, in place.

    Args:
        narrowest: bits of the narrowest integer type that the runtime reads.

    Raises:
        ExportError: a layer runs inside a branch or a loop of the model.
    """
    outputs: list[Output] = []
    for node in list(model.graph):
        if node.domain == DOMAIN:
            name = node.attributes["layer"].as_string()
            outputs += lower(model, GraphBuilder(model.graph, node, name, narrowest), layers[name])
    if left := [node.attributes["layer"].as_string() for node in model.graph.all_nodes() if node.domain == DOMAIN]:
        raise ExportError(f"model.onnx: layer {left[0]}: expected it outside of branches and loops: leave it in float")
    keep_integers(model.graph, outputs)
    model.graph.sort()
    model.opset_imports.pop(DOMAIN, None)


def lower(model: onnx_ir.Model, builder: GraphBuilder, layer: QuantizedLayer) -> list[Output]:
    """Replace one opaque node; what it gives is returned where an operator on integers gives it."""
    if builder.node.op_type == "Weight":
        key = builder.node.attributes["weight"].as_string()
        builder.splice([builder.floats(key, layer.held(key))])
    elif isinstance(layer, QuantizedLSTM):
        lower_lstm(model, builder, layer)
    elif layer.inputs == "dynamic":
        assert isinstance(layer, QuantizedLinear)  # the only other kind with dynamic inputs
        lower_linear(builder, layer)
    else:
        return Lowering(builder, layer).replace()
    return []


class Lowering(GraphBuilder):
    """One layer's way from an opaque node to pairs around a plain operator."""

    def __init__(self, builder: GraphBuilder, layer: QuantizedLayer) -> None:
        super().__init__(builder.graph, builder.node, builder.name, builder.narrowest)
        self.layer = layer
        # No integer operator knows groups: the layer is computed in float32 from rounded inputs and integer weights.
        self.grouped = layer.scheme.granularity == "per_group"

    def replace(self) -> list[Output]:
        """Put the operators where the opaque node was; what a convolution on integers gives is returned."""
        inputs = self.node.inputs[0]
        assert inputs is not None  # it has one input
        layer = self.layer
        scale = self.constant("input_scale", layer.input_scale.numpy())
        zero = self.constant("input_zero_point", layer.input_zero_point.numpy())
        rounded = self.pair(inputs, scale, zero, layer.input_bits)
        result = self.convolution(rounded) if isinstance(layer, QuantizedConvolution) else self.linear(rounded)
        self.splice([result])
        if self.grouped or not isinstance(layer, QuantizedConvolution):
            return []
        return [Output(name=self.name, value=result, low=float(layer.output_low), high=float(layer.output_high))]

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
        read = self.add("DequantizeLinear", steps, scale, zero_point)
        read.shape = value.shape
        return read
