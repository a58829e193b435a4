"""Exported files hold the very integers of the layers, in as few bits as ONNX has a type for, and answer alike."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional

from compression_gate.errors import ExportError
from compression_gate.methods.base import Context
from compression_gate.methods.dynamic_quantization import DynamicQuantization
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.records.params import TrainParams
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.runtimes.torch_eager import TorchEager
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import Batch


class Wide(nn.Module):
    """One layer of each kind, weights making up nearly all of the file."""

    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(64, 64), nn.Conv1d(64, 64, 3, padding=1)
        self.depthwise = nn.Conv1d(64, 64, 3, padding=1, groups=64)
        self.lstm = nn.LSTM(64, 48, bidirectional=True, batch_first=True)
        self.gru, self.last = nn.GRU(96, 48, batch_first=True), nn.Linear(48, 8)

    def forward(self, tokens):
        values = self.depthwise(self.conv(self.table(tokens).transpose(1, 2)).relu()).transpose(1, 2)
        return self.last(self.gru(self.lstm(values)[0])[1][-1])


class Calibration:
    def __init__(self, inputs):
        self.inputs = inputs

    def batches(self, split, batch_size):
        assert split == "calibration"
        yield Batch(inputs=self.inputs, targets=torch.zeros(len(self.inputs)), positions=None)


def tokens(count):
    return torch.randint(0, 64, (count, 6), generator=torch.Generator().manual_seed(count))


def wide():
    torch.manual_seed(0)
    return Wide().eval()


def applied(method, model, inputs):
    return method.apply(model, Context(task=Calibration(inputs), reference=model, train=TrainParams())).eval()


def exported(model, inputs, folder, runtime=None):
    runtime = runtime or OnnxRuntime()
    runtime.export(model, inputs[:1], folder / runtime.file_name, {})
    answers = runtime.load(folder / runtime.file_name, 1)({"input": inputs.numpy()})
    return answers, folder / runtime.file_name


def near(answers, model, inputs, tolerance):
    with torch.no_grad():
        expected = call(model, inputs).numpy()
    return np.abs(answers - expected).max() <= tolerance * np.abs(expected).max()


SIZES = [  # bits, type in the file, most bytes as a share of the float file
    (8, TensorProto.INT8, 0.31),
    (4, TensorProto.INT4, 0.19),
    (3, TensorProto.INT4, 0.19),
    (2, TensorProto.INT2, 0.13),
]


@pytest.mark.parametrize(("bits", "kind", "share"), SIZES)
def test_weight_only_files_hold_the_integers_and_shrink(tmp_path, bits, kind, share):
    model, inputs = wide(), tokens(5)
    made = applied(WeightOnlyQuantization(bits=bits), model, inputs)
    before = sum(4 * parameter.numel() for parameter in model.parameters())  # the least that a float file may have
    answers, path = exported(made, inputs, tmp_path)
    assert near(answers, made, inputs, 1e-5)
    assert path.stat().st_size < share * before
    held = {value.name: value for value in onnx.load(path).graph.initializer}
    for name, value in made.state_dict().items():
        if name.endswith("_integers"):
            assert held[name].data_type == kind
            assert np.array_equal(numpy_helper.to_array(held[name]).astype(np.int8), value)


GROUPS = [  # weights in a group, whether zero is 0
    (16, True),
    (7, False),  # does not divide the rows
]


@pytest.mark.parametrize(("group_size", "symmetric"), GROUPS)
def test_groups_and_zero_points_are_in_the_file(tmp_path, group_size, symmetric):
    inputs = tokens(5)
    made = applied(
        WeightOnlyQuantization(bits=4, granularity="per_group", symmetric=symmetric, group_size=group_size),
        wide(),
        inputs,
    )
    answers, path = exported(made, inputs, tmp_path)
    assert near(answers, made, inputs, 1e-5)
    held = {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    for name, value in made.state_dict().items():
        if name.endswith(("_scale", "_zero_point")):
            assert np.array_equal(held[name].astype(np.float32).ravel(), value.float().flatten())


def test_weights_are_computed_when_the_file_is_loaded(tmp_path):
    model, inputs = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(24, 2)).eval(), torch.randn(2, 3, 8)
    method = WeightOnlyQuantization(bits=4, granularity="per_group", group_size=5, symmetric=False)
    _, path = exported(applied(method, model, inputs), inputs, tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert not {"Cast", "DequantizeLinear", "Mul", "Sub", "Slice"} & kinds, kinds


@pytest.mark.parametrize("bits", [8, 2])
def test_torchs_file_holds_the_integers_and_shrinks(tmp_path, bits):
    model, inputs = wide(), tokens(5)
    before = exported(model, inputs, tmp_path, TorchEager())[1].stat().st_size
    made = applied(WeightOnlyQuantization(bits=bits), model, inputs)
    answers, path = exported(made, inputs, tmp_path, TorchEager())
    assert near(answers, made, inputs, 1e-5)
    assert path.stat().st_size < 0.6 * before  # a byte a weight whatever its bits, and the program itself
    state = torch.export.load(path).state_dict
    assert torch.equal(state["model.lstm.weight_hh_l0_reverse_integers"], made.lstm.weight_hh_l0_reverse_integers)


class Recurrent(nn.Module):
    def __init__(self, **form):
        super().__init__()
        self.lstm = nn.LSTM(12, 16, **form)
        self.last = nn.Linear(32 if form.get("bidirectional") else 16, 3)

    def forward(self, inputs):
        outputs, (hidden, cell) = self.lstm(inputs)
        outputs, (hidden, cell) = self.lstm(inputs.flip(1), (hidden, cell))
        return self.last(outputs.mean(1)), hidden, cell


LSTMS = [  # examples, options, form
    (1, {}, {}),
    (3, {"granularity": "per_tensor", "symmetric": False}, {"num_layers": 2, "bidirectional": True}),
    (64, {"bits": 4}, {"bidirectional": True, "batch_first": True}),
    (3, {}, {"bias": False, "num_layers": 2, "batch_first": True}),
]


@pytest.mark.parametrize(("count", "options", "form"), LSTMS)
def test_an_lstm_runs_on_integers_and_answers_as_its_module(tmp_path, count, options, form):
    torch.manual_seed(0)
    inputs = torch.randn(count if form.get("batch_first") else 6, 6 if form.get("batch_first") else count, 12)
    made = applied(DynamicQuantization(**options), Recurrent(**form).eval(), inputs)
    OnnxRuntime().export(made, inputs, tmp_path / "model.onnx", {})
    answers = OnnxRuntime().load(tmp_path / "model.onnx", 1)({"input": inputs.numpy()})
    # Sums of floats differ in their last digits, and now and then a value at the edge falls to the other side.
    assert near(answers, made, inputs, 5e-3)
    graph = onnx.load(tmp_path / "model.onnx").graph
    layers = [node for node in graph.node if node.op_type == "DynamicQuantizeLSTM"]
    assert len(layers) == 2 * form.get("num_layers", 1)
    kind = TensorProto.INT4 if "bits" in options else TensorProto.INT8
    held = [value for value in graph.initializer if value.name.endswith("_integers")]
    assert all(value.data_type == kind for value in held)
    integers = [value for name, value in made.state_dict().items() if name.endswith("_integers")]
    assert sum(int(np.prod(value.dims)) for value in held) == sum(value.numel() for value in integers)


def test_more_threads_answer_alike(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(64, 6, 12)
    made = applied(DynamicQuantization(), Recurrent(batch_first=True).eval(), inputs)
    OnnxRuntime().export(made, inputs, tmp_path / "model.onnx", {})
    answers = OnnxRuntime().load(tmp_path / "model.onnx", 2)({"input": inputs.numpy()})
    assert near(answers, made, inputs, 5e-3)


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"bits": 2, "symmetric": False}, {"granularity": "per_tensor"}])
def test_a_linear_layer_runs_on_integers(tmp_path, options):
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3, bias=False)).eval(), torch.randn(9, 32)
    made = applied(DynamicQuantization(**options), model, inputs)
    answers, path = exported(made, inputs, tmp_path)
    assert near(answers, made, inputs, 1e-2)
    assert [node.op_type for node in onnx.load(path).graph.node].count("MatMulInteger") == 2


STATIC = [
    {"bits": 4},
    {"bits": 2, "symmetric": False},
    {"symmetric": False},
    {"symmetric": False, "granularity": "per_tensor"},
    {"granularity": "per_group", "group_size": 5},
    {"bits": 4, "activation_bits": 4},
]


@pytest.mark.parametrize("options", STATIC)
def test_static_files_answer_as_the_module_does(tmp_path, options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 3)).eval()
    inputs = torch.randn(32, 1, 8, 8)
    made = applied(StaticQuantization(**options), model, inputs)
    answers, path = exported(made, inputs, tmp_path)
    # A sum at the edge of two levels falls to either side: a fifteenth of the range where there are 4 bits.
    assert near(answers, made, inputs, 0.3 if "activation_bits" in options else 0.03)
    held = {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    assert np.array_equal(held["2.weight_integers"].astype(np.int8).ravel(), made[2].weight_integers.flatten())
    assert float(held["4.input_scale"]) == float(made[4].input_scale)


@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 2}, {"bits": 4, "activation_bits": 4}, {"symmetric": False}])
def test_static_layers_of_few_bits_still_run_on_integers(tmp_path, options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 3)).eval()
    inputs = torch.randn(32, 1, 8, 8)
    _, path = exported(applied(StaticQuantization(**options), model, inputs), inputs, tmp_path)
    session = onnxruntime.SessionOptions()
    session.optimized_model_filepath, session.log_severity_level = str(tmp_path / "optimized"), 3
    onnxruntime.InferenceSession(str(path), session, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(session.optimized_model_filepath).graph.node]
    assert kinds.count("QLinearConv") == 2, kinds
    assert kinds.count("QGemm") == 1, kinds


def test_a_table_that_is_read_past_its_layer_is_held_as_integers(tmp_path):
    class Bound(nn.Module):
        """Answers with the table it reads from."""

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(64, 64)

        def forward(self, tokens):
            return functional.linear(self.table(tokens).mean(1), self.table.weight)

    torch.manual_seed(0)
    made = applied(WeightOnlyQuantization(bits=4), Bound().eval(), None)
    answers, path = exported(made, tokens(3), tmp_path)
    assert near(answers, made, tokens(3), 1e-5)
    names = [value.name for value in onnx.load(path).graph.initializer]
    assert names.count("table.weight_integers") == 1
    assert path.stat().st_size < 64 * 64


class Twice(nn.Module):
    """Calls one square layer on matrices, on sequences, and reads its weight past it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, inputs):
        return self.layer(inputs.mean(1)) + self.layer(inputs).amax(1) + inputs[:, 0] @ self.layer.weight


@pytest.mark.parametrize("method", [StaticQuantization(), DynamicQuantization(), WeightOnlyQuantization()])
def test_small_weights_arrive_in_the_file(tmp_path, method):
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)),
        torch.randn(32, 16),
    )
    for layer in (model[0], model[2]):
        layer.weight.data *= 1e-8
    made = applied(method, model.eval(), inputs)
    assert near(made(inputs).detach().numpy(), model, inputs, 0.03)
    assert near(exported(made, inputs, tmp_path)[0], made, inputs, 0.01)


TWICE = [StaticQuantization(), StaticQuantization(granularity="per_tensor"), DynamicQuantization()]


@pytest.mark.parametrize("method", TWICE)
def test_a_layer_that_is_called_in_several_ways_answers_as_its_module_in_each(tmp_path, method):
    torch.manual_seed(0)
    inputs = torch.randn(32, 5, 8)
    made = applied(method, Twice().eval(), inputs)
    answers, path = exported(made, inputs, tmp_path)
    assert near(answers, made, inputs, 0.01)
    held = [numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer]
    assert sum(value.shape == (8, 8) for value in held) == 2, "the weight and its transpose, each once"


def test_sequences_without_a_batch_axis_are_refused(tmp_path):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 4)

        def forward(self, inputs):
            return self.lstm(inputs)[0]

    made = applied(DynamicQuantization(), Single().eval(), None)
    with pytest.raises(ExportError, match="lstm: expected padded sequences with a batch axis, got 2 axes"):
        OnnxRuntime().export(made, torch.randn(5, 4), tmp_path / "model.onnx", {})


def test_integers_inside_a_branch_are_refused_by_layer(tmp_path):
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, inputs):
            return torch.cond(inputs.sum() > 0, self.one, self.other, (inputs,))

    made = applied(WeightOnlyQuantization(), Choosing().eval(), None)
    with pytest.raises(ExportError, match=r"model\.onnx: "):
        OnnxRuntime().export(made, torch.randn(2, 4), tmp_path / "model.onnx", {})


def test_bits_that_this_onnxruntime_does_not_know_are_refused(tmp_path, monkeypatch):
    def unknown(self, path, threads):
        raise ExportError(f"{path}: cannot be loaded by onnxruntime: opset 25 is under development")

    monkeypatch.setattr(OnnxRuntime, "load", unknown)
    made = applied(WeightOnlyQuantization(bits=2), nn.Sequential(nn.Linear(4, 2)).eval(), None)
    with pytest.raises(ExportError, match=r"cannot hold weights of 2 bits: .*opset 25.*or use 8 bits"):
        OnnxRuntime().export(made, torch.randn(2, 4), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


def test_files_ask_for_no_newer_onnx_than_they_need(tmp_path):
    versions = []
    for bits in (8, 4, 2):
        made = applied(WeightOnlyQuantization(bits=bits), nn.Sequential(nn.Linear(4, 2)).eval(), None)
        _, path = exported(made, torch.randn(2, 4), tmp_path)
        versions.append(onnx.load(path).opset_import[0].version)
        onnx.checker.check_model(onnx.load(path), full_check=True)
    assert versions == [20, 21, 25]
