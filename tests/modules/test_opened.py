"""Recurrent and attention layers taken apart and put together: nothing is lost, and what cannot be is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.opened import closed, obstacles, opened
from compression_gate.modules.surgery import state_digest

RECURRENT = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"num_layers": 2, "bias": False, "batch_first": True}),
    (nn.GRU, {"num_layers": 2, "batch_first": True}),
    (nn.GRU, {"bidirectional": True}),
    (nn.RNN, {"num_layers": 2, "nonlinearity": "relu"}),
    (nn.RNN, {"bidirectional": True}),
]


@pytest.mark.parametrize(("kind", "form"), RECURRENT)
@pytest.mark.parametrize("shape", [(5, 3, 6), (5, 6)])
def test_a_recurrent_layer_taken_apart_answers_as_before(kind, form, shape):
    model = nn.Sequential(kind(6, 4, **form)).eval()
    inputs = torch.randn(shape)
    expected, states = model(inputs)
    got, own = opened(model)(inputs)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(own, states)


@pytest.mark.parametrize(("kind", "form"), RECURRENT)
def test_what_was_taken_apart_and_put_together_is_what_it_was(kind, form):
    model = nn.Sequential(kind(6, 4, **form)).eval()
    again = closed(opened(model), model)
    assert type(again[0]) is kind
    assert state_digest(again) == state_digest(model)
    assert again[0].weight_ih_l0 is not model[0].weight_ih_l0


def test_attention_put_together_is_what_it_was_or_its_own_form_where_heads_are_missing():
    model = nn.TransformerEncoderLayer(8, 4, 16).eval()
    assert state_digest(closed(opened(model), model)) == state_digest(model)
    apart = opened(model)
    for part in (apart.self_attn.q_proj, apart.self_attn.k_proj, apart.self_attn.v_proj):
        part.weight, part.out_features = nn.Parameter(part.weight[:6]), 6
        part.bias = nn.Parameter(part.bias[:6])
    apart.self_attn.out_proj.weight = nn.Parameter(apart.self_attn.out_proj.weight[:, :6])
    attention = closed(apart, model).self_attn
    assert isinstance(attention, HeadAttention)
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (8, 3, 2)


def test_frozen_weights_stay_frozen():
    model = nn.Sequential(nn.LSTM(6, 4), nn.MultiheadAttention(8, 2))
    model[0].weight_hh_l0.requires_grad_(False)
    model[1].in_proj_weight.requires_grad_(False)
    apart = opened(model)
    assert not apart[0].units[0].weight_hh.requires_grad
    assert not apart[1].k_proj.weight.requires_grad
    again = closed(apart, model)
    frozen = [name for name, parameter in again.named_parameters() if not parameter.requires_grad]
    assert frozen == ["0.weight_hh_l0", "1.in_proj_weight"]


class Own(nn.LSTM):
    pass


class Calls(nn.Module):
    """Calls its layer as it is told."""

    def __init__(self, layer, calling):
        super().__init__()
        self.layer, self.calling = layer, calling

    def forward(self, inputs):
        return self.calling(self.layer, inputs)


def shared():
    layer = nn.LSTM(4, 4, num_layers=2)
    layer.weight_hh_l1 = layer.weight_hh_l0
    return layer


def packed(layer, inputs):
    return layer(nn.utils.rnn.pack_padded_sequence(inputs, [5, 4, 2]))[1][0]


OBSTACLES = [
    (nn.LSTM(4, 6, proj_size=2), lambda layer, inputs: layer(inputs)[0], "has proj_size"),
    (nn.LSTM(4, 4), lambda layer, inputs: layer(inputs, (torch.zeros(1, 3, 4),) * 2)[0], "given its first state"),
    (nn.GRU(4, 4), lambda layer, inputs: layer(inputs, hx=torch.zeros(1, 3, 4))[0], "given its first state"),
    (nn.GRU(4, 4), lambda layer, inputs: layer(layer(inputs)[0])[0], "calls it 2 times"),
    (nn.GRU(4, 4), lambda layer, inputs: inputs, "calls it 0 times"),
    (nn.LSTM(4, 4), packed, "packed sequence"),
    (Own(4, 4), lambda layer, inputs: layer(inputs)[0], "Own is a class of its own"),
    (shared(), lambda layer, inputs: layer(inputs)[0], "shares its weights"),
    (nn.MultiheadAttention(4, 2, add_zero_attn=True), lambda layer, x: layer(x, x, x)[0], "add_zero_attn"),
    (nn.MultiheadAttention(4, 2, add_bias_kv=True), lambda layer, x: layer(x, x, x)[0], "add_bias_kv"),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("layer", "calling", "reason"), OBSTACLES)
def test_what_keeps_a_layer_whole_is_told(layer, calling, reason):
    model = Calls(layer, calling).eval()
    found = obstacles(model, torch.randn(5, 3, 4))
    assert list(found) == ["layer"]
    assert reason in found["layer"]
    assert type(opened(model, found).layer) is type(layer)


def test_a_layer_called_once_without_a_state_has_no_obstacle():
    model = Calls(nn.LSTM(4, 4, 2, bidirectional=True), lambda layer, inputs: layer(inputs)[0])
    assert obstacles(model, torch.randn(5, 3, 4)) == {}
