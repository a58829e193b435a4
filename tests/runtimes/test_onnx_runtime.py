"""ONNX files: integer operators where there are integer layers, and nothing that is not the model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compression_gate.errors import ExportError
from compression_gate.runtimes import onnx_runtime
from compression_gate.runtimes.onnx_runtime import OnnxRuntime

spec = importlib.util.spec_from_file_location("runtime_models_onnx", Path(__file__).with_name("runtime_models.py"))
models = importlib.util.module_from_spec(spec)
sys.modules["runtime_models_onnx"] = models
spec.loader.exec_module(models)


@pytest.fixture
def integers(tmp_path):
    torch.manual_seed(0)
    model = models.quantized(models.Images().eval(), models.images)
    OnnxRuntime().export(model, models.images(1), tmp_path / "model.onnx", {})
    return model, tmp_path / "model.onnx"


def optimized(path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def test_every_layer_runs_on_integers_and_the_pool_too(integers):
    kinds = optimized(integers[1])
    assert kinds.count("QLinearConv") == 3, kinds  # two convolutions, and the pool written as one
    assert kinds.count("QGemm") == 1, kinds
    assert not {"Conv", "Gemm", "AveragePool", "Relu"} & set(kinds), kinds


def test_a_residual_sum_runs_on_integers(tmp_path):
    torch.manual_seed(0)
    model = models.quantized(models.Residual().eval(), models.images)
    OnnxRuntime().export(model, models.images(1), tmp_path / "model.onnx", {})
    assert "Conv" not in optimized(tmp_path / "model.onnx")


def test_the_file_holds_the_very_integers_of_the_module(integers):
    model, path = integers
    held = {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    for name, layer in (("first", model.first), ("second", model.second), ("last", model.last)):
        assert np.array_equal(held[f"{name}.weight_integers"], layer.weight_integers)
        assert np.array_equal(held[f"{name}.weight_scale"], layer.weight_scale)


def test_a_layer_called_twice_is_held_once(tmp_path):
    model = models.quantized(models.Tokens().eval(), models.tokens)
    OnnxRuntime().export(model, models.tokens(1), tmp_path / "model.onnx", {"tokens": {1: "t"}, "mask": {1: "t"}})
    names = [value.name for value in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert names.count("inner.weight_integers") == 1


def test_the_file_is_valid_and_has_no_traces_of_the_exporter(integers):
    model = onnx.load(integers[1])
    onnx.checker.check_model(model, full_check=True)
    assert not model.graph.value_info
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_inputs_of_another_shape_or_name_are_named(integers):
    session = OnnxRuntime().load(integers[1], 1)
    with pytest.raises(ExportError, match=r"expected inputs input .* got input \[1, 2, 10, 10\]"):
        session({"input": np.zeros((1, 2, 10, 10), np.float32)})
    with pytest.raises(ExportError, match="got pixels"):
        session({"pixels": np.zeros((1, 1, 10, 10), np.float32)})


@torch.no_grad()
def test_a_file_over_protobufs_limit_puts_its_weights_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "LARGEST_FILE", 10)
    model, inputs = models.Images().eval(), models.images(2)
    OnnxRuntime().export(model, inputs, tmp_path / "model.onnx", {})
    assert (tmp_path / "model.onnx.data").exists()
    output = OnnxRuntime().load(tmp_path / "model.onnx", 1)({"input": inputs.numpy()})
    assert np.allclose(output, model(inputs), atol=1e-5)


def test_loading_needs_no_torch(integers):
    code = (
        "import sys; from pathlib import Path; from compression_gate.runtimes.onnx_runtime import OnnxRuntime; "
        f"OnnxRuntime().load(Path({str(integers[1])!r}), 1); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_a_padded_pool_is_left_as_it_is(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(3, padding=1), nn.Flatten(), nn.Linear(18, 2)).eval()
    made = models.quantized(model, models.images)
    OnnxRuntime().export(made, models.images(1), tmp_path / "model.onnx", {})
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node].count("AveragePool") == 1


class Sequences(nn.Module):
    """A recurrence over a free axis of time, and a sum over it."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.head = kind(3, 4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, frames):
        return self.head(self.recurrent(frames)[0].sum(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_one_process_exports_many_models_of_various_lengths(kind, tmp_path):
    """A trial's process does; torch notes how it took the first one apart, and what it then did with another."""
    long = torch.randn(3, 9, 3, generator=torch.Generator().manual_seed(0))
    for number in range(3):
        model, path = Sequences(kind).eval(), tmp_path / f"{number}.onnx"
        OnnxRuntime().export(model, long[:2, :5], path, {"input": {1: "time"}})
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        with torch.no_grad():  # between exports models are called, and noted, as well
            expected = model(long).numpy()
        np.testing.assert_allclose(session.run(None, {name: long.numpy()})[0], expected, atol=1e-5)
