"""Channels that really leave, and everything that must not."""

from __future__ import annotations

import pytest
import torch

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.structured_pruning import StructuredPruning, chosen
from compression_gate.modules.structure import load_model, save_model
from compression_gate.modules.surgery import state_digest

IMPORTANCES = ("l1", "l2", "taylor", "activation", "norm_scale", "random")


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_halves_the_channels_of_a_network_with_norms(tiny, importance):
    suite = tiny("resnet")
    pruned = suite.apply(StructuredPruning(importance=importance))
    assert (pruned.stem.out_channels, pruned.norm.num_features, pruned.blocks[1].out_channels) == (4, 4, 6)
    assert pruned.head.in_features == 6


def test_depthwise_convolutions_shrink_with_their_neighbours(tiny):
    pruned = tiny("mobilenet").apply(StructuredPruning())
    depthwise = pruned.blocks[0].depthwise[0]
    assert (depthwise.groups, depthwise.in_channels, depthwise.weight.shape[0]) == (12, 12, 12)


def test_the_outputs_of_the_model_stay_and_are_named(tiny):
    suite = tiny("mlp")
    context = suite.context()
    pruned = StructuredPruning(pruning_ratio=0.9).apply(suite.reference, context)
    assert pruned.head.out_features == suite.reference.head.out_features
    assert context.notes.uncovered == {"head": "its outputs are the model's outputs"}
    assert context.notes.covered == ["first", "second"]


def test_attention_loses_the_same_number_of_dimensions_in_each_head(tiny, tmp_path):
    suite = tiny("transformer")
    pruned = suite.apply(StructuredPruning())
    attention = pruned.encoder.self_attn
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (8, 4, 2)
    assert pruned.place.shape == (1, 8, 8)
    save_model(pruned, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(pruned))


def test_recurrent_layers_are_named_and_everything_around_them_still_runs(tiny):
    suite = tiny("recurrent")
    context = suite.context()
    pruned = StructuredPruning().apply(suite.reference, context)
    assert context.notes.covered == ["hidden"]
    assert "LSTM" in context.notes.uncovered["lstm"]
    assert "lstm" in context.notes.uncovered["embed"]
    assert suite.outputs(pruned).shape == (32, 4)


def test_layers_that_share_a_weight_keep_it_and_are_named(tiny):
    suite = tiny("tied")
    context = suite.context()
    pruned = StructuredPruning().apply(suite.reference, context)
    assert pruned.again.weight is pruned.middle.weight
    assert "shares its weights" in context.notes.uncovered["middle"]
    assert pruned.wide.out_features == 12


def test_ignored_modules_keep_their_channels(tiny):
    suite = tiny("resnet")
    context = suite.context()
    pruned = StructuredPruning(ignore=("blocks.3",)).apply(suite.reference, context)
    assert pruned.blocks[3].first.out_channels == suite.reference.blocks[3].first.out_channels
    assert "ignore" in context.notes.uncovered["blocks.3.first"]
    assert pruned.blocks[0].first.out_channels == 4


def test_an_unknown_name_to_ignore_is_told_with_its_nearest(tiny):
    with pytest.raises(ParamsError, match=r"ignore: .*'blocks\.9'.*blocks"):
        tiny("resnet").apply(StructuredPruning(ignore=("blocks.9",)))


def test_norm_scale_without_norms_is_refused_with_the_reason(tiny):
    with pytest.raises(CompressionError, match=r"no channel can be removed.*first: importance norm_scale"):
        tiny("mlp").apply(StructuredPruning(importance="norm_scale"))


def test_round_to_keeps_multiples_and_at_least_one(tiny):
    pruned = tiny("lenet").apply(StructuredPruning(pruning_ratio=0.7, round_to=4))
    assert (pruned.first.out_channels, pruned.second.out_channels) == (4, 4)


KEPT = [
    (10, 0.5, 1, 5),
    (10, 0.9, 1, 1),
    (10, 0.99, 1, 1),
    (3, 0.5, 1, 2),
    (10, 0.0, 1, 10),
    (64, 0.5, 1, 32),
    (12, 0.5, 8, 8),
]


@pytest.mark.parametrize(("channels", "ratio", "round_to", "kept"), KEPT)
def test_the_share_removed_never_exceeds_the_ratio_and_one_channel_stays(channels, ratio, round_to, kept):
    options = StructuredPruning(pruning_ratio=ratio, round_to=round_to)
    assert channels - len(chosen(torch.rand(channels), 1, options)) == kept


def test_the_lowest_scores_leave():
    assert chosen(torch.tensor([3.0, 1.0, 2.0, 4.0]), 1, StructuredPruning(pruning_ratio=0.5)) == [1, 2]


def test_parts_that_must_shrink_alike_lose_the_same_places():
    leaving = chosen(torch.tensor([9.0, 1.0, 8.0, 2.0]), 2, StructuredPruning(pruning_ratio=0.5))
    assert leaving == [1, 3]


def test_a_random_choice_follows_the_seed(tiny):
    suite = tiny("mlp")
    other = suite.params.train.model_copy(update={"seed": 5})
    method = StructuredPruning(importance="random")
    one, two = suite.apply(method), suite.apply(method)
    three = method.apply(
        suite.reference, type(suite.context())(task=suite.task, reference=suite.reference, train=other)
    )
    assert state_digest(one) == state_digest(two) != state_digest(three)


def test_frozen_weights_stay_frozen(tiny):
    suite = tiny("mlp")
    suite.reference.first.weight.requires_grad_(False)
    pruned = suite.apply(StructuredPruning())
    assert not pruned.first.weight.requires_grad
    assert pruned.second.weight.requires_grad


def test_l2_hurts_less_than_it_removes_and_distillation_brings_it_back(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(StructuredPruning())
    assert suite.accuracy(suite.apply(Distillation(epochs=3), pruned)) >= suite.accuracy(suite.reference) - 0.1


BAD = [
    ({"pruning_ratio": 1.0}, "pruning_ratio: expected 0 or more and less than 1, got 1.0"),
    ({"pruning_ratio": float("nan")}, "pruning_ratio: .*nan"),
    ({"importance": "tailor"}, r"importance: expected one of l1, .*got 'tailor' \(did you mean 'taylor'\?\)"),
    ({"round_to": 0}, "round_to: expected 1 or more, got 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        StructuredPruning(**options)
