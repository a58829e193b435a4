"""What channels and units are worth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.methods.channel_scores import Scorer, channel_axis, repeats, scored
from compression_gate.methods.dependencies import UNITS, graph_of
from compression_gate.modules.opened import opened

AXES = [
    (nn.Linear(2, 3), True, 0),
    (nn.Linear(2, 3), False, 1),
    (nn.ConvTranspose2d(2, 3, 1), True, 1),
    (nn.ConvTranspose2d(2, 3, 1), False, 0),
    (nn.Conv2d(4, 4, 1, groups=4), False, 0),
    (nn.Embedding(5, 3), True, 1),
]


@pytest.mark.parametrize(("layer", "outgoing", "axis"), AXES)
def test_channels_are_counted_along_the_axis_they_lie_on(layer, outgoing, axis):
    assert channel_axis(layer, outgoing) == axis


def test_a_grouped_convolution_holds_the_inputs_of_one_group_for_all():
    assert repeats(nn.Conv2d(8, 4, 1, groups=2), outgoing=False) == 2
    assert repeats(nn.Conv2d(8, 4, 1, groups=2), outgoing=True) == 1


def test_a_unit_is_worth_its_rows_in_every_gate_and_whatever_reads_it(tiny):
    suite = tiny("gru")
    apart = scored(opened(suite.reference), "l1", suite.context())
    graph = graph_of(apart, suite.context())
    units, head = apart.gru.units[1], suite.reference.head.weight
    group = graph.get_pruning_group(units, UNITS.prune_out_channels, list(range(16)))
    rows = sum(weight.abs().view(3, 16, 16).sum((0, 2)) for weight in (units.weight_ih, units.weight_hh))
    expected = rows + units.weight_hh.abs().sum(0) + head.abs().sum(0)
    torch.testing.assert_close(Scorer("l1", apart, suite.context())(group), expected.detach())
