"""What is worth least."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.methods.rankings import lowest, lowest_of


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.floats(0, 0.99))
def test_the_lowest_share_is_a_floor_and_holds_nothing_above_what_stays(values, part):
    scores = torch.tensor(values)
    mask = lowest_of(scores, part)
    assert int(mask.sum()) == int(part * len(values) + 1e-9)
    assert not mask.any() or mask.all() or scores[mask].max() <= scores[~mask].min()


def test_a_global_share_may_take_all_of_one_tensor():
    scores = {"small": torch.tensor([[0.1, 0.2]]), "large": torch.tensor([3.0, 4.0])}
    found = lowest(scores, 0.5, "global")
    assert found["small"].tolist() == [[True, True]]
    assert not found["large"].any()
