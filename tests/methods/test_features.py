"""Which layers are compared, and how what they give is made comparable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.methods.features import (
    aligned,
    captured,
    distance,
    layer_pairs,
    projected,
    projections,
    shaped,
)
from compression_gate.methods.structured_pruning import StructuredPruning

# Kind of model, and the pairs that are chosen where none are named.
CHOSEN = {
    "mlp": (("second", "second"),),
    "lenet": (("second", "second"), ("hidden", "hidden")),
    "resnet": (("blocks.1.shortcut.0", "blocks.1.shortcut.0"), ("blocks.1.second", "blocks.1.second")),
    "tokens": (("hidden", "hidden"),),
    "recurrent": (("lstm", "lstm"), ("hidden", "hidden")),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_the_middle_and_the_last_hidden_layer_are_chosen(tiny, kind):
    suite = tiny(kind)
    assert layer_pairs(suite.factory, suite.reference, (), suite.task.example_inputs(2)) == CHOSEN[kind]


@pytest.mark.parametrize("kind", ["transformer", "mobilenet", "tied"])
def test_layers_are_found_in_any_model(tiny, kind):
    suite = tiny(kind)
    inputs = suite.task.example_inputs(2)
    pairs = layer_pairs(suite.factory, suite.reference, (), inputs)
    assert pairs
    assert all(own == other for own, other in pairs)
    assert len(projections(suite.factory, suite.reference, pairs, inputs)) == len(pairs)


def test_models_of_other_names_are_paired_by_depth(tiny):
    suite, other = tiny("lenet"), tiny("mlp")
    pairs = layer_pairs(suite.reference, other.reference, (), suite.task.example_inputs(2))
    assert pairs == (("second", "second"), ("hidden", "second"))


NAMES = [  # pairs, message
    ([("secnd", "second")], r"layers: the student has no module 'secnd' \(did you mean 'second'\?\): expected one of "),
    ([("second", "third")], r"layers: the teacher has no module 'third'.*: expected one of first, second, head"),
]


@pytest.mark.parametrize(("pairs", "message"), NAMES)
def test_a_layer_that_is_not_there_is_named(tiny, pairs, message):
    suite = tiny("mlp")
    with pytest.raises(CompressionError, match=message):
        layer_pairs(suite.reference, suite.reference, tuple(pairs), suite.task.example_inputs(2))


def test_a_layer_that_is_never_called_is_named(tiny):
    suite = tiny("mlp")
    suite.reference.spare = nn.Linear(3, 3)
    with pytest.raises(CompressionError, match=r"the student's 'spare': expected features .* got nothing"):
        layer_pairs(suite.reference, suite.reference, (("spare", "first"),), suite.task.example_inputs(2))


def test_projections_are_learned_only_where_channels_differ(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(StructuredPruning(pruning_ratio=0.5, ignore=("hidden",)))
    first, second = projections(
        pruned, suite.reference, (("second", "second"), ("hidden", "hidden")), suite.task.example_inputs(2)
    )
    assert (first.in_features, first.out_features) == (6, 12)
    assert isinstance(second, nn.Identity)


def test_a_projection_acts_on_channels_at_every_place():
    layer, values = nn.Linear(3, 5), torch.randn(2, 3, 4, 4)
    convolution = nn.functional.conv2d(values, layer.weight[:, :, None, None], layer.bias)
    assert torch.allclose(projected(values, layer), convolution, atol=1e-6)


def test_features_of_sequences_have_their_channels_last(tiny):
    suite = tiny("recurrent")
    with captured(suite.reference, ["lstm"]) as seen, torch.no_grad():
        suite.reference(suite.task.example_inputs(2))
    assert seen["lstm"].shape == (2, 8, 16)
    assert shaped(suite.reference, seen)["lstm"].shape == (2, 16, 8)


SIZES = [  # own, other, both become
    ((2, 3, 8, 8), (2, 3, 4, 6), (2, 3, 4, 6)),
    ((2, 3, 4, 8), (2, 3, 8, 4), (2, 3, 4, 4)),
    ((2, 3, 9), (2, 3, 5), (2, 3, 5)),
    ((2, 3, 4, 4), (2, 3), (2, 3)),
]


@pytest.mark.parametrize(("own", "other", "expected"), SIZES)
def test_sizes_in_space_are_averaged_to_the_smaller(own, other, expected):
    assert [value.shape for value in aligned(torch.ones(own), torch.ones(other))] == [expected, expected]


def test_the_distance_is_a_share_of_the_teachers_mean_square():
    own, other = torch.zeros(4, 3), torch.full((4, 3), 7.0)
    assert float(distance(own, other)) == pytest.approx(1)
    assert float(distance(other, other)) == 0


def test_hooks_are_gone_afterwards(tiny):
    suite = tiny("mlp")
    with captured(suite.reference, ["first"]) as seen:
        pass
    suite.reference(suite.task.example_inputs(2))
    assert seen == {}
