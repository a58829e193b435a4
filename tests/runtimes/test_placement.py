"""What is said of a model's integers: the bits they take in a file."""

from __future__ import annotations

import pytest
from torch import nn

from compression_gate.methods.base import Context
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.records.params import TrainParams
from compression_gate.runtimes.placement import widened_lines


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
