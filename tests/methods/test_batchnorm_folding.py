"""Norms that go without a trace in the outputs, and those that must stay, each with what stands in the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.batchnorm_folding import BatchnormFolding, folded
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import weights

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, NORMS)]


def treated(suite, **options):
    context = suite.context()
    return BatchnormFolding(**options).apply(suite.reference, context), context.notes


def around(tiny, model):
    """The suite of lenet, with another model as its reference, whose norms have seen something."""
    suite = tiny("lenet")
    model.train()
    for batch in suite.task.batches("train", 64):
        model(batch.inputs)
    return type(suite)(task=suite.task, params=suite.params, reference=model.eval(), factory=model)


@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_trained_networks_lose_every_norm_and_answer_alike(tiny, tmp_path, kind):
    suite = tiny(kind)
    without, notes = treated(suite)
    assert norms(without) == []
    assert notes.covered == norms(suite.reference)
    assert notes.uncovered == {}
    assert torch.allclose(suite.outputs(without), suite.outputs(suite.reference), rtol=1e-5, atol=1e-5)
    save_model(without, suite.factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path / "saved")), suite.outputs(without))


LAYERS = [  # layer, norm, shape of the input
    (nn.Linear(6, 8), nn.BatchNorm1d(8), (5, 6)),
    (nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), (5, 6)),
    (nn.Conv1d(6, 8, 3, groups=2), nn.BatchNorm1d(8), (5, 6, 7)),
    (nn.Conv2d(6, 12, 3, groups=6, bias=False), nn.BatchNorm2d(12), (5, 6, 7, 7)),
    (nn.Conv3d(2, 8, 2), nn.BatchNorm3d(8), (5, 2, 3, 3, 3)),
    (nn.ConvTranspose1d(6, 8, 3), nn.BatchNorm1d(8), (5, 6, 7)),
    (nn.ConvTranspose2d(6, 8, 3, groups=2, stride=2), nn.BatchNorm2d(8), (5, 6, 7, 7)),
    (nn.ConvTranspose3d(4, 8, 2, groups=4), nn.BatchNorm3d(8), (5, 4, 3, 3, 3)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS)
@torch.no_grad()
def test_a_folded_layer_answers_as_both_did(layer, norm, shape):
    random = torch.Generator().manual_seed(0)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.copy_(torch.rand(value.shape, generator=random) + 0.2)
    inputs = torch.randn(shape, generator=random)
    expected = norm.eval()(layer(inputs))
    before = layer.weight.clone()
    assert torch.allclose(folded(layer, norm)(inputs), expected, atol=1e-5)
    assert torch.equal(layer.weight, before)


class Block(nn.Module):
    """A convolution, a norm and a head; what lies between them is each test's own."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, inputs):
        return self.head(self.between(inputs).mean((2, 3)))


class BehindRelu(Block):
    def between(self, inputs):
        return self.norm(functional.relu(self.conv(inputs)))


class BehindInPlaceRelu(Block):
    def between(self, inputs):
        return self.norm(self.conv(inputs).relu_())


class UsedTwice(Block):
    def between(self, inputs):
        values = self.conv(inputs)
        return self.norm(values) + values


class UsedUnseen(Block):
    """The second use leaves no trace in the gradients, only in the numbers."""

    def between(self, inputs):
        values = self.conv(inputs)
        return self.norm(values) + values.detach()


class CalledTwice(Block):
    def between(self, inputs):
        return self.norm(self.conv(inputs)) + self.conv(inputs.flip(3)).relu()


class NormCalledTwice(Block):
    def between(self, inputs):
        return self.norm(self.norm(self.conv(inputs)))


class BehindInput(Block):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def between(self, inputs):
        return self.conv(self.norm(inputs))


class Unkept(Block):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def between(self, inputs):
        return self.norm(self.conv(inputs))


class Weightless(Unkept):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)


class Grouped(Unkept):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)


class OtherAxis(Block):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, inputs):
        return self.norm(self.conv(inputs.squeeze(1)))[:, :4, 0]


class Shared(Block):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(1, 4, 3)
        self.other.weight = self.conv.weight

    def between(self, inputs):
        return self.norm(self.conv(inputs)) + self.other(inputs)


class Blind(Block):
    """Runs without gradients, whoever calls it."""

    @torch.no_grad()
    def between(self, inputs):
        return self.norm(self.conv(inputs))


STAYING = [
    (BehindRelu, "stands behind Relu, not directly behind a convolution or linear layer"),
    (BehindInPlaceRelu, "stands behind Relu, not directly"),
    (UsedTwice, "the output of conv before it is used by 2 operations: expected the norm only"),
    (UsedUnseen, r"outputs would change by .* of the largest: conv before it is used in other ways too"),
    (CalledTwice, "conv before it runs 2 times in one pass"),
    (NormCalledTwice, "runs 2 times in one pass"),
    (BehindInput, r"stands behind the model's input \(or gradients are off\)"),
    (Unkept, "keeps no running statistics"),
    (Weightless, "has no weights of its own: the model would not get smaller"),
    (Grouped, "GroupNorm takes its statistics from each example"),
    (OtherAxis, "counts channels on axis 1, conv before it on the last"),
    (Shared, "conv before it shares its weights with another layer"),
    (Blind, r"stands behind the model's input \(or gradients are off\)"),
]


@pytest.mark.parametrize(("kind", "reason"), STAYING)
def test_a_norm_that_cannot_go_stays_and_says_why(tiny, kind, reason):
    with pytest.raises(CompressionError, match=rf"no batch norm can be folded: norm: {reason}"):
        around(tiny, kind()).apply(BatchnormFolding())


class Both(UsedUnseen):
    """One norm that can go, and one that cannot."""

    def __init__(self):
        super().__init__()
        self.first, self.early = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    def between(self, inputs):
        return super().between(self.early(self.first(inputs)).relu())


def test_a_fold_that_is_taken_back_leaves_the_others(tiny):
    suite = around(tiny, Both())
    without, notes = treated(suite)
    assert (notes.covered, list(notes.uncovered), norms(without)) == (["early"], ["norm"], ["norm"])
    assert torch.equal(without.conv.weight, suite.reference.conv.weight)
    assert torch.allclose(suite.outputs(without), suite.outputs(suite.reference), atol=1e-5)


def test_zeros_stay_zero(tiny):
    suite = tiny("resnet")
    sparse = suite.apply(MagnitudePruning(sparsity=0.5))
    without = suite.apply(BatchnormFolding(), sparse)
    for name, weight in weights(sparse).items():
        assert torch.equal(weights(without)[name] == 0, weight == 0)


def test_frozen_layers_stay_frozen(tiny):
    suite = tiny("resnet")
    suite.reference.stem.weight.requires_grad_(False)
    without, _ = treated(suite)
    assert not without.stem.weight.requires_grad
    assert not without.stem.bias.requires_grad
    assert without.blocks[0].first.bias.requires_grad


def test_ignored_norms_stay_and_unknown_names_are_told(tiny):
    suite = tiny("resnet")
    without, notes = treated(suite, ignore=("norm",))
    assert norms(without) == ["norm"]
    assert notes.uncovered == {"norm": "it is in `ignore`"}
    with pytest.raises(ParamsError, match=r"ignore: .*'nrom' \(did you mean 'norm'\?\)"):
        treated(suite, ignore=("nrom",))


def test_a_model_without_norms_is_refused(tiny):
    with pytest.raises(CompressionError, match="the model has none: leave the step out"):
        tiny("mlp").apply(BatchnormFolding())


def test_an_impossible_tolerance_is_refused():
    with pytest.raises(ParamsError, match=r"tolerance: expected more than 0 and less than 1, got 0\.0"):
        BatchnormFolding(tolerance=0.0)
