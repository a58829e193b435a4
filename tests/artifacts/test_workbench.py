"""What is counted between two steps."""

from __future__ import annotations

from torch import nn

from compression_gate.artifacts.workbench import layer_bytes


def test_a_tied_weight_is_counted_once():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "out": nn.Linear(4, 10)})
    model["out"].weight = model["embed"].weight
    assert layer_bytes(model) == {"embed": 160, "out": 40}
