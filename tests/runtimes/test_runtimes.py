"""Conformance: what every runtime that is installed must do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compression_gate import registry
from compression_gate.errors import ExportError, MissingDependencyError
from compression_gate.runtimes import RUNTIMES
from compression_gate.tasks.calling import call, named

place = Path(__file__).with_name("runtime_models.py")
spec = importlib.util.spec_from_file_location("runtime_models", place)
models = importlib.util.module_from_spec(spec)
sys.modules["runtime_models"] = models
spec.loader.exec_module(models)


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    try:
        return registry.load("runtimes", request.param, RUNTIMES)()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", [name for name, row in RUNTIMES.items() if row.needs])
def test_a_runtime_that_is_not_installed_says_what_to_install(name, monkeypatch):
    row = RUNTIMES[name]
    monkeypatch.delitem(sys.modules, row.target.partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, row.needs, None)  # as if it were not there
    with pytest.raises(MissingDependencyError, match=rf"{name} needs .*pip install 'compression-gate\[{row.needs}\]'"):
        registry.load("runtimes", name, RUNTIMES)


@pytest.fixture(params=models.CASES)
def case(request):
    torch.manual_seed(0)
    kind, make, dynamic = models.CASES[request.param]
    return kind().eval(), make, dynamic


def answered(session, inputs):
    return session({name: value.numpy() for name, value in named(inputs).items()})


@torch.no_grad()
def test_a_transformer_that_torch_would_run_as_one_operation_exports_layer_by_layer(tmp_path):
    runtime, model = registry.load("runtimes", "onnxruntime", RUNTIMES)(), models.Patches().eval()
    runtime.export(model, models.images(1), tmp_path / runtime.file_name, {})
    inputs = models.images(3)
    got = answered(runtime.load(tmp_path / runtime.file_name, 1), inputs)
    np.testing.assert_allclose(got, model(inputs).numpy(), atol=1e-4)


@torch.no_grad()
def test_a_file_answers_as_the_model_does_for_any_batch(runtime, case, tmp_path):
    model, make, dynamic = case
    runtime.export(model, make(1), tmp_path / runtime.file_name, dynamic)
    session = runtime.load(tmp_path / runtime.file_name, 1)
    for count in (1, 3):
        inputs = make(count)
        output = answered(session, inputs)
        assert output.dtype == np.float32
        assert np.allclose(output, call(model, inputs), atol=1e-5)


@torch.no_grad()
def test_an_integer_model_answers_as_its_module_does(runtime, case, tmp_path):
    model, make, dynamic = case
    integers = models.quantized(model, make)
    runtime.export(integers, make(1), tmp_path / runtime.file_name, dynamic)
    inputs = make(16)
    output = answered(runtime.load(tmp_path / runtime.file_name, 1), inputs)
    expected = call(integers, inputs).numpy()
    assert np.abs(output - expected).max() <= 0.03 * np.abs(expected).max()


@torch.no_grad()
def test_named_axes_are_free(runtime, tmp_path):
    for name in ("tokens", "signal"):
        kind, make, dynamic = models.CASES[name]
        model = kind().eval()
        runtime.export(model, make(2), tmp_path / runtime.file_name, dynamic)
        inputs = make(2, 14)
        output = answered(runtime.load(tmp_path / runtime.file_name, 1), inputs)
        assert np.allclose(output, call(model, inputs), atol=1e-5)


@pytest.mark.parametrize("integers", [False, True])
def test_the_same_weights_in_another_folder_give_the_same_bytes(runtime, tmp_path, integers):
    contents = []
    for folder in ("here", "there"):
        torch.manual_seed(0)
        model = models.Residual().eval()
        model = models.quantized(model, models.images) if integers else model
        path = tmp_path / folder / runtime.file_name
        runtime.export(model, models.images(1), path, {})
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0]
    assert str(Path(models.__file__).parent).encode() not in contents[0]


def test_exporting_leaves_the_model_as_it_was(runtime, tmp_path):
    model = models.quantized(models.Images().eval(), models.images)
    before = {name: (type(part), part.training) for name, part in model.named_modules()}
    runtime.export(model, models.images(1), tmp_path / runtime.file_name, {})
    assert before == {name: (type(part), part.training) for name, part in model.named_modules()}


def test_a_model_that_cannot_be_traced_is_named(runtime, tmp_path):
    class Choosy(nn.Module):
        def forward(self, inputs):
            return inputs if inputs.sum() > 0 else -inputs

    with pytest.raises(ExportError, match="Choosy"):
        runtime.export(Choosy(), torch.ones(2, 3), tmp_path / runtime.file_name, {})
    assert not list(tmp_path.iterdir())


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, output, linear):
        return self.layer(output).relu() + linear


@torch.no_grad()
def test_inputs_may_have_the_names_of_what_exporters_make(runtime, tmp_path):
    model, inputs = Sum().eval(), {"output": torch.randn(2, 4), "linear": torch.randn(2, 3)}
    runtime.export(model, inputs, tmp_path / runtime.file_name, {})
    output = answered(runtime.load(tmp_path / runtime.file_name, 1), inputs)
    assert np.allclose(output, model(**inputs), atol=1e-5)


WRONG = [  # what is given, and what the message says of it
    ({"input_0": (2, 5)}, r"got input_0 \[2, 5\] float32"),
    ({"input_0": (2, 5), "input_1": (2, 7)}, r"got input_0 \[2, 5\] float32, input_1 \[2, 7\] float32"),
    ({"input_0": (2, 5), "input_1": (2, 3), "third": (2, 3)}, "got .*third"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG)
def test_inputs_of_another_name_or_shape_are_named(runtime, tmp_path, shapes, message):
    path = tmp_path / runtime.file_name
    runtime.export(models.Two().eval(), models.CASES["two"][1](2), path, {})
    given = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ExportError, match=rf"{path}: expected inputs input_0 \[.*5\].* input_1 \[.*3\].*{message}"):
        runtime.load(path, 1)(given)


def test_a_damaged_file_is_named(runtime, tmp_path):
    path = tmp_path / runtime.file_name
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ExportError, match=runtime.file_name):
        runtime.load(path, 1)


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [({"pixels": {1: "time"}}, "expected names of inputs"), ({"input": {7: "time"}}, "expected axes 1 to 3, got 7")],
)
def test_a_free_axis_that_is_not_there_is_named(runtime, tmp_path, dynamic, message):
    with pytest.raises(ExportError, match=message):
        runtime.export(models.Images().eval(), models.images(1), tmp_path / runtime.file_name, dynamic)
