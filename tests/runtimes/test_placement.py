"""What is said of a model's integers: the bits they take in a file, and what they are computed as."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from torch import nn

from compression_gate.methods.base import Context
from compression_gate.methods.dynamic_quantization import DynamicQuantization
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.records.params import TrainParams
from compression_gate.runtimes.placement import integer_lines, widened_lines

spec = importlib.util.spec_from_file_location("runtime_models_placement", Path(__file__).with_name("runtime_models.py"))
models = importlib.util.module_from_spec(spec)
sys.modules["runtime_models_placement"] = models
spec.loader.exec_module(models)


def rounded(model, method):
    return method.apply(model, Context(task=None, reference=model, train=TrainParams()))


WIDER = [  # bits, runtime, format, bits in the file
    (8, "torch", "pt2", None),
    (4, "torch", "pt2", 8),
    (3, "onnxruntime", "onnx", 4),
    (2, "onnxruntime", "onnx", None),
    (2, "openvino", "onnx", 4),
    (3, "onnxruntime", "coded", None),
    (3, "someone's", "own", None),
]


@pytest.mark.parametrize(("bits", "runtime", "file_format", "held"), WIDER)
def test_bits_that_a_file_has_no_type_for_are_told(bits, runtime, file_format, held):
    model = rounded(nn.Sequential(nn.Linear(3, 3)), WeightOnlyQuantization(bits=bits))
    expected = [f"integers of {bits} bits take {held} each in {file_format} files for {runtime}"] if held else []
    assert widened_lines(model, runtime, file_format) == expected


def words():
    return nn.Sequential(nn.Embedding(9, 4), nn.LSTM(4, 5), nn.Linear(5, 3), nn.Linear(3, 3))


FATES = [  # method, runtime, format, where its LSTM ends
    (DynamicQuantization(), "onnxruntime", "onnx", "multiplied as such in onnxruntime (DynamicQuantizeLSTM)"),
    (DynamicQuantization(), "openvino", "onnx", "computed in float32 in openvino"),
    (WeightOnlyQuantization(), "onnxruntime", "coded", "computed in float32 in onnxruntime"),
    (WeightOnlyQuantization(), "torch", "pt2", "computed in float32 in torch"),
    (WeightOnlyQuantization(), "someone's", "own", "computed by someone's"),
]


@pytest.mark.parametrize(("method", "runtime", "file_format", "fate"), FATES)
def test_the_end_of_an_lstm_is_told(method, runtime, file_format, fate):
    lines = integer_lines(rounded(words(), method), runtime, file_format)
    assert f"LSTM 1: integers of 8 bits in the {file_format} file, {fate}" in lines


def test_layers_that_end_alike_share_a_line():
    first, *_, last = integer_lines(rounded(words(), WeightOnlyQuantization(bits=4)), "torch", "pt2")
    assert first == "Embedding 0: integers of 4 bits in the pt2 file, computed in float32 in torch"
    assert last == "Linear 2, 3: integers of 4 bits in the pt2 file, computed in float32 in torch"


STATIC = [  # options of a static quantization, runtime, what becomes of its layers
    ({}, "onnxruntime", "multiplied as such in onnxruntime"),
    ({}, "openvino", "multiplied as such in openvino where the processor has VNNI"),
    ({"symmetric": False}, "onnxruntime", "multiplied as such in onnxruntime"),
    ({"symmetric": False}, "openvino", "computed in float32 in openvino"),
    ({"granularity": "per_group", "group_size": 2}, "onnxruntime", "computed in float32 in onnxruntime"),
    ({}, "torch", "computed in float32 in torch"),
]


@pytest.mark.parametrize(("options", "runtime", "expected"), STATIC)
def test_integers_are_multiplied_where_the_runtime_has_an_operator_for_them(options, runtime, expected):
    model = models.quantized(models.Images().eval(), models.images, **options)
    assert fates(model, runtime) == {expected}


def fates(model, runtime):
    return {line.partition(" file, ")[2] for line in integer_lines(model, runtime, "onnx")}
