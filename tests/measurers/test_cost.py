"""Exact costs against counts done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.measurers.cost import costs_of, stored_bytes
from compression_gate.modules.quantized import QuantizedLinear, quantized_type_of
from compression_gate.modules.quantized_weights import Scheme, quantized_weight


def test_a_convolution_and_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    model[2].weight.data[0] = 0
    costs = costs_of(model, torch.randn(3, 1, 8, 8))
    assert costs.parameters == 4 * 9 + 4 + 144 * 5 + 5
    assert costs.nonzeros == costs.parameters - 144
    assert costs.macs == 36 * 4 * 9 + 144 * 5
    assert costs.sparsity == 144 / costs.parameters


def test_a_recurrent_layer_is_counted():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(3, 5, batch_first=True)

        def forward(self, inputs):
            return self.layer(inputs)[0][:, -1]

    assert costs_of(Last(), torch.randn(2, 7, 3)).macs == 7 * 4 * 5 * (3 + 5)


def test_a_transformer_layer_is_counted_with_its_attention():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    projections, products, forward = 8 * 16 * 16 * 4, 2 * 4 * 8 * 8 * 4, 2 * 8 * 16 * 32
    assert costs_of(layer, torch.randn(3, 8, 16)).macs == projections + products + forward
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_integer_layer_counts_its_integers():
    layer = QuantizedLinear(6, 4, bias=True, bits=8)
    layer.weight_integers[0] = 3
    costs = costs_of(layer, torch.ones(2, 6))
    assert (costs.parameters, costs.nonzeros, costs.macs) == (28, 6, 24)


def test_tied_weights_count_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert costs_of(nn.Sequential(first, second), torch.ones(1, 4)).parameters == 16


def test_the_mode_of_every_module_is_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].eval()
    costs_of(model, torch.ones(1, 2))
    assert [part.training for part in model.modules()] == [True, False, True]


@pytest.mark.parametrize(
    ("bits", "narrowest", "file_bits"), [(8, 2, 8), (5, 2, 8), (4, 2, 4), (3, 2, 4), (2, 2, 2), (2, 4, 4), (4, 8, 8)]
)
def test_integers_take_the_bits_that_files_have(bits, narrowest, file_bits):
    layer = nn.Linear(16, 10)
    weight = quantized_weight(layer.weight, Scheme(bits=bits, granularity="per_tensor"), "minmax")
    quantized = quantized_type_of(layer).from_float(layer, {"weight": weight}, "float")
    scale, bias = 4, 4 * 10
    assert stored_bytes(nn.Sequential(quantized), narrowest) == 16 * 10 * file_bits // 8 + scale + bias
    assert stored_bytes(layer) == 4 * (16 * 10 + 10)
