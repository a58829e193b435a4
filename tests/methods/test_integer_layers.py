"""Batch norms are folded by every method that says so, wherever the convolutions are; those that stay are named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compression_gate.methods.quantization_aware_training import QuantizationAwareTraining
from compression_gate.methods.rate_aware_training import RateAwareTraining
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.modules.fused import Fused
from compression_gate.modules.normalized import Normalized
from compression_gate.modules.norms import norms_of
from compression_gate.modules.quantized_layer import QuantizedLayer

METHODS = [
    StaticQuantization(),
    QuantizationAwareTraining(epochs=1),
    QuantizationAwareTraining(epochs=1, granularity="per_tensor"),
    RateAwareTraining(strength=1, epochs=1),
]
AROUND = {
    "normalized": lambda model: Normalized(model, torch.zeros(1), torch.ones(1)),
    "fused": lambda model: Fused([model, copy.deepcopy(model)]),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("method", METHODS)
def test_norms_are_folded_inside_other_modules(tiny, method, around):
    suite = tiny("resnet")
    context = suite.context()
    made = method.apply(AROUND[around](suite.reference).eval(), context)
    assert not norms_of(made)
    assert not any("norm" in name for name in context.notes.uncovered)


def test_a_convolution_that_is_ignored_keeps_its_norm(tiny):
    suite = tiny("resnet")
    context = suite.context()
    made = StaticQuantization(ignore=("stem", "blocks.0")).apply(suite.reference, context)
    assert set(norms_of(made)) == {"norm", "blocks.0.norm", "blocks.0.last"}
    assert "stem before it is ignored" in context.notes.uncovered["norm"]


class Reader(nn.Module):
    """What the convolution gives decides past its gradients what the model answers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, inputs):
        maps = self.conv(inputs)
        return (self.norm(maps) * (maps.detach() > 0)).flatten(1)[:, :4]


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 4), nn.BatchNorm1d(4)

    def forward(self, inputs):
        return self.norm(self.linear(inputs.flatten(1)))


STAY = [(Reader, "outputs would change"), (Linear, "linear before it is a Linear: the step batchnorm_folding")]


@pytest.mark.parametrize(("model", "why"), STAY)
def test_a_norm_that_stays_is_named_with_the_reason(tiny, model, why):
    suite = tiny("resnet")
    torch.manual_seed(0)
    model, context = model(), suite.context()
    model.norm.running_mean.normal_()
    made = StaticQuantization().apply(model.eval(), context)
    assert isinstance(next(made.children()), QuantizedLayer)
    assert list(norms_of(made)) == ["norm"]
    assert "not folded: " in context.notes.uncovered["norm"]
    assert why in context.notes.uncovered["norm"]


def test_a_norm_without_weights_is_folded_too(tiny):
    suite = tiny("resnet")
    suite.reference.norm = nn.BatchNorm2d(8, affine=False).eval()
    made = StaticQuantization().apply(suite.reference, suite.context())
    assert not norms_of(made)
