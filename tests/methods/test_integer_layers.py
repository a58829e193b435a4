"""What quantizing methods do alike: norms are folded wherever the convolutions are, weights that are tied told."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from compression_gate.artifacts.workbench import layer_bytes
from compression_gate.methods.dynamic_quantization import DynamicQuantization
from compression_gate.methods.quantization_aware_training import QuantizationAwareTraining
from compression_gate.methods.rate_aware_training import RateAwareTraining
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.modules.fused import Fused
from compression_gate.modules.normalized import Normalized
from compression_gate.modules.norms import norms_of
from compression_gate.modules.quantized_layer import QuantizedLayer

NORMS_FOLDED_BY = [
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
@pytest.mark.parametrize("method", NORMS_FOLDED_BY)
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


class Words(nn.Module):
    """An embedding that scores the words too."""

    def __init__(self):
        super().__init__()
        self.table, self.scores, self.head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False), nn.Linear(32, 4)
        self.scores.weight = self.table.weight

    def forward(self, ids, mask):
        return self.head(self.scores((self.table(ids) * mask.unsqueeze(2)).mean(1)))


ONE_STAYS = [  # method, the layer that shares with one which stays, and the reason
    (StaticQuantization(), "scores", r"shares its weight with table, .* \(Embedding: .*weight_only_quantization can"),
    (DynamicQuantization(), "scores", r"shares its weight with table, which stays in float here \(Embedding: "),
    (WeightOnlyQuantization(ignore=("scores",)), "table", r"shares its weight with scores, .* here \(ignored\)"),
    (QuantizationAwareTraining(epochs=1, ignore=("table",)), "scores", r"shares .* with table, .* here \(ignored\)"),
]


@pytest.mark.parametrize(("method", "layer", "why"), ONE_STAYS)
def test_a_weight_that_one_layer_keeps_in_float_is_kept_by_both(tiny, method, layer, why):
    suite = tiny("tokens")
    context, model = suite.context(), Words().eval()
    made = method.apply(model, context)
    assert re.search(why, context.notes.uncovered[layer])
    assert made.scores.weight is made.table.weight
    assert context.notes.covered == ["head"]
    assert sum(layer_bytes(made).values()) < sum(layer_bytes(model).values())


@pytest.mark.parametrize("method", [WeightOnlyQuantization(), QuantizationAwareTraining(epochs=1)])
def test_integers_in_the_place_of_a_shared_weight_are_remarked(tiny, method):
    suite = tiny("tokens")
    context = suite.context()
    method.apply(Words().eval(), context)
    assert {"table", "scores"} <= set(context.notes.covered)
    assert "table and scores shared a weight: each has integers of its own now" in context.notes.remarks


def test_one_layer_under_two_names_shares_with_nobody(tiny):
    suite = tiny("mlp")
    context, layer = suite.context(), nn.Linear(64, 64)
    made = WeightOnlyQuantization().apply(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer), context)
    assert made[1] is made[3]
    assert not context.notes.remarks
