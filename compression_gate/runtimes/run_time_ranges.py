"""Layers whose inputs are rounded to the range of each call: DynamicQuantizeLinear, MatMulInteger and their like."""

from __future__ import annotations

import numpy as np
import onnx_ir
import torch
from onnx_ir import DataType, Value
from torch import Tensor

from compression_gate.modules.quantized import QuantizedLinear
from compression_gate.modules.quantized_recurrent import QuantizedLSTM, suffixes
from compression_gate.runtimes.graph_builder import GraphBuilder

CONTRIBUTED = "com.microsoft"  # onnxruntime's own operators


def lower_linear(builder: GraphBuilder, layer: QuantizedLinear) -> None:
    """Write a linear layer as a product of integers."""
    inputs, held = builder.node.inputs[0], layer.held("weight")
    rounded = builder.add("DynamicQuantizeLinear", inputs, outputs=3)
    scale, zero = builder.nodes[-1].outputs[1:]
    weight = builder.integers("weight_integers", held.integers.numpy().T, layer.bits)
    parts = held.scale.shape if layer.scheme.granularity == "per_channel" else ()
    zeros = np.zeros(parts, np.int8) if held.zero_point is None else held.zero_point.numpy().reshape(parts)
    sums = builder.add("MatMulInteger", rounded, weight, zero, builder.constant("weight_zero_point", zeros))
    unit = builder.add("Mul", scale, builder.constant("weight_scale", held.scale.numpy()))
    result = builder.add("Mul", builder.add("Cast", sums, to=DataType.FLOAT.value), unit)
    if layer.bias is not None:
        result = builder.add("Add", result, builder.constant("bias", layer.bias.numpy()))
    builder.splice([result])


def lower_lstm(model: onnx_ir.Model, builder: GraphBuilder, layer: QuantizedLSTM) -> None:
    """Write an LSTM as onnxruntime's operator on integers, one for each of its layers."""
    inputs, *state = builder.node.inputs
    values = builder.add("Transpose", inputs, perm=(1, 0, 2)) if layer.batch_first else inputs
    ends: tuple[list[Value], list[Value]] = ([], [])
    for number in range(layer.num_layers):
        values, *last = one_layer(builder, layer, number, values, state)
        for end, value in zip(ends, last, strict=True):
            end.append(value)
    outputs = builder.add("Transpose", values, perm=(1, 0, 2)) if layer.batch_first else values
    assert outputs is not None
    builder.splice([outputs, *(builder.add("Concat", *end, axis=0) for end in ends)])
    model.opset_imports[CONTRIBUTED] = 1


def one_layer(
    builder: GraphBuilder, layer: QuantizedLSTM, number: int, values: Value | None, state: list[Value | None]
) -> tuple[Value, Value, Value]:
    """One layer in all its directions: ``(T, N, I)`` to ``(T, N, D·H)`` and the last hidden and cell state."""
    names = suffixes(number, layer.directions)
    first, count = number * layer.directions, layer.directions
    bounds = builder.shape(first), builder.shape(first + count), builder.shape(0)
    starts: list[Value | None] = [builder.add("Slice", value, *bounds) for value in state]
    weights, ranges = zip(*(one_weight(builder, layer, kind, names) for kind in ("ih", "hh")), strict=True)
    bias = None
    if layer.bias:
        rows = [torch.cat([ordered(getattr(layer, f"bias_{kind}_{name}")) for kind in ("ih", "hh")]) for name in names]
        bias = builder.constant(f"bias_l{number}", torch.stack(rows).numpy())
    outputs = builder.add(
        "DynamicQuantizeLSTM",
        *(values, *weights, bias, None, *(starts or (None, None)), None, *ranges[0], *ranges[1]),
        outputs=3,
        domain=CONTRIBUTED,
        hidden_size=layer.hidden_size,
        direction="bidirectional" if layer.bidirectional else "forward",
    )
    _, hidden, cell = builder.nodes[-1].outputs
    together = builder.add("Transpose", outputs, perm=(0, 2, 1, 3))
    return builder.add("Reshape", together, builder.shape(0, 0, -1)), hidden, cell


def one_weight(
    builder: GraphBuilder, layer: QuantizedLSTM, kind: str, names: list[str]
) -> tuple[Value, tuple[Value, Value]]:
    """Integers ``(D, I, 4·H)`` of all directions, with their scales and zero points."""
    held = [layer.held(f"weight_{kind}_{name}") for name in names]
    name = f"weight_{kind}_{names[0]}"
    integers = torch.stack([ordered(weight.integers).T for weight in held])
    scale = torch.stack([weight.scale for weight in held])
    zeros = [weight.zero_point for weight in held if weight.zero_point is not None]
    zero = torch.stack(zeros) if zeros else torch.zeros_like(scale, dtype=torch.int8)
    if layer.scheme.granularity == "per_channel":
        scale, zero = (torch.stack([ordered(row) for row in figures]) for figures in (scale, zero))
    else:
        scale, zero = scale.squeeze(1), zero.squeeze(1)
    ranges = builder.constant(f"{name}_scale", scale.numpy()), builder.constant(f"{name}_zero_point", zero.numpy())
    return builder.integers(f"{name}_integers", integers.numpy(), layer.bits), ranges


def ordered(rows: Tensor) -> Tensor:
    """Gates ``(4·H, …)`` from torch's order (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    come, forget, cell, go = rows.chunk(4)
    return torch.cat([come, go, forget, cell])
