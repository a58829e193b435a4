"""Integer weights: within their bits, no further from the weights than half a step, and never worse by search."""

from __future__ import annotations

import pytest
import torch

from compression_gate.errors import CompressionError
from compression_gate.modules.quantized_weights import Scheme, quantized_weight

SHAPES = [(6, 10), (4, 3, 3, 3), (5, 1, 3), (7, 4)]
CUTS = [
    {"granularity": "per_tensor"},
    {"granularity": "per_channel"},
    {"granularity": "per_group", "group_size": 4},
    {"granularity": "per_group", "group_size": 1000},
]


def weights(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) + 0.3


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_weight_is_further_than_half_a_step_from_its_integer(shape, cut, bits, symmetric):
    scheme = Scheme(bits=bits, symmetric=symmetric, **cut)
    held = quantized_weight(weights(shape), scheme, "minmax")
    assert held.integers.dtype == torch.int8
    assert held.integers.shape == shape
    assert scheme.lowest <= held.integers.min()
    assert held.integers.max() <= scheme.highest
    # A rounded zero point moves the range by up to half a step at either end.
    steps = (held.dequantized() - weights(shape)).abs() / scheme.spread(held.scale, shape)
    assert steps.max() <= (0.5 if symmetric else 1.0) + 1e-4


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_search_loses_less_than_minmax(cut, bits, symmetric):
    scheme = Scheme(bits=bits, symmetric=symmetric, **cut)
    errors = [
        float((quantized_weight(weights((16, 64)), scheme, fit).dequantized() - weights((16, 64))).square().sum())
        for fit in ("minmax", "mse")
    ]
    assert errors[1] < errors[0]


def test_finer_cuts_lose_less():
    errors = []
    for cut in (
        {"granularity": "per_tensor"},
        {"granularity": "per_channel"},
        {"granularity": "per_group", "group_size": 8},
    ):
        held = quantized_weight(weights((16, 64)), Scheme(bits=4, **cut), "mse")
        errors.append(float((held.dequantized() - weights((16, 64))).square().sum()))
    assert errors == sorted(errors, reverse=True)


def test_a_group_has_its_own_scale_and_a_short_one_too():
    weight = torch.tensor([[1.0, -1.0, 1.0, 100.0, -100.0, 50.0, 0.01]])
    held = quantized_weight(weight, Scheme(bits=8, granularity="per_group", group_size=3), "minmax")
    assert torch.allclose(held.scale * 127, torch.tensor([[1.0, 100.0, 0.01]]))
    assert torch.allclose(held.dequantized(), weight, rtol=0.01)


def test_two_bits_have_four_values_only_without_symmetry():
    counts = [
        len(quantized_weight(weights((40, 40)), Scheme(bits=2, symmetric=symmetric), "mse").integers.unique())
        for symmetric in (True, False)
    ]
    assert counts == [3, 4]


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(symmetric):
    weight = weights((8, 8))
    weight[weight.abs() < 0.5] = 0
    held = quantized_weight(weight, Scheme(bits=4, symmetric=symmetric), "mse")
    assert (held.dequantized()[weight == 0] == 0).all()


def test_weights_that_are_all_zero_stay_finite():
    assert (quantized_weight(torch.zeros(3, 4), Scheme(), "mse").dequantized() == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("fit", ["minmax", "mse"])
@pytest.mark.parametrize("size", [1e-8, 1e-13])
def test_small_weights_lose_no_more_of_themselves_than_large_ones(size, fit, symmetric):
    scheme, large = Scheme(bits=8, symmetric=symmetric), weights((6, 40))
    expected = (quantized_weight(large, scheme, fit).dequantized() - large).norm() / large.norm()
    small = large * size
    assert (quantized_weight(small, scheme, fit).dequantized() - small).norm() / small.norm() <= 1.05 * expected


def test_coarser_scales_keep_the_weights_within_half_a_step():
    held = quantized_weight(weights((6, 10)), Scheme(bits=8), "minmax")
    coarse = held.coarser(held.scale * torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, 5.0]))
    assert torch.equal(coarse.scale, held.scale * torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, 5.0]))
    assert ((coarse.dequantized() - held.dequantized()).abs() <= coarse.scale[:, None] / 2 + 1e-6).all()
    assert torch.equal(coarse.integers[:3], held.integers[:3])


BAD = [
    ({"bits": 1}, "bits: expected a whole number from 2 to 8, got 1"),
    ({"bits": 9}, "bits: .*got 9"),
    ({"bits": 4.0}, "bits: .*got 4.0"),
    ({"granularity": "per_row"}, "granularity: expected one of per_tensor, .*'per_row'"),
    ({"granularity": "per_group"}, "group_size: expected 1 or more for per_group, got None"),
    ({"granularity": "per_group", "group_size": 0}, "group_size: .*got 0"),
    ({"group_size": 32}, "group_size: expected none for per_channel, got 32"),
    ({"symmetric": 1}, "symmetric: expected true or false, got 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_a_scheme_that_cannot_be_is_refused(options, message):
    with pytest.raises(CompressionError, match=message):
        Scheme(**options)
