"""Finding and replacing layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.modules.surgery import leaves, replace, state_digest, ties, unknown_weights, weights


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.two = self.one
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.one[0].weight
        self.own = nn.Parameter(torch.ones(2, 2))


def test_leaves_names_each_layer_once():
    assert [name for name, _ in leaves(Shared(), nn.Linear)] == ["one.0", "tied"]


def test_leaves_inside_attention_are_left_out():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    assert [name for name, _ in leaves(model, nn.Linear)] == ["linear1", "linear2"]


def test_replace_puts_the_layer_under_all_names_of_the_old_one():
    model, new = Shared(), nn.Identity()
    replace(model, "two.0", new)
    assert model.one[0] is new
    replace(model, "one", new)
    assert model.one is model.two is new


@pytest.mark.parametrize("name", ["", "three", "one.7"])
def test_replacing_what_is_not_there_is_an_error(name):
    with pytest.raises(CompressionError, match="expected the name of a module"):
        replace(Shared(), name, nn.Identity())


def test_ties_are_the_names_of_one_parameter():
    assert ties(Shared()) == (("one.0.weight", "two.0.weight", "tied.weight"), ("one.0.bias", "two.0.bias"))
    assert ties(nn.Linear(2, 2)) == ()


def test_weights_are_matrices_and_kernels_of_known_layers():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(2, 3), nn.MultiheadAttention(4, 2, add_bias_kv=True)
    )
    assert list(weights(model)) == [
        *("0.weight", "2.weight_ih_l0", "2.weight_hh_l0"),
        *("3.in_proj_weight", "3.out_proj.weight"),
    ]
    assert list(weights(Shared())) == ["one.0.weight"]
    assert unknown_weights(Shared()) == {
        "own": "belongs to Shared: expected a layer type of torch.nn: write it with such layers, or leave it as it is"
    }


def test_the_digest_follows_every_number_and_name():
    model = nn.Linear(2, 2)
    before = state_digest(model)
    assert state_digest(model) == before
    with torch.no_grad():
        model.bias[0] += 1e-6
    assert state_digest(model) != before
