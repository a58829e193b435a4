"""The curve of a gradual schedule, and what is exchanged on the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.methods.gradual_pruning import Ramp, cubic, exchange


def test_the_cubic_curve_starts_at_the_start_rises_and_arrives_before_the_last_quarter():
    curve = [cubic(step, 100, 0.2, 0.9) for step in range(101)]
    assert curve[0] == pytest.approx(0.2)
    assert curve == sorted(curve)
    assert curve[75] == curve[100] == pytest.approx(0.9)
    assert curve[10] - curve[0] > curve[70] - curve[60], "fast while there is much to spare"


def test_the_exchanged_share_starts_at_the_option_and_ends_at_nothing():
    ramp = Ramp(start=0.0, end=0.9, steps=1000, scope="local", regrowth=0.4)
    shares = [ramp.exchanged(step) for step in range(1001)]
    assert shares[0] == pytest.approx(0.4)
    assert shares == sorted(shares, reverse=True)
    assert shares[750:] == [0.0] * 251


def test_an_exchange_takes_the_smallest_weights_for_the_zeros_with_the_largest_gradient():
    weight = nn.Parameter(torch.tensor([[0.1, 2.0, 0.0], [3.0, 0.0, 4.0]]))
    weight.grad = torch.tensor([[9.0, 0.0, 0.5], [0.0, -0.6, 0.0]])
    zeros = weight.detach() == 0
    with torch.no_grad():
        exchange(weight, zeros, 0.25)
    assert zeros.tolist() == [[True, False, True], [False, False, False]]


def test_an_exchange_never_takes_more_than_there_are_zeros():
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    weight.grad = torch.ones(4)
    zeros = torch.zeros(4, dtype=torch.bool)
    with torch.no_grad():
        exchange(weight, zeros, 0.9)
    assert not zeros.any()
