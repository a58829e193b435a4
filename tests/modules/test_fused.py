"""Averaging of several models' answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from compression_gate.modules.fused import Fused

INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def members():
    torch.manual_seed(0)
    return [nn.Linear(6, 4) for _ in range(3)]


def test_logits_are_averaged(members):
    expected = sum(member(INPUTS) for member in members) / 3
    assert torch.allclose(Fused(members)(INPUTS), expected, atol=1e-6)


def test_probabilities_are_averaged(members):
    expected = sum(functional.softmax(member(INPUTS), 1) for member in members) / 3
    assert torch.allclose(functional.softmax(Fused(members, "probabilities")(INPUTS), 1), expected, atol=1e-6)


def test_probabilities_that_vanish_stay_finite(members):
    answers = Fused(members, "probabilities")(INPUTS * 1e5)
    assert torch.isfinite(answers).all()


class Answering(nn.Module):
    """Takes named inputs and returns an object with logits."""

    def forward(self, ids, mask):
        return SimpleNamespace(logits=ids * mask)


def test_named_inputs_and_objects_pass_through():
    fused = Fused([Answering(), Answering()])
    assert torch.equal(fused(ids=INPUTS, mask=torch.ones(6)), INPUTS)
