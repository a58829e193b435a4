"""Integer layers in ONNX: each becomes QuantizeLinear/DequantizeLinear pairs around a plain operator.

A runtime fuses DequantizeLinear → operator → QuantizeLinear into one integer operator. While the model is traced, a
layer is one opaque node that carries its name; afterwards that node is replaced, so that no optimisation of the
exporter can fold the integers away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
import torch
from torch import Tensor, nn

from compression_gate.errors import ExportError
from compression_gate.modules.quantized import QuantizedConvolution, QuantizedLayer, QuantizedLinear, affine

DOMAIN = "compression_gate"
LARGEST_POOL = 4096  # bytes that the weights of a pool written as a convolution may add to a file


class Placeholder(nn.Module):
    """Stands for an integer layer while tracing."""

    def __init__(self, layer: QuantizedLayer, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name

    def forward(self, inputs: Tensor) -> Tensor:
        """One opaque node of the right shape."""
        shape = self.layer(inputs).shape
        output: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::Layer", (inputs,), {"name": self.name}, dtype=inputs.dtype, shape=shape, version=1
        )
        return output


def placeholders(model: nn.Module) -> tuple[nn.Module, dict[str, QuantizedLayer]]:
    """Put a placeholder in the place of every integer layer, and return the layers by name."""
    layers: dict[str, QuantizedLayer] = {}
    made: dict[int, Placeholder] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, QuantizedLayer):
            continue
        if id(module) not in made:
            made[id(module)] = Placeholder(module, name or "model")
            layers[name or "model"] = module
        if not name:
            return made[id(module)], layers
        model.set_submodule(name, made[id(module)])
    return model, layers


def lowered(model: onnx_ir.Model, layers: dict[str, QuantizedLayer]) -> None:
    """Replace the placeholders of a graph, in place.

    Raises:
        ExportError: a layer runs inside a branch or a loop of the model.
    """
    for node in list(model.graph):
        if node.domain == DOMAIN:
            name = node.attributes["name"].as_string()
            Lowering(model.graph, node, name, layers[name]).replace()
    if left := [node.attributes["name"].as_string() for node in model.graph.all_nodes() if node.domain == DOMAIN]:
        raise ExportError(f"model.onnx: layer {left[0]}: expected it outside of branches and loops: leave it in float")
    join_sums(model.graph)
    for node in list(model.graph):
        if node.op_type == "AveragePool":
            pool_as_convolution(model.graph, node)
    model.graph.sort()
    model.opset_imports.pop(DOMAIN, None)


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


class Lowering:
    """One layer's way from a placeholder to plain operators."""

    def __init__(self, graph: onnx_ir.Graph, node: onnx_ir.Node, name: str, layer: QuantizedLayer) -> None:
        self.graph, self.node, self.name, self.layer = graph, node, name, layer
        self.nodes: list[onnx_ir.Node] = []

    def replace(self) -> None:
        """Put the operators where the placeholder was."""
        old, inputs = self.node.outputs[0], self.node.inputs[0]
        assert inputs is not None  # a placeholder has one input
        layer = self.layer
        scale = self.constant("input_scale", layer.input_scale.numpy())
        zero = self.constant("input_zero_point", layer.input_zero_point.numpy())
        rounded = self.pair(inputs, scale, zero)
        result = self.convolution(rounded) if isinstance(layer, QuantizedConvolution) else self.linear(rounded)
        onnx_ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], self.nodes, [old], [result])
        if isinstance(layer, QuantizedConvolution):
            self.round_output(result)

    def round_output(self, result: onnx_ir.Value) -> None:
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

    def linear(self, inputs: onnx_ir.Value) -> onnx_ir.Value:
        """Gemm on matrices; MatMul and Add on anything with more axes."""
        assert isinstance(self.layer, QuantizedLinear)
        integers = self.layer.weight_integers.numpy()
        if self.node.inputs[0].shape is not None and len(self.node.inputs[0].shape) == 2:  # type: ignore[union-attr]
            return self.add("Gemm", inputs, self.weight(integers, axis=0), *self.bias(), transB=1)
        product = self.add("MatMul", inputs, self.weight(integers.T, axis=1))
        if self.layer.bias is None:
            return product
        return self.add("Add", product, self.constant("bias", self.layer.bias.numpy()))

    def convolution(self, inputs: onnx_ir.Value) -> onnx_ir.Value:
        """Conv of one or two dimensions."""
        layer = self.layer
        assert isinstance(layer, QuantizedConvolution)
        return self.add(
            "Conv",
            inputs,
            self.weight(layer.weight_integers.numpy(), axis=0),
            *self.bias(),
            kernel_shape=layer.kernel_size,
            strides=layer.stride,
            pads=layer.pads(),
            dilations=layer.dilation,
            group=layer.groups,
        )

    def weight(self, integers: np.ndarray, axis: int) -> onnx_ir.Value:
        """The layer's own integers, and what they are multiplied by."""
        scale = self.layer.weight_scale.numpy()
        shape = scale.shape if self.layer.per_channel else ()
        weight = self.constant("weight_integers", np.ascontiguousarray(integers))
        # Zero points of zero may be left out by the standard; onnxruntime fuses wrongly without them.
        zeros = self.constant("weight_zero_point", np.zeros(shape, np.int8))
        axes = {"axis": axis} if self.layer.per_channel else {}
        return self.add("DequantizeLinear", weight, self.constant("weight_scale", scale.reshape(shape)), zeros, **axes)

    def bias(self) -> list[onnx_ir.Value]:
        """The bias in the unit of the integer sums, input scale × weight scale; nothing if there is none."""
        if self.layer.bias is None:
            return []
        scale = (self.layer.input_scale * self.layer.weight_scale).numpy()
        integers = np.rint(self.layer.bias.numpy().astype(np.float64) / scale).astype(np.int32)
        bias = self.constant("bias_integers", integers)
        if not self.layer.per_channel:
            return [self.add("DequantizeLinear", bias, self.constant("bias_scale", scale.reshape(())))]
        return [self.add("DequantizeLinear", bias, self.constant("bias_scale", scale), axis=0)]

    def pair(self, value: onnx_ir.Value, scale: onnx_ir.Value, zero_point: onnx_ir.Value) -> onnx_ir.Value:
        """Round to 8 bits and back."""
        return self.add("DequantizeLinear", self.add("QuantizeLinear", value, scale, zero_point), scale, zero_point)

    def add(self, operator: str, *inputs: onnx_ir.Value, **attributes: Any) -> onnx_ir.Value:
        """Append one operator and return its output."""
        node = onnx_ir.node(operator, inputs, attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: np.ndarray) -> onnx_ir.Value:
        """An initializer of the graph; a layer called twice shares its own."""
        full = f"{self.name}.{name}"
        if full not in self.graph.initializers:
            value = onnx_ir.Value(name=full, const_value=onnx_ir.tensor(array, name=full))
            self.graph.register_initializer(value)
        return self.graph.initializers[full]
