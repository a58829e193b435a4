"""What left is ignored by whatever read it, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.methods.removal import difference, silence

LAYERS = [
    (nn.Linear(6, 4), torch.randn(2, 6)),
    (nn.Conv2d(6, 4, 3), torch.randn(2, 6, 5, 5)),
    (nn.Conv2d(6, 4, 3, groups=2), torch.randn(2, 6, 5, 5)),
    (nn.Conv1d(6, 9, 3, groups=3), torch.randn(2, 6, 5)),
    (nn.ConvTranspose2d(6, 4, 3), torch.randn(2, 6, 5, 5)),
    (nn.ConvTranspose2d(6, 4, 3, groups=2), torch.randn(2, 6, 5, 5)),
]


@torch.no_grad()
@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_a_silenced_layer_answers_as_if_the_channels_were_zero(layer, inputs):
    zeroed = inputs.clone()
    zeroed[:, [1, 4]] = 0
    expected = layer(zeroed)
    silence(layer, torch.tensor([1, 4]))
    torch.testing.assert_close(layer(inputs), expected)


def test_models_that_differ_are_told_apart_and_norms_across_channels_are_no_difference(tiny):
    suite = tiny("bidirectional")
    other = tiny("bidirectional").reference
    assert difference(suite.reference, other, suite.context()) is None
    other.norm.weight.data.mul_(2)
    assert difference(suite.reference, other, suite.context()) is None
    other.head.weight.data[:, 3].mul_(3)
    assert "answers otherwise" in difference(suite.reference, other, suite.context())
