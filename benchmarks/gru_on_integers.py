"""A GRU on integers, step by step, beside onnxruntime's own in float32: why `dynamic_quantization` leaves GRUs.

    nice -n 10 python benchmarks/gru_on_integers.py

onnxruntime has an LSTM on integers (`DynamicQuantizeLSTM`) and no such GRU. What can be written is a `Scan` whose body
rounds the hidden state and multiplies integers, behind one product of integers for all steps' inputs. Both graphs hold
the same GRU and are called in alternation, one thread, batch 1; rows in `benchmarks/results/gru_on_integers.json`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parents[1] / "benchmarks/results/gru_on_integers.json"
STEPS, PAIRS = 40, 300
SIZES = (64, 128, 256, 512)  # of inputs and hidden state
FLOAT = TensorProto.FLOAT


def integers(weight):
    """Integers ``(I, O)`` and their scales ``(O,)`` of a weight ``(O, I)``."""
    scale = np.abs(weight).max(1) / 127
    return np.rint(weight / scale[:, None]).astype(np.int8).T.copy(), scale.astype(np.float32)


def product(source, name, result):
    """Nodes of a product of integers, the input rounded to its own range."""
    return [
        helper.make_node("DynamicQuantizeLinear", [source], [f"{name}_q", f"{name}_s", f"{name}_z"]),
        helper.make_node("MatMulInteger", [f"{name}_q", f"{name}_w", f"{name}_z"], [f"{name}_sums"]),
        helper.make_node("Cast", [f"{name}_sums"], [f"{name}_floats"], to=FLOAT),
        helper.make_node("Mul", [f"{name}_s", f"{name}_scale"], [f"{name}_unit"]),
        helper.make_node("Mul", [f"{name}_floats", f"{name}_unit"], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", f"{name}_bias"], [result]),
    ]


def tensors(**arrays):
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def on_integers(width, weights):
    """The graph with a Scan."""
    inner = [
        *product("hidden", "hh", "recurrent"),
        helper.make_node("Split", ["given"], ["in_z", "in_r", "in_n"], axis=1, num_outputs=3),
        helper.make_node("Split", ["recurrent"], ["re_z", "re_r", "re_n"], axis=1, num_outputs=3),
        helper.make_node("Add", ["in_z", "re_z"], ["sum_z"]),
        helper.make_node("Sigmoid", ["sum_z"], ["keep"]),
        helper.make_node("Add", ["in_r", "re_r"], ["sum_r"]),
        helper.make_node("Sigmoid", ["sum_r"], ["reset"]),
        helper.make_node("Mul", ["reset", "re_n"], ["some"]),
        helper.make_node("Add", ["in_n", "some"], ["sum_n"]),
        helper.make_node("Tanh", ["sum_n"], ["new"]),
        helper.make_node("Sub", ["hidden", "new"], ["change"]),
        helper.make_node("Mul", ["keep", "change"], ["kept"]),
        helper.make_node("Add", ["new", "kept"], ["next"]),
        helper.make_node("Identity", ["next"], ["out"]),
    ]
    one = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("hidden", "given", "next", "out")]
    body = helper.make_graph(inner, "step", one[:2], one[2:])
    nodes = [
        *product("flat", "ih", "all"),
        helper.make_node("Unsqueeze", ["all", "one"], ["steps"]),
        helper.make_node("Scan", ["first", "steps"], ["last", "outputs"], num_scan_inputs=1, body=body),
    ]
    held = {"one": np.array([1]), "first": np.zeros((1, width), np.float32)}
    for name, weight in weights.items():
        integer, scale = integers(weight)
        held |= {f"{name}_w": integer, f"{name}_scale": scale, f"{name}_bias": np.zeros(3 * width, np.float32)}
    return whole(nodes, "flat", (STEPS, width), "outputs", tensors(**held))


def in_float(width, weights):
    """The graph with a GRU."""
    node = helper.make_node(
        "GRU", ["steps", "w", "r", "b"], ["outputs", "last"], hidden_size=width, linear_before_reset=1
    )
    held = {"w": weights["ih"][None], "r": weights["hh"][None], "b": np.zeros((1, 6 * width), np.float32)}
    return whole([node], "steps", (STEPS, 1, width), "outputs", tensors(**held))


def whole(nodes, source, shape, result, held):
    ends = helper.make_tensor_value_info(source, FLOAT, shape), helper.make_tensor_value_info(result, FLOAT, None)
    graph = helper.make_graph(nodes, "gru", [ends[0]], [ends[1]], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def seconds(session, inputs):
    start = time.thread_time()
    session.run(None, inputs)
    return time.thread_time() - start


def row_of(width):
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, width**-0.5, (3 * width, width)).astype(np.float32) for name in ("ih", "hh")}
    values = random.normal(0, 1, (STEPS, width)).astype(np.float32)
    ours, theirs = on_integers(width, weights), in_float(width, weights)
    given, other = {"flat": values}, {"steps": values[:, None]}
    expected = theirs.run(None, other)[0].reshape(STEPS, width)
    apart = np.linalg.norm(ours.run(None, given)[0].reshape(STEPS, width) - expected) / np.linalg.norm(expected)
    pairs = np.array([(seconds(ours, given), seconds(theirs, other)) for _ in range(PAIRS)])
    low, middle, high = np.quantile(pairs[:, 0] / pairs[:, 1], (0.25, 0.5, 0.75))
    return {
        "hidden_size": width,
        "steps": STEPS,
        "pairs": PAIRS,
        "time_of_float": float(middle),
        "quartiles": [float(low), float(high)],
        "float_ms": float(np.median(pairs[:, 1]) * 1e3),
        "apart": float(apart),
    }


if __name__ == "__main__":
    rows = [row_of(width) for width in SIZES]
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)
