"""Recurrent layers on integers are called as torch's are, and compute what torch's compute with the same weights."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from compression_gate.errors import CompressionError
from compression_gate.modules.quantized import LAYER_TYPES, quantized_type_of
from compression_gate.modules.quantized_weights import Scheme, quantized_weight

FORMS = {
    "one layer": {"batch_first": True},
    "two layers, time first": {"num_layers": 2},
    "both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
}


@pytest.fixture(params=[nn.LSTM, nn.GRU])
def kind(request):
    return request.param


def pair(kind, inputs="float", **form):
    """An integer layer, and torch's own with the weights that the integers stand for."""
    torch.manual_seed(0)
    layer = kind(5, 6, **form).eval()
    names = [name for name, _ in layer.named_parameters() if name.startswith("weight")]
    scheme = Scheme(bits=4, granularity="per_group", group_size=4) if inputs == "float" else Scheme()
    held = {name: quantized_weight(layer.get_parameter(name), scheme, "mse") for name in names}
    made = quantized_type_of(layer).from_float(layer, held, inputs)
    with torch.no_grad():
        for name in names:
            layer.get_parameter(name).copy_(held[name].dequantized())
    return made, layer


def flat(result):
    outputs, state = result
    return [outputs, *(state if isinstance(state, tuple) else (state,))]


def same(one, other, tolerance=1e-6):
    return all(torch.allclose(a, b, atol=tolerance) for a, b in zip(flat(one), flat(other), strict=True))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_it_computes_what_torchs_own_layer_does(kind, form):
    made, layer = pair(kind, **FORMS[form])
    inputs = torch.randn(3, 7, 5)
    assert same(made(inputs), layer(inputs))
    state = layer(inputs)[1]
    assert same(made(inputs, state), layer(inputs, state))
    assert same(made(inputs[:, 0]), layer(inputs[:, 0])), "one sequence without a batch axis"


@torch.no_grad()
def test_packed_sequences_are_taken(kind):
    made, layer = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    packed = pack_padded_sequence(torch.randn(3, 7, 5), torch.tensor([4, 7, 2]), batch_first=True, enforce_sorted=False)
    (outputs, state), (expected, last) = made(packed), layer(packed)
    unpacked = pad_packed_sequence(outputs, batch_first=True)[0], state
    assert same(unpacked, (pad_packed_sequence(expected, batch_first=True)[0], last))
    assert same((made(packed, last)[0].data, state), (layer(packed, last)[0].data, last))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_inputs_rounded_at_run_time_stay_close(form):
    made, layer = pair(nn.LSTM, inputs="dynamic", **FORMS[form])
    inputs = torch.randn(3, 7, 5)
    assert same(made(inputs), layer(inputs), tolerance=0.03)
    assert not same(made(inputs), layer(inputs), tolerance=1e-6), "nothing was rounded"


def test_packed_sequences_are_refused_where_inputs_are_rounded():
    made, _ = pair(nn.LSTM, inputs="dynamic", batch_first=True)
    packed = pack_padded_sequence(torch.randn(2, 3, 5), torch.tensor([3, 2]), batch_first=True)
    with pytest.raises(CompressionError, match=r"packed sequences: expected padded ones.*pad and mask"):
        made(packed)


def test_a_gru_has_no_form_with_rounded_inputs():
    with pytest.raises(CompressionError, match="inputs: expected one of float, got 'dynamic'"):
        pair(nn.GRU, inputs="dynamic")


@pytest.mark.parametrize("form", FORMS)
def test_constructor_arguments_are_json_and_rebuild_the_layer(kind, form):
    made, _ = pair(kind, **FORMS[form])
    arguments = json.loads(json.dumps(made.constructor_arguments()))
    again = LAYER_TYPES[type(made).__name__](**arguments)
    again.load_state_dict(made.state_dict())
    inputs = torch.randn(3, 7, 5)
    assert all(torch.equal(a, b) for a, b in zip(flat(made(inputs)), flat(again(inputs)), strict=True))
