"""No file is left that answers otherwise than its module; what only rounds otherwise is none of these."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compression_gate import registry
from compression_gate.errors import ExportError, MissingDependencyError
from compression_gate.runtimes import RUNTIMES
from compression_gate.runtimes.agreement import apart, export
from compression_gate.runtimes.onnx_runtime import OnnxRuntime, OnnxSession

spec = importlib.util.spec_from_file_location("runtime_models_agreement", Path(__file__).with_name("runtime_models.py"))
models = importlib.util.module_from_spec(spec)
sys.modules["runtime_models_agreement"] = models
spec.loader.exec_module(models)


class Thirds(nn.Module):
    """Its average is exported without the divisor."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(25, 3)

    def forward(self, inputs):
        return self.last(functional.avg_pool2d(inputs, 2, divisor_override=3).flatten(1))


class Deep(nn.Module):
    """Sums upon sums, all of them rounded in files and none in the module."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(10))

    def forward(self, inputs):
        maps = self.stem(inputs)
        for block in self.blocks:
            maps = maps + block(maps).relu()
        return self.last(maps.mean((2, 3)))


class Noisy(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1) + torch.randn(inputs.shape[0], 100)


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    try:
        return registry.load("runtimes", request.param, RUNTIMES)()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def quantized(kind, **options):
    torch.manual_seed(0)
    return models.quantized(kind().eval(), models.images, **options)


@pytest.mark.parametrize("make", [lambda: Thirds().eval(), lambda: quantized(Thirds)])
def test_what_the_exporter_gets_wrong_is_refused_and_no_file_is_left(make, tmp_path):
    torch.manual_seed(0)
    with pytest.raises(
        ExportError, match=r"model\.onnx: cannot hold Thirds: expected answers .* got .* \d\d% away: .*"
    ):
        export(OnnxRuntime(), make(), models.images(2), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_computes_wrongly_is_refused(tmp_path, monkeypatch):
    right = OnnxSession.__call__
    monkeypatch.setattr(OnnxSession, "__call__", lambda session, inputs: 1.2 * right(session, inputs))
    with pytest.raises(ExportError, match=r"cannot hold Images: .* 20% away"):
        export(OnnxRuntime(), models.Images().eval(), models.images(2), tmp_path / "model.onnx", {})


@pytest.mark.parametrize("options", [{}, {"bits": 4, "activation_bits": 4}])
@pytest.mark.parametrize("kind", [models.Residual, Deep])
def test_roundings_are_no_other_answers(kind, options, runtime, tmp_path):
    export(runtime, quantized(kind, **options), models.images(2), tmp_path / runtime.file_name, {})
    assert (tmp_path / runtime.file_name).exists()


def test_a_model_that_never_answers_alike_is_none_to_be_refused(tmp_path):
    export(OnnxRuntime(), Noisy().eval(), models.images(2), tmp_path / "model.onnx", {})
    assert (tmp_path / "model.onnx").exists()


def test_checking_leaves_model_and_threads_as_they_were(runtime, tmp_path):
    model, threads = quantized(models.Images).train(), torch.get_num_threads()
    export(runtime, model, models.images(2), tmp_path / runtime.file_name, {})
    assert model.training
    assert model.first.inputs == "static"
    assert torch.get_num_threads() == threads


def test_a_distance_is_a_share_and_leaves_out_what_is_finite_in_neither():
    assert apart(np.array([1.1, np.inf]), np.array([1.0, np.inf])) == pytest.approx(0.1)
    assert not apart(np.array([np.nan, 1.0]), np.array([1.0, 1.0])) <= 1
