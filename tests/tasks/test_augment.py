"""Augmentation: seeded, per example, shape kept, and refused where it makes no sense."""

import pytest
import torch

from compression_gate.errors import TaskError
from compression_gate.tasks.augment import AUGMENTATIONS, augmented

IMAGES = torch.rand(16, 3, 12, 10, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_same_seed_gives_the_same_images_and_another_gives_others(name):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augmented(IMAGES, [name]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == IMAGES.shape


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_given_are_left_as_they_were(name):
    before = IMAGES.clone()
    augmented(IMAGES, [name])
    assert torch.equal(before, IMAGES)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS.keys() - {"noise"}))
def test_every_example_has_a_draw_of_its_own(name):
    torch.manual_seed(0)
    same = IMAGES[:1].expand(16, -1, -1, -1).contiguous()
    assert len({tuple(image.flatten().tolist()) for image in augmented(same, [name])}) > 1


def test_flip_mirrors_left_and_right_only():
    torch.manual_seed(0)
    for before, after in zip(IMAGES, augmented(IMAGES, ["flip"]), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


def test_erase_sets_one_rectangle_to_zero_and_leaves_the_rest():
    torch.manual_seed(0)
    after = augmented(IMAGES, ["erase"])
    hole = after == 0
    assert torch.equal(after[~hole], IMAGES[~hole])
    assert 0 < int(hole.flatten(1).any(1).sum()) < 16
    for one in hole.any(1):
        assert torch.equal(one, one.any(1, keepdim=True) & one.any(0, keepdim=True))


def test_none_named_changes_nothing():
    assert augmented(IMAGES, ()) is IMAGES


def test_order_is_that_of_the_params():
    results = []
    for names in (("noise", "erase"), ("erase", "noise")):
        torch.manual_seed(0)
        results.append(augmented(IMAGES, names))
    assert bool((results[0] == 0).any())
    assert not bool((results[1] == 0).any())


@pytest.mark.parametrize("inputs", [torch.rand(4, 3), torch.zeros(2, 1, 4, 4).long(), {"a": IMAGES}, (IMAGES,)])
def test_inputs_that_are_no_float_images_are_refused_by_key(inputs):
    with pytest.raises(
        TaskError, match=r"params\.yaml: train\.augment: rotate expects float images \(N, C, H, W\), got"
    ):
        augmented(inputs, ["rotate"])


def test_noise_takes_any_float_tensor():
    assert augmented(torch.rand(4, 3), ["noise"]).shape == (4, 3)
