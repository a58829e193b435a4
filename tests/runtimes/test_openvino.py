"""OpenVINO: integer layers run on integers, the rest in float32, in the calling thread, without telemetry."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from compression_gate.errors import ExportError
from compression_gate.measurers.latency import PROCEDURE, PROCESSES, Setting, measure_pair
from compression_gate.methods.base import Context
from compression_gate.methods.dynamic_quantization import DynamicQuantization
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.records.params import TrainParams
from compression_gate.runtimes.agreement import apart, export
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.tasks.calling import named

pytest.importorskip("openvino", reason="openvino is not installed: pip install 'compression-gate[openvino]'")
from compression_gate.gate.timing_test import decide
from compression_gate.gate.timing_zone import zone_of
from compression_gate.runtimes import openvino as module
from compression_gate.runtimes.openvino import OpenVino

spec = importlib.util.spec_from_file_location("runtime_models_openvino", Path(__file__).with_name("runtime_models.py"))
models = importlib.util.module_from_spec(spec)
sys.modules["runtime_models_openvino"] = models
spec.loader.exec_module(models)

ROOT = Path(__file__).parents[2]


class Recurrent(nn.Module):
    """Two LSTM layers over a free number of steps."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.LSTM(5, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, steps):
        return self.last(self.inner(steps)[0].mean(1))


class Determinant(nn.Module):
    """Exports to ONNX, and OpenVINO knows no such operator."""

    def forward(self, matrices):
        return torch.linalg.det(matrices)


def exported(model, inputs, path, dynamic=None):
    OpenVino().export(model, inputs, path / "model.onnx", dynamic or {})
    return OpenVino().load(path / "model.onnx", 1)


def operators(session):
    """Kind of every operator that computes, and what it computes in: I8, f32 and so on."""
    found = []
    for operator in session.compiled.get_runtime_model().get_ordered_ops():
        told = operator.get_rt_info()
        found.append((told["layerType"].astype(str), told["primitiveType"].astype(str).rpartition("_")[2]))
    return [row for row in found if row[0] not in {"Const", "Input", "Output", "Reorder", "Reshape"}]


def integers(kind, make):
    torch.manual_seed(0)
    return models.quantized(kind().eval(), make)


INTEGER_LAYERS = [  # case, what must run on integers
    ("images", ["Convolution", "Convolution", "Convolution", "FullyConnected"]),  # the pool is written as one
    ("residual", ["Convolution", "Convolution", "Eltwise", "FullyConnected"]),
    ("two", ["FullyConnected", "FullyConnected"]),
    ("tokens", ["FullyConnected", "FullyConnected", "FullyConnected"]),
    ("signal", ["Convolution", "FullyConnected"]),
]


@pytest.mark.parametrize(("name", "expected"), INTEGER_LAYERS)
def test_every_integer_layer_runs_on_integers(name, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sums_are_exact", lambda: True)
    kind, make, dynamic = models.CASES[name]
    found = operators(exported(integers(kind, make), make(2), tmp_path, dynamic))
    assert sorted(kind for kind, computed_in in found if computed_in == "I8" and kind in set(expected)) == expected
    assert not [row for row in found if row[0] in {"Convolution", "FullyConnected"} and row[1] != "I8"]


FLOATS = [{"symmetric": False}, {"granularity": "per_group", "group_size": 3}]


@pytest.mark.parametrize("options", FLOATS)
def test_layers_that_are_said_to_be_computed_in_float_are(options, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sums_are_exact", lambda: True)
    model = models.quantized(models.Two().eval(), models.CASES["two"][1], **options)
    found = operators(exported(model, models.CASES["two"][1](2), tmp_path))
    assert {computed_in for kind, computed_in in found if kind == "FullyConnected"} == {"f32"}


@torch.no_grad()
def test_integer_layers_are_computed_in_float_where_integer_sums_would_saturate(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sums_are_exact", lambda: False)
    model, inputs = integers(models.Images, models.images), models.images(16)
    session = exported(model, inputs, tmp_path)
    assert {computed_in for _, computed_in in operators(session)} == {"f32"}
    expected = model(inputs).numpy()
    assert np.abs(session({"input": inputs.numpy()}) - expected).max() <= 0.03 * np.abs(expected).max()


def test_float_layers_run_in_float32_on_one_stream(tmp_path):
    """Its default is bfloat16 on processors that have it."""
    session = exported(models.Images().eval(), models.images(2), tmp_path)
    assert {computed_in for _, computed_in in operators(session)} == {"f32"}
    told = {name: session.compiled.get_property(name) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS")}
    assert told == {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    assert session.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@torch.no_grad()
def test_a_recurrent_model_answers_as_torch_does_for_any_length(tmp_path):
    torch.manual_seed(0)
    model = Recurrent().eval()
    session = exported(model, torch.randn(2, 6, 5), tmp_path, {"input": {1: "time"}})
    for shape in ((1, 4, 5), (3, 9, 5)):
        steps = torch.randn(shape)
        assert np.allclose(session({"input": steps.numpy()}), model(steps), atol=1e-5)


def test_an_operator_that_openvino_lacks_is_named_and_no_file_is_left(tmp_path):
    with pytest.raises(ExportError, match=r"model\.onnx: cannot hold Determinant: .*Det.*another runtime"):
        export(OpenVino(), Determinant(), torch.randn(2, 3, 3), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


GROUPS = [  # case, method, weights in a group (7 and 12 leave a short one), whether zero is 0
    ("images", WeightOnlyQuantization, 9, True),
    ("images", WeightOnlyQuantization, 7, False),
    ("images", StaticQuantization, 12, False),
    ("tokens", WeightOnlyQuantization, 4, False),
    ("tokens", WeightOnlyQuantization, 7, True),
    ("two", StaticQuantization, 1, True),
]


@pytest.mark.parametrize(("name", "method", "group_size", "symmetric"), GROUPS)
def test_groups_of_4_bit_weights_are_computed_as_in_onnxruntime(name, method, group_size, symmetric, tmp_path):
    torch.manual_seed(0)
    kind, make, dynamic = models.CASES[name]
    options = method(bits=4, granularity="per_group", group_size=group_size, symmetric=symmetric)
    context = Context(task=models.Calibration(make), reference=kind(), train=TrainParams())
    session = exported(options.apply(kind().eval(), context), make(3), tmp_path, dynamic)
    inputs = {key: value.numpy() for key, value in named(make(5)).items()}
    expected = OnnxRuntime().load(tmp_path / "model.onnx", 1)(inputs)
    assert apart(session(inputs), expected) <= (0.03 if method is StaticQuantization else 1e-5)


@pytest.mark.parametrize(
    "method",
    [
        WeightOnlyQuantization(bits=2),
        WeightOnlyQuantization(bits=2, granularity="per_group", group_size=7, symmetric=False),
        DynamicQuantization(bits=2),
    ],
)
def test_2_bits_are_held_in_4_which_it_reads(method, tmp_path):
    torch.manual_seed(0)
    model = Recurrent().eval()
    made = method.apply(model, Context(task=None, reference=model, train=TrainParams()))
    export(OpenVino(), made, torch.randn(2, 6, 5), tmp_path / "model.onnx", {})
    kinds = {value.data_type for value in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert TensorProto.INT4 in kinds
    assert TensorProto.INT2 not in kinds


WRONG = [  # what is given, and what the message says of it
    ({}, r"expected inputs input_0 \[\?,5\] f32, input_1 \[\?,3\] f32, got $"),
    ({"input_0": np.zeros((1, 5), np.float32)}, r"got input_0 \[1, 5\] float32$"),
    (
        {"input_0": np.zeros((1, 5), np.float32), "input_1": np.zeros((1, 3)), "third": np.zeros(1)},
        "got .*third",
    ),
    ({"input_0": np.zeros((1, 4), np.float32), "input_1": np.zeros((1, 3), np.float32)}, r"input_0 \[1, 4\]"),
    ({"input_0": np.zeros((1, 5), np.float64), "input_1": np.zeros((1, 3), np.float32)}, r"input_0 \[1, 5\] float64"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_inputs_of_another_name_shape_or_type_are_named(inputs, message, tmp_path):
    """OpenVINO itself would answer from what the last call left in place of an input that is not given."""
    _, make, _ = models.CASES["two"]
    session = exported(models.Two().eval(), make(2), tmp_path)
    session({"input_0": np.ones((1, 5), np.float32), "input_1": np.ones((1, 3), np.float32)})
    with pytest.raises(ExportError, match=message):
        session(inputs)


def test_an_answer_stays_when_the_next_call_is_made_and_inputs_may_lie_anywhere(tmp_path):
    session = exported(models.Images().eval(), models.images(2), tmp_path)
    given = models.images(2).numpy()
    first = session({"input": given})
    kept = first.copy()
    assert not np.array_equal(session({"input": given * 2}), kept)
    assert np.array_equal(first, kept)
    strided = np.asfortranarray(given)
    strided.flags.writeable = False
    assert np.array_equal(session({"input": strided}), kept)


def test_importing_starts_no_thread_and_no_telemetry():
    """A process with threads has no safe fork, and nobody agreed to a report."""
    code = (
        "import sys, threading, compression_gate.runtimes.openvino as runtime; "
        "assert threading.active_count() == 1, threading.enumerate(); "
        "assert not [name for name in sys.modules if name.startswith(runtime.TELEMETRY)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_loading_needs_neither_torch_nor_onnxruntime(tmp_path):
    exported(models.Images().eval(), models.images(1), tmp_path)
    code = (
        "import sys; from pathlib import Path; from compression_gate.runtimes.openvino import OpenVino; "
        f"OpenVino().load(Path({str(tmp_path / 'model.onnx')!r}), 1); "
        "assert not {'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.fixture
def setting(tmp_path):
    model = integers(models.Images, models.images)
    OpenVino().export(model, models.images(1), tmp_path / "model.onnx", {})
    inputs = {"input": models.images(1).numpy()}
    return tmp_path / "model.onnx", Setting(runtime="openvino", threads=1, inputs=inputs, limits=(1.25,))


def test_one_thread_is_the_callers_so_that_its_clock_sees_the_work(setting):
    """Compiling leaves threads behind; none of them may take part in a call."""
    path, _ = setting
    code = f"""
import sys, time
from pathlib import Path
import numpy as np
from compression_gate.runtimes.openvino import OpenVino
session = OpenVino().load(Path({str(path)!r}), 1)
inputs = {{"input": np.zeros((64, 1, 10, 10), np.float32)}}
for _ in range(100):
    session(inputs)
process, thread = time.process_time(), time.thread_time()
for _ in range(1000):
    session(inputs)
process, thread = time.process_time() - process, time.thread_time() - thread
assert process <= 1.03 * thread, (process, thread)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_identical_files_are_timed_in_pairs_by_the_thread_and_pass(setting):
    path, given = setting
    timing = measure_pair(path, path, given, 20).timing
    assert timing.reason is None
    assert (timing.procedure, timing.clock) == (PROCEDURE, "thread CPU time")
    assert decide([np.array(blocks) for blocks in timing.blocks], zone_of(1.25)).status == "pass"


def test_several_threads_are_timed_in_processes(setting):
    path, given = setting
    timing = measure_pair(path, path, Setting(**{**vars(given), "threads": 2}), 4).timing
    assert timing.reason is None
    assert timing.procedure == PROCESSES
