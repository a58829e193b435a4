"""Thin layers: as thin as asked, closer by what the data say, and nothing that would grow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.measurers.cost import costs_of
from compression_gate.methods.low_rank import LowRank, Seen, View
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest
from compression_gate.tasks import training


def treated(suite, options, model=None):
    context = suite.context()
    return LowRank(**options).apply(model if model is not None else suite.reference, context), context.notes


def macs(suite, model):
    return costs_of(model, suite.task.example_inputs(1)).macs


def distance(suite, model):
    return float((suite.outputs(model) - suite.outputs(suite.reference)).square().mean())


def test_data_that_draw_their_noise_give_the_same_layers_every_time(tiny):
    suite = tiny("mlp", data="tiny_models_of_method_tests:restless")
    first, second = (treated(suite, {"ratio": 0.5})[0] for _ in range(2))
    assert state_digest(first) == state_digest(second)


LAYERS = {"second": 8 * 12 * 9 * 16, "hidden": 48 * 16}  # of lenet, with their MACs


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["tucker", "cp"])
def test_a_layer_keeps_at_most_the_ratio_of_its_macs(tiny, kind, layer):
    suite = tiny("lenet")
    others = tuple({"first", "second", "hidden", "head"} - {layer})
    smaller, notes = treated(suite, {"ratio": 0.5, "kind": kind, "ignore": others})
    assert notes.covered == [layer]
    saved = macs(suite, suite.reference) - macs(suite, smaller)
    assert 0.5 <= saved / LAYERS[layer] < 0.7


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"rank": 4}, {"ratio": 0.5, "kind": "cp"}])
def test_outputs_come_closer_when_calibrated(tiny, options):
    suite = tiny("lenet")
    options = {**options, "ignore": ("first", "head")}
    data, bare = (treated(suite, {**options, "calibrated": flag})[0] for flag in (True, False))
    assert distance(suite, data) < distance(suite, bare)


def test_the_calibrated_svd_is_the_best_of_its_rank_on_the_calibration_split(tiny):
    """No other matrix of that rank has outputs closer to the layer's: shrinkage aside, those of the largest axes."""
    suite = tiny("mlp")
    smaller, _ = treated(suite, {"rank": 3, "ignore": ("first", "head")})
    (batch,) = suite.task.batches("calibration", 1000)
    with torch.no_grad():
        inputs = suite.reference.first(batch.inputs.flatten(1)).relu()
        outputs = inputs @ suite.reference.second.weight.T
        got = smaller.second(inputs) - suite.reference.second.bias
        values = torch.linalg.svdvals(outputs)
    best = float(values[3:].square().sum())
    assert best * 0.999 <= float((outputs - got).square().sum()) <= best * 1.1


def test_all_ranks_kept_by_the_energy_would_grow_the_layers_and_are_named(tiny):
    with pytest.raises(CompressionError, match=r"no layer.*first: rank 32 would need \d+ weights.*not get smaller"):
        tiny("mlp").apply(LowRank(energy=1 - 1e-12))


def test_more_energy_keeps_more(tiny):
    suite = tiny("lenet")
    sizes = [costs_of(treated(suite, {"energy": e})[0], suite.task.example_inputs(1)).macs for e in (0.8, 0.95)]
    assert sizes[0] < sizes[1]


def test_a_budget_is_kept_together_and_loses_less_than_the_same_ratio_everywhere(tiny):
    suite = tiny("lenet")
    spread, notes = treated(suite, {"budget": 0.5})
    even, _ = treated(suite, {"ratio": 0.5})
    assert macs(suite, spread) <= 0.5 * macs(suite, suite.reference)
    assert distance(suite, spread) < distance(suite, even)
    assert set(notes.covered) | set(notes.uncovered) == {"first", "second", "hidden", "head"}


def test_a_budget_that_no_ranks_reach_says_what_could_be(tiny):
    with pytest.raises(CompressionError, match=r"low_rank: budget: expected .* 0\.\d+ or more, got 0\.001"):
        tiny("mlp").apply(LowRank(budget=0.001))


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kind", ["tucker", "cp"])
def test_convolutions_of_all_dimensions_keep_stride_padding_and_dilation(tiny, dimensions, kind, calibrated):
    suite = around(tiny, Strided(dimensions))
    smaller, notes = treated(suite, {"rank": 5, "kind": kind, "calibrated": calibrated}, suite.reference)
    assert notes.covered == ["wide"]
    assert isinstance(smaller.wide[0], type(suite.reference.wide))
    assert torch.allclose(suite.outputs(smaller), suite.outputs(suite.reference), atol=2e-2)


class Strided(nn.Module):
    """A convolution with every option, of a rank that is known to be 5 in all modes."""

    def __init__(self, dimensions):
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.dimensions = dimensions
        self.wide = kind(16, 24, 3, stride=2, padding=2, dilation=2, padding_mode="circular")
        random = torch.Generator().manual_seed(0)
        parts = [torch.randn(size, 5, generator=random) for size in (24, 16, 3**dimensions)]
        self.wide.weight.data = torch.einsum("or,ir,kr->oik", *parts).view_as(self.wide.weight) / 50

    def forward(self, inputs):
        values = inputs.flatten(1).repeat(1, 16 if self.dimensions == 3 else 4)
        shapes = {1: (16, 16), 2: (16, 4, 4), 3: (16, 4, 4, 4)}
        return self.wide(values.view(len(inputs), *shapes[self.dimensions])).flatten(2).mean(2)[:, :4]


def around(tiny, model):
    """The suite of lenet, with another model as its reference."""
    suite = tiny("lenet")
    return type(suite)(task=suite.task, params=suite.params, reference=model.eval(), factory=model)


def test_a_pointwise_convolution_becomes_two_with_the_stride_in_the_first(tiny):
    suite = tiny("resnet")
    smaller, _ = treated(
        suite, {"rank": 3, "ignore": ("stem", "head", "blocks.0", "blocks.1.first", "blocks.1.second")}
    )
    first, last = smaller.blocks[1].shortcut[0]
    assert (first.stride, last.stride) == ((2, 2), (1, 1))
    assert (first.out_channels, last.bias) == (3, None)


REFUSED = [  # model, layer, reason
    ("mobilenet", "blocks.0.depthwise.0", "has 24 groups: each is thin already"),
    ("recurrent", "lstm", "LSTM: expected one of Linear, Conv1d, Conv2d, Conv3d"),
    ("tokens", "embedding", "Embedding: expected one of"),
    ("transformer", "encoder.layers.0.self_attn", "MultiheadAttention: expected one of"),
    ("transformer", "encoder.layers.0.self_attn.out_proj", "NonDynamicallyQuantizableLinear: expected one of"),
    ("tied", "middle", "shares its weights with another layer"),
    ("tied", "again", "shares its weights with another layer"),
    ("mlp", "head", "rank 4 is not under its full rank 4"),
    ("lenet", "head", "rank 4 is not under its full rank 4"),
]


@pytest.mark.parametrize(("kind", "layer", "reason"), REFUSED)
def test_layers_that_cannot_be_are_named_with_the_reason(tiny, kind, layer, reason):
    suite = tiny(kind)
    _, notes = treated(suite, {"rank": 4})
    assert notes.uncovered[layer].startswith(reason)
    assert layer not in notes.covered


def test_a_convolution_that_would_grow_is_named(tiny):
    _, notes = treated(tiny("lenet"), {"rank": 5})
    assert notes.uncovered["first"] == ("rank 5 and 1 would need 85 weights in place of 72: it would not get smaller")


def test_the_linear_layers_of_an_encoder_are_called_although_torch_has_a_shortcut(tiny, tmp_path):
    suite = tiny("transformer")
    smaller, notes = treated(suite, {"rank": 6})
    assert {"encoder.layers.0.linear1", "encoder.layers.1.linear2"} <= set(notes.covered)
    before = suite.outputs(smaller)
    with torch.no_grad():
        smaller.encoder.layers[0].linear1[0].weight.zero_()
    assert not torch.equal(suite.outputs(smaller), before)
    again, _ = treated(suite, {"rank": 6})
    save_model(again, suite.factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path / "saved")), before)


class Reads(nn.Module):
    """Uses a layer's weight beside calling it."""

    def __init__(self):
        super().__init__()
        self.wide, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, inputs):
        return self.head(self.wide(inputs.flatten(1))) + self.wide.weight.sum()


def test_a_layer_whose_weight_is_read_elsewhere_is_put_back_and_named(tiny):
    suite = around(tiny, Reads())
    smaller, notes = treated(suite, {"rank": 2})
    assert notes.covered == ["head"]
    assert "reads more of this layer than its outputs" in notes.uncovered["wide"]
    assert torch.equal(smaller.wide.weight, suite.reference.wide.weight)


class Idle(Reads):
    def forward(self, inputs):
        return self.head(inputs.flatten(1)[:, :32])


def test_a_layer_that_is_never_called_is_named(tiny):
    _, notes = treated(around(tiny, Idle()), {"rank": 2})
    assert notes.uncovered == {"wide": "is never called on the calibration split"}


class Silent(Reads):
    def forward(self, inputs):
        return self.head(self.wide(inputs.flatten(1) * 0))


def test_a_layer_whose_inputs_are_all_zero_gets_finite_factors(tiny):
    suite = around(tiny, Silent())
    smaller, notes = treated(suite, {"rank": 2})
    assert notes.covered == ["wide", "head"]
    assert all(torch.isfinite(parameter).all() for parameter in smaller.parameters())


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("shape", [(8, 6, 3), (2, 9, 3), (1, 4, 3), (12, 1, 3)])
def test_tuckers_ranks_are_the_best_of_all_within_the_ratio(shape, ratio):
    outer, inner, _ = shape
    layer = nn.Conv2d(inner, outer, 3)
    view = View(layer, Seen(places_in=100, places_out=64), LowRank(ratio=ratio, calibrated=False))
    every = [(a, b) for a in range(1, outer + 1) for b in range(1, inner + 1)]
    room = [ranks for ranks in every if view.macs(ranks) <= ratio * view.macs(None)]
    found = view.within(ratio)
    assert (found is None) == (not room)
    if found is not None:
        assert found in room
        assert view.loss(found) == pytest.approx(min(view.loss(ranks) for ranks in room))


def test_frozen_layers_stay_frozen(tiny):
    suite = tiny("mlp")
    suite.reference.first.weight.requires_grad_(False)
    smaller, _ = treated(suite, {"rank": 2})
    assert not any(parameter.requires_grad for parameter in smaller.first.parameters())
    assert all(parameter.requires_grad for parameter in smaller.second.parameters())


def test_distillation_afterwards_helps_keeps_the_ranks_and_notes_its_curve(tiny):
    suite = tiny("lenet")
    bare, _ = treated(suite, {"ratio": 0.3})
    tuned, notes = treated(suite, {"ratio": 0.3, "epochs": 3})
    assert {name: value.shape for name, value in tuned.named_parameters()} == {
        name: value.shape for name, value in bare.named_parameters()
    }
    assert suite.accuracy(tuned) > suite.accuracy(bare)
    assert [len(curve) for curve in notes.curves.values()] == [3]
    assert any("the teacher's answers" in remark for remark in notes.remarks)


def test_training_continued_after_a_kill_ends_where_it_would_have(tiny, tmp_path, monkeypatch):
    suite, method = tiny("mlp"), LowRank(rank=3, epochs=2)
    whole = suite.apply(method)
    checkpoint, saved = tmp_path / "checkpoint.pt", training.save_checkpoint

    def killed(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    assert checkpoint.exists()
    monkeypatch.setattr(training, "save_checkpoint", saved)
    assert state_digest(suite.apply(method, checkpoint=checkpoint)) == state_digest(whole)


def test_an_unknown_name_to_ignore_is_told(tiny):
    with pytest.raises(ParamsError, match=r"ignore: .*'haed' \(did you mean 'head'\?\)"):
        tiny("mlp").apply(LowRank(rank=2, ignore=("haed",)))


BAD = [
    ({}, "energy: expected exactly one of energy, ratio, rank, budget, got none"),
    ({"ratio": 0.5, "rank": 3}, "energy: expected exactly one of .*got ratio and rank"),
    ({"energy": 1.0}, "energy: expected more than 0 and less than 1, got 1.0"),
    ({"ratio": 1.0}, "ratio: expected more than 0 and less than 1, got 1.0"),
    ({"budget": 0.0}, "budget: expected more than 0 and less than 1, got 0.0"),
    ({"rank": 0}, "rank: expected 1 or more, got 0"),
    ({"rank": 2, "kind": "tuker"}, r"kind: .*'tuker' \(did you mean 'tucker'\?\)"),
    ({"energy": 0.9, "kind": "cp"}, "energy: goes by singular values, .*got 0.9"),
    ({"budget": 0.5, "kind": "cp"}, "budget: goes by singular values"),
    ({"rank": 2, "epochs": -1}, "epochs: expected 0 or more, got -1"),
    ({"rank": 2, "learning_rate": 0.0}, "learning_rate: expected more than 0, got 0.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        LowRank(**options)
