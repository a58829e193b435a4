"""Integer layers compute what their float layers do, within what rounding allows."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.modules.quantized import LAYER_TYPES, quantized_type_of
from compression_gate.modules.quantized_layer import LEVELS, StaticInput, affine
from compression_gate.modules.quantized_weights import Scheme, quantized_weight

LAYERS = {
    "linear": (lambda: nn.Linear(12, 5), (4, 12)),
    "linear without bias": (lambda: nn.Linear(12, 5, bias=False), (4, 7, 12)),
    "convolution in one dimension": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 4, 11)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (4, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same"), (4, 4, 9, 9)),
}


def quantized(layer, inputs, bits=8, per_channel=True):
    scheme = Scheme(bits=bits, granularity="per_channel" if per_channel else "per_tensor")
    scale, zero = affine(inputs.min().item(), inputs.max().item())
    ranges = StaticInput(scale=scale, zero_point=zero, output_low=-1.0, output_high=1.0)
    weight = quantized_weight(layer.weight, scheme, "minmax")
    return quantized_type_of(layer).from_float(layer, {"weight": weight}, ranges)


@pytest.fixture(params=LAYERS)
def case(request):
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    return make().eval(), torch.randn(shape)


@pytest.mark.parametrize("per_channel", [True, False])
@torch.no_grad()
def test_eight_bits_come_close_to_the_float_layer(case, per_channel):
    layer, inputs = case
    expected = layer(inputs)
    given = quantized(layer, inputs, per_channel=per_channel)(inputs)
    assert (given - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("bits", range(2, 9))
@torch.no_grad()
def test_weights_stay_within_their_bits(case, bits):
    layer, inputs = case
    integers = quantized(layer, inputs, bits=bits).weight_integers
    assert integers.dtype == torch.int8
    assert integers.shape == layer.weight.shape
    assert integers.abs().max() == 2 ** (bits - 1) - 1


def test_constructor_arguments_are_json_and_rebuild_the_layer(case):
    layer, inputs = case
    first = quantized(layer, inputs)
    arguments = json.loads(json.dumps(first.constructor_arguments()))
    second = LAYER_TYPES[type(first).__name__](**arguments)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(inputs), second(inputs))
    assert second.constructor_arguments() == arguments


def test_the_float_layer_is_left_as_it_was(case):
    layer, inputs = case
    before = layer.weight.clone()
    quantized(layer, inputs, bits=2)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(CompressionError, match=f"bits: expected a whole number from 2 to 8, got {bits}"):
        LAYER_TYPES["QuantizedLinear"](in_features=1, out_features=1, bias=True, bits=bits)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 5.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0)])
def test_zero_is_represented_exactly(low, high):
    scale, zero_point = affine(low, high)
    assert 0 <= zero_point <= LEVELS
    assert scale > 0
    assert (0 - zero_point) * scale <= min(low, 0) + scale
    assert (LEVELS - zero_point) * scale >= max(high, 0) - scale


def test_a_channel_of_zeros_with_a_bias_keeps_its_bias_within_32_bits():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, 1e4)
    made = quantized(layer, torch.ones(1, 3))
    assert (layer.bias.abs() / (made.input_scale * made.weight_scale) <= 2**31 - 1).all()
    assert torch.allclose(made(torch.ones(1, 3)), layer.bias)
