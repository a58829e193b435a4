"""Between integer layers nothing leaves integers: bounds, residual sums, shortcuts, pools, means, changes of shape."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compression_gate.runtimes.onnx_runtime import OnnxRuntime

spec = importlib.util.spec_from_file_location("runtime_models_flow", Path(__file__).with_name("runtime_models.py"))
models = importlib.util.module_from_spec(spec)
sys.modules["runtime_models_flow"] = models
spec.loader.exec_module(models)


class Inverted(nn.Module):
    """Two blocks of a MobileNetV2 with ReLU6, the second one added to what came in."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 8, 3, 2, 1), self.block(), self.block()
        self.stem.weight.data *= 20  # so that ReLU6 has something to cut
        self.last = nn.Linear(8, 3)

    def block(self):
        wide = (nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        return nn.Sequential(*wide, nn.Conv2d(16, 8, 1))

    def forward(self, inputs):
        maps = self.one(nn.functional.relu6(self.stem(inputs)))
        return self.last((maps + self.two(maps)).mean((2, 3)))


class Strided(nn.Module):
    """A ResNet of three blocks: the second one halves the image and has a convolution in its shortcut."""

    def __init__(self):
        super().__init__()
        self.stem, self.shortcut = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 1, 2)
        self.first = nn.ModuleList([nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 1, 1)])
        self.second = nn.ModuleList([nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(12, 12, 3, 1, 1), nn.Conv2d(12, 12, 3, 1, 1)])
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(12, 3)

    def forward(self, inputs):
        maps = nn.functional.max_pool2d(self.stem(inputs).relu(), 2)
        for index, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            shortcut = self.shortcut(maps) if index == 1 else maps
            maps = (second(first(maps).relu()) + shortcut).relu()
        return self.last(self.pool(maps).flatten(1))


class Twice(nn.Module):
    """One convolution at two places, with a bound behind the one and none behind the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(50, 3)

    def forward(self, inputs):
        maps = nn.functional.max_pool2d(nn.functional.hardtanh(self.conv(inputs), 0, 0.2), 2)
        other = nn.functional.max_pool2d(self.conv(inputs.flip(3)), 2)
        return self.last(torch.cat([maps, other], 1).flatten(1))


class Forked(nn.Module):
    """A tensor that two layers and a sum read, and a sum that leaves the model through something of float."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.last = nn.Linear(6, 3)

    def forward(self, inputs):
        maps = self.stem(inputs)
        return self.last((maps + self.left(maps) + self.right(maps).sigmoid()).amax((2, 3)))


class Pooled(nn.Module):
    """An average between two convolutions, whose windows may lie over the edge."""

    def __init__(self, **options):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(1, 8, 3, padding=1), nn.AvgPool2d(3, 2, **options)
        self.inner, self.last = nn.Conv2d(8, 8, 1), nn.LazyLinear(3)
        self(models.images(1))

    def forward(self, inputs):
        return self.last(self.inner(self.pool(self.stem(inputs).relu())).flatten(1))


POOLS = [  # options, operator in onnxruntime
    ({"ceil_mode": True}, "QLinearAveragePool"),
    ({"ceil_mode": True, "padding": 1}, "AveragePool"),
    ({"ceil_mode": True, "padding": 1, "count_include_pad": False}, "QLinearAveragePool"),
    ({"padding": 1}, "QLinearAveragePool"),
]
INTEGER_NETS = [  # net, operators in onnxruntime
    (Inverted, {"QLinearConv": 7, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
    (Strided, {"QLinearConv": 8, "QLinearAdd": 3, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
]
FLOATS = {"Input", "FakeQuantize", "Reshape", "Const", "Output"}  # a shape, and the shapes of weights
LEFT = {"Transpose", "Reshape", "NhwcMaxPool", "MaxPool"}  # they take integers as they are


def made(kind, **options):
    torch.manual_seed(0)
    return models.quantized(kind().eval(), models.images, **options)


def exported(model, folder):
    path = folder / "model.onnx"
    OnnxRuntime().export(model, models.images(2), path, {})
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


def apart(path, model):
    """How far the file's answers are from the module's, as a share of these."""
    inputs = models.images(64)
    with torch.no_grad():
        expected = model(inputs).numpy()
    return np.linalg.norm(OnnxRuntime().load(path, 1)({"input": inputs.numpy()}) - expected) / np.linalg.norm(expected)


def run_as(path):
    """What onnxruntime makes of a file: how many operators of each kind."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path.with_name("optimized")), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(("kind", "expected"), INTEGER_NETS)
def test_a_net_runs_on_integers_from_its_input_to_its_last_layer(kind, expected, tmp_path):
    found = run_as(exported(made(kind), tmp_path))
    assert {name: count for name, count in found.items() if name not in LEFT} == {"QuantizeLinear": 1, **expected}


@pytest.mark.parametrize(("kind", "expected"), INTEGER_NETS)
def test_openvino_rounds_nothing_but_the_input(kind, expected, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'compression-gate[openvino]'")
    from compression_gate.runtimes import openvino as module

    monkeypatch.setattr(module, "sums_are_exact", lambda: True)
    module.OpenVino().export(made(kind), models.images(2), tmp_path / "model.onnx", {})
    session = module.OpenVino().load(tmp_path / "model.onnx", 1)
    found = Counter()
    for operator in session.compiled.get_runtime_model().get_ordered_ops():
        told = operator.get_rt_info()
        found[told["layerType"].astype(str), told["primitiveType"].astype(str).rpartition("_")[2]] += 1
    assert found["FakeQuantize", "f32"] == 1, found
    assert found["Convolution", "I8"] == expected["QLinearConv"]
    assert not [row for row in found if row[1] == "f32" and row[0] not in FLOATS], found


@pytest.mark.parametrize("options", [{}, {"calibration": "mse"}, {"symmetric": False}, {"activation_bits": 6}])
@pytest.mark.parametrize("kind", [Inverted, Strided, Twice, Forked])
def test_what_runs_on_integers_answers_as_the_module_does(kind, options, tmp_path):
    """Residual sums are rounded in files and not in the module: a percent or two of 8 bits, more of 6."""
    model = made(kind, **options)
    assert apart(exported(model, tmp_path), model) <= (0.15 if "activation_bits" in options else 0.03)


@pytest.mark.parametrize(("options", "operator"), POOLS)
def test_windows_over_the_edge_are_divided_by_what_lies_in_them(options, operator, tmp_path):
    """onnxruntime's average of integers divides by the whole window where padding counts."""
    model = made(lambda: Pooled(**options))
    path = exported(model, tmp_path)
    assert apart(path, model) <= 0.03
    assert [name for name in run_as(path) if "AveragePool" in name] == [operator]


def test_a_sum_that_two_layers_round_otherwise_runs_on_integers_too(tmp_path):
    """Training may teach the layers of a fork two steps."""
    model = made(Strided)
    model.shortcut.input_scale *= 1.1
    path = exported(model, tmp_path)
    assert run_as(path)["QLinearAdd"] == 3
    assert apart(path, model) <= 0.03


def test_a_layer_at_two_places_is_rounded_to_two_ranges(tmp_path):
    path = exported(made(Twice), tmp_path)
    held = {value.name: onnx.numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    narrow, wide = sorted(float(held[name]) for name in ("conv.output_scale", "conv.output_scale_2"))
    assert narrow == pytest.approx(0.2 / 255)
    assert wide > 0.2 / 255


def test_equal_roundings_of_a_tensor_are_one(tmp_path):
    """Both layers that read it, and the sum beside them, read the same integers."""
    graph = onnx.load(exported(made(Forked), tmp_path)).graph
    (stem,) = (node.output[0] for node in graph.node if node.op_type == "Conv" and "stem" in str(source(graph, node)))
    readers = [node for node in graph.node if stem in node.input]
    assert [node.op_type for node in readers] == ["QuantizeLinear"]


def source(graph, node):
    """What the weights of a convolution are read from."""
    return next(other.input for other in graph.node if node.input[1] in other.output)
