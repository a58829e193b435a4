"""Disturbed inputs: the same for an example wherever it stands, as strong as asked, refused where they mean nothing."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import MeasurementError
from compression_gate.measurers import robustness
from compression_gate.measurers.robustness import DISTURB, Disturbance, Spread
from compression_gate.records.params import Perturbation
from compression_gate.records.perturbation_table import PERTURBATIONS
from compression_gate.tasks.task import Batch

COUNT = 12
IDS = [f"test:{index}" for index in range(COUNT)]
SHAPES = {"images": (3, 8, 6), "sequences": (20, 4), "signals": (30,)}
TENSORS = {
    name: torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(index))
    for index, (name, shape) in enumerate(SHAPES.items())
}
SPREADS = {name: Spread.of(robustness.moments_of(values)) for name, values in TENSORS.items()}

kinds = st.sampled_from(list(DISTURB))
forms = st.sampled_from(list(TENSORS))
strengths = st.floats(0.2, 1)
orders = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=2 * COUNT)


def disturbance(kind, strength=0.5, ids=IDS, spreads=SPREADS):
    return Disturbance(perturbation=Perturbation(name=kind, strength=strength), ids=ids, spreads=spreads)


def disturbed(kind, form, strength=0.5, order=range(COUNT)):
    return disturbance(kind, strength)({form: TENSORS[form][list(order)]}, order)[form]


def test_every_name_has_a_function_and_a_summary():
    assert list(DISTURB) == list(PERTURBATIONS) == list(get_args(Perturbation.model_fields["name"].annotation))


@given(kinds, forms, strengths, orders)
def test_an_example_is_disturbed_the_same_way_in_every_batch(kind, form, strength, order):
    assert torch.equal(disturbed(kind, form, strength, order), disturbed(kind, form, strength)[order])


@given(kinds, forms, strengths)
def test_shape_type_and_range_are_kept_and_the_input_is_untouched(kind, form, strength):
    before = TENSORS[form].clone()
    after = disturbed(kind, form, strength)
    assert torch.equal(TENSORS[form], before)
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    assert before.min() <= after.min()
    assert after.max() <= before.max()
    assert not torch.equal(after, before)


@given(st.sampled_from(["gaussian_noise", "brightness"]), forms, st.floats(1e-9, 1e-6))
def test_a_strength_near_zero_is_near_the_input(kind, form, strength):
    torch.testing.assert_close(disturbed(kind, form, strength), TENSORS[form], atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", TENSORS)
@pytest.mark.parametrize("kind", DISTURB)
def test_other_ids_are_disturbed_in_another_way(kind, form):
    same = TENSORS[form][:1].expand(COUNT, *SHAPES[form])
    after = disturbance(kind)({form: same}, range(COUNT))[form].flatten(1)
    assert len(torch.unique(after, dim=0)) > 1


def test_noise_has_the_strength_asked_for():
    values = torch.zeros(50, 1, 40, 40)
    wide = Spread(low=-100, high=100, deviation=2.0)
    draws = [robustness.generator("gaussian_noise", "input", str(index)) for index in range(50)]
    noise = robustness.gaussian_noise(values, draws, 0.25, wide)
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)


def test_brightness_moves_every_value_of_an_example_by_the_share_of_the_range():
    values = torch.zeros(20, 3, 4, 4)
    draws = [robustness.generator("brightness", "input", str(index)) for index in range(20)]
    offsets = robustness.brightness(values, draws, 0.25, Spread(low=-1, high=3, deviation=1)).flatten(1)
    assert torch.equal(offsets, offsets[:, :1].expand_as(offsets))
    assert set(offsets[:, 0].tolist()) == {-1.0, 1.0}


def test_a_shift_moves_the_content_and_repeats_the_edge():
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    padded = np.pad(image[0, 0].numpy(), ((2, 2), (3, 3)), mode="edge")
    for example in IDS:
        after = robustness.shift(image, [robustness.generator("shift", "", example)], 0.5, SPREADS["images"])
        down, right = robustness.drawn_move(robustness.generator("shift", "", example), (2, 3))
        assert np.array_equal(after[0, 0].numpy(), padded[2 - down : 6 - down, 3 - right : 9 - right])


def test_every_move_within_reach_is_drawn_and_none_stays():
    moves = {robustness.drawn_move(robustness.generator("shift", "", str(index)), (1, 2)) for index in range(400)}
    assert moves == {(down, right) for down in (-1, 0, 1) for right in range(-2, 3)} - {(0, 0)}


@pytest.mark.parametrize(("length", "strength", "most"), [(28, 0.1, 2), (100, 0.29, 29), (10, 0.1, 1), (9, 0.1, 0)])
def test_the_longest_move_is_the_share_of_the_axis(length, strength, most):
    assert robustness.reach(torch.zeros(1, length, 2), strength) == (most,)


def test_a_sequence_moves_along_time_with_all_its_features():
    ramp = torch.arange(20.0)[None, :, None] + torch.tensor([0.0, 100.0])
    draw = robustness.generator("shift", "input", "a")
    after = robustness.shift(ramp, [draw], 0.2, SPREADS["sequences"])
    assert torch.equal(after[..., 1] - after[..., 0], torch.full((1, 20), 100.0))
    assert not torch.equal(after, ramp)


def test_dropout_takes_its_share_of_pixels_from_all_channels():
    values = torch.ones(COUNT, 3, 8, 6)
    draws = [robustness.generator("dropout", "input", one) for one in IDS]
    gone = robustness.dropout(values, draws, 0.25, Spread(low=0, high=1, deviation=1)) == 0
    assert gone.sum((2, 3)).eq(12).all()
    assert torch.equal(gone[:, 0], gone[:, 1])


@given(st.integers(1, 99), forms)
def test_more_dropout_takes_what_less_of_it_took(percent, form):
    values = torch.ones(COUNT, *SHAPES[form])
    spread = Spread(low=0, high=1, deviation=1)
    less, more = (
        robustness.dropout(values, [robustness.generator("dropout", form, one) for one in IDS], share / 100, spread)
        for share in (percent, percent + 1)
    )
    assert (more <= less).all()


def test_whole_frames_are_dropped():
    frames = disturbed("dropout", "sequences").eq(0)
    assert torch.equal(frames.any(2), frames.all(2))
    assert frames.all(2).sum(1).eq(10).all()


def test_where_zero_is_out_of_range_the_nearest_value_is_dropped_to():
    values = torch.full((1, 10), 5.0)
    draw = robustness.generator("dropout", "input", "a")
    assert robustness.dropout(values, [draw], 0.5, Spread(low=2, high=5, deviation=1)).min() == 2


def test_padding_at_the_end_changes_nothing_of_the_noise_before_it():
    short = TENSORS["sequences"]
    long = torch.cat([short, torch.zeros(COUNT, 7, 4)], 1)
    after = disturbance("gaussian_noise")({"sequences": long}, range(COUNT))["sequences"]
    assert torch.equal(after[:, :20], disturbed("gaussian_noise", "sequences"))


def test_the_spread_is_of_the_whole_split_and_not_of_batches():
    values = TENSORS["images"]
    whole = Spread.of(robustness.moments_of(values))
    parts = Spread.of(np.concatenate([robustness.moments_of(part) for part in values.split(5)]))
    assert whole == parts
    assert whole.deviation == pytest.approx(values.double().std(correction=0).item(), rel=1e-12)
    assert (whole.low, whole.high) == (values.min().item(), values.max().item())


def test_only_floating_inputs_are_disturbed():
    inputs = {"ids": torch.arange(COUNT * 20).reshape(COUNT, 20), "sequences": TENSORS["sequences"]}
    after = disturbance("gaussian_noise")(inputs, range(COUNT))
    assert list(after) == ["ids", "sequences"]
    assert after["ids"] is inputs["ids"]
    assert not torch.equal(after["sequences"], inputs["sequences"])


def test_two_inputs_of_one_shape_get_noise_of_their_own():
    pair = {"left": TENSORS["signals"], "right": TENSORS["signals"]}
    after = disturbance("gaussian_noise", spreads=dict.fromkeys(pair, SPREADS["signals"]))(pair, range(COUNT))
    assert not torch.equal(after["left"], after["right"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("kind", DISTURB)
def test_every_floating_type_is_kept(kind, dtype):
    values = TENSORS["images"].to(dtype)
    spreads = {"images": Spread.of(robustness.moments_of(values))}
    after = disturbance(kind, spreads=spreads)({"images": values}, range(COUNT))["images"]
    assert after.dtype == dtype
    assert values.min() <= after.min()


class Examples:
    """A task whose only split holds these inputs, in batches of five."""

    def __init__(self, inputs):
        self.inputs = inputs
        self.ids = [str(index) for index in range(len(self))]

    def __len__(self):
        return len(next(iter(self.inputs.values())))

    def split(self, name):
        return self

    def batches(self, name, size):
        for places in torch.arange(len(self)).split(5):
            inputs = {name: value[places] for name, value in self.inputs.items()}
            yield Batch(inputs=inputs, targets=places, positions=places)


REFUSED = [  # perturbation, strength, inputs, message
    ("gaussian_noise", 0.1, {"input_ids": torch.ones(4, 12, dtype=torch.int64)}, r"input_ids torch\.int64 \(4, 12\)"),
    ("dropout", 0.1, {"input": torch.ones(4, 3, 8, 8, dtype=torch.uint8)}, r"torch\.uint8 .* return floats"),
    ("shift", 0.1, {"input": torch.randn(4)}, r"expected an input of floating numbers \(N, T, …\)"),
    ("shift", 0.1, {"input": torch.randn(4, 1, 8, 8)}, "moves by one place at least, got 0.1"),
    ("dropout", 0.01, {"input": torch.randn(4, 8, 2)}, "takes one place at least, got 0.01"),
    ("brightness", 0.1, {"input": torch.ones(4, 8)}, "expected inputs that differ"),
]


@pytest.mark.parametrize(("kind", "strength", "inputs", "message"), REFUSED)
def test_what_would_disturb_nothing_is_refused(kind, strength, inputs, message):
    wanted = [Perturbation(name=kind, strength=strength)]
    with pytest.raises(MeasurementError, match=f"params.yaml: evaluate.perturbations.*{message}"):
        robustness.disturbances_of(wanted, Examples(inputs), "test")


def test_nothing_is_read_where_no_perturbation_is_asked_for():
    assert robustness.disturbances_of((), None, "test") == {}
