"""Quantization-aware training: what is learned is what the integer layers, and the file, hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods import quantization_aware_training
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.quantization_aware_training import QuantizationAwareTraining
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.modules.learned_steps import LearnedStep, RoundedInput, RoundedWeight, scaled_rows, through
from compression_gate.modules.quantized_layer import QuantizedLayer, affine
from compression_gate.modules.quantized_weights import Scheme, quantized_weight
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest
from compression_gate.runtimes.onnx_runtime import OnnxRuntime
from compression_gate.tasks.calling import named
from compression_gate.tasks.training import fit

KINDS = ("mlp", "lenet", "resnet", "mobilenet", "tokens", "transformer", "recurrent", "gru", "bidirectional", "tied")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_learns_to_live_with_few_bits(tiny, tmp_path, kind):
    suite = tiny(kind)
    before = state_digest(suite.reference)
    method = QuantizationAwareTraining(bits=3, epochs=2, learning_rate=0.005)
    context = suite.context()
    made = method.apply(suite.reference, context)
    assert state_digest(suite.reference) == before
    assert suite.accuracy(made) >= suite.accuracy(suite.reference) - 0.1
    assert not any("parametrizations" in name for name, _ in made.named_modules())
    assert len(context.notes.curves["quantization_aware_training"]) == 2
    save_model(made, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(made))


@pytest.mark.parametrize("kind", ["lenet", "recurrent"])
def test_training_beats_rounding_afterwards(tiny, kind):
    """Loss on the validation split, which tells models apart that are as often right."""
    suite = tiny(kind)

    @torch.no_grad()
    def loss(model):
        (batch,) = suite.task.batches("validation", 10_000)
        return float(suite.task.loss(model(batch.inputs), batch.targets))

    plain = StaticQuantization if kind == "lenet" else WeightOnlyQuantization
    trained = suite.apply(QuantizationAwareTraining(bits=2, epochs=3, learning_rate=0.005))
    assert loss(trained) < 0.8 * loss(suite.apply(plain(bits=2, calibration="mse")))


@torch.no_grad()
def test_the_integer_model_computes_what_was_trained(tiny, monkeypatch):
    """Norms included: at the end they are in the scales, and nothing is rounded anew."""
    trained = []

    def watched(model, *args):
        curve = fit(model, *args)
        trained.append(suite.outputs(model))
        return curve

    suite = tiny("mobilenet")
    monkeypatch.setattr(quantization_aware_training, "fit", torch.enable_grad()(watched))
    made = suite.apply(QuantizationAwareTraining(bits=4, epochs=1))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in made.modules()) == 0
    assert (suite.outputs(made) - trained[0]).norm() < 0.01 * trained[0].norm()


def test_learned_ranges_arrive_in_the_file(tiny, tmp_path):
    suite = tiny("lenet")
    made = suite.apply(QuantizationAwareTraining(bits=4, epochs=2, learning_rate=0.01))
    start = suite.apply(StaticQuantization(bits=4, calibration="mse"))
    inputs = suite.task.example_inputs(32, "test")
    OnnxRuntime().export(made, suite.task.example_inputs(1), tmp_path / "model.onnx", {})
    held = {v.name: numpy_helper.to_array(v) for v in onnx.load(tmp_path / "model.onnx").graph.initializer}
    for name in ("first", "second", "hidden", "head"):
        layer, first = made.get_submodule(name), start.get_submodule(name)
        assert float(held[f"{name}.input_scale"]) == float(layer.input_scale)
        assert np.array_equal(held[f"{name}.weight_scale"], layer.weight_scale.numpy())
        assert np.array_equal(held[f"{name}.weight_integers"].astype(np.int8), layer.weight_integers.numpy())
        assert not torch.equal(layer.weight_scale, first.weight_scale), "the weights' steps did not move"
        assert float(layer.input_scale) != float(first.input_scale), "the input's step did not move"
    answers = OnnxRuntime().load(tmp_path / "model.onnx", 1)({k: v.numpy() for k, v in named(inputs).items()})
    expected = suite.outputs(made).numpy()
    assert np.linalg.norm(answers - expected) < 0.03 * np.linalg.norm(expected)


OPTIONS = [
    {"granularity": "per_tensor"},
    {"granularity": "per_group", "group_size": 5},
    {"activation_bits": None},
    {"activation_bits": 4},
    {"distill": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_form_trains(tiny, options):
    suite = tiny("resnet")
    made = suite.apply(QuantizationAwareTraining(bits=4, epochs=1, learning_rate=0.005, **options))
    assert suite.accuracy(made) >= suite.accuracy(suite.reference) - 0.1
    layers = [layer for layer in made.modules() if isinstance(layer, QuantizedLayer)]
    assert all(layer.scheme.granularity == options.get("granularity", "per_channel") for layer in layers)
    assert {layer.inputs for layer in layers} == {"float" if options.get("activation_bits", 8) is None else "static"}


def test_a_killed_training_is_continued_to_the_same_end(tiny, tmp_path, monkeypatch):
    suite, method = tiny("mlp"), QuantizationAwareTraining(bits=4, epochs=2)
    whole = suite.apply(method)
    from compression_gate.tasks import training

    saved, count = training.save_checkpoint, []

    def killed(*args):
        saved(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=tmp_path / "state.pt")
    monkeypatch.setattr(training, "save_checkpoint", lambda *args: count.append(saved(*args)))
    again = suite.apply(method, checkpoint=tmp_path / "state.pt")
    assert len(count) == 1, "the first epoch was trained again"
    assert state_digest(again) == state_digest(whole)


def test_pruned_weights_stay_zero(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(MagnitudePruning(sparsity=0.6))
    made = suite.apply(QuantizationAwareTraining(bits=4, epochs=1), pruned)
    for name in ("first", "second", "hidden"):
        dead = pruned.get_submodule(name).weight == 0
        assert dead.any()
        assert (made.get_submodule(name).weight_integers[dead] == 0).all()


def test_a_step_that_never_learns_is_not_what_comes_out(tiny, monkeypatch):
    """With the gradient of the steps cut, training ends elsewhere: they are trained."""
    suite = tiny("mlp")
    learned = suite.apply(QuantizationAwareTraining(bits=4, epochs=1))
    monkeypatch.setattr(LearnedStep, "forward", lambda step: step.first)
    still = suite.apply(QuantizationAwareTraining(bits=4, epochs=1))
    assert not torch.equal(learned.second.weight_scale, still.second.weight_scale)


def test_gradients_of_weight_and_step_are_those_of_the_article():
    """Esser et al. 2020, eq. 3: inside round(v/s) − v/s, at the ends the end itself; weights pass inside only."""
    values = torch.tensor([-9.0, -0.7, 0.2, 0.9, 30.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    through(values, step, -7, 7).sum().backward()
    inside = (values / step).detach()
    slopes = torch.where(inside.abs() < 7, inside.round() - inside, inside.clamp(-7, 7))
    assert torch.equal(values.grad, torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))
    assert torch.allclose(step.grad, slopes.sum())


def test_the_steps_gradient_is_scaled_and_the_step_stays_positive():
    step = LearnedStep(torch.tensor([0.5]), rounded_each=25, levels=4)
    step().sum().backward()
    assert torch.allclose(step.growth.grad, torch.tensor([0.5 / 10]))
    with torch.no_grad():
        step.growth.fill_(-50.0)
    assert step() > 0


def test_small_weights_and_inputs_are_rounded_as_finely_as_large_ones():
    torch.manual_seed(0)
    values = torch.randn(64) * 1e-8
    held = quantized_weight(values[None], Scheme(bits=8), "minmax")
    assert (RoundedWeight(values[None], held)(values[None]) - values).norm() < 0.01 * values.norm()
    scale, zero = affine(float(values.min()), float(values.max()))
    assert (RoundedInput(scale, zero, 8, 1)(values) - values).norm() < 0.01 * values.norm()
    switched = quantized_weight(values[None] * 1e8, Scheme(bits=8), "minmax")
    assert (scaled_rows(switched, torch.tensor([1e-8])).dequantized() - values).norm() < 0.01 * values.norm()


def test_a_norm_of_any_sign_goes_into_the_scales_without_rounding():
    held = quantized_weight(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), Scheme(bits=4), "mse")
    factors = torch.tensor([2.0, -0.5, 0.0, 1e-3])
    expected = held.dequantized() * factors.reshape(-1, 1, 1, 1)
    assert torch.allclose(scaled_rows(held, factors).dequantized(), expected, atol=1e-7)
    assert (scaled_rows(held, factors).scale > 0).all()


def test_activations_that_are_not_finite_are_refused(tiny):
    suite = tiny("mlp")
    suite.reference.second.weight.data[0, 0] = float("inf")
    with pytest.raises(CompressionError, match=r"quantization_aware_training: \w+: expected finite"):
        suite.apply(QuantizationAwareTraining(epochs=1))


BAD = [
    ({"bits": 9}, "bits: expected a whole number from 2 to 8, got 9"),
    ({"activation_bits": 1}, "activation_bits: expected 2 or more and at most 8, got 1"),
    ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
    ({"granularity": "per_group"}, "group_size: expected 1 or more"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(ParamsError, match=message):
        QuantizationAwareTraining(**options)
