"""N:M patterns: how they are read, and along which axis they lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compression_gate.methods.sparsity_patterns import lowest_of_groups, misfit, parsed

PATTERNS = [("2:4", (2, 4)), ("1:64", (1, 64)), ("4:4", None), ("0:4", None), ("1:65", None), ("2-4", None), ("", None)]


@pytest.mark.parametrize(("text", "expected"), PATTERNS)
def test_a_pattern_is_two_numbers_the_first_smaller(text, expected):
    assert parsed(text) == expected


MISFITS = [
    (nn.Linear(8, 3), None),
    (nn.Linear(6, 8), "2:4 needs inputs in multiples of 4: it has 6"),
    (nn.Conv2d(8, 6, 3), None),
    (nn.Conv2d(8, 8, 3, groups=8), "2:4 needs inputs in multiples of 4: it has 1"),
    (nn.ConvTranspose2d(8, 6, 3), None),
    (nn.ConvTranspose2d(8, 6, 3, groups=2), None),
    (nn.ConvTranspose2d(12, 6, 3, groups=2), "2:4 needs inputs in multiples of 4: it has 6"),
    (nn.Bilinear(8, 8, 4), "2:4 needs one input axis: Bilinear has none"),
    (nn.Embedding(8, 8), "2:4 needs one input axis: Embedding has none"),
]


@pytest.mark.parametrize(("layer", "expected"), MISFITS)
def test_a_layer_that_a_pattern_does_not_fit_is_told(layer, expected):
    assert misfit(layer, layer.weight, "2:4") == expected


@given(st.integers(1, 3), st.sampled_from([0, 1, 2]), st.integers(0, 1000))
def test_every_group_keeps_its_best_along_any_axis(kept, axis, seed):
    scores = torch.rand(4, 8, 12, generator=torch.Generator().manual_seed(seed))
    mask = lowest_of_groups(scores, axis, f"{kept}:4")
    rows, zeros = (value.movedim(axis, -1).reshape(-1, 4) for value in (scores, mask))
    assert (zeros.sum(1) == 4 - kept).all()
    assert (rows.masked_fill(zeros, 2).min(1).values >= rows.masked_fill(~zeros, -1).max(1).values).all()
